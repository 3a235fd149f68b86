//! When an engine begins and ends.

use std::fs::File;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::site::Site;
use super::support::{DagOptions, Host, Nix, substituter, wait_until};
use super::talk::{FrontEnd, NO_DISK};

#[test]
fn it_ends_when_nobody_needs_it_and_takes_its_socket_away() {
    let site = Site::new("engine-idle-timeout = 1");
    let mut front_end = site.front_end();
    site.fetch(&mut front_end, 0);
    let first = site.process();
    assert_eq!(site.sockets().len(), 1);
    front_end.end_quietly();
    wait_until("the engine ends", || site.processes().is_empty());
    assert_eq!(site.sockets(), [] as [std::path::PathBuf; 0]);
    // The next one starts another.
    let mut silent = site.front_end();
    site.fetch(&mut silent, 1);
    let second = site.process();
    assert_ne!(second, first);
    // Who is there and says nothing needs it all the same.
    thread::sleep(Duration::from_secs(4));
    assert_eq!(site.process(), second);
    site.fetch(&mut silent, 2);
    silent.end_quietly();
    wait_until("the engine ends", || site.processes().is_empty());
}

#[test]
fn ten_at_once_get_one_engine() {
    let site = Site::new("");
    let (env, host) = (&site.env, &site.host);
    let mut lock_file = None;
    for round in 0..4 {
        let (begin, path) = (Barrier::new(10), site.path(round));
        // All have seen that there is no engine before the first one may start one.
        let lock = lock_file.as_ref().map(|path| {
            let lock = File::open(path).expect("open a lock");
            flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("take a lock");
            lock
        });
        thread::scope(|scope| {
            let one = || {
                let mut command = env.program();
                command.arg("--serve");
                begin.wait();
                let mut front_end = FrontEnd::start(command);
                front_end.talk.fetch(path, &host.store);
                front_end
            };
            let all: Vec<_> = (0..10).map(|_| scope.spawn(one)).collect();
            if lock.is_some() {
                thread::sleep(Duration::from_millis(800));
            }
            drop(lock);
            let all = all
                .into_iter()
                .map(|thread| thread.join().expect("it is served"));
            let all: Vec<_> = all.collect();
            site.wait_for_clients(&[(site.process(), 10)]);
            for front_end in all {
                front_end.end_quietly();
            }
        });
        lock_file = Some(site.sockets()[0].with_extension("lock"));
        if round % 2 == 0 {
            // What it leaves behind is a socket that nobody listens on.
            site.kill();
            assert_eq!(site.sockets().len(), 1);
        } else {
            site.engines.stop();
            wait_until("the engine ends", || site.processes().is_empty());
            assert_eq!(site.sockets().len(), 0);
        }
    }
}

#[test]
fn a_second_nix_finds_everything_warm() {
    let host = Host::new();
    let dag = host.store.dag(60, DagOptions::default());
    // Without a cache on disk: what is known is known from memory.
    let (name, nowhere) = NO_DISK;
    let nix = Nix::new().substituters(&substituter("")).env(name, nowhere);
    let env = nix.store().env();
    let engines = env.configure_with_engine(&[host.trusted()], "");
    nix.realise(&[&dag.root]).ok();
    let first = engines.pid();
    let before = engines.status();
    assert_eq!(before[0]["delivered"]["paths"], 60);

    let all: Vec<&String> = dag.paths.iter().rev().collect();
    nix.store().delete(&all);
    nix.realise(&[&dag.root]).ok();
    for path in &dag.paths {
        assert!(nix.store().verify_path(path), "{path}");
    }
    wait_until("nobody is there", || engines.status()[0]["clients"] == 0);
    let status = engines.status();
    assert_eq!(engines.pid(), first);
    assert_eq!(status[0]["delivered"]["paths"], 120, "{status:?}");
    // What was delivered a moment ago is here yet.
    let received = |status: &[serde_json::Value]| status[0]["hosts"][0]["received"].clone();
    assert!(received(&before)["raw"]["narBytes"].as_u64() > Some(10_000));
    assert_eq!(received(&before), received(&status));
    // Not by logins and sessions: on a loaded machine, NARs may be worth some more channels.
    for asked in ["fromHosts", "askedAhead"] {
        let count = |status: &[serde_json::Value]| status[0]["answers"][asked].as_u64();
        assert!(count(&before).is_some());
        assert_eq!(count(&before), count(&status), "{status:?}");
    }
}

#[test]
fn what_one_has_asked_the_next_is_answered_from_memory() {
    let site = Site::new("");
    let front_end = || {
        let mut command = site.command();
        let (name, nowhere) = NO_DISK;
        command.env(name, nowhere);
        FrontEnd::start(command)
    };
    let paths: Vec<&str> = site.dag.paths.iter().map(String::as_str).collect();
    let mut first = front_end();
    let told = first.talk.infos(&paths);
    assert_eq!(told.len(), paths.len());
    first.end_quietly();
    site.host.sshd.freeze();
    let mut second = front_end();
    assert_eq!(second.talk.infos(&paths), told);
    site.host.sshd.thaw();
    second.end_quietly();
}
