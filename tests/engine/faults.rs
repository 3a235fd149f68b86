//! The engine is killed or frozen at any moment: its clients go on without it, from the same byte.

mod clients;
mod text_protocol;

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::ServeClient;
use crate::support::{Engines, Host, NixEnv, is_stopped, wait_until};

const MIB: u64 = 1 << 20;

/// The shortest time after which a silent engine is given up.
const PATIENT: &str = "stalled-download-timeout = 2\nconnect-timeout = 10";

/// How long anything may take that goes on without a frozen engine: its patience, and what a loaded
/// machine needs.
const GOES_ON_WITHIN: Duration = Duration::from_secs(20);

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    kill_process(pid, signal).expect("send a signal");
}

fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_some_and(|rest| !rest.starts_with('Z'))
}

/// A frozen engine; it is thawed on drop, so that it can be ended.
struct Frozen(u32);

impl Frozen {
    fn new(pid: u32) -> Self {
        signal(pid, Signal::STOP);
        wait_until("it stands still", || is_stopped(pid));
        Self(pid)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if is_running(self.0) {
            signal(self.0, Signal::CONT);
        }
    }
}

/// Places in a NAR of so many bytes: before the first, soon, in the middle, near the end. What the
/// caller has not read by then may be under way in pipes.
fn places(size: u64) -> [u64; 6] {
    [
        0,
        64 << 10,
        size / 2,
        size - 5 * MIB / 2,
        size - MIB,
        size - 100_000,
    ]
}

/// Fetches slowly up to a place, where something happens, and then all of the rest.
fn fetch(
    client: &mut ServeClient,
    host: &Host,
    path: &str,
    at: u64,
    happens: impl FnOnce(),
) -> Duration {
    let mut happens = Some(happens);
    let mut since = Instant::now();
    let came = client.dump_while(path, |came| {
        if happens.is_some() && came >= at {
            happens.take().expect("once")();
            since = Instant::now();
        } else if happens.is_some() && came % (1 << 20) < (16 << 10) {
            thread::sleep(Duration::from_millis(1));
        }
    });
    assert!(happens.is_none(), "it came before {at}");
    assert_eq!(came.hash, host.store.nar_hash(path), "at {at}");
    since.elapsed()
}

/// The next thing on the same connection.
fn works(client: &mut ServeClient, host: &Host, path: &str) {
    let infos = client.infos(&[path]);
    let told = infos[0].nar_hash.expect("a hash").to_string();
    assert_eq!(told, host.store.nar_hash(path));
    assert_eq!(client.dump(path), told);
}

/// Hosts with the same paths: a large one, and a small one.
fn hosts(count: usize, size: u64) -> (Vec<Host>, String, String) {
    let first = Host::new();
    let paths = [
        first.store.big("large", size),
        first.store.big("small", 5000),
    ];
    let others = (1..count).map(|_| {
        let host = Host::new();
        host.store.copy_from(&first.store, &paths);
        host
    });
    let others: Vec<_> = others.collect();
    let [large, small] = paths;
    (std::iter::once(first).chain(others).collect(), large, small)
}

fn configure(env: &NixEnv, hosts: &[Host]) -> Engines {
    let urls: Vec<_> = hosts.iter().map(Host::trusted).collect();
    env.configure_with_engine(&urls, PATIENT)
}

fn killed_anywhere(hosts: &[Host], large: &str, small: &str) {
    let env = NixEnv::new();
    let engines = configure(&env, hosts);
    for at in places(hosts[0].store.nar_size(large)) {
        let mut client = ServeClient::start(&env);
        assert_eq!(client.infos(&[large]).len(), 1);
        let pid = engines.pid();
        fetch(&mut client, &hosts[0], large, at, || {
            signal(pid, Signal::KILL);
        });
        works(&mut client, &hosts[0], small);
        assert_eq!(client.dump(large), hosts[0].store.nar_hash(large));
        client.end();
    }
}

#[test]
fn a_nar_arrives_whole_when_the_engine_is_killed_anywhere_in_it() {
    let (hosts, large, small) = hosts(1, 30 * MIB);
    killed_anywhere(&hosts, &large, &small);
}

#[test]
fn a_nar_in_parts_arrives_whole_when_the_engine_is_killed_anywhere_in_it() {
    let (hosts, large, small) = hosts(2, 24 * MIB);
    killed_anywhere(&hosts, &large, &small);
}

#[test]
fn a_nar_arrives_whole_when_the_engine_freezes_anywhere_in_it() {
    let (hosts, large, small) = hosts(1, 30 * MIB);
    let env = NixEnv::new();
    let engines = configure(&env, &hosts);
    for at in places(hosts[0].store.nar_size(&large)) {
        let mut client = ServeClient::start(&env);
        assert_eq!(client.infos(&[&large]).len(), 1);
        let pid = engines.pid();
        let mut frozen = None;
        let took = fetch(&mut client, &hosts[0], &large, at, || {
            frozen = Some(Frozen::new(pid));
        });
        assert!(took < GOES_ON_WITHIN, "{took:?} at {at}");
        works(&mut client, &hosts[0], &small);
        // It wakes up, and serves the next one.
        drop(frozen);
        works(&mut client, &hosts[0], &small);
        client.end();
        assert_eq!(engines.pid(), pid);
    }
}

#[test]
fn an_engine_killed_between_requests_and_under_a_question_costs_nothing() {
    let (hosts, large, small) = hosts(1, 10 * MIB);
    let env = NixEnv::new();
    let engines = configure(&env, &hosts);
    let other = hosts[0].store.big("other", 7000);
    let (large, small, other) = (large.as_str(), small.as_str(), other.as_str());

    let mut client = ServeClient::start(&env);
    assert_eq!(client.infos(&[small]).len(), 1);
    signal(engines.pid(), Signal::KILL);
    // It had told of this one, so that very NAR comes.
    assert_eq!(client.dump(small), hosts[0].store.nar_hash(small));
    works(&mut client, &hosts[0], large);
    client.end();

    let mut client = ServeClient::start(&env);
    works(&mut client, &hosts[0], small);
    let pid = engines.pid();
    hosts[0].sshd.freeze();
    client.ask_infos(&[other]);
    thread::sleep(Duration::from_millis(300));
    signal(pid, Signal::KILL);
    thread::sleep(Duration::from_millis(300));
    hosts[0].sshd.thaw();
    assert_eq!(client.read_infos().len(), 1);
    works(&mut client, &hosts[0], other);
    client.end();
}

#[test]
fn an_engine_frozen_between_requests_and_under_a_question_is_left_behind() {
    let (hosts, large, small) = hosts(1, 10 * MIB);
    let env = NixEnv::new();
    let engines = configure(&env, &hosts);
    let (large, small) = (large.as_str(), small.as_str());
    let mut client = ServeClient::start(&env);
    works(&mut client, &hosts[0], small);
    let old = engines.pid();
    let frozen = Frozen::new(old);
    let began = Instant::now();
    assert_eq!(client.infos(&[large]).len(), 1);
    assert!(began.elapsed() < GOES_ON_WITHIN, "{:?}", began.elapsed());
    works(&mut client, &hosts[0], large);

    // Whoever comes now finds it silent, and has another one.
    let began = Instant::now();
    let mut second = ServeClient::start(&env);
    works(&mut second, &hosts[0], small);
    assert!(began.elapsed() < GOES_ON_WITHIN, "{:?}", began.elapsed());
    let new = engines.pid();
    assert_ne!(new, old);
    drop(frozen);
    wait_until("the old engine ends by itself", || !is_running(old));
    assert_eq!(engines.pid(), new, "and harms nobody");
    works(&mut second, &hosts[0], large);
    works(&mut client, &hosts[0], small);
    client.end();
    second.end();
}

#[test]
fn many_questions_at_once_are_answered_though_the_engine_is_frozen() {
    let (hosts, _, small) = hosts(1, 9);
    let env = NixEnv::new();
    let engines = configure(&env, &hosts);
    let mut client = ServeClient::start(&env);
    works(&mut client, &hosts[0], &small);
    // More than a socket holds.
    let absent: Vec<_> = (0..8000)
        .map(|number| format!("/nix/store/{number:032}-absent-{number}"))
        .collect();
    let mut paths: Vec<_> = absent.iter().map(String::as_str).collect();
    paths.push(&small);
    let frozen = Frozen::new(engines.pid());
    let began = Instant::now();
    let valid = client.valid(&paths);
    assert_eq!(valid.len(), 1);
    assert!(began.elapsed() < GOES_ON_WITHIN, "{:?}", began.elapsed());
    drop(frozen);
    client.end();
}

#[test]
fn an_engine_frozen_while_it_connects_keeps_nobody_from_connecting() {
    let (hosts, large, small) = hosts(1, 10 * MIB);
    let env = NixEnv::new();
    let engines = configure(&env, &hosts);
    let mut client = ServeClient::start(&env);
    let pid = engines.pid();
    hosts[0].sshd.freeze();
    client.ask_infos(&[&small]);
    // It has started ssh, and holds the lock that belongs to it.
    thread::sleep(Duration::from_millis(500));
    let frozen = Frozen::new(pid);
    hosts[0].sshd.thaw();
    let began = Instant::now();
    assert_eq!(client.read_infos().len(), 1);
    assert!(began.elapsed() < GOES_ON_WITHIN, "{:?}", began.elapsed());
    works(&mut client, &hosts[0], &large);
    drop(frozen);
    client.end();
}

#[test]
fn without_engine_and_host_the_nar_is_completed_and_the_next_request_answered() {
    for at in [0, 64 << 10, 10 * MIB] {
        let (hosts, large, small) = hosts(1, 20 * MIB);
        let env = NixEnv::new();
        let engines = configure(&env, &hosts);
        let mut client = ServeClient::start(&env);
        assert_eq!(client.infos(&[&large, &small]).len(), 2);
        let pid = engines.pid();
        let mut done = false;
        let came = client.dump_while(&large, |came| {
            if !done && came >= at {
                signal(pid, Signal::KILL);
                hosts[0].sshd.kill();
                done = true;
            }
        });
        assert!(done);
        let good = hosts[0].store.nar(&large);
        assert_ne!(came.hash, hosts[0].store.nar_hash(&large));
        if came.bytes.len() == good.len() {
            let same = came.bytes.iter().zip(&good).take_while(|(a, b)| a == b);
            assert!(same.count() as u64 >= at, "what came before is right");
        } else {
            // Nothing had come: a small one that says why.
            assert_eq!(at, 0, "{} bytes", came.bytes.len());
            let text = String::from_utf8_lossy(&came.bytes).into_owned();
            assert!(text.contains("could deliver"), "{text}");
        }
        assert_ne!(client.dump(&small), hosts[0].store.nar_hash(&small));
        client.infos(&[&small]);
        client.end();
    }
}
#[test]
fn a_lock_that_is_never_given_back_keeps_nobody_from_connecting() {
    let (hosts, _, small) = hosts(1, 9);
    let env = NixEnv::new();
    let engines = configure(&env, &hosts);
    let mut client = ServeClient::start(&env);
    works(&mut client, &hosts[0], &small);
    client.end();
    engines.stop();
    // As the engine would, frozen just before it starts ssh.
    let folder = env.folder().join("run/ssh-substituter");
    drop(env.masters());
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    let locks = entries.filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.ends_with("-0.lock") || name.ends_with(".login")
    });
    let held: Vec<_> = locks
        .map(|lock| {
            let file = std::fs::File::open(lock.path()).expect("a lock");
            rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).expect("lock");
            file
        })
        .collect();
    assert_eq!(held.len(), 2, "of the connection, and of the login");
    let mut client = ServeClient::start(&env);
    works(&mut client, &hosts[0], &small);
    client.end();
}
