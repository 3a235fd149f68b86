//! What people read: the same words with an engine as without one, once, and whole.

use std::fs;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use super::site::Site;
use super::support::{Engines, NixEnv, SHORT, run_with_timeout};
use super::talk::{FrontEnd, NOBODYS};

/// Ports at which nobody listens.
fn closed_ports<const COUNT: usize>() -> [u16; COUNT] {
    // All at once, so that they differ.
    let listeners = [(); COUNT].map(|()| TcpListener::bind("127.0.0.1:0").expect("bind a port"));
    listeners.map(|listener| listener.local_addr().expect("an address").port())
}

/// An environment that knows these hosts and remembers nothing.
fn fresh(hosts: &[String], lines: &str) -> (Engines, NixEnv) {
    let env = NixEnv::new();
    fs::write(env.folder().join("home/.cache"), "").expect("write a file");
    (env.configure_with_engine(hosts, lines), env)
}

/// What `--substitute` prints.
fn substitute(env: &NixEnv) -> Vec<String> {
    let mut command = env.program();
    command.args(["--substitute", NOBODYS]);
    command.arg(env.folder().join("dest"));
    let output = run_with_timeout(command, SHORT);
    assert_eq!(output.stdout, b"\n");
    let text = String::from_utf8(output.stderr).expect("UTF-8 on stderr");
    text.lines().map(str::to_owned).collect()
}

/// What is printed of hosts that are down, sorted: they are asked at the same time.
fn told(hosts: &[String], engine: &str) -> Vec<String> {
    let (_engines, env) = fresh(hosts, &format!("engine = {engine}"));
    let mut lines = substitute(&env);
    lines.sort_unstable();
    lines
}

#[test]
fn hosts_that_are_down_are_told_of_as_without_an_engine() {
    let ports: [u16; 2] = closed_ports();
    let hosts = ports.map(|port| format!("u@127.0.0.1:{port}"));
    let alone = told(&hosts, "off");
    assert_eq!(alone.len(), 3, "{alone:?}");
    for host in &hosts {
        let start = format!("ssh-substituter: warning: {host}: connection refused (hint: ");
        let count = alone.iter().filter(|line| line.starts_with(&start)).count();
        assert_eq!(count, 1, "{alone:?}");
    }
    // The words and the answer come by two ways within the engine: none may be late, ever.
    for round in 0..8 {
        assert_eq!(told(&hosts, "auto"), alone, "round {round}");
    }
}

#[test]
fn whoever_comes_later_is_told_as_well() {
    let hosts = closed_ports::<1>().map(|port| format!("u@127.0.0.1:{port}"));
    let (engines, env) = fresh(&hosts, "");
    let first = substitute(&env);
    assert_eq!(first.len(), 2, "{first:?}");
    for _ in 0..3 {
        assert_eq!(substitute(&env).len(), 2);
    }
    assert_eq!(engines.pids().len(), 1);
}

#[test]
fn a_front_end_that_asks_again_is_told_once() {
    let hosts = closed_ports::<1>().map(|port| format!("u@127.0.0.1:{port}"));
    let ask = |engine: &str| {
        let (_engines, env) = fresh(&hosts, &format!("engine = {engine}"));
        let mut command = env.program();
        command.arg("--serve");
        let mut front_end = FrontEnd::start(command);
        for _ in 0..3 {
            assert!(front_end.talk.infos(&[NOBODYS]).is_empty());
        }
        front_end.end()
    };
    let told = ask("off");
    assert_eq!(told.lines().count(), 1, "{told}");
    assert_eq!(ask("auto"), told);
}

#[test]
fn words_amid_a_nar_tear_nothing() {
    let site = Site::new("");
    let big = site.host.store.big("big", 24 << 20);
    let [down] = closed_ports();
    let hosts = [site.host.trusted(), format!("u@127.0.0.1:{down}")];
    let _more = site.env.configure_with_engine(&hosts, "");
    let mut slow = site.front_end();
    assert_eq!(slow.talk.infos(&[&big]).len(), 1);
    let mut pieces = 0;
    let hash = slow.talk.dump_slowly(&big, || {
        pieces += 1;
        if pieces == 20 {
            // Another front end makes the engine find out that a host is down.
            let mut other = site.front_end();
            assert!(other.talk.infos(&[NOBODYS]).is_empty());
            let told = other.end();
            assert!(told.contains("connection refused"), "{told}");
            thread::sleep(Duration::from_millis(700));
        }
    });
    assert_eq!(hash, site.host.store.nar_hash(&big));
    site.fetch(&mut slow, 0);
    let told = slow.end();
    assert!(told.lines().count() <= 1, "{told}");
    assert!(told.is_empty() || told.ends_with(")\n"), "{told}");
}
