//! Signals that end the process.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGTERM, SIGINT or SIGHUP. Returns its number.
pub async fn interrupted() -> u8 {
    let ignored = ignored();
    let wait = async |kind: SignalKind| {
        let number = kind.as_raw_value();
        // nohup(1) ignores SIGHUP for the program that it starts, and a shell SIGINT for its background jobs.
        if ignored & (1 << (number - 1)) == 0
            && let Ok(mut signal) = signal(kind)
        {
            signal.recv().await;
            return number.unsigned_abs() as u8;
        }
        // Without a handler the signal ends the process by itself.
        std::future::pending().await
    };
    tokio::select! {
        number = wait(SignalKind::terminate()) => number,
        number = wait(SignalKind::interrupt()) => number,
        number = wait(SignalKind::hangup()) => number,
    }
}

/// The signals that this process ignores, SIGHUP in the lowest bit (`SigIgn` of proc(5)); none where the system does not
/// report them.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}
