//! Ours beside Nix's own, in one run: `cargo bench --bench compare [-- RUNS]`.
//!
//! Brings up its own sshd and stores on loopback; needs what the tests need (`./tests/run` installs it). Absolute times
//! differ from machine to machine, and from hour to hour: compare within a table.

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{DagOptions, Host, Nix, NixEnv, Scratch, tool};

/// What one run of something took.
struct Run {
    seconds: f64,
    /// Largest resident set of the process itself, in bytes; 0 where it was not looked at.
    peak: u64,
}

fn main() {
    // cargo passes flags of its own.
    let runs = std::env::args()
        .skip(1)
        .find_map(|arg| arg.parse().ok())
        .unwrap_or(3);
    let mut host = Host::new();
    say("making the stores ...");
    let dag = host.store.dag(500, DagOptions::default()).root;
    let big: Vec<String> = big_closure(&mut host);
    let blob = host.store.big("blob", 400 << 20);

    say(&format!(
        "{:<44} {:>8} {:>8} {:>8} {:>10}",
        "median of each", "ours s", "other s", "ratio", "peak MB"
    ));
    compare(
        "dag500: realise, beside ssh://",
        runs,
        || realise_ours(&host, std::slice::from_ref(&dag)),
        || realise_theirs(&host, std::slice::from_ref(&dag)),
    );
    compare(
        "1.15 GB in 20 paths: realise, beside ssh://",
        runs,
        || realise_ours(&host, &big),
        || realise_theirs(&host, &big),
    );
    compare(
        "400 MB: --substitute, beside dump | restore",
        runs,
        || substitute(&host, &blob),
        || dump_restore(&host, &blob),
    );
}

/// 20 paths, 1.15 GB, the largest 420 MB.
fn big_closure(host: &mut Host) -> Vec<String> {
    (0..20)
        .map(|number| {
            let size = if number == 0 { 420_000_000 } else { 38_400_000 };
            host.store.big(&format!("part-{number}"), size)
        })
        .collect()
}

fn compare(name: &str, runs: usize, ours: impl Fn() -> Run, theirs: impl Fn() -> Run) {
    let (mut a, mut b, mut peak) = (Vec::new(), Vec::new(), 0);
    for _ in 0..runs {
        let run = ours();
        peak = peak.max(run.peak);
        a.push(run.seconds);
        b.push(theirs().seconds);
    }
    let (a, b) = (median(a), median(b));
    let peak = peak as f64 / 1e6;
    say(&format!(
        "{name:<44} {a:>8.2} {b:>8.2} {:>8.2} {peak:>10.1}",
        a / b
    ));
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn realise_ours(host: &Host, paths: &[String]) -> Run {
    let nix = Nix::through(&[host.trusted()]).limit(Duration::from_secs(600));
    let _masters = nix.store().env().masters();
    timed(nix.realise(paths).ok().took)
}

fn realise_theirs(host: &Host, paths: &[String]) -> Run {
    let store = host.store.remote_store_param();
    let url = host
        .sshd
        .nix_store_url(&format!("trusted=true&remote-store={store}"));
    let nix = Nix::new()
        .ssh(&host.sshd)
        .substituters(&url)
        .limit(Duration::from_secs(600));
    timed(nix.realise(paths).ok().took)
}

fn timed(took: Duration) -> Run {
    Run {
        seconds: took.as_secs_f64(),
        peak: 0,
    }
}

fn substitute(host: &Host, path: &str) -> Run {
    let env = NixEnv::new();
    let _masters = env.masters();
    env.configure(&[host.trusted()], "");
    let dest = Scratch::new();
    let mut command = env.program();
    command
        .args(["--substitute", path])
        .arg(dest.path().join("x"));
    watched(command)
}

fn dump_restore(host: &Host, path: &str) -> Run {
    let dest = Scratch::new();
    let (nix_store, from) = (tool("nix-store"), host.store.physical(path));
    let mut command = Command::new("sh");
    let script = format!(
        "'{nix}' --dump '{}' | '{nix}' --restore '{}'",
        from.display(),
        dest.path().join("x").display(),
        nix = nix_store.display(),
    );
    command.args(["-c", &script]);
    watched(command)
}

/// Runs to its end, and looks at its memory meanwhile.
fn watched(mut command: Command) -> Run {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("start it");
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        peak = peak.max(high_water(Path::new(&status)));
        if let Some(status) = child.try_wait().expect("wait for it") {
            assert!(status.success());
            return Run {
                seconds: start.elapsed().as_secs_f64(),
                peak,
            };
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Peak resident set of a process, in bytes.
fn high_water(status: &Path) -> u64 {
    let text = fs::read_to_string(status).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
