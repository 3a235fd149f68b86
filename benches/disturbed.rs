//! What a failing host costs: `cargo bench --bench disturbed [-- RUNS]`.
//!
//! A real Nix fetches through the program, from hosts on loopback of which one is dead from the beginning or is killed in
//! the middle. Beside each figure stands the same without the trouble.

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::time::Duration;

use support::{DagOptions, Host, Nix, bytes_below, descendants, kill_tree, wait_until};

/// Of the path whose sender is killed.
const HUGE: u64 = 400 << 20;

fn main() {
    // cargo passes flags of its own.
    let runs = std::env::args()
        .skip(1)
        .find_map(|arg| arg.parse().ok())
        .unwrap_or(3);
    let hosts = [Host::new(), Host::new()];
    say("making the stores ...");
    let dag = hosts
        .each_ref()
        .map(|host| host.store.dag(100, DagOptions::default()).root)[0]
        .clone();
    let huge = hosts.each_ref().map(|host| host.store.big("huge", HUGE))[0].clone();
    let urls = hosts.each_ref().map(Host::trusted);

    // Connections come into its backlog and nobody ever answers them.
    let silent = TcpListener::bind(("127.0.0.1", 0)).expect("bind a port");
    let port = silent.local_addr().expect("an address").port();
    let dead = format!("ssh://127.0.0.1:{port}?trusted=true");
    let with_dead = [dead, urls[0].clone(), urls[1].clone()];

    say(&format!("{:<52} {:>8}", "median of each", "seconds"));
    let (mut first, mut second, mut without) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        let nix = Nix::through(&with_dead);
        let _masters = nix.store().env().masters();
        first.push(seconds(&nix, &dag));
        nix.store().delete(&nix.store().all_paths());
        second.push(seconds(&nix, &dag));
        let nix = Nix::through(&urls);
        let _masters = nix.store().env().masters();
        without.push(seconds(&nix, &dag));
    }
    row("100 paths, first of three hosts dead: first command", first);
    row("the same: second command, warm connections", second);
    row("two hosts, none dead: first command", without);

    let (mut killed, mut calm) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        killed.push(realise(&hosts, &huge, true));
        calm.push(realise(&hosts, &huge, false));
    }
    row("400 MB, its nix-store killed -9 in the middle", killed);
    row("400 MB, undisturbed", calm);
}

fn seconds(nix: &Nix, path: &str) -> f64 {
    nix.realise(&[path]).ok().took.as_secs_f64()
}

/// Fetches a path; on the way the first host's `nix-store --serve` is killed, if wanted.
fn realise(hosts: &[Host; 2], path: &str, kill: bool) -> f64 {
    let nix = Nix::through(&hosts.each_ref().map(Host::trusted)).limit(Duration::from_secs(300));
    let _masters = nix.store().env().masters();
    let folder = nix.store().root().join("nix/store");
    std::thread::scope(|scope| {
        let run = scope.spawn(|| seconds(&nix, path));
        if kill {
            wait_until("a third of the path to be there", || {
                bytes_below(&folder) > HUGE / 3
            });
            let of_first = descendants(hosts[0].sshd.pid()).into_iter();
            of_first
                .filter(|pid| is_nix_store(*pid))
                .for_each(kill_tree);
        }
        run.join().expect("Nix runs")
    })
}

fn is_nix_store(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "nix-store")
}

fn row(name: &str, mut values: Vec<f64>) {
    values.sort_by(f64::total_cmp);
    say(&format!("{name:<52} {:>8.2}", values[values.len() / 2]));
}

fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
