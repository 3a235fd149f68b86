//! What goes wrong while paths come compressed, in runs and as differences: processes of the hosts are killed and frozen,
//! connections are cut, programs print wrong bytes, and the versions here and there are damaged and deleted. One of three hosts
//! stays well.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io::Write as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::engine::Engine;
use crate::liar::Liars;
use crate::proxy::Proxy;
use crate::relay::signal;
use crate::run::{Caller, SetOnDrop};
use crate::support::{Host, Random, SHORT, Sshd, Store, descendants, program, run};

/// Packages of which there is a build here and at the hosts, and another one at the hosts; and of which the other one is the
/// same but for hashes of store paths.
const PACKAGES: usize = 6;
const REBUILT: [usize; 2] = [400_000, 9_000_001];

/// Our program, as a process of the host whose account runs nothing else.
const OURS: &str = "ssh-substituter";

/// The ways in which bytes come, as the engine calls them.
const WAYS: [&str; 3] = ["raw", "compressed", "differences"];

/// How long a process is waited for that is to be killed.
const WAIT: Duration = Duration::from_secs(4);

/// Something that goes wrong at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    /// The next process of that name at a host is killed.
    Kill(&'static str),
    /// It is frozen.
    Freeze(&'static str),
    /// All connections to a host are cut.
    Cut,
    /// A version here gets a wrong byte.
    SpoilHere,
    /// Its files are deleted.
    DeleteHere,
    /// The files of a version at a host are deleted.
    DeleteThere,
    /// One of them gets a wrong byte.
    SpoilThere,
    /// The next program of that name at the host with a shell prints a wrong byte.
    Wrong(&'static str),
}

const ALL: [Trouble; 17] = [
    Trouble::Kill("zstd"),
    Trouble::Kill("zstd"),
    Trouble::Kill("sh"),
    Trouble::Kill("nix-store"),
    Trouble::Kill(OURS),
    Trouble::Freeze(OURS),
    Trouble::Freeze("zstd"),
    Trouble::Freeze("sh"),
    Trouble::Cut,
    Trouble::SpoilHere,
    Trouble::DeleteHere,
    Trouble::DeleteThere,
    Trouble::SpoilThere,
    Trouble::Wrong("zstd"),
    Trouble::Wrong("zstd"),
    Trouble::Wrong("sha256sum"),
    Trouble::Wrong("find"),
];

/// What happens when, and to which host or package.
#[derive(Clone, Copy, Debug)]
struct Planned {
    trouble: Trouble,
    after: Duration,
    /// And once something is compressed at a host.
    while_compressing: bool,
    host: usize,
    package: usize,
    random: u64,
}

/// The hosts, and what they and this machine have.
struct World {
    /// The second one's account runs our program and nothing else.
    hosts: Vec<(Host, Proxy)>,
    /// Programs of the first one.
    liars: Liars,
    /// Another store of this machine, with the old builds.
    here: Store,
    /// Has them too and is never touched.
    spare: Store,
    old: Vec<String>,
    new: Vec<String>,
    /// NAR hashes of the new ones.
    hashes: Vec<String>,
}

impl World {
    fn new() -> Self {
        let builds = |store: &Store, number: usize| -> Vec<String> {
            let name = |package: usize| format!("package{package}-1.0");
            let built = (0..PACKAGES).map(|package| store.build(&name(package), number));
            let rebuilt = REBUILT.map(|size| store.package(number as u64, size, ""));
            built.chain(rebuilt).collect()
        };
        let liars = Liars::new(&["zstd", "sha256sum", "find"]);
        let hosts: Vec<_> = (0..3)
            .map(|number| {
                let store = Store::new();
                let (ours, root) = (program().display(), store.root().display());
                let sshd = match number {
                    0 => Sshd::builder().env("PATH", &liars.path()),
                    1 => Sshd::builder()
                        .line(format!("ForceCommand {ours} serve-local --store {root}")),
                    _ => Sshd::builder(),
                };
                let host = Host {
                    store,
                    sshd: sshd.start(),
                };
                let proxy = Proxy::new(host.sshd.port());
                (host, proxy)
            })
            .collect();
        let (here, spare) = (Store::new(), Store::new());
        let mut old = Vec::new();
        for store in hosts.iter().map(|(host, _)| &host.store) {
            old = builds(store, 1);
            builds(store, 2);
        }
        builds(&here, 1);
        builds(&spare, 1);
        let new = builds(&spare, 2);
        let hashes = new.iter().map(|path| spare.nar_hash(path)).collect();
        Self {
            hosts,
            liars,
            here,
            spare,
            old,
            new,
            hashes,
        }
    }

    fn urls(&self) -> String {
        let url = |(host, proxy): &(Host, Proxy)| {
            // At this level zstd takes long enough to be met.
            let ways = "compression=zstd&compression-level=12&delta=always";
            let url = host.url(&format!("trusted=true&{ways}"));
            let [direct, through] =
                [host.sshd.port(), proxy.port()].map(|port| format!("127.0.0.1:{port}"));
            url.replace(&direct, &through)
        };
        self.hosts.iter().map(url).collect::<Vec<_>>().join(" ")
    }

    /// Has it happen. Whether it did; a process that was frozen is to be ended later.
    fn happen(&self, planned: Planned, is_over: &AtomicBool) -> (bool, Option<u32>) {
        let (host, proxy) = &self.hosts[planned.host];
        let old = &self.old[planned.package];
        if planned.while_compressing {
            self.next_process("zstd", is_over);
        }
        match planned.trouble {
            Trouble::Kill(name) => match self.next_process(name, is_over) {
                Some(pid) => {
                    signal(pid, Signal::KILL);
                    (true, None)
                }
                None => (false, None),
            },
            Trouble::Freeze(name) => match self.next_process(name, is_over) {
                Some(pid) => {
                    signal(pid, Signal::STOP);
                    (true, Some(pid))
                }
                None => (false, None),
            },
            Trouble::Cut => {
                proxy.cut();
                (true, None)
            }
            Trouble::SpoilHere => {
                self.here.corrupt(old);
                (true, None)
            }
            Trouble::SpoilThere => {
                host.store.corrupt(old);
                (true, None)
            }
            Trouble::Wrong(name) => {
                self.liars.arm(name, planned.random);
                let started = Instant::now();
                while self.liars.is_armed(name)
                    && started.elapsed() < WAIT
                    && !is_over.load(Ordering::SeqCst)
                {
                    thread::sleep(Duration::from_millis(1));
                }
                (self.liars.disarm(name), None)
            }
            Trouble::DeleteHere => (remove(&self.here, old), None),
            Trouble::DeleteThere => (remove(&host.store, old), None),
        }
    }

    /// The first process of that name that the first two hosts run from now on.
    fn next_process(&self, name: &str, is_over: &AtomicBool) -> Option<u32> {
        let started = Instant::now();
        let has_name = |pid: &u32| {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
            comm.is_ok_and(|comm| comm.trim_end() == name)
        };
        while started.elapsed() < WAIT && !is_over.load(Ordering::SeqCst) {
            for (host, _) in &self.hosts[..2] {
                let mut all = descendants(host.sshd.pid()).into_iter();
                if let Some(pid) = all.find(has_name) {
                    return Some(pid);
                }
            }
            thread::sleep(Duration::from_millis(1));
        }
        None
    }

    /// Undoes what has happened to the old builds.
    fn repair(&self, troubles: &[Planned]) {
        for planned in troubles {
            let store = match planned.trouble {
                Trouble::SpoilHere | Trouble::DeleteHere => &self.here,
                Trouble::SpoilThere | Trouble::DeleteThere => &self.hosts[planned.host].0.store,
                Trouble::Kill(_) | Trouble::Freeze(_) | Trouble::Wrong(_) | Trouble::Cut => {
                    continue;
                }
            };
            let old = &self.old[planned.package];
            remove(store, old);
            let mut copy = Command::new("cp");
            copy.arg("-a")
                .args([self.spare.physical(old), store.physical(old)]);
            run(copy, SHORT);
        }
    }
}

fn remove(store: &Store, path: &str) -> bool {
    fs::remove_dir_all(store.physical(path)).is_ok()
}

/// The account.
#[derive(Default)]
pub struct Tally {
    /// How often each was planned, and how often it happened.
    rows: BTreeMap<Trouble, (usize, usize)>,
    longest: Duration,
    /// Bytes of NARs that came in each of [`WAYS`], in runs with an engine.
    pub received: [u64; 3],
    pub problems: Vec<String>,
}

impl Tally {
    /// How often something happened.
    pub fn happened(&self) -> usize {
        self.rows.values().map(|(_, happened)| happened).sum()
    }

    pub fn table(&self, seed: u64, runs: u64) -> String {
        let mut out = String::from("compressed and as differences: planned, happened\n");
        for (trouble, (planned, happened)) in &self.rows {
            let _ = writeln!(
                out,
                "{:<22} {planned:>4} {happened:>4}",
                format!("{trouble:?}")
            );
        }
        for (way, bytes) in WAYS.iter().zip(self.received) {
            let _ = writeln!(out, "{way}: {:.1} MB", bytes as f64 / 1e6);
        }
        let _ = writeln!(
            out,
            "seed {seed}: {runs} runs, the longest {:.1} s, {} problems",
            self.longest.as_secs_f64(),
            self.problems.len()
        );
        out
    }
}

/// So many runs, each with some troubles.
pub fn go(seed: u64, runs: u64) -> Tally {
    let world = World::new();
    let mut random = Random::new(seed, "ways");
    let mut tally = Tally::default();
    let mut left = Vec::new();
    for number in 0..runs {
        let mut plan = Vec::new();
        let packages = PACKAGES + REBUILT.len();
        let first = random.below(packages);
        for at in 0..4 {
            if left.is_empty() {
                left = ALL.to_vec();
            }
            plan.push(Planned {
                trouble: left.swap_remove(random.below(left.len())),
                after: Duration::from_millis(random.below(1500) as u64),
                while_compressing: random.below(2) == 0,
                host: random.below(2),
                // Not the same one twice.
                package: (first + at) % packages,
                // Shells count to so much.
                random: random.next() >> 1,
            });
        }
        let engine = [Engine::Off, Engine::Well][number as usize % 2];
        let started = Instant::now();
        let (result, happened) = one(&world, &plan, engine, &mut tally.received);
        tally.longest = tally.longest.max(started.elapsed());
        for (planned, happened) in plan.iter().zip(happened) {
            let row = tally.rows.entry(planned.trouble).or_default();
            row.0 += 1;
            row.1 += usize::from(happened);
        }
        if let Err(problem) = result {
            tally
                .problems
                .push(format!("run {number}: {problem}\nplan: {plan:#?}"));
        }
        world.repair(&plan);
    }
    tally
}

/// One run of Nix, which must get everything. Also which of the troubles happened. `received` counts how bytes came.
fn one(
    world: &World,
    plan: &[Planned],
    engine: Engine,
    received: &mut [u64; 3],
) -> (Result<(), String>, Vec<bool>) {
    let caller = Caller::with(&world.urls(), None, (engine, world.here.root()));
    let conf = caller.nix.store().env().conf_dir();
    let mut settings = fs::OpenOptions::new()
        .append(true)
        .open(conf.join("ssh-substituter.conf"))
        .expect("open the settings");
    writeln!(settings, "delta-base = {}", world.here.root().display()).expect("write the settings");
    let is_over = AtomicBool::new(false);
    let (ran, happened) = thread::scope(|scope| {
        let troubles: Vec<_> = plan
            .iter()
            .map(|planned| {
                let is_over = &is_over;
                scope.spawn(move || {
                    thread::sleep(planned.after);
                    world.happen(*planned, is_over)
                })
            })
            .collect();
        let end = SetOnDrop(&is_over);
        let ran = caller.realise(&world.new);
        drop(end);
        let happened: Vec<_> = troubles
            .into_iter()
            .map(|trouble| trouble.join().expect("a trouble"))
            .collect();
        (ran, happened)
    });
    for (way, bytes) in WAYS.iter().zip(received) {
        *bytes += caller.received(way);
    }
    for pid in happened.iter().filter_map(|(_, frozen)| *frozen) {
        signal(pid, Signal::KILL);
    }
    let result = match ran.success() {
        true => caller.has(&world.new, &world.hashes),
        false => Err(ran.stderr()),
    };
    let happened = happened.into_iter().map(|(happened, _)| happened);
    (result, happened.collect())
}
