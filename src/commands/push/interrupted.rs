//! The message when a push is interrupted.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::progress::text;
use crate::push::PushTotals;

/// Held while a push runs. Dropped before [`end`](Self::end), as by Ctrl-C, it logs what is there.
pub(super) struct RunGuard {
    pub(super) totals: Arc<PushTotals>,
    ended: bool,
}

impl RunGuard {
    pub(super) fn new() -> Self {
        Self {
            totals: Arc::default(),
            ended: false,
        }
    }

    /// The push has ended, and reports its result itself.
    pub(super) fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        // The panic hook has reported a panic.
        if !self.ended && !std::thread::panicking() {
            log::warn!("{}", message(&self.totals));
        }
    }
}

fn message(totals: &PushTotals) -> String {
    let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    let (planned, sent) = (count(&totals.planned), count(&totals.sent));
    if planned == 0 {
        return "interrupted before anything was sent".to_owned();
    }
    let bytes = text::size(count(&totals.sent_bytes));
    let next = match sent {
        0 => "the same command begins again",
        _ => "they stay, and the same command goes on with the others",
    };
    format!("interrupted: {sent} of {planned} paths to be sent are there ({bytes}); {next}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_told() {
        let totals = PushTotals::default();
        assert_eq!(message(&totals), "interrupted before anything was sent");
        totals.planned.store(12, Ordering::Relaxed);
        assert_eq!(
            message(&totals),
            "interrupted: 0 of 12 paths to be sent are there (0 B); the same command begins again"
        );
        totals.sent.store(3, Ordering::Relaxed);
        totals.sent_bytes.store(1 << 20, Ordering::Relaxed);
        assert_eq!(
            message(&totals),
            "interrupted: 3 of 12 paths to be sent are there (1.0 MiB); they stay, and the same command goes on with the others"
        );
    }
}
