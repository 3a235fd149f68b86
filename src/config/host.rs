//! Hosts, as the configuration names them.

use std::path::PathBuf;

/// One host, parsed and validated: nothing in it can be taken for an option or a shell word.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    /// Host name, address or `Host` alias of `~/.ssh/config`; an IPv6 address without brackets.
    pub name: String,
    /// Login name; `None` leaves it to ssh's own configuration.
    pub user: Option<String>,
    /// TCP port; `None` leaves it to ssh's own configuration.
    pub port: Option<u16>,
    /// `ssh-key`: private key file.
    pub ssh_key: Option<PathBuf>,
    /// `base64-ssh-public-host-key`, decoded: `ssh-ed25519 AAAA…`.
    pub public_host_key: Option<String>,
    /// `compress`: let ssh compress.
    pub compress: bool,
    /// `remote-program`: program and arguments, `nix-store` by default.
    pub remote_program: Vec<String>,
    /// `remote-store`: passed to the remote program as `--store`.
    pub remote_store: Option<String>,
    /// `trusted`: paths from here need no signature.
    pub trusted: bool,
    /// `priority`: smaller is asked first; hosts without one keep their order.
    pub priority: Option<i32>,
    /// `max-connections`: connections at a time.
    pub max_connections: u32,
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}
