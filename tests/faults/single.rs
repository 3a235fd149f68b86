//! Two faults that a user may well have, each alone.

use std::io::Read;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::relay::signal;
use crate::run::Caller;
use crate::support::{
    DagOptions, Sshd, Store, bytes_below, descendants, percent_encode, tool, wait_until,
};

/// For a path of hundreds of megabytes on a loaded machine.
const LONG: Duration = Duration::from_secs(240);

/// `ssh-substituter-hosts` for a plain host.
fn plain(sshd: &Sshd, store: &Store) -> String {
    let nix_store = tool("nix-store");
    sshd.store_url(&format!(
        "trusted=true&remote-program={}&remote-store={}",
        percent_encode(nix_store.to_str().expect("UTF-8 path")),
        store.remote_store_param()
    ))
}

/// The nix-store that sends a path of this size is killed in the middle, while Nix waits for it.
pub fn killed_in_the_middle(bytes: u64) {
    let stores = [Store::new(), Store::new()];
    let [path, same] = stores.each_ref().map(|store| store.big("huge", bytes));
    assert_eq!(path, same);
    let sshds = [Sshd::start(), Sshd::start()];
    let urls = [plain(&sshds[0], &stores[0]), plain(&sshds[1], &stores[1])];
    let caller = Caller::new(&urls.join(" "), None).limit(LONG);
    let folder = caller.nix.store().root().join("nix/store");
    let first = sshds[0].pid();
    let ran = thread::scope(|scope| {
        let nix = scope.spawn(|| caller.realise(std::slice::from_ref(&path)));
        wait_until("a third of the path is there", || {
            bytes_below(&folder) > bytes / 3
        });
        let serving: Vec<u32> = descendants(first)
            .into_iter()
            .filter(|pid| is_nix_store(*pid))
            .collect();
        assert!(!serving.is_empty(), "the first host serves");
        let there = bytes_below(&folder);
        for pid in serving {
            signal(pid, Signal::KILL);
        }
        assert!(there < bytes * 9 / 10, "in the middle, not at {there}");
        nix.join().expect("Nix runs")
    });
    let ran = ran.ok();
    assert!(sshds[1].sessions() > 0, "the second host went on");
    let message = ran.stderr();
    assert!(message.contains("warning"), "the user is told: {message}");
    let hash = stores[0].nar_hash(&path);
    caller.has(&[path], &[hash]).expect("all is right");
    for sshd in &sshds {
        sshd.cut_connections();
    }
}

fn is_nix_store(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm"))
        .is_ok_and(|name| name.trim() == "nix-store")
}

/// The first of three hosts accepts connections and never says a word.
pub fn first_host_is_dead() {
    let silent = TcpListener::bind(("127.0.0.1", 0)).expect("bind a port");
    let port = silent.local_addr().expect("an address").port();
    thread::spawn(move || {
        // Kept open, each in a thread that ends with the other side.
        for stream in silent.incoming().flatten() {
            thread::spawn(move || {
                let mut stream = stream;
                let _ = stream.read_to_end(&mut Vec::new());
            });
        }
    });
    let stores = [Store::new(), Store::new()];
    let options = DagOptions::default();
    let dag = stores.each_ref().map(|store| store.dag(20, options))[0].clone();
    let sshds = [Sshd::start(), Sshd::start()];
    let urls = [
        format!("ssh://127.0.0.1:{port}?trusted=true"),
        plain(&sshds[0], &stores[0]),
        plain(&sshds[1], &stores[1]),
    ];
    let caller = Caller::new(&urls.join(" "), None);
    let started = Instant::now();
    let ran = caller.realise(std::slice::from_ref(&dag.root)).ok();
    let took = started.elapsed();
    // A question may wait for the hedge delay, never for the dead host's timeout again and again.
    assert!(took < Duration::from_secs(15), "{took:?}\n{}", ran.stderr());
    let hashes: Vec<String> = dag.paths.iter().map(|p| stores[0].nar_hash(p)).collect();
    caller.has(&dag.paths, &hashes).expect("all is right");
    for sshd in &sshds {
        sshd.cut_connections();
    }
}
