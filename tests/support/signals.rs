//! What signals do to the programs that tests start.

use tokio::signal::unix::{SignalKind, signal};

/// Gives programs that are started from now on the default action of SIGHUP and SIGINT. Whoever runs the tests may ignore them
/// (nohup(1), a background job of a shell), and what is started inherits that.
pub fn default_signals() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .expect("a runtime");
    let _entered = runtime.enter();
    let ignored = ignored();
    for kind in [SignalKind::hangup(), SignalKind::interrupt()] {
        if ignored & (1 << (kind.as_raw_value() - 1)) != 0 {
            // The handler stays when this value goes, and a signal that has one gets its default action back by execve(2).
            drop(signal(kind).expect("handle a signal"));
        }
    }
}

/// The signals that this process ignores, SIGHUP in the lowest bit: proc(5).
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("read /proc");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.expect("the ignored signals");
    u64::from_str_radix(mask.trim(), 16).expect("a mask of signals")
}
