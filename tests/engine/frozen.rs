//! An engine that stands still, and many front ends that come at once: they get one new engine, all the same one.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, kill_process};

use super::site::{Running, Site};
use super::support::{is_stopped, program, wait_until};
use super::talk::FrontEnd;

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
    kill_process(pid.expect("a pid"), signal).expect("send a signal");
}

/// Thawed and ended on drop.
struct Frozen(u32);

impl Frozen {
    fn new(pid: u32) -> Self {
        signal(pid, Signal::STOP);
        wait_until("it stands still", || is_stopped(pid));
        Self(pid)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.0).expect("a pid")).expect("a pid");
        let _ = kill_process(pid, Signal::CONT);
    }
}

fn all_at_once(site: &Site, count: usize) -> Vec<FrontEnd> {
    let begin = Barrier::new(count);
    let one = |number: usize| {
        let (command, path, begin) = (site.command(), site.path(number), &begin);
        let store = &site.host.store;
        move || {
            begin.wait();
            let mut front_end = FrontEnd::start(command);
            front_end.talk.fetch(path, store);
            front_end
        }
    };
    thread::scope(|scope| {
        let all: Vec<_> = (0..count).map(|number| scope.spawn(one(number))).collect();
        let all = all.into_iter().map(|thread| thread.join().expect("served"));
        all.collect()
    })
}

#[test]
fn six_front_ends_get_one_new_engine() {
    let site = Site::new("");
    site.visit(0);
    let old = site.process();
    let frozen = Frozen::new(old);
    let all = all_at_once(&site, 6);
    let mut engines = site.processes();
    engines.retain(|pid| *pid != old);
    assert_eq!(engines.len(), 1, "new engines: {engines:?}");
    assert_eq!(site.clients(), [(engines[0], 6)]);
    // The old one finds that its place is taken, and takes nothing away.
    drop(frozen);
    wait_until("the old engine ends", || site.processes() == engines);
    assert_eq!(site.sockets().len(), 1);
    assert_eq!(site.clients(), [(engines[0], 6)]);
    for front_end in all {
        front_end.end_quietly();
    }
}

/// One that stands still before it has looked around must not take the next one's socket for its own.
#[test]
fn an_engine_that_comes_to_itself_late_takes_nothing_away() {
    let site = Site::new("engine-idle-timeout = 1");
    let mut front_end = site.front_end();
    site.fetch(&mut front_end, 0);
    let path = site.sockets().remove(0);
    front_end.end_quietly();
    site.engines.stop();
    wait_until("the engine ends", || site.processes().is_empty());
    // As a front end does it, for an engine that stands still from the first moment.
    let listener = UnixListener::bind(&path).expect("bind a socket");
    let meta = path.symlink_metadata().expect("a socket");
    let id = format!(
        "{}:{}:{}:{}",
        meta.dev(),
        meta.ino(),
        meta.ctime(),
        meta.ctime_nsec()
    );
    let mut command = site.env.command("sh");
    command.args(["-c", "kill -STOP $$; exec \"$@\"", "sh"]);
    command.arg(program()).arg("engine");
    command.env("SSH_SUBSTITUTER_ENGINE_SOCKET", id);
    let mut late = Running(
        command
            .stdin(OwnedFd::from(listener))
            .spawn()
            .expect("start"),
    );
    wait_until("it stands still", || is_stopped(late.0.id()));
    fs::remove_file(&path).expect("remove a socket");
    let _next = UnixListener::bind(&path).expect("bind the next one");
    signal(late.0.id(), Signal::CONT);
    wait_until("it ends", || late.0.try_wait().expect("wait").is_some());
    assert!(path.exists(), "it took the next one's socket away");
}

/// It stops amid a login, and keeps all locks of that login.
#[test]
fn one_that_stops_while_it_logs_in_keeps_nobody_from_the_host() {
    let site = Site::new("connect-timeout = 40\n");
    site.host.sshd.freeze();
    let (command, path, store) = (site.command(), site.path(0), &site.host.store);
    thread::scope(|scope| {
        let first = scope.spawn(move || {
            let mut front_end = FrontEnd::start(command);
            front_end.talk.fetch(path, store);
            front_end.end()
        });
        let is_logging_in = || {
            let entries = fs::read_dir(site.runtime()).into_iter().flatten().flatten();
            let mut logins = entries
                .map(|entry| entry.path())
                .filter(|path| path.to_string_lossy().ends_with(".login"));
            logins.any(|path| fs::File::open(path).is_ok_and(|file| is_locked(&file)))
        };
        wait_until("the engine logs in", is_logging_in);
        let _frozen = Frozen::new(site.process());
        site.host.sshd.thaw();
        let began = Instant::now();
        let visit = catch_unwind(AssertUnwindSafe(|| site.visit(1)));
        let first = first.join();
        assert!(visit.is_ok() && first.is_ok(), "a front end failed");
        // Waiting for the locks until half of the time has passed would take 20 s.
        let took = began.elapsed();
        assert!(took < Duration::from_secs(15), "{took:?}");
    });
}

fn is_locked(file: &fs::File) -> bool {
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_err()
}

/// As a service manager ends it along with whoever started it: nothing that it served or learnt is lost.
#[test]
fn one_that_is_ended_by_a_signal_writes_down_what_it_knows() {
    // Else the next one would ask the host again, before it promises anything.
    let site = Site::new("narinfo-cache-positive-ttl = 86400\n");
    let mut front_end = site.front_end();
    site.fetch(&mut front_end, 0);
    let told = front_end.talk.infos(&[site.path(0), site.path(1)]);
    let pid = site.process();
    signal(pid, Signal::TERM);
    wait_until("it ends", || site.processes().is_empty());
    assert_eq!(site.sockets(), [] as [std::path::PathBuf; 0]);
    // Those that it served go on, and the next engine knows what it knew.
    site.fetch(&mut front_end, 2);
    front_end.end_quietly();
    site.host.sshd.freeze();
    let mut next = site.front_end();
    assert_eq!(next.talk.infos(&[site.path(0), site.path(1)]), told);
    site.host.sshd.thaw();
    next.end_quietly();
}
