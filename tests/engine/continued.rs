//! A Nix that was killed while it fetched a large path: the next one gets the rest of it.

use std::path::PathBuf;
use std::process::{Child, Stdio};

use super::site::{engines_of, kill};
use super::support::{
    Engines, Host, Masters, Nix, Relay, SHORT, ServeClient, bytes_below, kill_tree, run,
    substituter, wait_until,
};

/// Size of the path, in bytes.
const SIZE: u64 = 40_000_000;

/// Bytes a second that come.
const RATE: u64 = 6_000_000;

struct Slow {
    engines: Option<Engines>,
    _masters: Masters,
    nix: Nix,
    relay: Relay,
    host: Host,
    path: String,
}

impl Slow {
    fn new(with_engine: bool, lines: &str) -> Self {
        let host = Host::new();
        let path = host.store.big("large", SIZE);
        let port = host.sshd.port();
        let relay = Relay::new(port, RATE);
        let nix = Nix::new().substituters(&substituter(""));
        let (env, url) = (nix.store().env(), relay.url(port, &host.trusted()));
        let engines =
            with_engine.then(|| env.configure_with_engine(std::slice::from_ref(&url), lines));
        if !with_engine {
            env.configure(&[url], lines);
        }
        Self {
            engines,
            _masters: env.masters(),
            nix,
            relay,
            host,
            path,
        }
    }

    fn start(&self) -> Child {
        let mut command = self.nix.command("nix-store");
        command.args(["--realise", &self.path]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::null()).spawn().expect("start Nix")
    }

    /// Kills Nix when so many bytes have come; gives how many came.
    fn interrupt_at(&self, bytes: u64) -> u64 {
        let before = self.relay.came();
        let mut nix = self.start();
        wait_until("bytes", || self.relay.came() - before >= bytes);
        match self.engines {
            // What it has started notices that, and the engine stays.
            Some(_) => nix.kill().expect("kill Nix"),
            None => kill_tree(nix.id()),
        }
        nix.wait().expect("wait for Nix");
        self.relay.came() - before
    }

    fn fetch(&self) -> u64 {
        let before = self.relay.came();
        self.nix.realise(&[&self.path]).ok();
        assert!(self.nix.store().verify_path(&self.path));
        let all = self.nix.store().nar_hash(&self.path);
        assert_eq!(all, self.host.store.nar_hash(&self.path));
        self.relay.came() - before
    }

    fn status(&self) -> serde_json::Value {
        let engines = self.engines.as_ref().expect("there is one");
        engines.status().remove(0)
    }

    fn folder(&self) -> PathBuf {
        let home = self.nix.store().env().folder().join("home");
        home.join(".cache/ssh-substituter/partial")
    }
}

#[test]
fn the_next_nix_gets_the_rest_from_the_engine() {
    let slow = Slow::new(true, "");
    let came = slow.interrupt_at(SIZE / 2);
    let kept = || slow.status()["partialBytes"].as_u64().expect("a number");
    wait_until("it is told", || kept() > SIZE / 3);
    let mut status = slow.nix.store().env().program();
    status.arg("status");
    let said = run(status, SHORT);
    assert!(said.contains(" MiB of interrupted downloads, "), "{said}");
    let engine = slow.status()["pid"].clone();
    let again = slow.fetch();
    assert!(again < SIZE * 2 / 3, "{came} and {again}");
    assert_eq!(kept(), 0);
    assert_eq!(slow.status()["pid"], engine);
    wait_until("it is removed", || bytes_below(&slow.folder()) == 0);
}

#[test]
fn what_a_killed_engine_had_received_counts() {
    let slow = Slow::new(true, "");
    let before = slow.relay.came();
    let mut nix = slow.start();
    wait_until("bytes", || slow.relay.came() - before >= SIZE / 2);
    let engines = engines_of(slow.nix.store().env().folder());
    assert_eq!(engines.len(), 1);
    // The front end goes on without it.
    kill(engines[0]);
    assert!(nix.wait().expect("wait for Nix").success());
    let came = slow.relay.came() - before;
    assert!(came < SIZE * 5 / 4, "{came}");
    assert!(slow.nix.store().verify_path(&slow.path));
}

#[test]
fn without_an_engine_it_is_the_same() {
    let slow = Slow::new(false, "");
    let came = slow.interrupt_at(SIZE / 2);
    let again = slow.fetch();
    assert!(again < SIZE * 2 / 3, "{came} and {again}");
    assert_eq!(bytes_below(&slow.folder()), 0);
}

#[test]
fn nothing_is_kept_where_that_is_not_wanted() {
    let slow = Slow::new(true, "partial-downloads = 0");
    slow.interrupt_at(SIZE / 2);
    assert!(!slow.folder().exists());
    let again = slow.fetch();
    assert!(again >= SIZE, "{again}");
}

#[test]
fn two_at_once_do_not_disturb_each_other() {
    let slow = Slow::new(false, "");
    let env = slow.nix.store().env();
    slow.interrupt_at(SIZE / 2);
    let hash = slow.host.store.nar_hash(&slow.path);
    let before = slow.relay.came();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = ServeClient::start(env);
                assert_eq!(client.infos(&[&slow.path]).len(), 1);
                assert_eq!(client.dump(&slow.path), hash);
                client.end();
            });
        }
    });
    // One of them has gone on from there, and the other one has not.
    let came = slow.relay.came() - before;
    assert!((SIZE * 5 / 4..SIZE * 7 / 4).contains(&came), "{came}");
    assert_eq!(bytes_below(&slow.folder()), 0);
}
