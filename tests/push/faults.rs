//! What goes wrong: each costs what it must, is told, and leaves valid paths only.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::support::{DagOptions, Host, Sshd, Store, default_signals, descendants, wait_until};
use super::{Site, parts, verified};

pub(super) fn start(mut command: Command, log: &Path) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(fs::File::create(log).unwrap());
    command.spawn().unwrap()
}

/// How many paths have arrived, as far as the names in the store folder tell.
fn arrived(store: &Store) -> usize {
    let entries = fs::read_dir(store.root().join("nix/store")).unwrap();
    let is_path =
        |name: &str| name.len() > 33 && !name.ends_with(".lock") && !name.starts_with('.');
    entries
        .filter(|entry| is_path(&entry.as_ref().unwrap().file_name().to_string_lossy()))
        .count()
}

/// The processes `nix-store --serve` behind a server.
fn serve_loops(sshd: &Sshd) -> Vec<u32> {
    let is_serve = |pid: &u32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with("nix-store\0--serve")
    };
    descendants(sshd.pid())
        .into_iter()
        .filter(is_serve)
        .collect()
}

pub(super) fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = kill_process(pid, signal);
}

#[test]
fn an_interrupted_push_leaves_valid_paths_and_the_next_goes_on() {
    default_signals();
    let site = Site::new(1);
    let dag = parts(&site.store, 60, 2_000_000);
    for signal in [Signal::INT, Signal::KILL] {
        let log = site.file("log");
        let mut child = start(site.command(&[&dag.root]), &log);
        let before = arrived(site.there());
        wait_until("a few paths", || arrived(site.there()) >= before + 5);
        kill(child.id(), signal);
        wait_until("its end", || child.try_wait().unwrap().is_some());
        wait_until("the end of the other side", || {
            serve_loops(&site.hosts[0].sshd).is_empty()
        });
        let said = fs::read_to_string(&log).unwrap();
        if signal == Signal::INT {
            assert!(said.contains("interrupted: "), "{said}");
            assert!(said.contains(" of 61 paths to be sent are there"), "{said}");
        }
        let valid = verified(site.there());
        assert!(!valid.is_empty() && valid.len() < 61, "{}", valid.len());
    }
    let there = site.there().all_paths().len();
    let got = site.push(&[&dag.root]).status(0);
    got.says(&[
        &format!("sent {} paths", 61 - there),
        &format!("; {there} were there"),
    ]);
    assert_eq!(verified(site.there()), site.store.all_paths());
}

#[test]
fn a_remote_process_that_is_killed_is_replaced() {
    let site = Site::new(1);
    let dag = parts(&site.store, 60, 2_000_000);
    let small = site.store.dag(200, DagOptions::default());
    let log = site.file("log");
    let mut child = start(site.command(&[&dag.root, &small.root]), &log);
    wait_until("a few paths", || arrived(site.there()) >= 5);
    for pid in serve_loops(&site.hosts[0].sshd) {
        kill(pid, Signal::KILL);
    }
    wait_until("its end", || child.try_wait().unwrap().is_some());
    let said = fs::read_to_string(&log).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    assert!(said.contains("going on from what"), "{said}");
    assert_eq!(verified(site.there()), site.store.all_paths());
}

#[test]
fn a_host_that_dies_midway_is_told() {
    let site = Site::new(1);
    let dag = parts(&site.store, 60, 2_000_000);
    let log = site.file("log");
    let mut child = start(site.command(&[&dag.root]), &log);
    wait_until("a few paths", || arrived(site.there()) >= 20);
    site.hosts[0].sshd.kill();
    wait_until("its end", || child.try_wait().unwrap().is_some());
    let said = fs::read_to_string(&log).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(4), "{said}");
    assert!(
        said.contains("ssh-substituter: error: 127.0.0.1")
            || said.contains("ssh-substituter: error: root@127.0.0.1"),
        "{said}"
    );
    assert!(said.contains(" of 61 paths, "), "{said}");
    let valid = verified(site.there());
    assert!(!valid.is_empty() && valid.len() < 61, "{}", valid.len());
}

#[test]
fn content_that_has_changed_is_not_sent_and_named() {
    let site = Site::new(1);
    let [small, large] = [
        site.store.big("small", 1000),
        site.store.big("large", 4 << 20),
    ];
    let [over, fine] = [
        site.store.add_text("over", "over", &[&large]),
        site.store.big("fine", 2 << 20),
    ];
    site.store.corrupt(&small);
    site.store.corrupt(&large);
    let got = site.push(&[&small, &over, &fine]).status(4).says(&[
        &format!("{small} is not sent: its content has changed here"),
        &format!("{large} is not sent: its content has changed here"),
        "1 path that refers to these was not sent either",
        "nix-store --repair-path",
    ]);
    assert_eq!(got.stdout(), format!("{fine}\n"));
    assert_eq!(verified(site.there()), [fine]);
}

#[test]
fn a_path_that_was_deleted_meanwhile_costs_itself_and_what_refers_to_it() {
    let site = Site::new(1);
    let [low, fine] = [site.store.big("low", 1000), site.store.big("fine", 1000)];
    let top = site.store.add_text("top", "top", &[&low]);
    fs::remove_dir_all(site.store.physical(&low)).unwrap();
    let got = site.push(&[&top, &fine]).status(4).says(&[
        &format!("{low} cannot be read here, so it was not sent"),
        "No such file",
    ]);
    assert_eq!(got.stdout(), format!("{fine}\n"));
    assert_eq!(verified(site.there()), [fine]);
}

#[test]
fn a_host_of_garbage_and_one_that_is_not_there_are_told() {
    let garbage = Host {
        store: Store::new(),
        sshd: Sshd::builder()
            .line("ForceCommand head -c 100000 /dev/urandom")
            .start(),
    };
    let site = Site::of(vec![garbage]);
    let path = site.store.big("path", 1000);
    site.push(&[&path])
        .status(4)
        .says(&["is malformed", "(hint: "]);
    let gone = Host::new();
    gone.sshd.kill();
    let site = Site::of(vec![gone]);
    let path = site.store.big("path", 1000);
    let got = site.push(&[&path]).status(4).says(&["connection refused"]);
    assert_eq!(got.stdout(), "");
    let got = site.push(&["--dry-run", "--json", &path]).status(4);
    assert_eq!(got.json()["hosts"][0]["complete"], false);
}

#[test]
fn a_server_that_may_not_write_is_told_with_the_way_out() {
    let store = Store::new();
    let line = format!("ForceCommand nix-store --store '{}' --serve", store.uri());
    let sshd = Sshd::builder().line(line).start();
    let site = Site::of(vec![Host { store, sshd }]);
    let path = site.store.big("path", 1000);
    site.push(&[&path]).status(4).says(&[
        "takes no paths: importing paths is not allowed",
        "nix.sshServe.write = true",
    ]);
    // Forced with --write, it takes them whatever is asked for.
    let store = Store::new();
    let line = format!(
        "ForceCommand nix-store --store '{}' --serve --write",
        store.uri()
    );
    let sshd = Sshd::builder().line(line).start();
    let site = Site::of(vec![Host { store, sshd }]);
    let path = site.store.big("path", 1000);
    site.push(&[&path]).status(0);
    assert_eq!(verified(site.there()), [path]);
}

#[test]
fn a_host_that_says_nothing_is_given_up() {
    let silent = Host {
        store: Store::new(),
        sshd: Sshd::builder().line("ForceCommand sleep 1000").start(),
    };
    let site = Site::of(vec![silent]);
    site.configure("connect-timeout = 3");
    let path = site.store.big("path", 1000);
    site.push(&[&path])
        .status(4)
        .says(&["no handshake", "within 3 s"]);
    // One that falls silent in the middle.
    let site = Site::new(1);
    site.configure("stalled-download-timeout = 3");
    let dag = parts(&site.store, 60, 2_000_000);
    let log = site.file("log");
    let mut child = start(site.command(&[&dag.root]), &log);
    wait_until("a few paths", || arrived(site.there()) >= 5);
    for pid in serve_loops(&site.hosts[0].sshd) {
        kill(pid, Signal::STOP);
    }
    wait_until("its end", || child.try_wait().unwrap().is_some());
    for pid in serve_loops(&site.hosts[0].sshd) {
        kill(pid, Signal::CONT);
    }
    let said = fs::read_to_string(&log).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(4), "{said}");
    assert!(
        said.contains("silent for 3 s while reading an acknowledgement"),
        "{said}"
    );
}

#[test]
fn a_store_that_cannot_be_written_to_ends_it_at_once() {
    let site = Site::new(1);
    let dag = site.store.dag(30, DagOptions::default());
    let full = site.there().root().join("nix");
    // Where a folder has to be made, a file is: as root no permission would stop Nix.
    fs::write(full.join("var"), "").unwrap();
    fs::set_permissions(&full, PermissionsExt::from_mode(0o755)).unwrap();
    let got = site.push(&[&dag.root]).status(4);
    assert!(got.stderr().lines().count() < 12, "{}", got.stderr());
}

#[test]
fn the_collector_takes_nothing_that_is_locked_or_was_sent() {
    let site = Site::new(1);
    let dag = parts(&site.store, 60, 2_000_000);
    let before: Vec<_> = dag.paths[..10].to_vec();
    let unlike = site.store.big("unlike", 1000);
    let copied = [&before[..], std::slice::from_ref(&unlike)].concat();
    site.there().copy_from(&site.store, &copied);
    let log = site.file("log");
    let mut child = start(site.command(&[&dag.root]), &log);
    wait_until("a few paths", || arrived(site.there()) >= 25);
    kill(child.id(), Signal::STOP);
    let mut command = site.there().command("nix-store");
    command.arg("--gc");
    super::support::run(command, super::LIMIT);
    assert!(!site.there().is_valid(&unlike), "it collects");
    for path in &before {
        assert!(site.there().is_valid(path), "{path} was locked");
    }
    kill(child.id(), Signal::CONT);
    wait_until("its end", || child.try_wait().unwrap().is_some());
    let said = fs::read_to_string(&log).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    assert!(said.contains("sent 51 paths"), "{said}");
    let all = verified(site.there());
    assert!(dag.paths.iter().all(|path| all.contains(path)));
}

#[test]
fn an_old_server_takes_paths_by_import_and_what_is_lost_is_told_once() {
    let store = Store::new();
    // The real server, which says that it is older than it is.
    let line = format!(
        "ForceCommand nix-store --store '{}' --serve --write | (dd bs=1 count=8 2>/dev/null; dd bs=1 count=8 of=/dev/null 2>/dev/null; printf '\\004\\002\\000\\000\\000\\000\\000\\000'; exec cat)",
        store.uri()
    );
    let sshd = Sshd::builder().line(line).start();
    let site = Site::of(vec![Host { store, sshd }]);
    let dag = site.store.dag(30, DagOptions::default());
    let large = parts(&site.store, 4, 3_000_000);
    site.store.sign("cache.example.org-1", &[&large.root]);
    let got = site.push(&[&dag.root, &large.root]).status(0);
    let lost = "its serve protocol is 2.4, older than 2.5 (Nix 2.2): signatures and content addresses of what is sent are lost there";
    assert_eq!(got.stderr().matches(lost).count(), 1, "{}", got.stderr());
    assert_eq!(verified(site.there()), site.store.all_paths());
    for path in dag.paths.iter().chain(&large.paths) {
        assert_eq!(site.there().references(path), site.store.references(path));
    }
    // A wrong one is withheld here: the import knows no hash.
    let wrong = site.store.big("wrong", 4 << 20);
    site.store.corrupt(&wrong);
    site.push(&[&wrong])
        .status(4)
        .says(&["its content has changed here"]);
    assert!(!site.there().is_valid(&wrong));
}
