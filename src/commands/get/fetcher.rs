//! Fetches what is planned: several paths at a time, references first where the destination wants that.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use tokio::task::JoinSet;

use super::destination::{Destination, ReferencesFirst};
use super::error::GetError;
use super::interrupted::RunTotals;
use crate::commands::format::counted;
use crate::model::StorePath;
use crate::report;
use crate::resolver::{Found, Resolver};
use crate::transfer::progress::Progress;
use crate::transfer::{Caller, FetchRequest, TransferError, Transfers};

/// How many failures are reported one by one.
const MAX_REPORTED: usize = 10;

/// All that fetching needs.
#[derive(Clone)]
pub(super) struct Fetcher {
    pub(super) resolver: Arc<Resolver>,
    pub(super) transfers: Arc<Transfers>,
    pub(super) caller: Arc<Caller>,
    pub(super) progress: Arc<dyn Progress>,
    pub(super) destination: Arc<dyn Destination>,
    /// Counts what has been received.
    pub(super) totals: Arc<RunTotals>,
}

/// Why a path was not fetched.
enum Fault {
    /// No host delivered it.
    Hosts(TransferError),
    /// The destination does not take it.
    Destination(GetError),
}

impl Fetcher {
    /// Fetches all of `fetch`, which is ordered by references. A path that no host delivers costs those that refer to it,
    /// and no others. Returns the paths that are not there in the end.
    ///
    /// # Errors
    /// When the destination takes no more. What it has taken stays valid.
    pub(super) async fn run(&self, fetch: Vec<Found>) -> Result<HashSet<StorePath>, GetError> {
        for found in &fetch {
            self.caller.expect(&found.to_fetch, &found.holders);
        }
        let mut schedule = Schedule::new(fetch, self.destination.references_first());
        let mut tasks = JoinSet::new();
        let mut failures = 0;
        loop {
            while tasks.len() < self.destination.at_once()
                && let Some(index) = schedule.ready.pop_first()
            {
                let (fetcher, found) = (self.clone(), schedule.items[index].found.clone());
                tasks.spawn(async move { (index, fetcher.fetch(found).await) });
            }
            // The panic hook has reported a panic; its path counts as lacking.
            let (index, result) = match tasks.join_next().await {
                None => break,
                Some(Ok(done)) => done,
                Some(Err(_)) => continue,
            };
            match result {
                Ok(bytes) => {
                    self.totals.received(bytes);
                    for index in schedule.received(index) {
                        let info = &schedule.items[index].found.info;
                        self.destination.register(info).await?;
                        self.totals.registered(info.nar_size);
                    }
                }
                Err(Fault::Destination(error)) => return Err(error),
                Err(Fault::Hosts(error)) => {
                    if failures < MAX_REPORTED {
                        report::error(&error);
                    }
                    failures += 1;
                    schedule.mark_lost(index);
                }
            }
        }
        if failures > MAX_REPORTED {
            let more = counted((failures - MAX_REPORTED) as u64, "more path");
            log::error!("{more} could not be fetched");
        }
        let open = schedule
            .items
            .iter()
            .filter(|item| item.state != ItemState::Registered);
        Ok(open.map(|item| item.found.info.path.clone()).collect())
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
            .map_err(Fault::Destination)?;
        let wish = FetchRequest {
            info: &to_fetch,
            holders: &holders,
            caller: &self.caller,
            resume: None,
            progress: &*self.progress,
        };
        match self.transfers.fetch(wish, &mut *incoming).await {
            Ok(bytes) => {
                incoming.finish().await.map_err(Fault::Destination)?;
                Ok(bytes)
            }
            Err(failed) => {
                if let TransferError::Sink { path, source } = failed.error {
                    // The destination knows why it took no more.
                    let error = incoming.finish().await.err();
                    return Err(Fault::Destination(error.unwrap_or(GetError::Io {
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ItemState {
    /// It has not been received.
    Open,
    /// It has been received, but not all of its references are registered.
    Received,
    /// It is registered.
    Registered,
    /// It, or something that it needs, was not delivered.
    Lost,
}

struct Item {
    found: Found,
    state: ItemState,
    /// How many of its references are not registered yet.
    waits: usize,
    referrers: Vec<usize>,
}

/// The state of each path, and which may begin.
struct Schedule {
    items: Vec<Item>,
    /// What may begin, by its place in the order.
    ready: BTreeSet<usize>,
    references_first: ReferencesFirst,
}

impl Schedule {
    fn new(fetch: Vec<Found>, references_first: ReferencesFirst) -> Self {
        let item = |found: Found| Item {
            found,
            state: ItemState::Open,
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
        let ready = match references_first {
            ReferencesFirst::Registration => (0..items.len()).collect(),
            ReferencesFirst::Transfer => (0..items.len())
                .filter(|index| items[*index].waits == 0)
                .collect(),
        };
        Self {
            items,
            ready,
            references_first,
        }
    }

    /// A path has been received. Returns what can be registered now, in order.
    fn received(&mut self, index: usize) -> Vec<usize> {
        let mut registered = Vec::new();
        if self.items[index].state != ItemState::Open {
            return registered;
        }
        self.items[index].state = ItemState::Received;
        let mut open = vec![index];
        while let Some(index) = open.pop() {
            let item = &mut self.items[index];
            if item.waits > 0 || item.state != ItemState::Received {
                continue;
            }
            item.state = ItemState::Registered;
            registered.push(index);
            for referrer in item.referrers.clone() {
                let item = &mut self.items[referrer];
                item.waits -= 1;
                if item.waits == 0
                    && self.references_first == ReferencesFirst::Transfer
                    && item.state == ItemState::Open
                {
                    self.ready.insert(referrer);
                }
                open.push(referrer);
            }
        }
        registered
    }

    /// A path will not be received. Nothing that needs it is begun any more.
    fn mark_lost(&mut self, index: usize) {
        let mut open = vec![index];
        while let Some(index) = open.pop() {
            if self.items[index].state == ItemState::Lost {
                continue;
            }
            self.items[index].state = ItemState::Lost;
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
    use crate::model::samples::bare;

    fn path(number: usize) -> StorePath {
        StorePath::parse(&format!("/nix/store/{number:032}-n")).unwrap()
    }

    fn found(number: usize, references: &[usize]) -> Found {
        let info = PathInfo {
            references: references.iter().map(|other| path(*other)).collect(),
            nar_size: 1,
            ..bare(path(number))
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
            let references_first = if begin { ReferencesFirst::Transfer } else { ReferencesFirst::Registration };
            let fetch = (0..20).map(|index| found(index, &references[index])).collect();
            let mut schedule = Schedule::new(fetch, references_first);
            let mut registered = Vec::new();
            let (mut running, mut failed) = (Vec::new(), Vec::new());
            for pick in picks.iter().cycle() {
                while running.len() < 3 && let Some(next) = schedule.ready.pop_first() {
                    let needs_failed = references[next].iter().any(|other| failed.contains(other));
                    prop_assert!(!needs_failed, "{} is of no use", next);
                    if begin {
                        let waits = references[next].iter().filter(|other| **other != next);
                        prop_assert!(waits.clone().all(|other| registered.contains(other)));
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
                        schedule.mark_lost(index);
                    }
                    false => registered.extend(schedule.received(index)),
                }
            }
            let mut good = [true; 20];
            for index in 0..20 {
                let others = references[index].iter().filter(|other| **other != index);
                good[index] = !fails[index] && others.clone().all(|other| good[*other]);
                let at = registered.iter().position(|other| *other == index);
                prop_assert_eq!(at.is_some(), good[index], "{} in {:?}", index, registered);
                for other in others.filter(|_| at.is_some()) {
                    prop_assert!(registered.iter().position(|place| place == other) < at);
                }
            }
        }
    }
}
