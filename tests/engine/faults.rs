//! The engine is killed or frozen at any moment: its clients go on without it, from the same byte.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::serve_client::{ServeClient, guard};
use crate::support::{Engines, Host, NixEnv, Scratch, children, run_with_timeout, wait_until};

const MIB: u64 = 1 << 20;

/// The shortest time after which a silent engine is given up.
const PATIENT: &str = "stalled-download-timeout = 2\nconnect-timeout = 10";

/// How long anything may take that goes on without a frozen engine: its patience, and what a loaded
/// machine needs.
const GOES_ON_WITHIN: Duration = Duration::from_secs(20);

/// How long a client may be remembered that is gone, and some ticks of the engine.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(45);

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
    assert_eq!(client.dump(path).hash, told);
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
        assert_eq!(client.dump(large).hash, hosts[0].store.nar_hash(large));
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
    let (hosts, large, small) = hosts(1, 6 * MIB);
    let env = NixEnv::new();
    let engines = configure(&env, &hosts);
    let other = hosts[0].store.big("other", 7000);
    let (large, small, other) = (large.as_str(), small.as_str(), other.as_str());

    let mut client = ServeClient::start(&env);
    assert_eq!(client.infos(&[small]).len(), 1);
    signal(engines.pid(), Signal::KILL);
    // It had told of this one, so that very NAR comes.
    assert_eq!(client.dump(small).hash, hosts[0].store.nar_hash(small));
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
    let (hosts, large, small) = hosts(1, 6 * MIB);
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
    let (hosts, large, small) = hosts(1, 6 * MIB);
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

/// Bytes in the files below a folder.
fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(file) if file.is_dir() => bytes_below(&entry.path()),
            Ok(file) => file.len(),
            Err(_) => 0,
        })
        .sum()
}

/// `--substitute`, during which something happens once so many bytes are there. Its lines.
fn substitute(env: &NixEnv, path: &str, at: u64, happens: impl FnOnce() + Send) -> String {
    let scratch = Scratch::new();
    let folder = scratch.folder("there");
    let dest = folder.join("dest");
    let mut command = env.program();
    command.args(["--substitute", path]).arg(&dest);
    let output = thread::scope(|scope| {
        let running = scope.spawn(|| run_with_timeout(command, Duration::from_secs(60)));
        while bytes_below(&folder) < at && !running.is_finished() {
            thread::sleep(Duration::from_micros(200));
        }
        happens();
        running.join().expect("it ends")
    });
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut command = env.command("nix-hash");
    command.args(["--type", "sha256", "--base32"]).arg(&dest);
    let hash = crate::support::run(command, Duration::from_secs(60));
    assert_eq!(lines, format!("\nsha256:{hash}\n"));
    lines
}

#[test]
fn a_path_is_restored_though_the_engine_is_killed_or_frozen() {
    let (hosts, large, _) = hosts(1, 60 * MIB);
    let env = NixEnv::new();
    let engines = configure(&env, &hosts);
    let expected = format!("\n{}\n", hosts[0].store.nar_hash(&large));
    let size = hosts[0].store.nar_size(&large);
    for at in [0, 64 << 10, size / 2] {
        // So that there is one.
        ServeClient::start(&env).end();
        let pid = engines.pid();
        let lines = substitute(&env, &large, at, || signal(pid, Signal::KILL));
        assert_eq!(lines, expected);
    }
    for at in [0, size / 3] {
        ServeClient::start(&env).end();
        let pid = engines.pid();
        let mut frozen = None;
        let lines = substitute(&env, &large, at, || frozen = Some(Frozen::new(pid)));
        assert_eq!(lines, expected);
    }
}

struct Query {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    _guarded: Sender<()>,
}

impl Query {
    fn start(env: &NixEnv) -> Self {
        let mut command = env.program();
        command.arg("--query");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start the program");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut query = Self {
            _guarded: guard(child.id()),
            child,
            output,
        };
        assert_eq!(query.line(), "");
        query
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        assert_eq!(line.pop(), Some('\n'), "the program ended");
        line
    }

    fn ask(&mut self, what: &str, path: &str) {
        let input = self.child.stdin.as_mut().expect("a pipe");
        writeln!(input, "{what} {path} ").expect("ask");
    }

    fn have(&mut self, path: &str) {
        self.ask("have", path);
        assert_eq!([self.line(), self.line()], [path, ""]);
    }

    fn info(&mut self, path: &str) {
        self.ask("info", path);
        self.read_info(path);
    }

    fn read_info(&mut self, path: &str) {
        let lines: Vec<_> = (0..6).map(|_| self.line()).collect();
        assert_eq!((lines[0].as_str(), lines[5].as_str()), (path, ""));
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().expect("wait").success());
    }
}

#[test]
fn questions_of_the_classic_door_are_answered_though_the_engine_is_killed_or_frozen() {
    let (hosts, large, small) = hosts(1, MIB);
    let third = hosts[0].store.big("third", 3000);
    let env = NixEnv::new();
    let engines = configure(&env, &hosts);

    let mut query = Query::start(&env);
    query.have(&small);
    signal(engines.pid(), Signal::KILL);
    query.info(&small);
    query.have(&large);
    query.end();

    let mut query = Query::start(&env);
    query.have(&small);
    let pid = engines.pid();
    hosts[0].sshd.freeze();
    query.ask("info", &third);
    thread::sleep(Duration::from_millis(300));
    signal(pid, Signal::KILL);
    hosts[0].sshd.thaw();
    query.read_info(&third);
    query.end();

    let mut query = Query::start(&env);
    query.have(&small);
    let frozen = Frozen::new(engines.pid());
    let began = Instant::now();
    query.info(&large);
    query.have(&small);
    assert!(began.elapsed() < GOES_ON_WITHIN, "{:?}", began.elapsed());
    drop(frozen);
    query.end();
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
        assert_ne!(client.dump(&small).hash, hosts[0].store.nar_hash(&small));
        client.infos(&[&small]);
        client.end();
    }
}

/// A client of another caller: its front end has another parent.
fn of_another_caller(env: &NixEnv) -> ServeClient {
    let mut command = env.command("sh");
    // Two commands, so that the shell stays.
    command.args(["-c", r#""$@"; true"#, "sh"]);
    command.arg(crate::support::program());
    ServeClient::of(command)
}

fn only(engines: &Engines) -> serde_json::Value {
    let mut all = engines.status();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[test]
fn what_a_killed_client_had_is_given_back_and_others_are_served_meanwhile() {
    let host = Host::new();
    let name = |number| format!("part-{number}");
    let parts: Vec<_> = (0..6)
        .map(|number| host.store.big(&name(number), 6 * MIB))
        .collect();
    let small = host.store.big("small", 5000);
    let env = NixEnv::new();
    let hosts = [host];
    let engines = configure(&env, &hosts);
    let mut victim = of_another_caller(&env);
    let wanted: Vec<_> = parts.iter().map(String::as_str).collect();
    assert_eq!(victim.infos(&wanted).len(), 6);
    let front_end = children(victim.child.id());
    assert_eq!(front_end.len(), 1, "{front_end:?}");
    let mut other = ServeClient::start(&env);
    assert_eq!(only(&engines)["clients"], 2);
    let mut killed = None;
    let dumped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        victim.dump_while(&parts[0], |came| {
            if killed.is_none() && came >= MIB {
                wait_until("more is read ahead", || {
                    only(&engines)["readaheadBytes"].as_u64() > Some(12 * MIB)
                });
                signal(front_end[0], Signal::KILL);
                killed = Some(Instant::now());
            }
        })
    }));
    assert!(dumped.is_err(), "the front end was killed");
    let killed = killed.expect("it was killed");
    let _ = victim.child.wait();
    wait_until("the engine knows", || {
        let status = only(&engines);
        status["clients"] == 1 && status["transfers"] == serde_json::json!([])
    });
    works(&mut other, &hosts[0], &small);
    works(&mut other, &hosts[0], &parts[1]);
    other.end();
    wait_until("nobody is there", || only(&engines)["clients"] == 0);
    wait_until("nothing is held for it", || {
        only(&engines)["readaheadBytes"] == 0
    });
    assert!(
        killed.elapsed() < FORGOTTEN_WITHIN,
        "{:?}",
        killed.elapsed()
    );
}
