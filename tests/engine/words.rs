//! What people read: the same words with an engine as without one, once, and whole.

use std::process::Command;

use super::site::Site;
use super::support::{Engines, Host, NixEnv, SHORT, closed_port, program, run_with_timeout};
use super::talk::{FrontEnd, NO_DISK, NOBODYS};

/// Hosts at which nobody listens.
fn closed<const COUNT: usize>() -> [String; COUNT] {
    [(); COUNT].map(|()| format!("u@127.0.0.1:{}", closed_port()))
}

/// An environment that knows these hosts.
fn fresh(hosts: &[String], lines: &str) -> (Engines, NixEnv) {
    let env = NixEnv::new();
    (env.configure_with_engine(hosts, lines), env)
}

/// A process that remembers nothing of earlier ones.
fn forgetful(env: &NixEnv) -> Command {
    let mut command = env.program();
    let (name, nowhere) = NO_DISK;
    command.env(name, nowhere);
    command
}

/// What `--substitute` prints.
fn substitute(env: &NixEnv) -> Vec<String> {
    // Each time the caller is another process.
    let mut command = env.command("sh");
    let (name, nowhere) = NO_DISK;
    command.env(name, nowhere);
    command.args(["-c", r#""$0" "$@"; exit"#]);
    command.arg(program()).args(["--substitute", NOBODYS]);
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
fn hosts_that_are_down_are_reported_as_without_an_engine() {
    let hosts = closed::<2>();
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
fn whoever_comes_later_is_warned_as_well() {
    let hosts = closed::<1>();
    let (engines, env) = fresh(&hosts, "");
    let first = substitute(&env);
    assert_eq!(first.len(), 2, "{first:?}");
    for _ in 0..3 {
        assert_eq!(substitute(&env), first);
    }
    assert_eq!(engines.pids().len(), 1);
}

#[test]
fn a_front_end_that_asks_again_is_warned_once() {
    let hosts = closed::<1>();
    let ask = |engine: &str| {
        let (_engines, env) = fresh(&hosts, &format!("engine = {engine}"));
        let mut command = forgetful(&env);
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
    let (site, second) = (Site::new(""), Host::new());
    let big = site.host.store.big("big", 24 << 20);
    let hosts = [site.host.trusted(), second.trusted()];
    let _more = site.env.configure_with_engine(&hosts, "");
    let mut slow = site.front_end();
    // Both hosts have answered when nobody has a path: else the second one could fail before the other front end asks.
    let absent = NOBODYS.replacen("/nix/store/", "/nix/store/0", 1);
    let absent = format!("{}-absent", &absent[..43]);
    assert!(slow.talk.infos(&[&absent]).is_empty());
    assert_eq!(slow.talk.infos(&[&big]).len(), 1);
    let mut pieces = 0;
    let mut told = String::new();
    let hash = slow.talk.dump_slowly(&big, || {
        pieces += 1;
        if pieces == 20 {
            // Another front end has the engine find out that a host is down.
            second.sshd.kill();
            let mut other = site.front_end();
            assert!(other.talk.infos(&[NOBODYS]).is_empty());
            told = other.end();
        }
    });
    assert_eq!(hash, site.host.store.nar_hash(&big));
    let down = format!("127.0.0.1:{}: ", second.sshd.port());
    assert!(told.contains(&down), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    site.fetch(&mut slow, 0);
    // Whoever is attached at that moment is told, too.
    assert_eq!(slow.end(), told);
}
