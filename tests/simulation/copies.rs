//! Which host has which path, and when.

use std::time::Duration;

use super::plan::{Host, Path};

/// A path at a host.
#[derive(Debug, Clone, Default)]
pub struct Copy {
    pub path: usize,
    pub from: Option<Duration>,
    pub until: Option<Duration>,
    pub again: Option<Duration>,
    pub wrong: Option<u64>,
}

impl Copy {
    pub fn is_always_there(&self) -> bool {
        self.from.is_none() && self.until.is_none()
    }
}

/// As in a real store: what is there has all that it refers to.
pub fn keep_closed(host: &mut Host, paths: &[Path]) {
    let mut copies: Vec<Copy> = Vec::new();
    for mut copy in std::mem::take(&mut host.copies) {
        let is_referred = |other: &&Copy| paths[copy.path].references.contains(&other.path);
        let below: Vec<Copy> = copies.iter().filter(is_referred).cloned().collect();
        if below.len() < paths[copy.path].references.len() {
            continue;
        }
        for other in below {
            copy.from = copy.from.max(other.from);
            copy.until = copy.until.into_iter().chain(other.until).min();
            copy.again = match (copy.again, other.again) {
                _ if copy.until.is_none() => None,
                (Some(again), Some(others)) => Some(again.max(others)),
                // The other one never went, or never comes back.
                (again, None) => again.filter(|_| other.until.is_none()),
                (None, _) => None,
            };
        }
        copies.push(copy);
    }
    host.copies = copies;
}
