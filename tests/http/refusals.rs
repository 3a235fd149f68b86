//! What is not served, and what clients may not do.

use std::time::{Duration, Instant};

use super::server::{Server, narinfo};
use super::support::{Host, NixEnv, closed_port};

const ABSENT: &str = "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-absent";

#[test]
fn all_that_is_no_path_of_a_host_is_not_found() {
    let host = Host::new();
    let path = host.store.add_text("text", "some text", &[]);
    let env = NixEnv::new();
    env.configure(&[host.trusted()], "");
    let server = Server::start(&env);
    let mut client = server.connect();
    let url = format!("/{}", client.get(&narinfo(&path)).status(200).field("URL"));
    for path in [
        &*narinfo(ABSENT),
        "/nar/",
        "/index.html",
        "/..",
        "/../../etc/passwd",
        "/%2e%2e/etc/passwd",
        "/x.narinfo",
        &url.replace("nar/", "nar/0"),
        &url.replace("text", "other"),
        &format!("/{url}"),
        "/nix/store",
        path.as_str(),
    ] {
        for method in ["GET", "HEAD"] {
            let reply = client.request(method, path, &[]).status(404);
            assert_eq!(reply.header("cache-control"), Some("no-store"), "{path}");
        }
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "FOO"] {
        let reply = client.request(method, &url, &[]).status(405);
        assert_eq!(reply.header("allow"), Some("GET, HEAD"));
    }
    client.get(&url).status(200);
}

#[test]
fn names_that_a_browser_was_led_by_are_refused() {
    let env = NixEnv::new();
    env.configure(&[], "");
    let server = Server::start(&env);
    let port = server.address().port();
    let mut client = server.connect();
    for host in [
        "localhost",
        &format!("127.0.0.1:{port}"),
        &format!("[::1]:{port}"),
    ] {
        client
            .request("GET", "/nix-cache-info", &[("Host", host)])
            .status(200);
    }
    for host in [
        "evil.example",
        &format!("evil.example:{port}"),
        "localhost.evil.example",
        "10.0.0.1",
    ] {
        client
            .request("GET", "/nix-cache-info", &[("Host", host)])
            .status(421);
    }
}

#[test]
fn heads_are_limited_in_size_and_in_number() {
    let env = NixEnv::new();
    env.configure(&[], "");
    let server = Server::start(&env);
    let long = "x".repeat(64 << 10);
    let mut client = server.connect();
    client.send(format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
    assert!((414..=431).contains(&client.head().status));
    let mut client = server.connect();
    let many: String = (0..100)
        .map(|number| format!("X-{number}: y\r\n"))
        .collect();
    client.send(format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n").as_bytes());
    assert_eq!(client.head().status, 431);
    server.get("/healthz").status(200);
}

#[test]
fn without_hosts_in_reach_paths_are_not_found_and_soon() {
    let (down, host) = (Host::new(), Host::new());
    let path = host.store.add_text("text", "some text", &[]);
    let env = NixEnv::new();
    let port = closed_port();
    let unreachable = down
        .trusted()
        .replace(&format!(":{}", down.sshd.port()), &format!(":{port}"));
    assert!(unreachable.contains(&port.to_string()), "{unreachable}");
    env.configure(&[unreachable, host.trusted()], "");
    let server = Server::start(&env);
    server.get(&narinfo(&path)).status(200);
    host.sshd.kill();
    let begun = Instant::now();
    for _ in 0..10 {
        server.get(&narinfo(ABSENT)).status(404);
    }
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
}
