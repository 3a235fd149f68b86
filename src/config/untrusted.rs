//! What an unprivileged user chose, as far as the system's configuration allows.
//!
//! Nix 1.x's daemon hands on what a client chose in `_NIX_OPTIONS`, under `untrusted-` names when
//! the client is unprivileged. How far such a choice goes follows Nix 1.x's own treatment of binary
//! caches: it selects among the hosts that are configured or trusted. Whoever else is named is an
//! error for the plain form, and left out of the `extra-` form. The user's spec only *selects*: the
//! configured host's parameters count, since those of a spec decide what is believed
//! (`trusted=true`), whose key is used and what runs on the remote.
//!
//! Who is privileged is for the daemon to say: only it knows its client. It has weighed
//! `trusted-users` before it gives a name its `untrusted-` or leaves it plain (Nix 1.11,
//! `nix-daemon.cc`). One name stays plain whoever sent it: `use-ssh-substituter`. So in
//! `_NIX_OPTIONS` that can switch the program off and not on.

use super::error::ConfigError;
use super::host::Host;
use super::origin::{Assignment, Origin};
use super::settings::{Key, Value};

/// The choices, not yet weighed.
#[derive(Debug, Default)]
pub(super) struct Untrusted {
    /// The hosts to use instead.
    pub hosts: Option<HostChoice>,
    /// Hosts to use as well.
    pub extra_hosts: Option<HostChoice>,
    /// `untrusted-ssh-auth-sock`.
    pub ssh_auth_sock: Option<Value>,
    /// `use-ssh-substituter` and its untrusted form, with the name.
    pub use_ssh_substituter: Vec<(&'static str, Value)>,
}

/// Hosts that were chosen.
#[derive(Debug)]
pub(super) struct HostChoice {
    /// The setting or flag, for messages.
    pub setting: &'static str,
    /// Host specs.
    pub specs: Vec<String>,
    /// Where it stands.
    pub origin: Origin,
}

const HOSTS: &str = "untrusted-ssh-substituter-hosts";
const EXTRA_HOSTS: &str = "untrusted-extra-ssh-substituter-hosts";
pub(super) const SSH_AUTH_SOCK: &str = "untrusted-ssh-auth-sock";
const USE_SSH_SUBSTITUTER: &str = "untrusted-use-ssh-substituter";

/// How names begin that come from an unprivileged client.
const PREFIX: &str = "untrusted-";

impl Untrusted {
    /// Takes note of an assignment. `false` when it is none that an unprivileged client may have made.
    pub fn note(&mut self, assignment: &Assignment) -> bool {
        let choice = |setting| {
            Some(HostChoice {
                setting,
                specs: split(&assignment.value, |c| c.is_ascii_whitespace()),
                origin: assignment.origin.clone(),
            })
        };
        let value = || Value {
            text: assignment.value.clone(),
            origin: assignment.origin.clone(),
        };
        let plain = Key::UseSshSubstituter.name();
        match assignment.name.as_str() {
            HOSTS => self.hosts = choice(HOSTS),
            EXTRA_HOSTS => self.extra_hosts = choice(EXTRA_HOSTS),
            SSH_AUTH_SOCK => self.ssh_auth_sock = Some(value()),
            USE_SSH_SUBSTITUTER => self
                .use_ssh_substituter
                .push((USE_SSH_SUBSTITUTER, value())),
            // The daemon lets everybody set this one, and gives it no other name.
            name if name == plain => self.use_ssh_substituter.push((plain, value())),
            name => {
                let Some(rest) = name.strip_prefix(PREFIX) else {
                    return false;
                };
                if Key::is_known(rest) {
                    let origin = &assignment.origin;
                    log::debug!(
                        "{origin}: {name} does not count: an unprivileged user may not set {rest}"
                    );
                }
            }
        }
        true
    }

    /// Whether a client of Nix's daemon has chosen an agent. A client without one sends an empty
    /// choice, which is none.
    pub fn has_agent(&self) -> bool {
        let agent = self.ssh_auth_sock.as_ref();
        agent.is_some_and(|socket| !socket.text.trim().is_empty())
    }

    /// Whether a client of Nix's daemon has chosen hosts. `--store` stands in the configuration of Nix.
    pub fn has_hosts_of_client(&self) -> bool {
        let chosen = self.hosts.as_ref();
        chosen.is_some_and(|choice| choice.setting == HOSTS) || self.extra_hosts.is_some()
    }

    /// Weighs the choice of hosts against the configured and the trusted ones.
    ///
    /// # Errors
    /// When the plain form names a host that may not be chosen, or no host at all.
    pub fn choose(
        &self,
        configured: Vec<Host>,
        trusted: &[Host],
    ) -> Result<Vec<Host>, ConfigError> {
        let allowed: Vec<Host> = configured.iter().chain(trusted).cloned().collect();
        let mut hosts = match &self.hosts {
            None => configured,
            Some(choice) => choice
                .specs
                .iter()
                .map(|spec| choice.resolve_spec(spec, &allowed))
                .collect::<Result<_, _>>()?,
        };
        if let Some(choice) = &self.extra_hosts {
            for spec in &choice.specs {
                match choice.resolve_spec(spec, &allowed) {
                    Ok(host) => hosts.push(host),
                    Err(error) => log::debug!("left out an untrusted host: {error}"),
                }
            }
        }
        Ok(hosts)
    }
}

impl HostChoice {
    /// The choice that `--store` makes: specs separated by white space or commas. Commas inside a
    /// spec are to be percent-encoded.
    pub fn from_store_flag(store: &str) -> Self {
        Self {
            setting: "--store",
            specs: split(store, |c| c == ',' || c.is_ascii_whitespace()),
            origin: Origin::Flag("--store"),
        }
    }

    /// The configured host that a spec selects.
    fn resolve_spec(&self, spec: &str, allowed: &[Host]) -> Result<Host, ConfigError> {
        let chosen = Host::parse(spec).map_err(|source| ConfigError::Host {
            origin: self.origin.clone(),
            setting: self.setting,
            source,
        })?;
        let Some(host) = allowed.iter().find(|host| host.same_as(&chosen)) else {
            return Err(ConfigError::UntrustedHost {
                origin: self.origin.clone(),
                setting: self.setting,
                host: chosen.to_string(),
                configured: Key::Hosts.name(),
                trusted: Key::TrustedHosts.name(),
            });
        };
        if chosen.brings_privileged_params() {
            log::debug!(
                "{}: the parameters of the untrusted choice {chosen} do not count",
                self.origin
            );
        }
        Ok(host.clone())
    }
}

fn split(text: &str, separator: impl Fn(char) -> bool) -> Vec<String> {
    text.split(separator)
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Assignment, ConfigError, Host, HostChoice, Origin, Untrusted};

    fn hosts(specs: &[&str]) -> Vec<Host> {
        specs.iter().map(|s| Host::parse(s).unwrap()).collect()
    }

    fn untrusted(assignments: &[(&str, &str)]) -> Untrusted {
        let mut untrusted = Untrusted::default();
        for (name, value) in assignments {
            assert!(untrusted.note(&Assignment {
                name: (*name).to_owned(),
                value: (*value).to_owned(),
                origin: Origin::Env {
                    name: "_NIX_OPTIONS",
                    line: Some(7)
                },
            }));
        }
        untrusted
    }

    fn choose(assignments: &[(&str, &str)]) -> Result<Vec<Host>, ConfigError> {
        let configured = hosts(&["ssh://a?priority=3", "u@b:2222"]);
        let trusted = hosts(&["ssh://c?remote-program=x", "a"]);
        untrusted(assignments).choose(configured, &trusted)
    }

    const HOSTS: &str = "untrusted-ssh-substituter-hosts";
    const EXTRA: &str = "untrusted-extra-ssh-substituter-hosts";

    #[test]
    fn without_a_choice_the_configured_hosts_are_used() {
        let expected = hosts(&["ssh://a?priority=3", "u@b:2222"]);
        assert_eq!(choose(&[]).unwrap(), expected);
    }

    #[test]
    fn a_choice_among_configured_and_trusted_hosts_replaces_them() {
        let chosen = choose(&[(HOSTS, "c  ssh://A:22")]).unwrap();
        assert_eq!(
            chosen,
            hosts(&["ssh://c?remote-program=x", "ssh://a?priority=3"])
        );
        assert!(choose(&[(HOSTS, "")]).unwrap().is_empty());
    }

    #[test]
    fn the_parameters_of_a_choice_do_not_count() {
        let spec = "ssh://c?trusted=true&remote-program=evil&ssh-key=/k&priority=-9";
        for name in [HOSTS, EXTRA] {
            let chosen = choose(&[(name, spec)]).unwrap();
            assert_eq!(chosen.last(), hosts(&["ssh://c?remote-program=x"]).first());
        }
    }

    #[test]
    fn another_account_port_or_machine_is_an_error_that_names_host_and_setting() {
        for spec in [
            "evil",
            "root@a",
            "b:2222",
            "u@b",
            "u@b:22",
            "ssh://root@c:1?trusted=1",
        ] {
            let error = choose(&[(HOSTS, &format!("a {spec}"))]).unwrap_err();
            assert!(matches!(error, ConfigError::UntrustedHost { .. }), "{spec}");
            let error = error.to_string();
            let name = Host::parse(spec).unwrap().to_string();
            let place = "$_NIX_OPTIONS:7: untrusted-ssh-substituter-hosts: ";
            assert!(error.starts_with(place), "{error}");
            assert!(error.contains(&format!("host {name} ")), "{error}");
            assert!(error.contains("trusted-ssh-substituter-hosts"), "{error}");
        }
        let error = choose(&[(HOSTS, "-oProxyCommand=x")]).unwrap_err();
        assert!(matches!(error, ConfigError::Host { .. }));
    }

    #[test]
    fn the_extra_form_adds_what_is_allowed_and_leaves_out_the_rest() {
        let chosen = choose(&[(EXTRA, "evil c -x a:1")]).unwrap();
        let names: Vec<String> = chosen.iter().map(Host::to_string).collect();
        assert_eq!(names, ["a", "u@b:2222", "c"]);
        let chosen = choose(&[(HOSTS, "u@b:2222"), (EXTRA, "c")]).unwrap();
        let names: Vec<String> = chosen.iter().map(Host::to_string).collect();
        assert_eq!(names, ["u@b:2222", "c"]);
    }

    #[test]
    fn the_store_flag_takes_commas_too() {
        let choice = HostChoice::from_store_flag(" a,b  ssh://c?system-features=x%2Cy,");
        assert_eq!(choice.specs, ["a", "b", "ssh://c?system-features=x%2Cy"]);
        assert_eq!(choice.origin.to_string(), "--store");
    }

    #[test]
    fn what_an_unprivileged_client_said_never_counts_as_a_setting() {
        for (name, is_untrusted) in [
            ("untrusted-require-sigs", true),
            ("untrusted-trusted-ssh-substituter-hosts", true),
            ("untrusted-x", true),
            ("untrusted-", true),
            ("use-ssh-substituter", true),
            ("ssh-substituter-hosts", false),
            ("extra-untrusted-ssh-substituter-hosts", false),
            ("x", false),
        ] {
            let mut untrusted = Untrusted::default();
            let noted = untrusted.note(&Assignment {
                name: name.to_owned(),
                value: "x".to_owned(),
                origin: Origin::BuiltIn,
            });
            assert_eq!(noted, is_untrusted, "{name}");
            assert!(
                !untrusted.has_hosts_of_client() && !untrusted.has_agent(),
                "{name}"
            );
        }
    }
}
