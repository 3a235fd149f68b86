//! Hosts that go, and runs that are ended: what has come stays, and the next run goes on.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::support::{
    Dag, DagOptions, Entry, Nix, Random, Store, default_signals, kill_tree, run_with_input,
    wait_until,
};
use super::{LIMIT, Site, base_names, names, text};

/// A closure of 40 paths and 120 MB.
fn large(store: &Store) -> Dag {
    let mut random = Random::new(4, "large");
    let mut paths: Vec<_> = (0..39)
        .map(|index| {
            let path = random.store_path(&format!("part-{index}"));
            store.add_made(path, |path| {
                fs::write(path, random.bytes(3_000_000)).unwrap()
            })
        })
        .collect();
    let references = paths.clone();
    let root = random.store_path("root");
    store.add_made(root.clone(), |path| {
        fs::write(path, references.join("\n")).unwrap()
    });
    store.register(&[Entry {
        path: root.clone(),
        references,
        deriver: None,
    }]);
    paths.push(root.clone());
    Dag { root, paths }
}

fn start(mut command: Command, log: &Path) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(fs::File::create(log).unwrap());
    command.spawn().unwrap()
}

/// Complete paths of a folder.
fn arrived(folder: &Path) -> Vec<String> {
    let mut all = match folder.join("nix/store").exists() {
        true => names(&folder.join("nix/store")),
        false => Vec::new(),
    };
    all.retain(|name| is_complete(name));
    all
}

/// Whether a name is not one under which something grows.
fn is_complete(name: &str) -> bool {
    !name.starts_with('.') && !name.ends_with(".chroot")
}

/// Has Nix load and verify a folder.
fn verify(site: &Site, folder: &Path, dag: &Dag) {
    let store = format!("local?root={}", folder.display());
    let nix = |args: &[&str]| {
        let mut command = site.env.command("nix-store");
        command.args(["--store", &store]).args(args);
        command
    };
    let registration = fs::read(folder.join("nix-path-registration")).unwrap();
    let loaded = run_with_input(nix(&["--load-db"]), &registration, LIMIT);
    assert!(loaded.status.success(), "{loaded:?}");
    super::support::run(nix(&["--verify", "--check-contents"]), LIMIT);
    assert_eq!(arrived(folder), base_names(&dag.paths));
}

#[test]
fn one_of_two_hosts_may_die() {
    let site = Site::new(2);
    let dag = large(site.store());
    let again = large(&site.hosts[1].store);
    assert_eq!(dag.root, again.root);
    let folder = site.folder("out");
    let log = site.folder("log");
    let mut child = start(site.command(&["--to", text(&folder), &dag.root]), &log);
    wait_until("a few paths", || arrived(&folder).len() >= 3);
    site.hosts[0].sshd.kill();
    let before = arrived(&folder).len();
    wait_until("its end", || child.try_wait().unwrap().is_some());
    let said = fs::read_to_string(&log).unwrap();
    assert!(
        before < dag.paths.len(),
        "all came before the host was gone"
    );
    assert!(child.wait().unwrap().success(), "{said}");
    assert!(said.contains("fetched 40 paths"), "{said}");
    let other = format!("127.0.0.1:{}", site.hosts[1].sshd.port());
    assert!(said.contains(&other), "{said}");
    verify(&site, &folder, &dag);
}

#[test]
fn a_run_that_was_killed_is_gone_on_with() {
    let site = Site::new(1);
    let dag = large(site.store());
    let folder = site.folder("out");
    let log = site.folder("log");
    let mut child = start(site.command(&["--to", text(&folder), &dag.root]), &log);
    wait_until("a few paths", || arrived(&folder).len() >= 10);
    // Not its children: those are ssh masters, which all commands share.
    child.kill().unwrap();
    child.wait().unwrap();
    let there = arrived(&folder);
    assert!(there.len() < dag.paths.len(), "it was over");
    let got = site.get_to(&folder, &[&dag.root]).status(0);
    assert_eq!(got.stdout(), format!("{}\n", dag.root));
    let fetched = dag.paths.len() - there.len();
    got.says(&[
        &format!("fetched {fetched} paths"),
        &format!("; {} were there", there.len()),
    ]);
    verify(&site, &folder, &dag);
}

/// How many of so many paths are there, as it is said at an interrupted run.
fn kept_of(all: usize, said: &str) -> usize {
    let line = said.lines().last().unwrap_or_default();
    let kept = line
        .strip_prefix("ssh-substituter: warning: interrupted: ")
        .and_then(|rest| rest.split_once(&format!(" of {all} paths to be fetched are there (")))
        .filter(|(_, rest)| rest.ends_with("the same command goes on with the others"));
    let (kept, _) = kept.unwrap_or_else(|| panic!("{said}"));
    kept.parse().unwrap()
}

#[test]
fn signals_leave_nothing_half_done() {
    default_signals();
    let site = Site::new(1);
    let dag = large(site.store());
    for (signal, status) in [
        (Signal::TERM, 128 + 15),
        (Signal::INT, 128 + 2),
        (Signal::HUP, 128 + 1),
    ] {
        for to in ["folder", "cache"] {
            let folder = site.folder(&format!("{to}{status}"));
            let url = format!("file://{}", folder.display());
            let place = if to == "cache" { &url } else { text(&folder) };
            let log = site.folder("log");
            let mut child = start(site.command(&["--to", place, &dag.root]), &log);
            let store = folder.join(if to == "cache" { "nar" } else { "nix/store" });
            wait_until("a path", || {
                let there = || {
                    names(&store)
                        .iter()
                        .filter(|name| is_complete(name))
                        .count()
                };
                store.exists() && there() >= 4
            });
            kill_process(Pid::from_child(&child), signal).unwrap();
            wait_until("its end", || child.try_wait().unwrap().is_some());
            assert_eq!(child.wait().unwrap().code(), Some(status), "{to}");
            let said = fs::read_to_string(&log).unwrap();
            let kept = kept_of(40, &said);
            assert!(kept > 0, "{said}");
            // Nor does the progress of a slow machine say it in other words and figures.
            assert!(!said.contains("failed"), "{said}");
            assert_eq!(said.matches("interrupted").count(), 1, "{said}");
            if to == "cache" {
                closed(&folder);
            }
            // What it had no time to remove, the next run does.
            let got = site.get(&["--to", place, &dag.root]).status(0);
            // What was said to be there is not fetched again.
            let said = got.stderr();
            let (_, fetched) = said.split_once("fetched ").unwrap();
            let fetched: usize = fetched.split(' ').next().unwrap().parse().unwrap();
            assert!(fetched <= 40 - kept, "{kept} kept: {}", got.stderr());
            for folder in [&folder, &store] {
                let mut left = names(folder);
                left.retain(|name| !is_complete(name));
                assert_eq!(left, [""; 0], "{to}");
            }
            if to == "cache" {
                closed(&folder);
                let nix = Nix::new()
                    .substituters(&url)
                    .option("require-sigs", "false");
                nix.realise(&[&dag.root]).ok();
            } else {
                verify(&site, &folder, &dag);
            }
        }
    }
}

/// Each narinfo has its NAR, and the narinfos of all that it refers to.
fn closed(folder: &Path) {
    let infos: BTreeSet<_> = names(folder)
        .into_iter()
        .filter(|name| name.ends_with(".narinfo"))
        .collect();
    for info in &infos {
        let text = fs::read_to_string(folder.join(info)).unwrap();
        let field = |name: &str| {
            let mut lines = text.lines();
            lines
                .find_map(|line| line.strip_prefix(name))
                .unwrap()
                .to_owned()
        };
        assert!(folder.join(field("URL: ")).is_file());
        for reference in field("References: ").split_whitespace() {
            assert!(
                infos.contains(&format!("{}.narinfo", &reference[..32])),
                "{reference}"
            );
        }
    }
}

#[test]
fn a_run_into_a_store_that_was_killed_is_gone_on_with() {
    let site = Site::new(1);
    let dag = large(site.store());
    let own = Store::new();
    let command = || {
        let mut command = site.command(&["--into-store", &dag.root]);
        command.env("NIX_REMOTE", own.uri());
        command
    };
    let log = site.folder("log");
    let mut child = start(command(), &log);
    wait_until("a few paths", || {
        let store = own.root().join("nix/store");
        names(&store).len() >= 10
    });
    kill_tree(child.id());
    child.wait().unwrap();
    let there = own.all_paths().len();
    assert!(there > 0 && there < 40, "{there}");
    let got = super::Got(super::run_with_timeout(command(), LIMIT)).status(0);
    got.says(&[&format!("fetched {} paths", 40 - there)]);
    own.verify();
    assert_eq!(own.all_paths().len(), 40);
}

#[test]
fn nobody_has_to_read_what_it_prints() {
    let site = Site::new(1);
    let dag = site.store().dag(20, DagOptions::default());
    let folder = site.folder("out");
    let log = site.folder("log");
    let mut child = start(site.command(&["--to", text(&folder), &dag.root]), &log);
    drop(child.stdout.take());
    wait_until("its end", || child.try_wait().unwrap().is_some());
    let said = fs::read_to_string(&log).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");
    verify(&site, &folder, &dag);
}
