//! Some hundred faults: which ones hit which run, and the account of it all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::hosts::{Closure, World};
use crate::plan::{Cell, Fault, Kind, Place, When};
use crate::run::{Hit, Outcome, RunPlan, go};
use crate::support::Random;

/// Runs at a time. They wait more than they work.
const WORKERS: usize = 3;

/// The cells of the matrix, without end: each once, shuffled, then each once more in another order.
struct Deck {
    all: Vec<Cell>,
    left: Vec<Cell>,
}

impl Deck {
    fn new(whens: &[When]) -> Self {
        let dumps = |when: When| matches!(when, When::Small | When::Large);
        let mut all = Vec::new();
        for kind in Kind::ALL {
            for when in whens.iter().copied() {
                for place in Place::ALL {
                    // It happens before the dump.
                    if kind != Kind::Gc || dumps(when) && place == Place::First {
                        all.push((kind, when, place));
                    }
                }
            }
        }
        Self {
            all,
            left: Vec::new(),
        }
    }

    fn draw(&mut self, random: &mut Random) -> Cell {
        if self.left.is_empty() {
            self.left = self.all.clone();
        }
        self.left.swap_remove(random.below(self.left.len()))
    }
}

/// Deals out faults, run by run: the same for the same seed.
struct Dealer {
    random: Random,
    early: Deck,
    small: Deck,
    large: Deck,
    runs: usize,
    /// For what happens to engines, where there are any.
    engines: Option<Random>,
    between: Between,
}

/// What is between Nix's processes and the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    Nothing,
    /// An engine that fails, too.
    Engine,
    /// A server over HTTP.
    Http,
}

impl Dealer {
    fn new(seed: u64, between: Between) -> Self {
        Self {
            // Its own, so that the same faults are dealt with and without engines.
            engines: (between == Between::Engine).then(|| Random::new(seed, "engines")),
            between,
            random: Random::new(seed, "faults"),
            early: Deck::new(&[When::Handshake, When::Query]),
            small: Deck::new(&[When::Small]),
            large: Deck::new(&[When::Large]),
            runs: 0,
        }
    }

    fn next(&mut self, closure: &Closure) -> RunPlan {
        self.runs += 1;
        let mut plan = match self.runs % 9 {
            0 => self.doomed(closure),
            3 | 6 => self.dumps(closure),
            _ => self.early(closure),
        };
        if let Some(random) = &mut self.engines {
            plan.engine = Engine::draw(random);
        }
        if self.between == Between::Http {
            plan.engine = Engine::Http;
        }
        plan
    }

    fn fault(&mut self, (kind, when, place): Cell, skip: usize) -> Fault {
        Fault {
            kind,
            when,
            place,
            skip,
            random: self.random.next() >> 1,
            path: None,
        }
    }

    /// Trouble with handshakes and questions, at two of three hosts.
    fn early(&mut self, closure: &Closure) -> RunPlan {
        let well = self.random.below(3);
        let faults = (0..3)
            .map(|host| {
                if host == well {
                    return Vec::new();
                }
                (0..2)
                    .map(|_| {
                        let cell = self.early.draw(&mut self.random);
                        // A host that failed rests for longer than this run takes: mostly the first one counts.
                        let skip = match cell.1 {
                            When::Handshake => 0,
                            _ => self.random.below(4),
                        };
                        self.fault(cell, skip)
                    })
                    .collect()
            })
            .collect();
        RunPlan {
            targets: vec![closure.dag.last().expect("a root").clone()],
            faults,
            doomed: None,
            cache_behind: false,
            engine: Engine::Off,
        }
    }

    /// Trouble with NARs. The first hosts that are asked are the bad ones.
    fn dumps(&mut self, closure: &Closure) -> RunPlan {
        let mut faults: Vec<Vec<Fault>> = Vec::new();
        for (smalls, larges) in [(8, 2), (5, 1), (0, 0)] {
            let mut mine = Vec::new();
            for number in 0..smalls {
                let cell = self.small.draw(&mut self.random);
                mine.push(self.fault(cell, number));
            }
            for number in 0..larges {
                let cell = self.large.draw(&mut self.random);
                mine.push(self.fault(cell, number));
            }
            // Nothing comes after this one.
            mine.sort_by_key(|fault| fault.kind == Kind::Sshd);
            if let Some(first) = mine.iter().position(|fault| fault.kind == Kind::Sshd) {
                mine.truncate(first + 1);
                mine[first].skip = 6;
            }
            faults.push(mine);
        }
        let mut targets = [&closure.small[..], &closure.large].concat();
        targets.push(closure.dag.last().expect("a root").clone());
        RunPlan {
            targets,
            faults,
            doomed: None,
            cache_behind: false,
            engine: Engine::Off,
        }
    }

    /// One path that no host can deliver.
    fn doomed(&mut self, closure: &Closure) -> RunPlan {
        let large = self.random.below(2) == 0;
        let (list, deck) = if large {
            (&closure.large, &mut self.large)
        } else {
            (&closure.small, &mut self.small)
        };
        let path = list[self.random.below(list.len())].clone();
        let mut cells = Vec::new();
        while cells.len() < 3 {
            let cell = deck.draw(&mut self.random);
            // Without these: what is slow arrives, a frozen host costs its time again and again, and a host without sshd
            // would fail the other paths as well.
            if !matches!(cell.0, Kind::Slow | Kind::Stop | Kind::Sshd) {
                cells.push(cell);
            }
        }
        let faults = cells
            .into_iter()
            .map(|cell| {
                let mut fault = self.fault(cell, 0);
                fault.path = Some(path.clone());
                vec![fault]
            })
            .collect();
        RunPlan {
            targets: [&closure.small[..], &closure.large].concat(),
            faults,
            doomed: Some(path),
            cache_behind: self.random.below(2) == 0,
            engine: Engine::Off,
        }
    }
}

/// The account.
#[derive(Default)]
pub struct Tally {
    rows: BTreeMap<Kind, Row>,
    cells: BTreeSet<Cell>,
    pub fired: usize,
    pub runs: usize,
    /// Runs in which an engine was killed or frozen.
    pub engines_hit: usize,
    complete: usize,
    failed_paths: usize,
    longest: Option<Outcome>,
    pub problems: Vec<String>,
}

#[derive(Default)]
struct Row {
    injected: usize,
    fired: usize,
    completed: usize,
    failed_paths: usize,
    longest: Option<Hit>,
}

impl Tally {
    fn add(&mut self, plan: &RunPlan, result: Result<Outcome, String>) {
        self.runs += 1;
        for fault in plan.faults.iter().flatten() {
            self.rows.entry(fault.kind).or_default().injected += 1;
        }
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(problem) => {
                self.problems.push(format!("{problem}\nplan: {plan:#?}"));
                return;
            }
        };
        self.complete += usize::from(outcome.complete);
        self.failed_paths += outcome.failed_paths;
        self.fired += outcome.hits.len();
        self.engines_hit += usize::from(outcome.engine_hit);
        let mut kinds = BTreeSet::new();
        for hit in &outcome.hits {
            let fault = &hit.fault;
            self.cells.insert((fault.kind, fault.when, fault.place));
            kinds.insert(fault.kind);
            let row = self.rows.entry(fault.kind).or_default();
            row.fired += 1;
            if row
                .longest
                .as_ref()
                .is_none_or(|longest| longest.delay < hit.delay)
            {
                row.longest = Some(hit.clone());
            }
        }
        for kind in kinds {
            let row = self.rows.entry(kind).or_default();
            row.completed += usize::from(outcome.complete);
            row.failed_paths += outcome.failed_paths;
        }
        if self
            .longest
            .as_ref()
            .is_none_or(|longest| longest.took < outcome.took)
        {
            self.longest = Some(outcome);
        }
    }

    /// Kinds that never happened.
    pub fn unseen(&self) -> Vec<Kind> {
        let seen = |kind: &Kind| self.rows.get(kind).is_some_and(|row| row.fired > 0);
        Kind::ALL.into_iter().filter(|kind| !seen(kind)).collect()
    }

    pub fn table(&self, seed: u64, took: Duration) -> String {
        let mut out = format!(
            "{:<22} {:>8} {:>6} {:>10} {:>13} {:>14}\n",
            "fault", "injected", "fired", "completed", "paths failed", "longest delay"
        );
        for (kind, row) in &self.rows {
            let longest = row
                .longest
                .as_ref()
                .map_or(String::new(), |Hit { fault, delay }| {
                    let (when, place) = (fault.when, fault.place);
                    format!("{:>12.2} s ({when:?}, {place:?})", delay.as_secs_f64())
                });
            let _ = writeln!(
                out,
                "{:<22} {:>8} {:>6} {:>10} {:>13} {longest}",
                kind.name(),
                row.injected,
                row.fired,
                row.completed,
                row.failed_paths
            );
        }
        let whole = Deck::new(&When::ALL).all.len();
        let _ = writeln!(
            out,
            "seed {seed}: {} faults fired in {} runs, {} of {whole} cells (kind, message, place) hit; {} runs complete at \
             once, {} engines killed or frozen, {} paths failed cleanly, {} problems; all in {:.0} s",
            self.fired,
            self.runs,
            self.cells.len(),
            self.complete,
            self.engines_hit,
            self.failed_paths,
            self.problems.len(),
            took.as_secs_f64()
        );
        if let Some(longest) = &self.longest {
            let _ = writeln!(out, "longest run, {:.1} s:", longest.took.as_secs_f64());
            for Hit { fault, delay } in &longest.hits {
                let (when, place) = (fault.when, fault.place);
                let _ = writeln!(
                    out,
                    "  {:.2} s: {}, {when:?}, {place:?}",
                    delay.as_secs_f64(),
                    fault.kind.name()
                );
            }
        }
        out.push_str(
            "(injected: planned; a host that rests after a failure doesn't come to all of its faults. delay: until the \
             next good reply, those of further faults on the way included. completed and paths \
             failed: runs with such a fault among others)\n",
        );
        out
    }
}

/// Runs until that many faults have fired.
pub fn run(seed: u64, count: usize, between: Between) -> Tally {
    let dealer = Mutex::new(Dealer::new(seed, between));
    let tally = Mutex::new(Tally::default());
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| work(&dealer, &tally, count));
        }
    });
    tally.into_inner().expect("the account")
}

fn work(dealer: &Mutex<Dealer>, tally: &Mutex<Tally>, count: usize) {
    let mut world = World::new();
    loop {
        let (fired, runs, problems) = {
            let tally = tally.lock().expect("the account");
            (tally.fired, tally.runs, tally.problems.len())
        };
        if fired >= count || runs >= count || problems >= 5 {
            return;
        }
        let plan = dealer.lock().expect("the dealer").next(&world.closure);
        let started = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| go(&mut world, &plan)));
        let broken = result.is_err();
        let result = result.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let took = started.elapsed();
            Err(format!("after {took:?}: {}", text.unwrap_or_default()))
        });
        tally.lock().expect("the account").add(&plan, result);
        if broken {
            // Nobody knows what state the hosts are in.
            world = World::new();
        }
    }
}
