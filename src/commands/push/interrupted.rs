//! The message when a push is interrupted.

use std::sync::atomic::Ordering;

use crate::commands::format::{are, counted};
use crate::commands::run_guard::RunProgress;
use crate::progress::text;
use crate::push::PushTotals;

impl RunProgress for PushTotals {
    fn interrupted(&self) -> String {
        message(self)
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
    let (paths, are) = (counted(planned, "path"), are(planned));
    format!("interrupted: {sent} of {paths} to be sent {are} there ({bytes}); {next}")
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
