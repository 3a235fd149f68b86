//! Which names a server on loopback answers to.
//!
//! A page in a browser on this machine can make a name of its own lead to 127.0.0.1 (DNS rebinding), and then read what is
//! served there. Its requests carry that name.

use std::net::IpAddr;

use hyper::header::HOST;
use hyper::{Request, Version};

/// Whether a request that came in at the address `local` may be meant for this server.
pub(super) fn is_meant<B>(request: &Request<B>, local: IpAddr) -> bool {
    // Elsewhere the server has names that it cannot know.
    if !local.to_canonical().is_loopback() {
        return true;
    }
    // A whole URL in the request line takes precedence over the header.
    if let Some(host) = request.uri().host() {
        return is_of_loopback(host);
    }
    let mut all = request.headers().get_all(HOST).iter();
    match (all.next(), all.next()) {
        (Some(host), None) => host
            .to_str()
            .is_ok_and(|host| is_of_loopback(without_port(host))),
        (None, _) => request.version() < Version::HTTP_11,
        (Some(_), Some(_)) => false,
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn is_of_loopback(host: &str) -> bool {
    let host = host.trim();
    if host.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let ip: Result<IpAddr, _> = inner.unwrap_or(host).parse();
    ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(uri: &str, hosts: &[&str], local: &str) -> bool {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        is_meant(&request.body(()).unwrap(), local.parse().unwrap())
    }

    #[test]
    fn on_loopback_only_names_of_loopback_count() {
        for host in [
            "localhost",
            "LocalHost:5001",
            "127.0.0.1:5001",
            "127.0.0.2",
            "[::1]:5001",
            "[::1]",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(meant("/", &[host], "127.0.0.1"), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:5001",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "",
            ":5001",
            "10.0.0.1",
            "[::2]:1",
            "::1:x",
        ] {
            assert!(!meant("/", &[host], "::1"), "{host}");
        }
        assert!(!meant("/", &[], "127.0.0.1"));
        assert!(!meant("/", &["localhost", "evil.example"], "127.0.0.1"));
        assert!(!meant("http://evil.example/", &["localhost"], "127.0.0.1"));
        assert!(meant("http://localhost:5001/", &[], "::ffff:127.0.0.1"));
    }

    #[test]
    fn elsewhere_all_do() {
        assert!(meant("/", &["cache.example"], "10.0.0.1"));
        assert!(meant("/", &[], "10.0.0.1"));
    }
}
