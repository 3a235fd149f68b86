//! The message when a run is interrupted.

use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};

use crate::commands::format::{are, counted};
use crate::commands::run_guard::RunProgress;
use crate::progress::text;
use crate::transfer::Transfers;

/// Counts what a run has fetched so far.
#[derive(Default)]
pub(super) struct RunTotals {
    counts: Mutex<Counts>,
    transfers: OnceLock<Arc<Transfers>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    /// Paths and bytes of NARs that are to be fetched, once that is known.
    planned: Option<(usize, u64)>,
    /// Those that have been received.
    received: (usize, u64),
    /// Those of them that are registered, since all that they refer to is there.
    registered: (usize, u64),
    /// Bytes of others that are kept.
    kept: u64,
}

fn count((paths, sum): &mut (usize, u64), bytes: u64) {
    *paths += 1;
    *sum = sum.saturating_add(bytes);
}

impl RunTotals {
    /// So many paths, with so many bytes of NARs, are to be fetched.
    pub(super) fn plan(&self, paths: usize, bytes: u64) {
        self.change(|counts| counts.planned = Some((paths, bytes)));
    }

    /// A path of so many bytes has been received.
    pub(super) fn received(&self, bytes: u64) {
        self.change(|counts| count(&mut counts.received, bytes));
    }

    /// A path of so many bytes is registered.
    pub(super) fn registered(&self, bytes: u64) {
        self.change(|counts| count(&mut counts.registered, bytes));
    }

    /// How many paths have been received, and bytes of their NARs.
    pub(super) fn total(&self) -> (usize, u64) {
        self.change(|counts| counts.received)
    }

    /// What these have received of incomplete paths may be kept.
    pub(super) fn keeps_in(&self, transfers: &Arc<Transfers>) {
        let _ = self.transfers.set(transfers.clone());
    }

    fn change<T>(&self, change: impl FnOnce(&mut Counts) -> T) -> T {
        change(&mut self.counts.lock())
    }

    fn counts(&self) -> Counts {
        let kept = self
            .transfers
            .get()
            .map_or(0, |transfers| transfers.kept(true));
        Counts {
            kept,
            ..self.change(|counts| *counts)
        }
    }
}

impl RunProgress for RunTotals {
    fn interrupted(&self) -> String {
        message(self.counts())
    }
}

fn message(
    Counts {
        planned,
        registered,
        kept,
        ..
    }: Counts,
) -> String {
    let Some((paths, bytes)) = planned else {
        return "interrupted before anything was fetched".to_owned();
    };
    let part = text::part(registered.1, bytes.max(registered.1));
    let next = match (registered.0, kept) {
        (0, 0) => "the same command begins again".to_owned(),
        (_, 0) => "they stay, and the same command goes on with the others".to_owned(),
        (_, kept) => {
            let kept = text::size(kept);
            format!("they and {kept} of others stay, and the same command goes on from there")
        }
    };
    let (there, all) = (registered.0, paths as u64);
    let (paths, are) = (counted(all, "path"), are(all));
    format!("interrupted: {there} of {paths} to be fetched {are} there ({part}); {next}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_told() {
        let mut counts = Counts::default();
        assert_eq!(message(counts), "interrupted before anything was fetched");
        counts.planned = Some((12, 4 << 20));
        assert_eq!(
            message(counts),
            "interrupted: 0 of 12 paths to be fetched are there (0.0 of 4.0 MiB); the same command begins again"
        );
        counts.registered = (3, 1 << 20);
        assert_eq!(
            message(Counts {
                kept: 3 << 20,
                ..counts
            }),
            "interrupted: 3 of 12 paths to be fetched are there (1.0 of 4.0 MiB); they and 3.0 MiB of others stay, and the same command goes on from there"
        );
        assert_eq!(
            message(counts),
            "interrupted: 3 of 12 paths to be fetched are there (1.0 of 4.0 MiB); they stay, and the same command goes on with the others"
        );
    }
}
