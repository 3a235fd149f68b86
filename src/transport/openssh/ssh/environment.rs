//! The environment that ssh is run with.
//!
//! Our own environment may hold anything: Nix's daemon passes on its whole configuration, a desktop its
//! session, a shell what the user has set. ssh and the proxies that it starts get only what they need.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use tokio::process::Command;

use crate::transport::openssh::SshSettings;

/// Variables that ssh, the shell that runs its `ProxyCommand` and its Kerberos library use.
const PASSED_ON: &[&str] = &[
    "HOME",
    "PATH",
    "USER",
    "LOGNAME",
    "SHELL",
    "TMPDIR",
    "LANG",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "KRB5CCNAME",
    "KRB5_CONFIG",
];

/// Prefix of the locale variables.
const LOCALE_PREFIX: &str = "LC_";

/// Prefix of the variables of nss_wrapper(1), which gives a process a user database of its own: ssh refuses
/// to run as a uid without an entry. The library is loaded by [`PRELOAD`].
const WRAPPER_PREFIX: &str = "NSS_WRAPPER_";

/// Names libraries that are loaded before all others, separated by colons or blanks (ld.so(8)).
const PRELOAD: &str = "LD_PRELOAD";

/// The value of `LD_PRELOAD` for ssh: nss_wrapper alone, where it is in use.
fn preload() -> Option<OsString> {
    std::env::var_os("NSS_WRAPPER_PASSWD")?;
    nss_wrapper(&std::env::var_os(PRELOAD)?)
}

/// The nss_wrapper among the libraries of an `LD_PRELOAD`.
fn nss_wrapper(all: &OsStr) -> Option<OsString> {
    let mut libraries = all.as_bytes().split(|b| matches!(b, b':' | b' '));
    let wrapper = libraries.find(|library| {
        let name = library.rsplit(|b| *b == b'/').next();
        name.is_some_and(|name| name.starts_with(b"libnss_wrapper"))
    })?;
    Some(OsStr::from_bytes(wrapper).to_owned())
}

/// Sets the environment of a command to that, and nothing else.
pub(in crate::transport::openssh) fn prepare(command: &mut Command, settings: &SshSettings) {
    let preload = preload();
    let is_wanted = |name: &str| {
        PASSED_ON.contains(&name)
            || name.starts_with(LOCALE_PREFIX)
            || (preload.is_some() && name.starts_with(WRAPPER_PREFIX))
            || settings.environment.iter().any(|wanted| wanted == name)
    };
    let all = std::env::vars_os();
    command
        .env_clear()
        .envs(preload.iter().map(|library| (PRELOAD, library)))
        // An `LD_PRELOAD` that `ssh-environment` names replaces that.
        .envs(all.filter(|(name, _)| name.to_str().is_some_and(is_wanted)))
        // BatchMode keeps ssh itself from asking, but not the ssh that it starts for a jump host: there,
        // a question fails at once instead of waiting for an answer.
        .env("SSH_ASKPASS", "false")
        .env("SSH_ASKPASS_REQUIRE", "force");
    match &settings.auth_sock {
        Some(socket) => command.env("SSH_AUTH_SOCK", socket),
        None => command.env_remove("SSH_AUTH_SOCK"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_preloaded_libraries_only_nss_wrapper_is_handed_on() {
        for (all, wrapper) in [
            ("libnss_wrapper.so", Some("libnss_wrapper.so")),
            (
                "/a/x.so:/b/libnss_wrapper.so.0 y",
                Some("/b/libnss_wrapper.so.0"),
            ),
            ("/libnss_wrapper/x.so", None),
            ("", None),
        ] {
            let found = nss_wrapper(all.as_ref());
            assert_eq!(found.as_deref(), wrapper.map(OsStr::new), "{all}");
        }
    }
}
