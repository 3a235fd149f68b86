//! The address that ssh connects to for a host, as a short name. Hosts that differ in user, key, alias or
//! parameters may have the same address.

use std::net::IpAddr;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::config::host::Host;
use crate::transport::openssh::SshSettings;
use crate::transport::openssh::ssh::config::{SSH_CONFIG_TIMEOUT, configuration};

/// How long a name lookup may take. After that the name itself stands for the address.
const DNS_TIMEOUT: Duration = Duration::from_millis(300);

/// ssh's default, where it does not print its configuration.
const PORT: u16 = 22;

/// 16 characters for the address of a host.
pub(in crate::transport::openssh) async fn of(host: &Host, settings: &SshSettings) -> String {
    let printed = timeout(SSH_CONFIG_TIMEOUT, configuration(host, settings)).await;
    let address = Address::read(&printed.unwrap_or_default(), host);
    let found = match address.proxy {
        // The proxy resolves the name.
        Some(_) => None,
        None => address.ip().await,
    };
    let machine = found.map_or_else(|| address.name.clone(), |ip| ip.to_string());
    let proxy = address.proxy.unwrap_or_default();
    let text = format!(
        "ssh-substituter address\n{machine}\n{}\n{proxy}",
        address.port
    );
    let name = data_encoding::BASE32_NOPAD.encode(&Sha256::digest(text)[..10]);
    name.to_lowercase()
}

#[derive(Debug, PartialEq, Eq)]
struct Address {
    name: String,
    port: u16,
    /// `ProxyJump` or `ProxyCommand`.
    proxy: Option<String>,
}

impl Address {
    /// From the output of `ssh -G`; what that lacks comes from the host.
    fn read(printed: &str, host: &Host) -> Self {
        let value = |keyword: &str| {
            let mut lines = printed.lines().filter_map(|line| line.split_once(' '));
            lines
                .find(|(key, _)| *key == keyword)
                .map(|(_, value)| value)
        };
        let proxy = value("proxyjump").or_else(|| value("proxycommand"));
        Self {
            name: value("hostname").unwrap_or(&host.name).to_lowercase(),
            port: value("port")
                .and_then(|port| port.parse().ok())
                .or(host.port)
                .unwrap_or(PORT),
            proxy: proxy.filter(|proxy| *proxy != "none").map(str::to_owned),
        }
    }

    /// The smallest of its IP addresses: the same one each time, and for each of its names.
    async fn ip(&self) -> Option<IpAddr> {
        let found = timeout(DNS_TIMEOUT, lookup_host((self.name.as_str(), self.port))).await;
        found.ok()?.ok()?.map(|address| address.ip()).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_knows_better_than_the_hosts_name() {
        let host = Host::parse("ssh://u@alias").unwrap();
        let read = |printed: &str| Address::read(printed, &host);
        let printed = "user u\nhostname Build.example\nport 2222\nproxycommand none\n";
        let address = |name: &str, port, proxy: Option<&str>| Address {
            name: name.to_owned(),
            port,
            proxy: proxy.map(str::to_owned),
        };
        assert_eq!(read(printed), address("build.example", 2222, None));
        assert_eq!(read(""), address("alias", 22, None));
        let jump = "hostname h\nport 22\nproxyjump bastion\n";
        assert_eq!(read(jump), address("h", 22, Some("bastion")));
    }

    #[tokio::test]
    async fn several_hosts_may_have_one_address() {
        let settings = SshSettings {
            ssh_options: ["-F", "none"].map(str::to_owned).to_vec(),
            ..SshSettings::default()
        };
        let of = async |spec: &str| of(&Host::parse(spec).unwrap(), &settings).await;
        let one = of("ssh://a@127.0.0.1:2222?ssh-key=/a").await;
        assert_eq!(one.len(), 16);
        assert_eq!(of("ssh://b@localhost:2222?compress=true").await, one);
        assert_ne!(of("ssh://a@127.0.0.1:2223").await, one);
    }
}
