//! Questions that arrive together.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::server::{Server, narinfo};
use super::support::{DagOptions, Host, NixEnv};

/// As many connections as Nix opens.
const CONNECTIONS: usize = 25;

/// Asks what all these paths are, over 25 connections.
fn ask_all(server: &Server, paths: &[String], status: u16) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                let mut client = server.connect();
                while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                    client.get(&narinfo(path)).status(status);
                }
            });
        }
    });
}

/// How many lines of the log hold this.
fn lines(log: &str, words: &str) -> usize {
    log.lines().filter(|line| line.contains(words)).count()
}

#[test]
fn questions_that_arrive_together_go_out_together() {
    let host = Host::new();
    // Paths that do not refer to each other.
    let shape = DagOptions {
        levels: 1,
        fan_out: 0,
        ..DagOptions::default()
    };
    let dag = host.store.dag(1000, shape);
    let env = NixEnv::new();
    env.configure(&[host.trusted()], "");
    let server = Server::start_with(&env, &["-v"]);
    ask_all(&server, &dag.paths[..999], 200);
    let log = server.stop();
    let names = lines(&log, "asks hosts for the names");
    assert!((40..250).contains(&names), "{names} questions for names");
}

#[test]
fn a_closure_is_asked_for_at_once() {
    let host = Host::new();
    let dag = host.store.dag(1000, DagOptions::default());
    let env = NixEnv::new();
    env.configure(&[host.trusted()], "");
    let server = Server::start_with(&env, &["-v"]);
    server.get(&narinfo(&dag.root)).status(200);
    // As Nix does: what refers to others first.
    let paths: Vec<String> = dag.paths.iter().rev().cloned().collect();
    ask_all(&server, &paths, 200);
    let log = server.stop();
    // Some before the closure has come.
    let names = lines(&log, "asks hosts for the names");
    assert!(names < 10, "{names} questions for names");
}
