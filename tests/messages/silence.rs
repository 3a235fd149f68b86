//! Hosts that fall silent: with the link, or while the link lives.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::caller::{Caller, NOBODYS, Run, name, scripted, ssh, url};
use super::support::{Sshd, Store, descendants};

/// How a message about a dead link begins.
const DEAD: &str = "dead link: no answer to keepalives, nothing came for ";

/// Large enough to be on its way for a while.
const LARGE: u64 = 128 << 20;

/// A server whose NARs come in one piece.
fn without_shells() -> Sshd {
    let command =
        "ForceCommand test \"$SSH_ORIGINAL_COMMAND\" != sh && eval \"$SSH_ORIGINAL_COMMAND\"";
    Sshd::builder().line(command).start()
}

/// The `nix-store` processes of this server that have sent more than so many bytes.
fn sending(sshd: &Sshd, least: u64) -> Vec<u32> {
    let read = |pid: u32, file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
    let is_sending = |pid: &u32| {
        let written = read(*pid, "io").ok().and_then(|io| {
            let line = io.lines().find_map(|line| line.strip_prefix("wchar: "))?;
            line.parse::<u64>().ok()
        });
        read(*pid, "comm").is_ok_and(|name| name.trim() == "nix-store")
            && written.is_some_and(|bytes| bytes > least)
    };
    let mut found = descendants(sshd.pid());
    found.retain(is_sending);
    found
}

/// Substitutes a path and does something again and again while that runs.
fn substitute(caller: &Caller, path: &str, meanwhile: impl Fn() + Sync) -> Run {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                meanwhile();
                thread::sleep(Duration::from_millis(2));
            }
        });
        let run = catch_unwind(AssertUnwindSafe(|| caller.substitute(path)));
        done.store(true, Ordering::Relaxed);
        run.unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Does something once the large path is on its way.
fn substitute_large(caller: &Caller, sshd: &Sshd, path: &str, happens: impl Fn() + Sync) -> Run {
    substitute(caller, path, || {
        if !sending(sshd, 1 << 20).is_empty() {
            happens();
        }
    })
}

/// Whether a dead link was noticed in time.
#[track_caller]
fn is_in_time(warning: &str, doing: &str) {
    let waited = warning.split_once("came for ").and_then(|(_, rest)| {
        let (seconds, _) = rest.split_once(&format!(" s while reading {doing} "))?;
        seconds.parse::<u64>().ok()
    });
    assert!(waited.is_some_and(|s| (2..=10).contains(&s)), "{warning}");
}

#[test]
fn a_link_that_dies_before_the_handshake() {
    let (sshd, store) = (Sshd::start(), Store::new());
    let started = store.env().folder().join("started");
    let script = format!("touch {}; exec sleep 60", started.display());
    // The time for connecting is far from over.
    let caller = Caller::of(&scripted(&sshd, &store, &script))
        .option("dead-link-timeout", "3")
        .option("connect-timeout", "40");
    let run = substitute(&caller, NOBODYS, || {
        if started.exists() {
            sshd.freeze();
        }
    });
    let warning = run.fails_with(&name(&sshd), DEAD, &["raise dead-link-timeout"]);
    is_in_time(&warning, "the handshake");
    sshd.thaw();
}

/// Answers the handshake (two numbers of 8 bytes), makes a file a second later, when the answer is there, and freezes.
fn frozen_after_the_handshake(started: &Path) -> String {
    let perl = r#"nix-store "$@" | perl -e '
        $n = 16; while ($n > 0 && ($r = sysread(STDIN, $b, $n))) { syswrite(STDOUT, $b); $n -= $r }
        sleep 1; open(F, ">", "STARTED"); kill STOP => $$'"#;
    perl.replace("STARTED", &started.display().to_string())
}

#[test]
fn a_link_that_dies_during_a_query() {
    let (sshd, store) = (Sshd::start(), Store::new());
    let started = store.env().folder().join("started");
    let script = frozen_after_the_handshake(&started);
    let caller = Caller::of(&scripted(&sshd, &store, &script)).option("dead-link-timeout", "3");
    let run = substitute(&caller, NOBODYS, || {
        if started.exists() {
            sshd.freeze();
        }
    });
    let hint = format!("'{}true'", ssh(&sshd));
    let warning = run.fails_with(&name(&sshd), DEAD, &[&hint, "raise dead-link-timeout"]);
    is_in_time(&warning, "the reply to QueryPathInfos");
    sshd.thaw();
}

#[test]
fn a_remote_that_is_busy_with_a_query() {
    let (sshd, store) = (Sshd::start(), Store::new());
    let started = store.env().folder().join("started");
    let url = scripted(&sshd, &store, &frozen_after_the_handshake(&started));
    let caller = Caller::of(&url).option("stalled-download-timeout", "4");
    caller.substitute(NOBODYS).fails_with(
        &name(&sshd),
        "silent for 4 s while reading the reply to QueryPathInfos (hint",
        &["busy", "raise stalled-download-timeout"],
    );
}

#[test]
fn a_connection_that_is_cut() {
    let (sshd, store) = (without_shells(), Store::new());
    let path = store.big("large", LARGE);
    let caller = Caller::of(&url(&sshd, &store));
    let run = substitute_large(&caller, &sshd, &path, || sshd.kill());
    run.fails_with(
        &name(&sshd),
        "the connection ended while reading a NAR",
        &[&format!("'{}true'", ssh(&sshd))],
    );
}

#[test]
fn a_dead_link() {
    let (sshd, store) = (without_shells(), Store::new());
    let path = store.big("large", LARGE);
    let caller = Caller::of(&url(&sshd, &store))
        .option("dead-link-timeout", "3")
        // So long it tries to connect again.
        .option("connect-timeout", "6");
    let run = substitute_large(&caller, &sshd, &path, || sshd.freeze());
    let warning = run.fails_with(
        &name(&sshd),
        DEAD,
        &[&format!("'{}true'", ssh(&sshd)), "raise dead-link-timeout"],
    );
    is_in_time(&warning, "a NAR");
    sshd.thaw();
}

#[test]
fn a_busy_remote_on_a_living_link() {
    let (sshd, store) = (without_shells(), Store::new());
    let path = store.big("large", LARGE);
    // The link would long be dead by then, if keepalives went unanswered.
    let caller = Caller::of(&url(&sshd, &store))
        .option("dead-link-timeout", "3")
        .option("stalled-download-timeout", "6");
    let has_stopped = AtomicBool::new(false);
    let run = substitute(&caller, &path, || {
        // The first one sends a good part. Those that come after it bring nothing new: as long as they did, there would be more.
        let least = match has_stopped.load(Ordering::Relaxed) {
            false => LARGE / 2,
            true => 1 << 20,
        };
        for pid in sending(&sshd, least) {
            let pid = Pid::from_raw(pid.cast_signed()).expect("a process id");
            let _ = kill_process(pid, Signal::STOP);
            has_stopped.store(true, Ordering::Relaxed);
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
