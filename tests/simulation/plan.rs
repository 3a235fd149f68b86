//! Everything that happens in a run and is not the core's own doing, derived from a seed.

use std::sync::Arc;
use std::time::Duration;

use super::bases::{self, BasesPlan};
pub use super::copies::Copy;
use super::copies::keep_closed;
use super::disk::DiskPlan;
use super::kept::KeptPlan;
use super::nars::{Item, a_byte_of_a_file, catalogue};
use super::random::Random;

const MIB: u64 = 1 << 20;

/// More than any but the largest paths together.
const HUGE: u64 = 50 * MIB;

/// A run.
#[derive(Debug)]
pub struct Plan {
    pub seed: u64,
    pub paths: Vec<Path>,
    pub hosts: Vec<Host>,
    pub callers: Vec<Caller>,
    /// What may be read ahead, in bytes.
    pub memory: u64,
    pub disk: DiskPlan,
    /// What is kept of downloads that were interrupted; `None` where nothing is kept.
    pub kept: Option<KeptPlan>,
    /// Other versions of paths; `None` where nothing comes as differences.
    pub bases: Option<BasesPlan>,
}

/// A path that there is somewhere.
pub struct Path {
    pub item: Arc<Item>,
    /// Places of those that it refers to, all of them smaller than its own.
    pub references: Vec<usize>,
}

/// What an account does when a shell is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    Shell,
    /// A forced command: the serve program whatever is asked for.
    Forced,
    /// Ends at once.
    Refuses,
    /// Says nothing.
    Silent,
}

/// A far end.
#[derive(Debug, Clone)]
pub struct Host {
    pub name: &'static str,
    /// Bytes a second, for all channels together.
    pub rate: u64,
    /// One way.
    pub latency: Duration,
    pub max_connections: usize,
    /// How many channels it lets us have.
    pub sessions: usize,
    pub login: Login,
    pub has_zstd: bool,
    /// Its serve program is ours.
    pub is_ours: bool,
    pub copies: Vec<Copy>,
    /// When the line breaks; one after the other.
    pub cuts: Vec<Cut>,
    pub outages: Vec<Outage>,
    /// Nothing passes between these times.
    pub stalls: Vec<(Duration, Duration)>,
}

/// When a line breaks.
#[derive(Debug, Clone, Copy)]
pub enum Cut {
    /// One of its channels has carried so many bytes. Each next time it is more, so that something is brought between.
    Channel(u64),
    /// All of them have carried so many bytes of paths.
    Total(u64),
}

/// For some time nobody gets through.
#[derive(Debug, Clone)]
pub struct Outage {
    pub from: Duration,
    pub to: Duration,
    /// Nothing answers, where otherwise connections break and are refused.
    pub is_silent: bool,
}

/// Somebody who wants paths.
#[derive(Debug, Clone)]
pub struct Caller {
    pub start: Duration,
    /// How it asks what paths are: all of them first, or each before it is fetched.
    pub asks_all_first: bool,
    pub asks_for_closure: Option<ClosureQuestion>,
    /// What it fetches, in order; for each of its connections.
    pub fetches: Vec<Vec<usize>>,
    /// How fast it takes bytes, in bytes a second.
    pub speed: Option<u64>,
    /// It pauses so long when it has so many bytes, on each connection.
    pub pause: Option<(u64, Duration)>,
    /// It goes away when it has so many bytes.
    pub vanishes_at: Option<u64>,
}

/// A question for the closure of all that a caller fetches.
#[derive(Debug, Clone)]
pub struct ClosureQuestion {
    /// Before which fetch of each connection, and how long after the one before.
    pub before: usize,
    pub after: Duration,
    /// With outputs, which only hosts can tell.
    pub outputs: bool,
}

impl std::fmt::Debug for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.item.path.name();
        write!(
            f,
            "{name} ({} bytes) -> {:?}",
            self.item.size(),
            self.references
        )
    }
}

/// From this seed on, up to the next such number, downloads are continued. The plan is otherwise that of the seed.
pub const FIRST_CONTINUED: u64 = 1 << 31;

/// From this seed on, most hosts have a `zstd`. The plan is otherwise that of the seed.
pub const FIRST_COMPRESSING: u64 = 1 << 32;

/// From this seed on, most hosts run our program, and then give nobody a shell. The plan is otherwise that of the seed.
pub const FIRST_OURS: u64 = 1 << 33;

/// From this seed on, no account has a shell.
pub const FIRST_WITHOUT_SHELLS: u64 = 1 << 34;

/// From this seed on, most hosts run our program, there are more paths of some size, and other versions of most.
pub const FIRST_DIFFERENCES: u64 = 1 << 35;

impl Plan {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut paths = paths(&mut random);
        let has_bases = seed >= FIRST_DIFFERENCES;
        if has_bases {
            bases::add_paths(seed, &mut paths);
        }
        let total: u64 = paths.iter().map(|path| path.item.size()).sum();
        let faults = if random.chance(25) {
            0
        } else {
            random.between(1, 3)
        };
        let mut hosts = hosts(&mut random, &paths, total);
        for _ in 0..faults {
            let host = random.index(hosts.len());
            fault(&mut random, &mut hosts[host], &paths);
        }
        for (number, host) in hosts.iter_mut().enumerate() {
            keep_closed(host, &paths);
            if seed >= FIRST_WITHOUT_SHELLS && host.login == Login::Shell {
                host.login = Login::Forced;
            }
            host.has_zstd = seed >= FIRST_COMPRESSING && !(seed >> number).is_multiple_of(4);
            let may_be_ours = (FIRST_OURS..FIRST_WITHOUT_SHELLS).contains(&seed);
            host.is_ours = (may_be_ours && !(seed >> number).is_multiple_of(3))
                || (seed >= FIRST_DIFFERENCES && !(seed >> number).is_multiple_of(7));
            if host.is_ours && host.login == Login::Shell {
                host.login = Login::Forced;
            }
        }
        let mut callers: Vec<Caller> = (0..random.pick(&[1, 1, 1, 2, 3]))
            .map(|_| caller(&mut random, &paths))
            .collect();
        if total > HUGE && random.chance(60) {
            // More waits to be asked for than may be on its way.
            callers[0].pause = Some((random.below(8 * MIB), random.millis(2_000, 20_000)));
        }
        let memory = random.pick(&[0, 1 << 20, 16 << 20, 64 << 20, 512 << 20]);
        let is_continued = (FIRST_CONTINUED..FIRST_COMPRESSING).contains(&seed);
        let kept = is_continued.then(|| KeptPlan::new(seed, &paths));
        let bases = has_bases.then(|| BasesPlan::new(seed, &paths, hosts.len()));
        Self {
            seed,
            kept,
            bases,
            paths,
            hosts,
            callers,
            memory,
            disk: DiskPlan::new(seed),
        }
    }

    pub fn has_faults(&self) -> bool {
        self.hosts.iter().any(|host| !host.is_faultless())
    }
}

impl Host {
    /// Nothing was done to it.
    pub fn is_faultless(&self) -> bool {
        let is_whole = |copy: &Copy| copy.is_always_there() && copy.wrong.is_none();
        self.is_up() && self.stalls.is_empty() && self.copies.iter().all(is_whole)
    }

    /// It can be reached and moves bytes at all times.
    pub fn is_up(&self) -> bool {
        self.cuts.is_empty() && self.outages.is_empty()
    }
}

fn paths(random: &mut Random) -> Vec<Path> {
    let all = catalogue();
    let mut items: Vec<Arc<Item>> = Vec::new();
    let mut take = |random: &mut Random, from: &[Arc<Item>], count: u64| {
        for _ in 0..count {
            let item = &from[random.index(from.len())];
            if !items.iter().any(|other| Arc::ptr_eq(other, item)) {
                items.push(item.clone());
            }
        }
    };
    let few = random.between(1, 12);
    take(random, &all.small, few);
    match random.below(100) {
        0..25 => {}
        25..55 => {
            let count = random.between(1, 3);
            take(random, &all.medium, count);
        }
        55..70 => {
            let count = random.between(0, 1);
            take(random, &all.medium, count);
            take(random, &all.streamed, 1);
        }
        70..98 => {
            let count = random.between(1, 2);
            take(random, &all.large, count);
        }
        _ => take(random, &all.huge, 1),
    }
    random.shuffle(&mut items);
    let mut paths = Vec::new();
    for (place, item) in items.into_iter().enumerate() {
        let mut references = Vec::new();
        if place > 0 && random.chance(60) {
            for _ in 0..random.between(1, 3) {
                references.push(random.index(place));
            }
            references.sort_unstable();
            references.dedup();
        }
        paths.push(Path { item, references });
    }
    paths
}

fn hosts(random: &mut Random, paths: &[Path], total: u64) -> Vec<Host> {
    let names = ["a", "b", "c", "d"];
    let count = random.pick(&[1, 2, 2, 3, 4]);
    let rates: &[u64] = if total > 6 * MIB {
        &[1_000_000, 3_000_000, 10_000_000, 30_000_000, 100_000_000]
    } else {
        &[300_000, 1_000_000, 3_000_000, 10_000_000, 100_000_000]
    };
    let host = |name| {
        let complete = random.chance(60);
        let mut copies = Vec::new();
        for path in 0..paths.len() {
            if complete || random.chance(70) {
                copies.push(Copy {
                    path,
                    ..Copy::default()
                });
            }
        }
        let max_connections = random.pick(&[16, 16, 8, 2, 1]);
        Host {
            name,
            rate: random.pick(rates),
            latency: Duration::from_micros(random.pick(&[100, 500, 2_500, 6_000, 20_000, 75_000])),
            max_connections,
            sessions: usize::MAX,
            login: random.pick(&[
                Login::Shell,
                Login::Shell,
                Login::Shell,
                Login::Forced,
                Login::Refuses,
            ]),
            has_zstd: false,
            is_ours: false,
            copies,
            cuts: Vec::new(),
            outages: Vec::new(),
            stalls: Vec::new(),
        }
    };
    names[..count].iter().copied().map(host).collect()
}

fn fault(random: &mut Random, host: &mut Host, paths: &[Path]) {
    match random.below(9) {
        0 if host.cuts.is_empty() => {
            let mut at = 0;
            for _ in 0..random.between(1, 4) {
                at += random.between(4 * MIB, 9 * MIB);
                host.cuts.push(Cut::Channel(at));
            }
        }
        1 if host.cuts.is_empty() => {
            let total: u64 = paths.iter().map(|path| path.item.size()).sum();
            host.cuts.push(Cut::Total(random.below(total)));
        }
        0..3 => {
            let from = random.millis(0, 4000);
            let to =
                from + random.pick(&[500, 3_000, 20_000, 10_000_000].map(Duration::from_millis));
            host.outages.push(Outage {
                from,
                to,
                is_silent: random.chance(50),
            });
        }
        3 => {
            let from = random.millis(0, 3000);
            let to = from + random.millis(200, 25_000);
            host.stalls.push((from, to));
        }
        4 => {
            let copy = random.index(host.copies.len().max(1));
            if let Some(copy) = host.copies.get_mut(copy) {
                copy.wrong = a_byte_of_a_file(random, &paths[copy.path].item);
            }
        }
        5 => {
            let copy = random.index(host.copies.len().max(1));
            if let Some(copy) = host.copies.get_mut(copy) {
                let until = random.millis(0, 2000);
                copy.until = Some(until);
                copy.again = random.chance(30).then(|| until + random.millis(100, 5000));
            }
        }
        6 => host.sessions = random.pick(&[1, 2, 5, 10]),
        7 => host.login = Login::Silent,
        _ => {
            // It comes to life, or gets a path, only later.
            if random.chance(50) {
                host.outages.push(Outage {
                    from: Duration::ZERO,
                    to: random.millis(500, 8000),
                    is_silent: random.chance(50),
                });
            } else if !host.copies.is_empty() {
                let copy = random.index(host.copies.len());
                host.copies[copy].from = Some(random.millis(100, 3000));
            }
        }
    }
}

fn caller(random: &mut Random, paths: &[Path]) -> Caller {
    let mut order: Vec<usize> = (0..paths.len()).collect();
    match random.below(10) {
        // References first, as Nix does.
        0..6 => {}
        6..8 => random.shuffle(&mut order),
        _ => order.reverse(),
    }
    if random.chance(20) {
        let again = random.pick(&order);
        order.push(again);
    }
    let connections = random.pick(&[1, 1, 1, 2, 3]);
    let mut fetches = vec![Vec::new(); connections];
    for (at, path) in order.into_iter().enumerate() {
        fetches[at % connections].push(path);
    }
    let slow = random.below(100);
    let total: u64 = paths.iter().map(|path| path.item.size()).sum();
    Caller {
        start: random.millis(0, 500),
        asks_all_first: random.chance(70),
        asks_for_closure: random.chance(25).then(|| ClosureQuestion {
            before: random.index(4),
            after: random.millis(0, 2500),
            outputs: random.chance(50),
        }),
        fetches,
        speed: (slow < 15).then(|| random.pick(&[500_000, 3_000_000])),
        pause: (15..35)
            .contains(&slow)
            .then(|| (random.below(total), random.millis(300, 20_000))),
        vanishes_at: random.chance(10).then(|| random.below(total)),
    }
}
