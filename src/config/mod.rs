//! nix.conf-style files, environment and flags become one validated [`Config`].
//!
//! Lowest to highest:
//!
//! 1. built-in values, and `SSH_AUTH_SOCK` for `ssh-auth-sock`
//! 2. `nix.conf` in `$NIX_CONF_DIR` or `/etc/nix`
//! 3. `ssh-substituter.conf` beside it
//! 4. both of these in `$XDG_CONFIG_HOME/nix` or `~/.config/nix`, for users other than root;
//!    `NIX_USER_CONF_FILES` replaces that `nix.conf`
//! 5. `NIX_CONFIG`
//! 6. `_NIX_OPTIONS`: what a Nix 1.x that started us knows, `untrusted-` choices included
//! 7. flags
//!
//! All but `untrusted-` choices and `--store` come from somebody who may decide for this process: the
//! administrator, the user who runs it, or one whom Nix's daemon has found in its `trusted-users`
//! (`SECURITY.md`, "Which hosts are used"). No files in root's home are read: `HOME` may still be that of the
//! user who became root.
//!
//! A missing file is fine, one that cannot be read is a warning. A bad value is an error when it is
//! in force, that is, when no higher source replaced it; a bad public key is a warning, and left out.
//! Unknown settings are ignored, with a warning where they can only be typing errors (`ssh-substituter.conf` and
//! `--option`).

mod error;
pub mod host;
mod origin;
mod settings;
mod sources;
mod untrusted;
mod validate;
mod value;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use error::ConfigError;
pub use host::{Host, HostError};
pub use origin::Origin;
pub use settings::{Key, Setting, Settings, Value};
pub use sources::{EnvLookup, SettingLine, Sources, nix_setting, setting_lines};

use crate::model::PublicKey;

/// The values of `progress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProgressMode {
    /// Bars, lines or nothing, by where the output goes: nothing where Nix has a bar of its own.
    #[default]
    Auto,
    /// Nothing.
    Never,
    /// A line now and then.
    Plain,
}

/// The configuration, validated.
#[derive(Debug, Clone)]
pub struct Config {
    /// The hosts to use, in the order in which they are asked: by `priority`, where a host without
    /// one counts as 0 (Nix's default), and as listed among equals. No two are
    /// [the same](Host::same_as). Untrusted choices have been weighed.
    pub hosts: Vec<Host>,
    /// `trusted-ssh-substituter-hosts`: further hosts that an unprivileged user may choose.
    pub trusted_hosts: Vec<Host>,
    /// `ssh-substituter-push-hosts`: hosts that `push` sends to, as listed. No two are [the same](Host::same_as).
    pub push_hosts: Vec<Host>,
    /// `push-signing-key`: the file of the secret key that signs what `push` sends, an absolute path.
    pub push_signing_key: Option<PathBuf>,
    /// `use-ssh-substituter`: `false` switches the program off.
    pub enabled: bool,
    /// `ssh-auth-sock`: the ssh agent's socket, an absolute path. An unprivileged user may have
    /// chosen it, so hand it to ssh as `SSH_AUTH_SOCK`, where nothing in it is expanded.
    pub ssh_auth_sock: Option<PathBuf>,
    /// An unprivileged client of Nix's daemon has chosen the agent, for itself alone.
    pub is_client_agent: bool,
    /// The agent by the configuration alone, without that choice.
    pub own_auth_sock: Option<PathBuf>,
    /// `ssh-environment`: names of variables that ssh gets besides those that it needs.
    pub ssh_environment: Vec<String>,
    /// `connect-timeout`: how long connecting to a host may take, authentication included.
    /// 15 seconds by default, at least one second. Nix's 0, no limit, means the default here.
    pub connect_timeout: Duration,
    /// `stalled-download-timeout`: how long a host may be silent. 300 seconds by default, at least
    /// one second; 0 means the default.
    pub stall_timeout: Duration,
    /// `dead-link-timeout`: how long the link to a host may leave ssh's keepalives unanswered. 45
    /// seconds by default, at least 3; 0 means the default.
    pub dead_link_timeout: Duration,
    /// `require-sigs`: whether a path's info must be signed by one of `trusted_public_keys`, unless
    /// its content or its host is trusted otherwise.
    pub require_sigs: bool,
    /// `trusted-public-keys`, each once. What is no key is left out, with a warning.
    pub trusted_public_keys: Vec<PublicKey>,
    /// `narinfo-cache-positive-ttl`: how long a host's answer that it has a path is remembered.
    /// 30 days by default; 0 is no time at all.
    pub positive_ttl: Duration,
    /// `narinfo-cache-negative-ttl`: the same for the answer that it lacks a path. One hour by
    /// default.
    pub negative_ttl: Duration,
    /// `readahead-memory`: how many bytes of NARs may be held that were fetched before the caller
    /// asked for them. 256 MiB by default; 0 reads nothing ahead.
    pub readahead_memory: u64,
    /// `readahead-disk`: how many more such bytes may be on disk, in files without a name. 2 GiB by default; 0 for none.
    pub readahead_disk: u64,
    /// `partial-downloads`: how many bytes may be kept of large NARs whose transfer was interrupted. 2 GiB by default; 0 for
    /// none.
    pub partial_downloads: u64,
    /// `download-speed`: how many bytes a second may come from all hosts together; 0 is no limit, the default.
    pub download_speed: u64,
    /// `delta-base`: folders of further stores on this machine, besides its own, that have versions of paths from which
    /// others are fetched as differences. Absolute.
    pub delta_bases: Vec<PathBuf>,
    /// `engine`: whether one engine is to serve all processes of this user. `auto` (the default)
    /// or `off`.
    pub engine: bool,
    /// `engine-idle-timeout`: how long an engine stays without clients. 300 seconds by default; 0 means
    /// the default.
    pub engine_idle_timeout: Duration,
    /// `progress`: what front ends that Nix starts show of transfers.
    pub progress: ProgressMode,
    /// `http-listen`: addresses on which the engine serves a binary cache over HTTP. None by default.
    pub http_listen: Vec<SocketAddr>,
    /// `http-signing-key`: the file of the secret key that signs what is served over HTTP, an absolute path.
    pub http_signing_key: Option<PathBuf>,
    /// `http-password-file`: the file of the names and passwords that clients from other machines need, an absolute path.
    pub http_password_file: Option<PathBuf>,
    /// `http-compression`: whether clients over HTTP get NARs compressed; `auto` is those from other machines.
    pub http_compression: host::CompressionMode,
    /// An unprivileged client of Nix's daemon has chosen hosts or an agent, for itself alone.
    pub is_untrusted_choice: bool,
    /// It has chosen hosts.
    pub is_untrusted_choice_of_hosts: bool,
    /// `NIX_STORE_DIR` or `NIX_STORE`: absolute, normalised, without a slash at its end.
    /// `/nix/store` by default.
    pub store_dir: String,
    /// `NIX_SSHOPTS`, split as a shell does: further options for ssh.
    pub ssh_options: Vec<String>,
    /// The settings as they were written, with their origins, for showing.
    pub settings: Settings,
}

impl Config {
    /// The built-in values alone: no hosts, nothing read from anywhere.
    #[must_use]
    pub fn without_hosts() -> Self {
        match validate::validate(sources::RawConfig::built_in(), &Sources::nothing()) {
            Ok((config, _)) => config,
            Err(error) => unreachable!("the built-in values are valid: {error}"),
        }
    }

    /// All that decides what is asked of which host, and how, as a text. Processes with the same text can be
    /// served by one engine.
    #[must_use]
    pub fn identity(&self) -> String {
        let Self {
            hosts,
            trusted_hosts: _,
            push_hosts,
            push_signing_key,
            enabled,
            ssh_auth_sock,
            is_client_agent,
            own_auth_sock: _,
            ssh_environment,
            connect_timeout,
            stall_timeout,
            dead_link_timeout,
            require_sigs,
            trusted_public_keys,
            positive_ttl,
            negative_ttl,
            readahead_memory,
            readahead_disk,
            partial_downloads,
            download_speed,
            delta_bases,
            engine: _,
            engine_idle_timeout,
            progress: _,
            http_listen,
            http_signing_key,
            http_password_file,
            http_compression,
            is_untrusted_choice,
            is_untrusted_choice_of_hosts: _,
            store_dir,
            ssh_options,
            settings: _,
        } = self;
        let ssh = (ssh_options, ssh_auth_sock, ssh_environment);
        let hosts = (hosts, ssh, store_dir);
        let trust = (
            enabled,
            require_sigs,
            trusted_public_keys,
            is_untrusted_choice,
            is_client_agent,
        );
        let times = (connect_timeout, stall_timeout, dead_link_timeout);
        let times = (times, positive_ttl, negative_ttl, engine_idle_timeout);
        let push = (push_hosts, push_signing_key);
        let http = (
            http_listen,
            http_signing_key,
            http_password_file,
            http_compression,
        );
        format!(
            "{hosts:?} {push:?} {http:?} {trust:?} {times:?} {readahead_memory} {readahead_disk} {partial_downloads} {download_speed} {delta_bases:?}"
        )
    }

    /// The same with the agent of the configuration in place of the one that an unprivileged client chose.
    #[must_use]
    pub fn without_client_agent(mut self) -> Self {
        if self.is_client_agent {
            self.is_client_agent = false;
            self.ssh_auth_sock = self.own_auth_sock.clone();
            self.is_untrusted_choice = self.is_untrusted_choice_of_hosts;
        }
        self
    }

    /// Reads all sources and validates the result. Returns the configuration, and warnings of one sentence each.
    ///
    /// # Errors
    /// A file that is not in the syntax of nix.conf, a value in force that is not what its setting
    /// takes, or an untrusted choice of a host that may not be chosen.
    pub fn load(sources: Sources) -> Result<(Self, Vec<String>), ConfigError> {
        validate::validate(sources::gather(&sources)?, &sources)
    }
}
