//! What ssh gets to see of our environment.
//!
//! Whoever starts us may have an environment full of things: Nix's daemon hands on its whole
//! configuration, a desktop its windows and helpers, a shell what it likes. ssh, and the proxies that
//! it starts, get what they need and no more.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use tokio::process::Command;

use crate::transport::openssh::SshSettings;

/// What ssh, the shell that runs its `ProxyCommand` and its Kerberos library go by.
const NEEDED: &[&str] = &[
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

/// The language of messages, in as many variables as there are aspects.
const NEEDED_PREFIX: &str = "LC_";

/// Tells the user database of one process alone: for a uid that has no entry in the machine's own,
/// as which ssh would refuse to run. nss_wrapper(1) has its files named by such variables, and is
/// loaded by [`PRELOAD`].
const WRAPPER_PREFIX: &str = "NSS_WRAPPER_";

/// Libraries that are loaded before all others, separated by colons or blanks (ld.so(8)).
const PRELOAD: &str = "LD_PRELOAD";

/// What of `LD_PRELOAD` ssh gets: nss_wrapper, where it has a user database to read.
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

/// Gives a command that environment, and no other.
pub(in crate::transport::openssh) fn prepare(command: &mut Command, settings: &SshSettings) {
    let preload = preload();
    let is_wanted = |name: &str| {
        NEEDED.contains(&name)
            || name.starts_with(NEEDED_PREFIX)
            || (preload.is_some() && name.starts_with(WRAPPER_PREFIX))
            || settings.environment.iter().any(|wanted| wanted == name)
    };
    let all = std::env::vars_os();
    command
        .env_clear()
        .envs(preload.iter().map(|library| (PRELOAD, library)))
        // An `LD_PRELOAD` that `ssh-environment` names replaces that.
        .envs(all.filter(|(name, _)| name.to_str().is_some_and(is_wanted)))
        // BatchMode keeps ssh itself from asking, but not the ssh that it starts for a jump host:
        // there, every question is answered by a failure instead of a dead wait.
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
