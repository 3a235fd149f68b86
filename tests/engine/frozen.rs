//! An engine that stands still, and many front ends that come at once: they get one new engine, all the same one.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::site::{Site, engines_of};
use super::support::wait_until;
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
fn an_engine_that_comes_to_itself_late_harms_nobody() {
    let site = Site::new("engine-idle-timeout = 3");
    // A front end whose engine stops as soon as there is one.
    let folder = site.env.folder();
    let first = thread::scope(|scope| {
        let freezes = scope.spawn(|| {
            wait_until("an engine", || !engines_of(folder).is_empty());
            Frozen::new(engines_of(folder)[0])
        });
        let mut first = site.front_end();
        site.fetch(&mut first, 0);
        drop(first);
        freezes.join().expect("it is frozen")
    });
    let mut second = site.front_end();
    site.fetch(&mut second, 1);
    let old = first.0;
    let engines = || {
        let mut all = site.processes();
        all.retain(|pid| *pid != old);
        all
    };
    let [new] = engines()[..] else {
        panic!("engines: {:?}", site.processes())
    };
    drop(first);
    wait_until("the old engine ends", || site.processes() == [new]);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(site.sockets().len(), 1);
    let mut third = site.front_end();
    site.fetch(&mut third, 2);
    assert_eq!(site.clients(), [(new, 2)]);
    second.end_quietly();
    third.end_quietly();
}

/// As a service manager ends it along with whoever started it: nothing that it served or learnt is lost.
#[test]
fn one_that_is_told_to_end_writes_down_what_it_knows() {
    let site = Site::new("");
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
