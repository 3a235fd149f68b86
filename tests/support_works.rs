//! Proves the test infrastructure itself with Nix's own ssh store, so that a failure elsewhere is the program's.

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use support::{DagOptions, Nix, SHORT, Sshd, Store, TempUser, run, run_with_timeout, wait_until};

#[test]
fn a_made_closure_is_right_in_the_eyes_of_nix() {
    let store = Store::new();
    let dag = store.dag(500, DagOptions::default());
    let many = store.many_files(300);
    let big = store.big("big", 3_000_001);
    store.verify();
    for path in [&dag.root, &many, &big, &dag.paths[1], &dag.paths[2]] {
        assert!(store.verify_path(path), "{path}");
        assert_eq!(store.nar(path).len() as u64, store.nar_size(path), "{path}");
        assert_eq!(store.nar(path), store.nar_by_nix(path), "{path}");
        let mut command = store.command("nix-store");
        command.args(["--query", "--size", path]);
        assert_eq!(run(command, SHORT), store.nar_size(path).to_string());
    }
    let mut command = store.command("nix-store");
    command.args(["--query", "--requisites", &dag.root]);
    let closure = run(command, SHORT);
    assert_eq!(closure.lines().count(), dag.paths.len());
    assert!(store.references(&dag.root).len() > 3);
    assert!(
        store.references(&dag.paths[2]).contains(&dag.paths[2]),
        "a reference to itself"
    );

    let twin = Store::new();
    assert_eq!(twin.dag(500, DagOptions::default()).paths, dag.paths);
    assert_eq!(twin.nar_hash(&dag.root), store.nar_hash(&dag.root));
    let other = twin.dag(
        20,
        DagOptions {
            seed: 2,
            ..DagOptions::default()
        },
    );
    assert!(!dag.paths.contains(&other.root));
    assert_eq!(twin.all_paths().len(), 520);
}

#[test]
fn content_addressed_paths_are_made() {
    let store = Store::new();
    let first = store.add_text("first", "a \"quoted\" ${text}\\\n", &[]);
    let second = store.add_text("second", "with a reference: ", &[&first]);
    assert_eq!(store.references(&second), [first.as_str()]);
    let file = store.env().folder().join("conf/nix.conf");
    let flat = store.add_flat(&file);
    let folder = store.add_dir(&store.env().conf_dir());
    store.verify();
    let mut command = store.command("nix");
    command.args(["path-info", "--json", &first, &second, &flat, &folder]);
    let info = run(command, SHORT);
    for address in ["text:sha256:", "fixed:sha256:", "fixed:r:sha256:"] {
        assert!(info.contains(address), "{address} in {info}");
    }
}

#[test]
fn nix_fetches_a_signed_closure_by_its_own_ssh_store() {
    let sshd = Sshd::start();
    let store = Store::new();
    let dag = store.dag(40, DagOptions::default());
    let unsigned = store.many_files(120);
    let key = store.sign("test-1", &dag.paths);
    let url = sshd.nix_store_url(&format!("remote-store={}", store.remote_store_param()));

    let nix = Nix::new().ssh(&sshd).substituters(&url).trust(&key);
    let ran = nix.realise(&[&dag.root]).ok();
    assert!(ran.took < Duration::from_secs(60));
    assert_eq!(sshd.logins(), 1);
    assert!(sshd.log().contains("Starting session"), "{}", sshd.log());
    for path in &dag.paths {
        assert!(nix.store().verify_path(path), "{path}");
    }
    nix.realise(&[&unsigned]).failed();
    assert!(!nix.store().is_valid(&unsigned));

    nix.copy_from(&url, &[&unsigned], &["--no-check-sigs"]).ok();
    assert_eq!(nix.store().nar(&unsigned), store.nar(&unsigned));
    let again = Nix::new().ssh(&sshd).substituters(&url).trust(&key);
    again.build(&[&dag.root]).ok();
    assert!(again.store().is_valid(&dag.root));
}

#[test]
fn stores_copy_corrupt_and_delete() {
    let store = Store::new();
    let dag = store.dag(3, DagOptions::default());
    let key = store.sign_all("all-1");
    let mirror = Store::new();
    mirror.copy_from(&store, &[&dag.root]);
    assert_eq!(mirror.nar(&dag.root), store.nar(&dag.root));

    let from_mirror = Nix::new().substituters(&mirror.uri()).trust(&key);
    from_mirror.realise(&[&dag.root]).ok();

    store.corrupt(&dag.root);
    assert!(!store.verify_path(&dag.root));
    assert_ne!(mirror.nar(&dag.root), store.nar(&dag.root));
    assert_eq!(mirror.nar(&dag.root).len(), store.nar(&dag.root).len());
    mirror.delete(&[&dag.root]);
    assert!(!mirror.is_valid(&dag.root));
}

#[test]
fn sshd_has_its_own_keys_environment_and_faults() {
    let sshd = Sshd::builder()
        .env("PATH", "/nowhere:/bin")
        .env("GREETING", "two words")
        .line("MaxSessions 3")
        .start();
    let mut command = sshd.ssh();
    command.arg("echo \"$PATH|$GREETING|$HOME\"; command -v nix-store || echo none");
    let home = sshd.home().display();
    let mut lines = vec![format!("/nowhere:/bin|two words|{home}")];
    lines.push(run_locally(
        "PATH=/nowhere:/bin; command -v nix-store || echo none",
    ));
    assert_eq!(run(command, SHORT), lines.join("\n"));

    // Another server's key is not accepted, so the known_hosts file counts.
    let other = Sshd::start();
    let mut command = Command::new(support::tool("ssh"));
    command.arg("-F").arg(sshd.ssh_config()).arg("-o");
    command
        .arg(format!(
            "UserKnownHostsFile={}",
            other.known_hosts().display()
        ))
        .args(["127.0.0.1", "true"]);
    assert!(!run_with_timeout(command, SHORT).status.success());

    let folder = support::Scratch::new();
    let config = support::joint_ssh_config(folder.path(), &[("alpha", &sshd), ("beta", &other)]);
    for (alias, server) in [("alpha", &sshd), ("beta", &other)] {
        let before = server.logins();
        let mut command = Command::new(support::tool("ssh"));
        command.arg("-F").arg(&config).args([alias, "true"]);
        run(command, SHORT);
        assert_eq!(server.logins(), before + 1);
    }

    // Cut while a command runs: the client sees it at once, and the server takes new connections.
    let before = other.sessions();
    let mut command = other.ssh();
    command.arg("sleep 1000");
    let client = std::thread::spawn(move || run_with_timeout(command, SHORT));
    wait_until("the remote command runs", || other.sessions() > before);
    let started = Instant::now();
    other.cut_connections();
    let output = client.join().expect("ssh ends");
    assert!(!output.status.success());
    assert!(started.elapsed() < Duration::from_secs(10));
    let mut command = other.ssh();
    command.arg("true");
    run(command, SHORT);

    // Frozen, the server is there but says nothing.
    other.freeze();
    let mut command = other.ssh();
    command.arg("echo thawed");
    let client = std::thread::spawn(move || run(command, SHORT));
    std::thread::sleep(Duration::from_millis(300));
    assert!(!client.is_finished());
    other.thaw();
    assert_eq!(client.join().expect("ssh ends"), "thawed");

    other.kill();
    let mut command = other.ssh();
    command.arg("true");
    assert!(!run_with_timeout(command, SHORT).status.success());
}

fn run_locally(script: &str) -> String {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    run(command, SHORT)
}

#[test]
fn other_users_log_in_with_their_own_shells() {
    if !support::is_root() {
        // Only root can make users; the rest of the infrastructure works for everyone.
        return;
    }
    for shell in ["fish", "tcsh", "bash"] {
        let user = TempUser::new(shell);
        let store = Store::new();
        let path = store.add_text("text", "hello", &[]);
        store.give_to(&user);
        let sshd = Sshd::builder().user(&user).start();
        let mut command = sshd.ssh();
        command.arg("echo $SHELL; whoami; pwd");
        let expected = format!(
            "{}\n{}\n{}",
            support::tool(shell).display(),
            user.name(),
            user.home().display()
        );
        assert_eq!(run(command, SHORT), expected);
        let url = sshd.nix_store_url(&format!("remote-store={}", store.remote_store_param()));
        let nix = Nix::new().ssh(&sshd).substituters(&url);
        nix.realise(&[&path]).ok();
        assert!(nix.store().verify_path(&path), "{shell}");
    }
}

#[test]
fn time_limits_kill_whatever_was_started() {
    let folder = support::Scratch::new();
    let mark = folder.path().join("pid");
    let script = format!(
        "setsid sleep 1000 & echo $! > {}; echo printed; wait",
        mark.display()
    );
    let result = std::panic::catch_unwind(|| {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script]);
        run_with_timeout(command, Duration::from_millis(500))
    });
    let message = *result
        .expect_err("a time limit")
        .downcast::<String>()
        .expect("a message");
    assert!(message.contains("printed"), "{message}");
    let pid = std::fs::read_to_string(mark).expect("the number of a process");
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
}
