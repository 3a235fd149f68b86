//! Nix's own collector at work on a store while paths are restored into it, and what is left of those that were ended.

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use support::{Host, NixEnv, SHORT, Scratch, Store, is_stopped, run, wait_until};

/// As Nix announces a path before it has it made: a file of this process's in `temproots`, locked.
struct TempRoot(#[expect(dead_code, reason = "the lock goes with it")] File);

impl TempRoot {
    fn new(store: &Store, path: &str) -> Self {
        let folder = store.root().join("nix/var/nix/temproots");
        fs::create_dir_all(&folder).unwrap();
        let mut file = File::create(folder.join(std::process::id().to_string())).unwrap();
        flock(&file, FlockOperation::LockShared).unwrap();
        file.write_all(path.as_bytes()).unwrap();
        file.write_all(&[0]).unwrap();
        Self(file)
    }
}

fn collect(store: &Store) {
    let mut command = store.command("nix-store");
    command.arg("--gc");
    run(command, SHORT);
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn substitute(env: &NixEnv, path: &str, dest: &Path) -> Child {
    let mut command = env.program();
    command.arg("--substitute").arg(path).arg(dest);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// How many entries there are in a tree, as far as it can be read.
fn entries(folder: &Path) -> usize {
    let all = fs::read_dir(folder).into_iter().flatten().flatten();
    all.map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => 1 + entries(&entry.path()),
        _ => 1,
    })
    .sum()
}

/// Freezes a process; returns when all its threads stand still.
fn stop(child: &Child) {
    kill_process(Pid::from_child(child), Signal::STOP).unwrap();
    wait_until("it stands still", || is_stopped(child.id()));
}

struct Site {
    host: Host,
    env: NixEnv,
    _masters: support::Masters,
}

impl Site {
    fn new() -> Self {
        let (host, env) = (Host::new(), NixEnv::new());
        env.configure(&[host.trusted()], "");
        let _masters = env.masters();
        Self {
            host,
            env,
            _masters,
        }
    }

    /// A restore that is stopped in the middle, once there are so many entries beside `dest`. (What a host sends is read ahead:
    /// that it stands still would not do.)
    fn frozen_in_the_middle(&self, path: &str, dest: &Path, count: usize) -> Child {
        let child = substitute(&self.env, path, dest);
        let folder = dest.parent().unwrap();
        wait_until("something of it", || entries(folder) > count);
        stop(&child);
        assert!(!dest.exists(), "it is over");
        child
    }
}

fn dest_in(store: &Store, path: &str) -> PathBuf {
    store.physical(path)
}

#[test]
fn a_path_that_is_being_restored_is_no_garbage() {
    let site = Site::new();
    let path = site.host.store.many_files(8000);
    let here = Store::new();
    let garbage = here.add_text("garbage", "garbage", &[]);
    let dest = dest_in(&here, &path);
    let _root = TempRoot::new(&here, &path);
    let child = site.frozen_in_the_middle(&path, &dest, 200);
    collect(&here);
    assert!(!dest_in(&here, &garbage).exists(), "it has collected");
    kill_process(Pid::from_child(&child), Signal::CONT).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let name = dest.file_name().unwrap().to_str().unwrap();
    assert_eq!(names(dest.parent().unwrap()), [".links", name]);
    let hash = format!("{}\n", site.host.store.nar_hash(&path));
    assert!(String::from_utf8_lossy(&output.stdout).ends_with(&hash));
}

#[test]
fn what_a_killed_one_left_is_garbage() {
    let site = Site::new();
    let path = site.host.store.many_files(8000);
    let here = Store::new();
    // So that there is a database.
    here.add_text("garbage", "garbage", &[]);
    let dest = dest_in(&here, &path);
    let mut child = site.frozen_in_the_middle(&path, &dest, 200);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_ne!(names(dest.parent().unwrap()), [".links"]);
    collect(&here);
    assert_eq!(names(dest.parent().unwrap()), [".links"]);
}

#[test]
fn interrupted_restores_end_at_once_and_the_next_ones_clear_up() {
    support::default_signals();
    let site = Site::new();
    // So many that none of them ends while it is being stopped.
    let path = site.host.store.many_files(12_000);
    let scratch = Scratch::new();
    let folder = scratch.path().to_owned();
    let dest = |number: usize| folder.join(format!("dest-{number}"));
    for (signal, status) in [(Signal::INT, 2), (Signal::TERM, 15), (Signal::HUP, 1)] {
        let start = |number: usize| {
            let child = substitute(&site.env, &path, &dest(number));
            let grows = folder.join(format!("dest-{number}.chroot"));
            // Not what the one before it has left there.
            let grows = grows.join(format!("ssh-substituter-{}", child.id()));
            wait_until("some of it", || entries(&grows) > 200);
            stop(&child);
            assert!(entries(&grows) < 10_000, "it is nearly over");
            child
        };
        let mut all = [0, 1, 2].map(start);
        let began = Instant::now();
        for child in &all {
            kill_process(Pid::from_child(child), signal).unwrap();
            kill_process(Pid::from_child(child), Signal::CONT).unwrap();
        }
        for child in &mut all {
            let ended = child.wait().unwrap();
            assert_eq!(ended.code(), Some(128 + status), "{ended}");
        }
        let took = began.elapsed();
        // 0.2 s on a machine that has nothing else to do. One that restores the rest first ends with another status.
        assert!(took < Duration::from_secs(10), "{took:?}");
        assert!((0..3).all(|number| !dest(number).exists()));
    }
    // One that is at work stays as it is, whoever cleans up.
    let large = site.host.store.big("large", 300 << 20);
    let mut works = substitute(&site.env, &large, &folder.join("works"));
    wait_until("it is at work", || folder.join("works.chroot").exists());
    let small = site.host.store.add_text("small", "small", &[]);
    let output = substitute(&site.env, &small, &folder.join("small"))
        .wait_with_output()
        .unwrap();
    assert!(output.status.success());
    assert!(works.wait().unwrap().success());
    assert_eq!(names(&folder), ["small", "works"]);
}

#[test]
fn a_hangup_that_is_ignored_ends_nothing() {
    let site = Site::new();
    let path = site.host.store.big("large", 50 << 20);
    let scratch = Scratch::new();
    let dest = scratch.path().join("dest");
    let mut command = site.env.command("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]);
    command
        .arg(support::program())
        .args(["--substitute", &path])
        .arg(&dest);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("it is at work", || {
        scratch.path().join("dest.chroot").exists()
    });
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(dest.exists());
}
