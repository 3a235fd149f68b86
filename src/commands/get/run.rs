//! Carries a plan out: several paths at a time, references first where the destination wants that.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use tokio::task::JoinSet;

use super::destination::{Destination, Gate};
use super::error::GetError;
use super::interrupted::SoFar;
use crate::hint::Hint;
use crate::model::StorePath;
use crate::report;
use crate::resolver::{Found, Resolver};
use crate::transfer::progress::Progress;
use crate::transfer::{Caller, FetchRequest, TransferError, Transfers};

/// How many failures are told in full.
const SHOWN: usize = 10;

/// What carries it out.
#[derive(Clone)]
pub(super) struct Means {
    pub(super) resolver: Arc<Resolver>,
    pub(super) transfers: Arc<Transfers>,
    pub(super) caller: Arc<Caller>,
    pub(super) progress: Arc<dyn Progress>,
    pub(super) destination: Arc<dyn Destination>,
    /// Counts what has come.
    pub(super) so_far: Arc<SoFar>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Those that did not, or wait for one that did not.
    pub(super) lacking: HashSet<StorePath>,
}

/// Why a path did not come.
enum Fault {
    /// No host brought it.
    Hosts(TransferError),
    /// It cannot be put where it belongs.
    Place(GetError),
}

impl Means {
    /// Fetches all of `fetch`, which is ordered by references. A path that no host brings costs those that refer to it;
    /// all others come.
    ///
    /// # Errors
    /// When the destination takes no more. What it has taken is in order.
    pub(super) async fn run(&self, fetch: Vec<Found>) -> Result<Done, GetError> {
        for found in &fetch {
            self.caller.expect(&found.to_fetch, &found.holders);
        }
        let mut board = Board::new(fetch, self.destination.gate());
        let mut tasks = JoinSet::new();
        let mut failures = 0;
        loop {
            while tasks.len() < self.destination.at_once()
                && let Some(index) = board.ready.pop_first()
            {
                let (means, found) = (self.clone(), board.items[index].found.clone());
                tasks.spawn(async move { (index, means.fetch(found).await) });
            }
            // A panic has told of itself; what it was at work on is lacking.
            let (index, result) = match tasks.join_next().await {
                None => break,
                Some(Ok(done)) => done,
                Some(Err(_)) => continue,
            };
            match result {
                Ok(bytes) => {
                    self.so_far.came(bytes);
                    for index in board.came(index) {
                        let info = &board.items[index].found.info;
                        self.destination.settle(info).await?;
                        self.so_far.settled(info.nar_size);
                    }
                }
                Err(Fault::Place(error)) => return Err(error),
                Err(Fault::Hosts(error)) => {
                    tell(&error, failures);
                    failures += 1;
                    board.failed(index);
                }
            }
        }
        if failures > SHOWN {
            log::error!("{} more paths could not be fetched", failures - SHOWN);
        }
        let open = board
            .items
            .iter()
            .filter(|item| item.state != State::Settled);
        board.done.lacking = open.map(|item| item.found.info.path.clone()).collect();
        Ok(board.done)
    }

    async fn fetch(&self, found: Found) -> Result<u64, Fault> {
        let Found {
            info,
            to_fetch,
            holders,
        } = found;
        let mut incoming = self
            .destination
            .receive(&info)
            .await
            .map_err(Fault::Place)?;
        let wish = FetchRequest {
            info: &to_fetch,
            holders: &holders,
            caller: &self.caller,
            resume: None,
            progress: &*self.progress,
        };
        match self.transfers.fetch(wish, &mut *incoming).await {
            Ok(bytes) => {
                incoming.finish().await.map_err(Fault::Place)?;
                Ok(bytes)
            }
            Err(failed) => {
                if let TransferError::Sink { path, source } = failed.error {
                    // It knows why it took no more.
                    let error = incoming.finish().await.err();
                    return Err(Fault::Place(error.unwrap_or(GetError::Io {
                        action: "write",
                        path: path.as_str().into(),
                        source,
                    })));
                }
                self.resolver.forget(&info.path);
                Err(Fault::Hosts(failed.error))
            }
        }
    }
}

fn tell(error: &(dyn Hint + 'static), before: usize) {
    if before < SHOWN {
        report::error(error);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has not come.
    Open,
    /// It has come, but not all that it refers to.
    Came,
    /// It counts.
    Settled,
    /// It will not come, or is of no use without what will not come.
    Lost,
}

struct Item {
    found: Found,
    state: State,
    /// References that are not settled.
    waits: usize,
    referrers: Vec<usize>,
}

/// How far it has got.
struct Board {
    items: Vec<Item>,
    /// What may be begun, by its place in the order.
    ready: BTreeSet<usize>,
    gate: Gate,
    done: Done,
}

impl Board {
    fn new(fetch: Vec<Found>, gate: Gate) -> Self {
        let item = |found: Found| Item {
            found,
            state: State::Open,
            waits: 0,
            referrers: Vec::new(),
        };
        let mut items: Vec<_> = fetch.into_iter().map(item).collect();
        let infos = items.iter().map(|item| item.found.info.clone());
        let infos: Vec<_> = infos.collect();
        let places: HashMap<_, _> = infos.iter().map(|info| &info.path).zip(0..).collect();
        for (index, info) in infos.iter().enumerate() {
            let places = info.references.iter().filter_map(|path| places.get(path));
            // Of two that refer to each other (which can be where no closure is wanted) the first one waits for nothing.
            for place in places.filter(|place| **place < index) {
                items[index].waits += 1;
                items[*place].referrers.push(index);
            }
        }
        let ready = match gate {
            Gate::Settle => (0..items.len()).collect(),
            Gate::Begin => (0..items.len())
                .filter(|index| items[*index].waits == 0)
                .collect(),
        };
        Self {
            items,
            ready,
            gate,
            done: Done::default(),
        }
    }

    /// It has come. What can be settled by that, in order.
    fn came(&mut self, index: usize) -> Vec<usize> {
        let mut settled = Vec::new();
        if self.items[index].state != State::Open {
            return settled;
        }
        self.items[index].state = State::Came;
        let mut open = vec![index];
        while let Some(index) = open.pop() {
            let item = &mut self.items[index];
            if item.waits > 0 || item.state != State::Came {
                continue;
            }
            item.state = State::Settled;
            settled.push(index);
            for referrer in item.referrers.clone() {
                let item = &mut self.items[referrer];
                item.waits -= 1;
                if item.waits == 0 && self.gate == Gate::Begin && item.state == State::Open {
                    self.ready.insert(referrer);
                }
                open.push(referrer);
            }
        }
        settled
    }

    /// It will not come. All that needs it is not begun any more.
    fn failed(&mut self, index: usize) {
        let mut open = vec![index];
        while let Some(index) = open.pop() {
            if self.items[index].state == State::Lost {
                continue;
            }
            self.items[index].state = State::Lost;
            self.ready.remove(&index);
            open.extend(&self.items[index].referrers);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::PathInfo;

    fn path(number: usize) -> StorePath {
        StorePath::parse(&format!("/nix/store/{number:032}-n")).unwrap()
    }

    fn found(number: usize, references: &[usize]) -> Found {
        let info = PathInfo {
            path: path(number),
            deriver: None,
            references: references.iter().map(|other| path(*other)).collect(),
            download_size: 0,
            nar_size: 1,
            nar_hash: None,
            ca: None,
            sigs: Vec::new(),
        };
        let info = Arc::new(info);
        Found {
            to_fetch: info.clone(),
            info,
            holders: Arc::from([]),
        }
    }

    /// Some order of references, and which of the paths fail.
    fn graphs() -> impl Strategy<Value = (Vec<Vec<usize>>, Vec<bool>, Vec<usize>)> {
        let rows = (0..20).map(|index: usize| prop::collection::btree_set(0..index + 1, 0..4));
        let rows = rows.collect::<Vec<_>>();
        let rows = rows.prop_map(|rows| rows.into_iter().map(Vec::from_iter).collect());
        let picks = prop::collection::vec(any::<usize>(), 20);
        (
            rows,
            prop::collection::vec(prop::bool::weighted(0.1), 20),
            picks,
        )
    }

    proptest! {
        #[test]
        fn everything_settles_behind_its_references_unless_it_needs_what_failed(
            (references, fails, picks) in graphs(),
            begin in any::<bool>(),
        ) {
            let gate = if begin { Gate::Begin } else { Gate::Settle };
            let fetch = (0..20).map(|index| found(index, &references[index])).collect();
            let mut board = Board::new(fetch, gate);
            let mut settled = Vec::new();
            let (mut running, mut failed) = (Vec::new(), Vec::new());
            for pick in picks.iter().cycle() {
                while running.len() < 3 && let Some(next) = board.ready.pop_first() {
                    let needs_failed = references[next].iter().any(|other| failed.contains(other));
                    prop_assert!(!needs_failed, "{} is of no use", next);
                    if begin {
                        let waits = references[next].iter().filter(|other| **other != next);
                        prop_assert!(waits.clone().all(|other| settled.contains(other)));
                    }
                    running.push(next);
                }
                if running.is_empty() {
                    break;
                }
                let index = running.swap_remove(pick % running.len());
                match fails[index] {
                    true => {
                        failed.push(index);
                        board.failed(index);
                    }
                    false => settled.extend(board.came(index)),
                }
            }
            let mut good = [true; 20];
            for index in 0..20 {
                let others = references[index].iter().filter(|other| **other != index);
                good[index] = !fails[index] && others.clone().all(|other| good[*other]);
                let at = settled.iter().position(|other| *other == index);
                prop_assert_eq!(at.is_some(), good[index], "{} in {:?}", index, settled);
                for other in others.filter(|_| at.is_some()) {
                    prop_assert!(settled.iter().position(|place| place == other) < at);
                }
            }
        }
    }
}
