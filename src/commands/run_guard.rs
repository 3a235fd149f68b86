//! What is logged when a command is interrupted.

use std::sync::Arc;

/// What a command has done so far.
pub(super) trait RunProgress: Default {
    /// The line for a person whose command is interrupted now.
    fn interrupted(&self) -> String;
}

/// Held while a command runs. Dropped before [`end`](Self::end), as by Ctrl-C, it logs what is there.
pub(super) struct RunGuard<T: RunProgress> {
    pub(super) totals: Arc<T>,
    ended: bool,
}

impl<T: RunProgress> RunGuard<T> {
    pub(super) fn new() -> Self {
        Self {
            totals: Arc::default(),
            ended: false,
        }
    }

    /// The command has ended, and reports its result itself.
    pub(super) fn end(mut self) {
        self.ended = true;
    }
}

impl<T: RunProgress> Drop for RunGuard<T> {
    fn drop(&mut self) {
        // The panic hook has reported a panic.
        if !self.ended && !std::thread::panicking() {
            log::warn!("{}", self.totals.interrupted());
        }
    }
}
