//! The order in which the caller is expected to fetch.
//!
//! Nix fetches references before what refers to them. Among the paths that it could fetch it goes by name and then by
//! path (the key of its substitution goals, `libstore/build`). The order is kept up to date path by path, so that a
//! caller which asks and fetches in turns costs no more than one that asks for everything first.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::model::StorePath;

/// Ordered as Nix orders paths that it could fetch at the same time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    name: String,
    path: StorePath,
}

impl Key {
    fn of(path: &StorePath) -> Self {
        Self {
            name: path.name().to_owned(),
            path: path.clone(),
        }
    }
}

/// Paths that are expected to be fetched, with what they wait for.
#[derive(Debug, Default)]
pub(super) struct FetchOrder {
    /// ExpectedPath paths, with how many of their references are expected too.
    open: BTreeMap<StorePath, Open>,
    /// Those of them that wait for none.
    ready: BTreeSet<Key>,
    /// For each reference of an expected path, expected itself or not, who refers to it.
    referrers: HashMap<StorePath, Vec<StorePath>>,
}

#[derive(Debug)]
struct Open {
    references: Vec<StorePath>,
    waits_for: usize,
}

impl FetchOrder {
    /// Expects `path`. Whether it was not expected before.
    pub(super) fn add(&mut self, path: &StorePath, references: &[StorePath]) -> bool {
        if self.open.contains_key(path) {
            return false;
        }
        let mut references = references.to_vec();
        references.sort();
        references.dedup();
        references.retain(|reference| reference != path);
        let mut waits_for = 0;
        for reference in &references {
            waits_for += usize::from(self.open.contains_key(reference));
            let referrers = self.referrers.entry(reference.clone()).or_default();
            referrers.push(path.clone());
        }
        if waits_for == 0 {
            self.ready.insert(Key::of(path));
        }
        let open = Open {
            references,
            waits_for,
        };
        self.open.insert(path.clone(), open);
        for referrer in self.referrers.get(path).into_iter().flatten() {
            if let Some(open) = self.open.get_mut(referrer) {
                if open.waits_for == 0 {
                    self.ready.remove(&Key::of(referrer));
                }
                open.waits_for += 1;
            }
        }
        true
    }

    /// Expects `path` no more. Whether it was expected.
    pub(super) fn remove(&mut self, path: &StorePath) -> bool {
        let Some(gone) = self.open.remove(path) else {
            return false;
        };
        self.ready.remove(&Key::of(path));
        for reference in gone.references {
            if let Some(referrers) = self.referrers.get_mut(&reference) {
                referrers.retain(|referrer| referrer != path);
                if referrers.is_empty() {
                    self.referrers.remove(&reference);
                }
            }
        }
        for referrer in self.referrers.get(path).into_iter().flatten() {
            if let Some(open) = self.open.get_mut(referrer) {
                open.waits_for -= 1;
                if open.waits_for == 0 {
                    self.ready.insert(Key::of(referrer));
                }
            }
        }
        true
    }

    /// The paths that may be fetched now, in order. When the expected paths refer to each other in
    /// a circle, which no store has but a host may claim, any of them.
    pub(super) fn ready(&self) -> impl Iterator<Item = &StorePath> {
        let stuck = self.ready.is_empty().then(|| self.open.keys().next());
        let ready = self.ready.iter().map(|key| &key.path);
        ready.chain(stuck.flatten())
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(number: usize) -> StorePath {
        let digits = "0123456789abcdfghijklmnpqrsvwxyz".as_bytes();
        let hash: String = (0..32)
            .map(|place| char::from(digits[(number >> (5 * (place % 3))) % 32]))
            .collect();
        StorePath::parse(&format!("/nix/store/{hash}-n{}", number % 7)).unwrap()
    }

    fn drain(order: &mut FetchOrder) -> Vec<StorePath> {
        let mut all = Vec::new();
        loop {
            let next = order.ready().next().cloned();
            let Some(next) = next else { break };
            assert!(order.remove(&next));
            all.push(next);
        }
        all
    }

    #[test]
    fn references_come_first_and_then_names() {
        let mut order = FetchOrder::default();
        // As Nix asks: from the root downwards.
        order.add(&path(6), &[path(3), path(5), path(6)]);
        order.add(&path(5), &[path(3)]);
        order.add(&path(3), &[path(100)]);
        order.add(&path(1), &[]);
        assert!(!order.add(&path(1), &[]), "twice");
        assert_eq!(drain(&mut order), [path(1), path(3), path(5), path(6)]);
        assert_eq!(order.len(), 0);
        assert!(order.referrers.is_empty());
        assert!(!order.remove(&path(1)));
    }

    #[test]
    fn a_circle_ends() {
        let mut order = FetchOrder::default();
        order.add(&path(1), &[path(2)]);
        order.add(&path(2), &[path(1)]);
        assert_eq!(drain(&mut order).len(), 2);
    }

    proptest! {
        #[test]
        fn no_path_comes_before_its_references(
            edges in prop::collection::vec((0_usize..40, 0_usize..40), 0..120),
            arrival in Just((0_usize..40).collect::<Vec<_>>()).prop_shuffle(),
            taken_early in prop::collection::vec(0_usize..40, 0..5),
        ) {
            let mut order = FetchOrder::default();
            let references = |from: usize| {
                let edges = edges.iter().filter(move |(a, b)| *a == from && b < a);
                edges.map(|(_, b)| path(*b)).collect::<Vec<_>>()
            };
            for number in &arrival {
                order.add(&path(*number), &references(*number));
            }
            for number in &taken_early {
                order.remove(&path(*number));
            }
            let all = drain(&mut order);
            let place = |wanted: &StorePath| all.iter().position(|path| path == wanted);
            for (at, number) in (0..40).filter_map(|n| Some((place(&path(n))?, n))) {
                for reference in references(number) {
                    prop_assert!(place(&reference).is_none_or(|before| before < at));
                }
            }
            prop_assert!(order.referrers.is_empty());
        }
    }
}
