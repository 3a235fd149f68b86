//! The real program, the real ssh and a real Nix: paths that come and go, and hosts that go.

use std::process::{Command, Output};
use std::thread::sleep;

use super::LATER;
use super::support::{Host, Nix, NixEnv, SHORT, Store, run, run_with_input, run_with_timeout};

/// Nix makes it by itself, without any program.
const DERIVATION: &str = r#"derivation {
  name = "own"; system = "builtin"; builder = "builtin:buildenv"; derivations = ""; manifest = "/made";
}"#;

/// Builds on this store; the output.
fn build_on(store: &Store) -> String {
    let mut command = store.command("nix-build");
    command.args(["--no-out-link", "-E", DERIVATION]);
    run(command, SHORT).trim().to_owned()
}

/// Builds with Nix, where the program is asked first. Gives what was said.
fn build(nix: &Nix) -> String {
    let mut command = nix.command("nix-build");
    command.args(["--no-out-link", "-E", DERIVATION]);
    nix.run(command).ok().stderr()
}

/// What the text protocol answers to one line.
fn query(env: &NixEnv, line: &str) -> String {
    let mut command = env.program();
    command.arg("--query");
    let output = run_with_input(command, format!("{line}\n").as_bytes(), SHORT);
    assert!(output.status.success(), "{output:?}");
    // The first line means nothing.
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.strip_prefix('\n').expect("a first line").to_owned()
}

fn has(env: &NixEnv, path: &str) -> bool {
    query(env, &format!("have {path}")) != "\n"
}

fn substitute(env: &NixEnv, path: &str, dest: &str) -> Output {
    let mut command = env.program();
    command.arg("--substitute").arg(path);
    command.arg(env.folder().join(dest));
    run_with_timeout(command, SHORT)
}

fn get_dry_run(env: &NixEnv, path: &str) -> Command {
    let mut command = env.program();
    command.args(["get", "--dry-run", path]);
    command
}

#[test]
fn nix_builds_at_once_what_has_gone_from_the_host() {
    for engine in [false, true] {
        let host = Host::new();
        let out = build_on(&host.store);
        let nix = Nix::through(&[host.trusted()]);
        let env = nix.store().env();
        let _masters = env.masters();
        let _engines = engine.then(|| env.configure_with_engine(&[host.trusted()], ""));
        let said = build(&nix);
        assert!(
            said.contains("copying path") && nix.store().is_valid(&out),
            "{said}"
        );
        for store in [&host.store, nix.store()] {
            store.delete(&[&out]);
        }
        if engine {
            sleep(LATER);
        }
        let said = build(&nix);
        assert!(nix.store().is_valid(&out), "{said}");
        assert!(
            said.contains("building") && !said.contains("copying path"),
            "{said}"
        );
        assert!(!said.contains("ssh-substituter:"), "{said}");
    }
}

#[test]
fn nix_builds_at_once_when_the_only_holder_is_out_of_reach() {
    for engine in [false, true] {
        let host = Host::new();
        let out = build_on(&host.store);
        let nix = Nix::through(&[host.trusted()]);
        let env = nix.store().env();
        let masters = env.masters();
        let engines = engine.then(|| env.configure_with_engine(&[host.trusted()], ""));
        if engine {
            assert!(has(env, &out));
        } else {
            assert!(run(get_dry_run(env, &out), SHORT).contains(&out));
        }
        host.sshd.kill();
        drop(masters);
        let said = build(&nix);
        assert!(
            said.contains("building") && nix.store().is_valid(&out),
            "{said}"
        );
        assert!(said.contains("connection refused"), "{said}");
        drop(engines);
    }
}

#[test]
fn another_holder_is_promised_when_the_first_is_out_of_reach() {
    let hosts = [Host::new(), Host::new()];
    let [out, _] = [0, 1].map(|at| build_on(&hosts[at].store));
    let nix = Nix::through(&hosts.each_ref().map(Host::trusted));
    let env = nix.store().env();
    let masters = env.masters();
    assert!(run(get_dry_run(env, &out), SHORT).contains(&out));
    hosts[0].sshd.kill();
    drop(masters);
    let _masters = env.masters();
    let said = build(&nix);
    assert!(
        said.contains("copying path") && nix.store().is_valid(&out),
        "{said}"
    );
}

#[test]
fn the_text_protocol_does_not_promise_what_has_gone() {
    let hosts = [Host::new(), Host::new()];
    let [both, _] = [0, 1].map(|at| hosts[at].store.add_text("both", "text", &[]));
    let first_only = hosts[0].store.add_text("first", "text", &[]);
    let env = NixEnv::new();
    env.configure(&hosts.each_ref().map(Host::trusted), "");
    let _masters = env.masters();
    for path in [&both, &first_only] {
        assert!(query(&env, &format!("info {path}")).starts_with(path.as_str()));
    }
    hosts[0].store.delete(&[&both, &first_only]);
    assert_eq!(query(&env, &format!("info {first_only}")), "\n");
    let output = substitute(&env, &both, "both");
    assert!(output.status.success(), "{output:?}");
    let output = substitute(&env, &first_only, "first");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains(&format!("no host has {first_only}")),
        "{said}"
    );
}

#[test]
fn a_running_engine_finds_what_has_appeared() {
    let host = Host::new();
    let env = NixEnv::new();
    let engines = env.configure_with_engine(&[host.trusted()], "");
    let elsewhere = Store::new();
    let paths = ["x", "y"].map(|name| elsewhere.add_text(name, name, &[]));
    for path in &paths {
        assert!(!has(&env, path));
    }
    let engine = engines.pid();
    host.store.copy_from(&elsewhere, &paths);
    // Without being told.
    sleep(LATER);
    assert!(has(&env, &paths[0]));
    assert_eq!(engines.pid(), engine);
}

#[test]
fn cache_clear_reaches_a_running_engine() {
    let host = Host::new();
    let env = NixEnv::new();
    // What is not told by the hosts themselves.
    let lines = "narinfo-cache-positive-ttl = 100000\nnarinfo-cache-negative-ttl = 100000";
    let engines = env.configure_with_engine(&[host.trusted()], lines);
    let elsewhere = Store::new();
    let path = elsewhere.add_text("x", "x", &[]);
    let clear = |host: &[&str]| {
        let mut command = env.program();
        command.args(["cache", "clear"]).args(host);
        let output = run_with_timeout(command, SHORT);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(!has(&env, &path));
    let engine = engines.pid();
    host.store.copy_from(&elsewhere, &[&path]);
    assert!(
        !has(&env, &path),
        "it is believed for as long as the user has said"
    );
    assert_eq!(clear(&[]), "");
    assert!(has(&env, &path));
    host.store.delete(&[&path]);
    assert!(
        has(&env, &path),
        "it is believed for as long as the user has said"
    );
    let name = format!("{}@127.0.0.1:{}", host.sshd.user(), host.sshd.port());
    assert_eq!(clear(&[&name]), "");
    assert!(!has(&env, &path));
    assert_eq!(engines.pid(), engine);
}
