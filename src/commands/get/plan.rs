//! What has to be fetched, and in which order.
//!
//! The closure is traversed in waves. The destination is asked first, then the hosts; the references of a wave are the
//! next wave. The resolver prefetches closures, so that mostly only the first wave waits for the network.
//!
//! A path that lacks a reference would be of no use: nothing is fetched for it alone.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::destination::Destination;
use super::error::GetError;
use crate::model::StorePath;
use crate::resolver::{Found, Resolver};

/// Most paths of a closure that are gone through.
const MOST_PATHS: usize = 1_000_000;

/// What of a closure a destination has, and what has to be fetched.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Those of the paths asked for that can be had whole, or are there.
    pub(super) roots: Vec<StorePath>,
    /// Those that cannot.
    pub(super) incomplete: Vec<StorePath>,
    /// The paths that are there already, as far as they were checked.
    pub(super) there: Vec<StorePath>,
    /// What is to be fetched, references first.
    pub(super) fetch: Vec<Found>,
    /// What cannot be had.
    pub(super) missing: Vec<Missing>,
}

/// A path that cannot be had.
#[derive(Debug)]
pub(super) struct Missing {
    pub(super) path: StorePath,
    /// A path that refers to it; `None` when it was asked for itself.
    pub(super) wanted_by: Option<StorePath>,
    /// It is there, but waits for itself, which no store has.
    pub(super) circle: bool,
}

enum Node {
    There(Vec<StorePath>),
    Fetch(Found),
    Missing,
}

impl Node {
    fn references(&self) -> &[StorePath] {
        match self {
            Self::There(references) => references,
            Self::Fetch(found) => &found.info.references,
            Self::Missing => &[],
        }
    }
}

impl Plan {
    /// Looks for `wanted` and, with `closure`, all they refer to.
    pub(super) async fn new(
        resolver: &Resolver,
        destination: &dyn Destination,
        wanted: &[StorePath],
        closure: bool,
    ) -> Result<Self, GetError> {
        let mut graph = Graph {
            nodes: HashMap::new(),
            wanted_by: HashMap::new(),
            closure,
        };
        let mut wave: Vec<StorePath> = wanted.to_vec();
        wave.sort();
        wave.dedup();
        while !wave.is_empty() {
            let present = destination.present(&wave).await?;
            for present in present {
                let there = Node::There(present.references);
                graph.nodes.insert(present.path, there);
            }
            let open = |path: &&StorePath| !graph.nodes.contains_key(*path);
            let unknown: Vec<_> = wave.iter().filter(open).cloned().collect();
            for found in resolver.find(&unknown).await {
                let path = found.info.path.clone();
                graph.nodes.insert(path, Node::Fetch(found));
            }
            for path in unknown {
                graph.nodes.entry(path).or_insert(Node::Missing);
            }
            wave = graph.next_wave(&wave)?;
        }
        let fetch = graph.nodes.values().filter_map(|node| match node {
            Node::Fetch(found) => Some(found.info.clone()),
            _ => None,
        });
        for path in destination
            .find_unregistered(&fetch.collect::<Vec<_>>())
            .await?
        {
            if let Some(node) = graph.nodes.get_mut(&path) {
                *node = Node::There(node.references().to_vec());
            }
        }
        Ok(graph.plan(wanted))
    }

    /// Bytes of the NARs that are to be fetched, as far as they are known.
    pub(super) fn bytes(&self) -> u64 {
        let sizes = self.fetch.iter().map(|found| found.info.nar_size);
        sizes.fold(0, u64::saturating_add)
    }
}

struct Graph {
    nodes: HashMap<StorePath, Node>,
    wanted_by: HashMap<StorePath, StorePath>,
    closure: bool,
}

impl Graph {
    /// What these paths refer to and is not known yet.
    fn next_wave(&mut self, wave: &[StorePath]) -> Result<Vec<StorePath>, GetError> {
        let mut next = BTreeSet::new();
        for path in wave.iter().filter(|_| self.closure) {
            let Some(node) = self.nodes.get(path) else {
                continue;
            };
            for reference in node.references() {
                if !self.nodes.contains_key(reference) && next.insert(reference.clone()) {
                    self.wanted_by.insert(reference.clone(), path.clone());
                }
            }
            if self.nodes.len() + next.len() > MOST_PATHS {
                return Err(GetError::TooMany(MOST_PATHS));
            }
        }
        Ok(next.into_iter().collect())
    }

    fn references<'a>(&'a self, path: &StorePath) -> impl Iterator<Item = &'a StorePath> + use<'a> {
        let node = self.nodes.get(path).filter(|_| self.closure);
        let own = path.clone();
        let references = node.map(Node::references).unwrap_or_default();
        references.iter().filter(move |other| **other != own)
    }

    fn plan(mut self, wanted: &[StorePath]) -> Plan {
        let mut plan = Plan::default();
        let missing = self.nodes.iter();
        let missing = missing.filter(|(_, node)| matches!(node, Node::Missing));
        let mut useless: HashSet<_> = missing.map(|(path, _)| path.clone()).collect();
        for path in &useless {
            plan.missing.push(self.missing(path, false));
        }
        let (reached, order) = loop {
            self.spread(&mut useless);
            let reached = self.reached(wanted, &useless);
            let order = self.order(&reached);
            let ordered: HashSet<_> = order.iter().collect();
            let circle = reached.iter().filter(|path| self.is_fetched(path));
            let circle: Vec<_> = circle.filter(|path| !ordered.contains(path)).collect();
            if circle.is_empty() {
                break (reached, order);
            }
            for path in circle {
                plan.missing.push(self.missing(path, true));
                useless.insert(path.clone());
            }
        };
        plan.missing.sort_by(|a, b| a.path.cmp(&b.path));
        let mut seen = HashSet::new();
        for path in wanted.iter().filter(|path| seen.insert(*path)) {
            let list = match useless.contains(path) {
                true => &mut plan.incomplete,
                false => &mut plan.roots,
            };
            list.push(path.clone());
        }
        for path in order {
            if let Some(Node::Fetch(found)) = self.nodes.remove(&path) {
                plan.fetch.push(found);
            }
        }
        let there = reached.into_iter();
        plan.there = there
            .filter(|path| matches!(self.nodes.get(path), Some(Node::There(_))))
            .collect();
        plan.there.sort();
        plan
    }

    fn is_fetched(&self, path: &StorePath) -> bool {
        matches!(self.nodes.get(path), Some(Node::Fetch(_)))
    }

    fn missing(&self, path: &StorePath, circle: bool) -> Missing {
        Missing {
            path: path.clone(),
            wanted_by: self.wanted_by.get(path).cloned(),
            circle,
        }
    }

    /// Adds all that refer to one of these.
    fn spread(&self, useless: &mut HashSet<StorePath>) {
        let mut referrers: HashMap<&StorePath, Vec<&StorePath>> = HashMap::new();
        for path in self.nodes.keys() {
            for reference in self.references(path) {
                referrers.entry(reference).or_default().push(path);
            }
        }
        let mut open: Vec<StorePath> = useless.iter().cloned().collect();
        while let Some(path) = open.pop() {
            for referrer in referrers.get(&path).into_iter().flatten() {
                if useless.insert((*referrer).clone()) {
                    open.push((*referrer).clone());
                }
            }
        }
    }

    /// What the useful ones among these paths need, with themselves.
    fn reached(&self, wanted: &[StorePath], useless: &HashSet<StorePath>) -> HashSet<StorePath> {
        let useful = wanted.iter().filter(|path| !useless.contains(path));
        let mut open: Vec<StorePath> = useful.cloned().collect();
        let mut reached: HashSet<StorePath> = open.iter().cloned().collect();
        while let Some(path) = open.pop() {
            for reference in self.references(&path) {
                if reached.insert(reference.clone()) {
                    open.push(reference.clone());
                }
            }
        }
        reached
    }

    /// Those of `reached` that are to be fetched, references first, and else as they are read ahead: by name. Circles
    /// are left out.
    fn order(&self, reached: &HashSet<StorePath>) -> Vec<StorePath> {
        let mut waits: HashMap<&StorePath, usize> = HashMap::new();
        let mut referrers: HashMap<&StorePath, Vec<&StorePath>> = HashMap::new();
        for path in reached.iter().filter(|path| self.is_fetched(path)) {
            let references = self.references(path);
            let mut count = 0;
            for reference in references.filter(|other| self.is_fetched(other)) {
                referrers.entry(reference).or_default().push(path);
                count += 1;
            }
            waits.insert(path, count);
        }
        let key = |path: &StorePath| (path.name().to_owned(), path.clone());
        let free = waits.iter().filter(|(_, count)| **count == 0);
        let mut ready: BTreeSet<_> = free.map(|(path, _)| key(path)).collect();
        let mut order = Vec::with_capacity(waits.len());
        while let Some((_, path)) = ready.pop_first() {
            for referrer in referrers.get(&path).into_iter().flatten() {
                if let Some(count) = waits.get_mut(*referrer) {
                    *count -= 1;
                    if *count == 0 {
                        ready.insert(key(referrer));
                    }
                }
            }
            order.push(path);
        }
        order
    }
}
