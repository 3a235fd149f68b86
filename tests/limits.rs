//! No more comes from hosts in a second than the configuration allows.

mod support;

use std::time::Instant;

use support::{Host, Nix};

const MIB: u64 = 1 << 20;

/// Fetches a path of 6 MiB with these lines in the configuration; how many seconds it takes.
fn fetch(hosts: usize, params: &str, lines: &str) -> f64 {
    let hosts: Vec<Host> = (0..hosts).map(|_| Host::new()).collect();
    let paths: Vec<String> = hosts
        .iter()
        .map(|host| host.store.big("a", 6 * MIB))
        .collect();
    let urls: Vec<String> = hosts
        .iter()
        .map(|host| host.url(&format!("trusted=true{params}")))
        .collect();
    let nix = Nix::through(&[]);
    nix.store().env().configure(&urls, lines);
    let _masters = nix.store().env().masters();
    let began = Instant::now();
    nix.realise(&paths[..1]).ok();
    began.elapsed().as_secs_f64()
}

#[test]
fn of_one_host_and_of_all_together() {
    for (hosts, params, lines) in [
        (1, "&limit-rate=2M", ""),
        (1, "", "download-speed = 2048"),
        (2, "", "download-speed = 2048"),
        (1, "&limit-rate=100M", "download-speed = 2048"),
    ] {
        let secs = fetch(hosts, params, lines);
        assert!(secs >= 2.8, "{params} {lines}: {secs}");
        assert!(secs < 30.0, "{params} {lines}: {secs}");
    }
}
