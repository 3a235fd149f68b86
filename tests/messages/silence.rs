//! Hosts that fall silent: with the link, or while the link lives.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::caller::{Caller, Run, name, ssh, url};
use super::support::{Sshd, Store, descendants};

/// Large enough to be on its way for a while.
const LARGE: u64 = 128 << 20;

/// The `nix-store` processes of this server that have sent a good piece of a NAR.
fn sending(sshd: &Sshd) -> Vec<u32> {
    let read = |pid: u32, file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
    let is_sending = |pid: &u32| {
        let written = read(*pid, "io").ok().and_then(|io| {
            let line = io.lines().find_map(|line| line.strip_prefix("wchar: "))?;
            line.parse::<u64>().ok()
        });
        read(*pid, "comm").is_ok_and(|name| name.trim() == "nix-store")
            && written.is_some_and(|bytes| bytes > 1 << 20)
    };
    let mut found = descendants(sshd.pid());
    found.retain(is_sending);
    found
}

/// Substitutes a large path and does something to its senders whenever there are some.
fn substitute(caller: &Caller, sshd: &Sshd, path: &str, meet: impl Fn(&[u32]) + Sync) -> Run {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let senders = sending(sshd);
                if !senders.is_empty() {
                    meet(&senders);
                }
                thread::sleep(Duration::from_millis(2));
            }
        });
        let run =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| caller.substitute(path)));
        done.store(true, Ordering::Relaxed);
        run.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn a_dead_link() {
    let (sshd, store) = (Sshd::start(), Store::new());
    let path = store.big("large", LARGE);
    let caller = Caller::of(&url(&sshd, &store))
        .option("dead-link-timeout", "3")
        .option("connect-timeout", "2");
    let run = substitute(&caller, &sshd, &path, |_| sshd.freeze());
    let warning = run.fails_with(
        &name(&sshd),
        "dead link: no answer to keepalives, nothing came for ",
        &[&format!("'{}true'", ssh(&sshd)), "raise dead-link-timeout"],
    );
    let waited = warning.split_once("came for ").and_then(|(_, rest)| {
        let (seconds, _) = rest.split_once(" s while reading a NAR")?;
        seconds.parse::<u64>().ok()
    });
    assert!(waited.is_some_and(|s| (3..=10).contains(&s)), "{warning}");
    sshd.thaw();
}

#[test]
fn a_busy_remote_on_a_living_link() {
    let (sshd, store) = (Sshd::start(), Store::new());
    let path = store.big("large", LARGE);
    // The link would long be dead by then, if keepalives went unanswered.
    let caller = Caller::of(&url(&sshd, &store))
        .option("dead-link-timeout", "3")
        .option("stalled-download-timeout", "6");
    let run = substitute(&caller, &sshd, &path, |senders| {
        for pid in senders {
            let pid = Pid::from_raw(pid.cast_signed()).expect("a process id");
            let _ = kill_process(pid, Signal::STOP);
        }
    });
    run.fails_with(
        &name(&sshd),
        "silent for 6 s while reading a NAR (hint",
        &[
            "busy",
            "the link was not found dead",
            "raise stalled-download-timeout",
        ],
    );
}
