//! Paths by their hash parts, as hosts have named them.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::model::{HashPart, StorePath};

/// How many paths are remembered, some 100 bytes each. When there are more, all are forgotten: that costs the next questions
/// a round trip.
const PATHS_MAX: usize = 500_000;

/// Knows the paths that hosts have named lately. Empty until it is switched on: most callers name paths themselves.
#[derive(Default)]
pub(in crate::resolver) struct NameIndex(Mutex<Option<HashMap<HashPart, StorePath>>>);

impl NameIndex {
    pub(in crate::resolver) fn switch_on(&self) {
        self.0.lock().get_or_insert_default();
    }

    pub(in crate::resolver) fn record<'a>(&self, paths: impl Iterator<Item = &'a StorePath>) {
        if let Some(index) = &mut *self.0.lock() {
            for path in paths {
                if index.len() >= PATHS_MAX {
                    index.clear();
                }
                index.insert(path.into(), path.clone());
            }
        }
    }

    pub(in crate::resolver) fn get(&self, hash: HashPart) -> Option<StorePath> {
        self.0.lock().as_ref()?.get(&hash).cloned()
    }
}
