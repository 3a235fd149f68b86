//! No more comes from hosts in a second than the configuration allows; no fewer files may be open than the system allows.

mod support;

use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use support::{Host, Nix, Store, program, tool, wait_until};

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

/// Some systems begin with 256 of them.
#[test]
fn of_open_files_as_the_system_has_them() {
    let store = Store::new();
    store.add_text("a", "text", &[]);
    for most in [300, 1000] {
        let mut command = Command::new(tool("sh"));
        let line = format!("ulimit -Sn 256;ulimit -Hn {most};exec \"$0\" \"$@\"");
        command.arg("-c").arg(line).arg(program());
        command.args(["serve-local", "--store"]).arg(store.root());
        let mut child = command.stdin(Stdio::piped()).spawn().expect("start it");
        let limits = format!("/proc/{}/limits", child.id());
        wait_until("it may open as many files as it needs", || {
            let text = fs::read_to_string(&limits).unwrap_or_default();
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("Max open files"));
            let soft = line.and_then(|line| line.split_ascii_whitespace().next());
            soft.and_then(|soft| soft.parse().ok()) == Some(most)
        });
        drop(child.stdin.take());
        child.wait().expect("it ends");
    }
}
