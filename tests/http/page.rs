//! The page for people, and the numbers for Prometheus.

use std::fs;
use std::process::{Command, Output};

use super::server::{Server, narinfo};
use super::support::{Host, NixEnv, closed_port, show};

#[test]
fn the_page_and_the_numbers_tell_what_was_served() {
    let (host, down) = (Host::new(), Host::new());
    let path = host.store.big("data", 1 << 20);
    let env = NixEnv::new();
    let gone = down.trusted().replace(
        &format!(":{}", down.sshd.port()),
        &format!(":{}", closed_port()),
    );
    env.configure(&[host.trusted(), gone], "");
    let server = Server::start(&env);
    let mut client = server.connect();
    let url = format!("/{}", client.get(&narinfo(&path)).status(200).field("URL"));
    let size = client.get(&url).status(200).length();
    client
        .get("/7rjj86a15146cq1d3qy068lml7n7ykzm.narinfo")
        .status(404);

    let authority = server.address().to_string();
    let page = client
        .request("GET", "/", &[("Host", &authority)])
        .status(200);
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    let text = page.text();
    let port = host.sshd.port();
    for words in [
        &format!("extra-substituters = http://{authority}</pre>"),
        &format!("127.0.0.1:{port}</td><td>well</td>"),
        "<span class=\"bad\">failing</span>",
        "<td>NARs</td><td class=\"number\">1</td>",
        "http-signing-key",
        "<p>None.</p>",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!text.contains("<script"), "{text}");

    let numbers = client.get("/metrics").status(200).text();
    for line in [
        "ssh_substituter_narinfos_total{found=\"yes\"} 1",
        "ssh_substituter_narinfos_total{found=\"no\"} 1",
        "ssh_substituter_nars_total 1",
        &format!("ssh_substituter_sent_bytes_total {size}"),
    ] {
        assert!(
            numbers.lines().any(|told| told == line),
            "{line}: {numbers}"
        );
    }
}

/// What a real browser makes of a page; `None` where there is no Chromium.
fn browse(env: &NixEnv, arguments: &[&str]) -> Option<Output> {
    let profile = tempfile::tempdir_in(env.folder()).expect("make a folder");
    let run = Command::new("timeout")
        .args(["60", "chromium", "--headless", "--no-sandbox"])
        .args(["--disable-gpu", "--no-first-run", "--disable-sync"])
        .args(["--disable-background-networking"])
        .arg("--disable-component-update")
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(arguments)
        .output()
        .expect("run timeout");
    // There is no such program.
    (run.status.code() != Some(127)).then_some(run)
}

#[test]
fn a_browser_shows_the_page() {
    let host = Host::new();
    let env = NixEnv::new();
    env.configure(&[host.trusted()], "");
    let server = Server::start(&env);
    let url = format!("{}/", server.url());
    let Some(dumped) = browse(&env, &["--dump-dom", &url]) else {
        show("skipped: there is no chromium\n");
        return;
    };
    let dom = String::from_utf8_lossy(&dumped.stdout);
    let port = host.sshd.port();
    for words in [
        &format!("extra-substituters = {}</pre>", server.url()),
        &format!("127.0.0.1:{port}</td>"),
    ] {
        assert!(dom.contains(words), "{words}: {dumped:?}");
    }
    let picture = env.folder().join("page.png");
    let argument = format!("--screenshot={}", picture.display());
    let shot = browse(&env, &[&argument, "--window-size=1000,900", &url]);
    let png = fs::read(&picture).unwrap_or_default();
    assert!(png.starts_with(b"\x89PNG"), "{shot:?}");
}
