//! Hosts' health from process to process: the real program, the real ssh, and a host that accepts and says nothing.

mod support;

use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ssh_substituter::config::host::Host;
use ssh_substituter::engine::ResolverLookup;
use ssh_substituter::hint::Hint;
use ssh_substituter::model::{HealthRecord, StorePath};
use ssh_substituter::pool::{HostStore, Limits, Pool};
use ssh_substituter::resolver::{Resolver, Trust};
use ssh_substituter::transfer::progress::NoProgress;
use ssh_substituter::transfer::{FetchRequest, NarSink, Piece, Transfers};
use ssh_substituter::transport::ProcessTransport;
use support::{SHORT, Scratch, Sshd, Store, closed_port, program, run_with_input};

/// Seconds. ssh itself is given less, so that it can still say what is wrong.
const CONNECT_TIMEOUT: u64 = 8;

/// What waits for a dead host takes longer than this, and nothing else does.
const WAITED: Duration = Duration::from_secs(3);

const MISSING: &str = "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-missing";

/// A host that accepts connections and never says a word.
struct Silent {
    port: u16,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl Silent {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen on loopback");
        let port = listener.local_addr().expect("an address").port();
        let connections = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&connections);
        // Ends with the test program.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                kept.lock().expect("the connections").push(stream);
            }
        });
        Self { port, connections }
    }

    fn spec(&self) -> String {
        format!("ssh://127.0.0.1:{}", self.port)
    }

    /// How many have come so far.
    fn connections(&self) -> usize {
        // Those that came before this one have been accepted before it.
        let mine = TcpStream::connect(("127.0.0.1", self.port)).expect("connect");
        let mine = mine.local_addr().expect("an address");
        let is_mine = |stream: &TcpStream| stream.peer_addr().is_ok_and(|from| from == mine);
        loop {
            let mut all = self.connections.lock().expect("the connections");
            if let Some(at) = all.iter().position(is_mine) {
                all.remove(at);
                return at;
            }
            drop(all);
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// One process that is asked whether a path is there; what it printed and how long it took.
fn have(home: &Scratch, hosts: &[&str], path: &str) -> (Output, Duration) {
    let mut command = Command::new(program());
    command
        .arg("--query")
        .args(hosts.iter().flat_map(|host| ["--host", host]))
        .args(["--option", "connect-timeout", &CONNECT_TIMEOUT.to_string()])
        // Each process finds out by itself.
        .args(["--option", "engine", "off"])
        // The hosts shall be asked each time.
        .args(["--option", "narinfo-cache-positive-ttl", "0"])
        .args(["--option", "narinfo-cache-negative-ttl", "0"])
        .env("HOME", home.folder("home"))
        .env("NIX_CONF_DIR", home.folder("etc"))
        .env("NIX_SSHOPTS", "-F none")
        .env("SSH_SUBSTITUTER_RUNTIME_DIR", home.path().join("run"))
        .env("SSH_SUBSTITUTER_CACHE_DIR", home.path().join("cache"));
    for variable in [
        "SSH_AUTH_SOCK",
        "NIX_CONFIG",
        "_NIX_OPTIONS",
        "NIX_SUBSTITUTERS",
    ] {
        command.env_remove(variable);
    }
    let started = Instant::now();
    let output = run_with_input(command, format!("have {path}\n").as_bytes(), SHORT);
    assert!(output.status.success(), "{output:?}");
    (output, started.elapsed())
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

fn warnings(output: &Output) -> usize {
    let stderr = String::from_utf8_lossy(&output.stderr);
    stderr.matches("warning:").count()
}

#[test]
fn a_dead_host_at_the_head_costs_the_first_process_only() {
    let (home, silent, sshd, store) =
        (Scratch::new(), Silent::start(), Sshd::start(), Store::new());
    let path = store.add_text("there", "there", &[]);
    let live = sshd.store_url(&format!(
        "trusted=true&remote-store={}",
        store.remote_store_param()
    ));
    let dead = silent.spec();
    let hosts = [dead.as_str(), live.as_str()];

    // Only a path that the live host lacks makes anybody wait for the dead one.
    let (output, took) = have(&home, &hosts, MISSING);
    assert_eq!(stdout(&output), "\n\n");
    assert!(took >= WAITED, "{took:?}");
    assert_eq!(silent.connections(), 1);
    assert_eq!(warnings(&output), 1, "{output:?}");

    for (wanted, answer) in [
        (MISSING, "\n\n".to_owned()),
        (&*path, format!("\n{path}\n\n")),
    ] {
        let (output, took) = have(&home, &hosts, wanted);
        assert_eq!(stdout(&output), answer, "{output:?}");
        assert!(took < WAITED, "{took:?}");
        assert_eq!(silent.connections(), 1);
        assert_eq!(warnings(&output), 0, "{output:?}");
    }
}

#[test]
fn with_all_hosts_dead_the_next_process_says_so_at_once() {
    let (home, first, second) = (Scratch::new(), Silent::start(), Silent::start());
    let (a, b) = (first.spec(), second.spec());
    let hosts = [a.as_str(), b.as_str()];
    let (output, took) = have(&home, &hosts, MISSING);
    assert_eq!(stdout(&output), "\n\n");
    assert!(took >= WAITED, "{took:?}");

    let (output, took) = have(&home, &hosts, MISSING);
    assert_eq!(stdout(&output), "\n\n");
    assert!(took < WAITED, "{took:?}");
    assert_eq!(warnings(&output), 1, "{output:?}");
    assert_eq!((first.connections(), second.connections()), (1, 1));
}

#[test]
fn a_cache_that_cannot_be_used_changes_no_answer() {
    let (home, silent) = (Scratch::new(), Silent::start());
    home.write("cache", "a file where the folder should be");
    for connections in 1..=2 {
        let (output, _) = have(&home, &[&silent.spec()], MISSING);
        assert_eq!(stdout(&output), "\n\n");
        assert_eq!(silent.connections(), connections);
        assert_eq!(warnings(&output), 1, "{output:?}");
    }
}

/// Says of one host that it has failed a moment ago.
struct FailedJustNow(&'static str);

impl HostStore for FailedJustNow {
    fn health(&self, host: &str) -> Option<HealthRecord> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a clock");
        let now = u64::try_from(now.as_millis()).expect("a date");
        (host.lines().next() == Some(self.0)).then_some(HealthRecord {
            failures: 3,
            last_failure: now,
            rest_until: now + 20_000,
        })
    }
}

struct Bytes(u64);

#[async_trait::async_trait]
impl NarSink for Bytes {
    async fn write(&mut self, piece: Piece) -> std::io::Result<()> {
        self.0 += piece.bytes.len() as u64;
        Ok(())
    }
}

#[tokio::test]
async fn a_transfer_turns_to_a_resting_host_last() {
    let store = Store::new();
    let path = store.big("big", 100_000);
    let path = StorePath::parse(&path).expect("a store path");
    let (root, started) = (store.root().to_owned(), Arc::new(Mutex::new(Vec::new())));
    let seen = Arc::clone(&started);
    let transport = ProcessTransport::new(move |host: &Host| {
        seen.lock().expect("the hosts").push(host.name.clone());
        let mut command = Command::new(program());
        command.arg("serve-local").arg("--store").arg(&root);
        command
    });
    let limits = Limits {
        connect: SHORT,
        silence: SHORT,
        hedge: SHORT,
    };
    let hosts = ["resting", "fine"].map(|name| Host::parse(name).expect("a host"));
    let health = Some(Arc::new(FailedJustNow("resting")) as Arc<dyn HostStore>);
    let notify = Arc::new(|error: &(dyn Hint + 'static)| panic!("{error}"));
    let transport = Arc::new(transport);
    let pool = Arc::new(Pool::new(hosts.into(), transport, limits, notify, health));
    let answers = pool.ask(std::slice::from_ref(&path), |_, _| true).await;
    let info = answers.holders[&path][0].info.clone();

    let (all, mut sink) = (pool.hosts().collect::<Vec<_>>(), Bytes(0));
    let trust = Trust {
        require_sigs: false,
        keys: Arc::default(),
    };
    let answers = Box::new(ResolverLookup(Arc::new(Resolver::new(pool.clone(), trust))));
    let transfers = Transfers::new(pool, 64 << 20, answers);
    let wish = FetchRequest {
        info: &info,
        holders: &all,
        caller: &transfers.caller(),
        resume: None,
        progress: &NoProgress,
    };
    let size = transfers.fetch(wish, &mut sink).await;
    assert_eq!(size.expect("it is there"), info.nar_size);
    assert_eq!(sink.0, info.nar_size);
    assert_eq!(*started.lock().expect("the hosts"), ["fine"]);
}

/// Stop sshd, run, start sshd, run.
#[test]
fn a_person_who_tries_again_at_once_finds_a_host_that_is_back() {
    let (home, sshd, store) = (Scratch::new(), Sshd::start(), Store::new());
    let path = store.add_text("there", "there", &[]);
    let url = sshd.store_url(&format!(
        "trusted=true&remote-store={}",
        store.remote_store_param()
    ));
    // A port that nobody listens at yet.
    let port = closed_port();
    let url = url.replacen(&format!(":{}", sshd.port()), &format!(":{port}"), 1);
    let get = || {
        let mut command = Command::new(program());
        command
            .args(["get", "--to"])
            .arg(home.path().join("to"))
            .args(["--host", &url, &path])
            .env("HOME", home.folder("home"))
            .env("NIX_CONF_DIR", home.folder("etc"))
            .env("NIX_STORE_DIR", "/nix/store")
            .env("NIX_SSHOPTS", "-F none")
            .env("SSH_SUBSTITUTER_RUNTIME_DIR", home.path().join("run"))
            .env("SSH_SUBSTITUTER_CACHE_DIR", home.path().join("cache"));
        for variable in ["SSH_AUTH_SOCK", "NIX_CONFIG", "_NIX_OPTIONS"] {
            command.env_remove(variable);
        }
        let output = run_with_input(command, b"", SHORT);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), stderr)
    };
    for _ in 0..2 {
        let (came, stderr) = get();
        assert!(!came && stderr.contains("connection refused"), "{stderr}");
    }
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the same port");
    let to = sshd.port();
    // Ends with the test program.
    thread::spawn(move || {
        for from in listener.incoming().flatten() {
            let to = TcpStream::connect(("127.0.0.1", to)).expect("the host");
            for (mut from, mut to) in [
                (
                    from.try_clone().expect("a stream"),
                    to.try_clone().expect("a stream"),
                ),
                (to, from),
            ] {
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    let (came, stderr) = get();
    assert!(came, "{stderr}");
    support::end_masters(&home.path().join("run"));
}

/// Nix commands are often shorter than any connect-timeout: the first one never learns that the host is dead.
#[test]
fn a_dead_host_holds_up_one_short_process_only_and_for_the_hedge_delay() {
    let (silent, sshd, store) = (Silent::start(), Sshd::start(), Store::new());
    let home = Scratch::new();
    let paths: Vec<_> = (0..5)
        .map(|number| store.add_text(&format!("path-{number}"), "text", &[]))
        .collect();
    let good = sshd.store_url(&format!(
        "trusted=true&remote-store={}",
        store.remote_store_param()
    ));
    let dead = silent.spec();
    let took = |hosts: &[&str], path: &str| {
        let (output, took) = have(&home, hosts, path);
        assert_eq!(stdout(&output), format!("\n{path}\n\n"));
        took
    };
    let quickest = |hosts: &[&str]| {
        paths
            .iter()
            .map(|path| took(hosts, path))
            .min()
            .expect("some")
    };
    let mut alone = quickest(&[&good]);
    let first = took(&[&dead, &good], &paths[0]);
    assert!(first >= HEDGE, "{first:?}");
    let mut later = quickest(&[&dead, &good]);
    // The least of several, so that a loaded machine does not decide.
    for _ in 0..10 {
        if later < alone + HEDGE / 2 {
            return;
        }
        alone = alone.min(quickest(&[&good]));
        later = later.min(quickest(&[&dead, &good]));
    }
    panic!("{later:?}, without the dead host {alone:?}");
}

/// How long a host may hold up another one's answer.
const HEDGE: Duration = Duration::from_millis(150);
