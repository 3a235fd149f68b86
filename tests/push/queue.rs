//! `push --queue` and `push --wait`, with the engine in between: hosts that are down, engines that are killed, paths that
//! vanish.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};

use super::support::{Engines, Relay, SHORT, number, run, show, wait_until};
use super::{Got, Site, parts, verified};

/// How fast links to hosts are, in bytes a second, where that does not matter.
const FAST: u64 = 100_000_000;

/// How many bytes may be on their way when an engine is killed, the rest of what is in buffers of the system included.
const ON_ITS_WAY: u64 = 1 << 20;

/// A site whose first host is reached through a relay, with engines behind its commands.
struct Queued {
    engines: Engines,
    relay: Relay,
    site: Site,
}

impl Queued {
    fn new(rate: u64) -> Self {
        let site = Site::new(1);
        let port = site.hosts[0].sshd.port();
        let relay = Relay::upwards(port, rate);
        let url = relay.url(port, &site.hosts[0].url(""));
        let lines = format!("ssh-substituter-push-hosts = {url}\n");
        let engines = site.env.configure_with_engine(&[], &lines);
        Self {
            engines,
            relay,
            site,
        }
    }

    fn queue(&self, paths: &[String]) -> Got {
        let mut args = vec!["--queue"];
        args.extend(paths.iter().map(String::as_str));
        self.site.push(&args)
    }

    fn wait(&self, args: &[&str]) -> Got {
        let mut command = self.site.env.program();
        command.args(["push", "--wait"]).args(args);
        Got(super::run_with_timeout(command, super::LIMIT))
    }

    fn status(&self, args: &[&str]) -> String {
        let mut command = self.site.env.program();
        command.arg("status").args(args);
        run(command, SHORT)
    }

    /// How many entries the queue has.
    fn queued(&self) -> i64 {
        let db = Connection::open(self.site.env.state_dir().join("push-queue.sqlite")).unwrap();
        db.query_row("SELECT count(*) FROM queue", [], |row| row.get(0))
            .unwrap()
    }

    /// The roots of the collector in the local store that are ours.
    fn roots(&self) -> Vec<PathBuf> {
        let auto = self.site.store.root().join("nix/var/nix/gcroots/auto");
        let entries = fs::read_dir(auto).into_iter().flatten().flatten();
        let ours = entries.filter(|entry| {
            let name = entry.file_name();
            name.to_string_lossy().starts_with("ssh-substituter-")
        });
        ours.map(|entry| entry.path()).collect()
    }

    fn kill_engines(&self) {
        for pid in self.engines.pids() {
            let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            kill_process(pid, Signal::KILL).unwrap();
        }
    }
}

#[test]
fn what_is_queued_is_sent_in_the_background() {
    let queued = Queued::new(FAST);
    let dag = parts(&queued.site.store, 8, 20_000);
    let got = queued.queue(std::slice::from_ref(&dag.root)).status(0);
    assert_eq!((got.stdout(), got.stderr()), (String::new(), String::new()));
    queued.wait(&[]).status(0);
    assert_eq!(verified(queued.site.there()).len(), dag.paths.len());
    assert_eq!((queued.queued(), queued.roots().len()), (0, 0));
    let sent = |queued: &Queued| queued.engines.status()[0]["push"]["sentPaths"].clone();
    assert_eq!(sent(&queued), dag.paths.len());
    // What is there already costs nothing.
    queued.queue(&dag.paths).status(0);
    queued.wait(&[]).status(0);
    assert_eq!(sent(&queued), dag.paths.len());
}

#[test]
fn a_host_that_is_down_gets_it_when_it_is_back_and_the_collector_takes_nothing_meanwhile() {
    let queued = Queued::new(FAST);
    let dag = parts(&queued.site.store, 3, 2000);
    queued.relay.cut();
    queued.queue(std::slice::from_ref(&dag.root)).status(0);
    let got = queued.wait(&["--timeout", "1"]).status(4);
    got.says(&[&dag.root, "is not sent to", "yet:", "stay queued"]);
    let status = queued.status(&[]);
    for words in [
        "\nto push to ",
        ": 1 path, for up to ",
        " in vain, next try ",
    ] {
        assert!(status.contains(words), "{words:?}: {status}");
    }
    let json: serde_json::Value = serde_json::from_str(&queued.status(&["--json"])).unwrap();
    assert_eq!(json["pushQueue"]["hosts"][0]["paths"], 1);
    assert_eq!(queued.queued(), 1);
    // As root, as the daemon runs the hook.
    assert_eq!(queued.roots().len(), 1);
    let mut collect = queued.site.store.command("nix-store");
    collect.arg("--gc");
    run(collect, SHORT);
    assert!(
        dag.paths
            .iter()
            .all(|path| queued.site.store.is_valid(path))
    );

    queued.relay.mend();
    queued.wait(&[]).status(0);
    assert_eq!(verified(queued.site.there()).len(), dag.paths.len());
    assert_eq!((queued.queued(), queued.roots().len()), (0, 0));
}

#[test]
fn engines_that_are_killed_lose_nothing() {
    let (seed, kills) = (number("QUEUE_SEED", 1), number("QUEUE_KILLS", 5) as usize);
    let queued = Queued::new(1_000_000);
    let dag = parts(&queued.site.store, 35 + kills, 100_000);
    let (some, others) = dag.paths.split_at(20);
    queued.queue(some).status(0);
    let mut random = super::Random::new(seed, "kills");
    for path in &others[..kills] {
        thread::sleep(Duration::from_millis(random.below(900) as u64));
        queued.kill_engines();
        // Starts another one.
        queued.queue(std::slice::from_ref(path)).status(0);
    }
    queued.kill_engines();
    queued.queue(&others[kills..]).status(0);
    queued.wait(&[]).status(0);
    assert_eq!(verified(queued.site.there()).len(), dag.paths.len());
    assert_eq!(queued.queued(), 0);
    // What was on its way when an engine was killed comes again, and no more.
    let (came, useful) = (queued.relay.came(), dag.paths.len() as u64 * 100_000);
    show(&format!(
        "seed {seed}: {kills} engines killed, {came} bytes went for {useful}\n"
    ));
    assert!(
        came < useful + (kills as u64 + 1) * ON_ITS_WAY,
        "{came} bytes for {useful}"
    );
}

#[test]
fn an_engine_whose_configuration_has_changed_hands_the_queue_on() {
    let queued = Queued::new(FAST);
    let path = queued.site.store.add_text("x", "y", &[]);
    queued.relay.cut();
    queued.queue(std::slice::from_ref(&path)).status(0);
    let before = queued.engines.pid();
    let file = queued.site.env.conf_dir().join("ssh-substituter.conf");
    let changed = fs::read_to_string(&file).unwrap() + "connect-timeout = 7\n";
    fs::write(&file, changed).unwrap();
    wait_until("another engine runs", || {
        let pids = queued.engines.pids();
        pids.len() == 1 && pids[0] != before
    });
    // Nobody calls it.
    queued.relay.mend();
    wait_until("it is sent", || queued.queued() == 0);
    assert_eq!(verified(queued.site.there()), [path]);
}

#[test]
fn a_path_that_has_vanished_here_is_told_and_dropped() {
    let queued = Queued::new(FAST);
    let gone = queued.site.store.add_text("gone", "x", &[]);
    let stays = queued.site.store.add_text("stays", "y", &[]);
    queued.relay.cut();
    queued.queue(&[gone.clone(), stays.clone()]).status(0);
    // Without the root, which keeps it.
    for root in queued.roots() {
        fs::remove_file(root).unwrap();
    }
    queued.site.store.delete(&[&gone]);
    queued.relay.mend();
    // It is noticed by the engine, which tells whoever asks.
    let told = "it is not in the local store any more";
    wait_until("it is given up", || queued.status(&[]).contains(told));
    queued
        .wait(&[])
        .status(4)
        .says(&[&gone, "was not sent", "not in the local store any more"]);
    assert_eq!(verified(queued.site.there()), [stays]);
    queued.wait(&[]).status(0);
    // Known at once.
    queued
        .queue(std::slice::from_ref(&gone))
        .status(3)
        .says(&[&gone, "not valid"]);
    assert_eq!(queued.queued(), 0);
}

#[test]
fn without_an_engine_who_waits_sends() {
    let site = Site::new(1);
    let path = site.store.add_text("x", "y", &[]);
    site.push(&["--queue", &path]).status(0);
    assert!(site.there().all_paths().is_empty());
    let mut command = site.env.program();
    command.args(["push", "--wait"]);
    Got(super::run_with_timeout(command, super::LIMIT)).status(0);
    assert_eq!(verified(site.there()), [path]);
}

#[test]
fn to_queue_takes_a_moment_and_no_ssh() {
    let queued = Queued::new(FAST);
    let paths: Vec<String> = (0..20)
        .map(|number| queued.site.store.add_text(&format!("p{number}"), "x", &[]))
        .collect();
    // No ssh can be started, and nothing is waited for.
    queued.relay.cut();
    let logins = queued.site.hosts[0].sshd.logins();
    let started = Instant::now();
    queued.queue(&paths).status(0);
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(queued.site.hosts[0].sshd.logins(), logins);
    assert_eq!(queued.queued(), 20);
}
