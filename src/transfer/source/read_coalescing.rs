//! Fewer, larger reads of a fast stream.

use std::time::Duration;

/// What a pipe holds that could not be enlarged, in bytes.
const DEFAULT_PIPE_SIZE: usize = 64 << 10;

/// When fewer bytes than this are to come, they are read without a pause.
const MIN_REMAINING: u64 = 1 << 20;

/// How long a large pipe is left alone: far shorter than what fills it, even from this machine.
const PAUSE: Duration = Duration::from_millis(1);

/// Coalesces reads: one wake-up per packet costs ssh CPU that it needs, and wakes the caller as often.
#[derive(Default)]
pub(super) struct ReadCoalescing {
    /// The pipe holds more than [`DEFAULT_PIPE_SIZE`]. One that does not would fill during the pause.
    has_large_pipe: bool,
    was_small: bool,
}

impl ReadCoalescing {
    /// A read gave so many bytes.
    pub(super) fn on_read(&mut self, len: usize) {
        self.has_large_pipe |= len > DEFAULT_PIPE_SIZE;
        self.was_small = len <= DEFAULT_PIPE_SIZE;
    }

    /// Waits for more to gather, if that is of use with `remaining` bytes to come.
    pub(super) async fn pause(&self, remaining: u64) {
        if self.has_large_pipe && self.was_small && remaining > MIN_REMAINING {
            tokio::time::sleep(PAUSE).await;
        }
    }
}
