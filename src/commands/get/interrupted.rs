//! What is said when a run is ended from outside.

use parking_lot::Mutex;
use std::sync::Arc;

use crate::progress::text;

/// How far a run has got.
#[derive(Default)]
pub(super) struct SoFar(Mutex<State>);

#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// Paths and bytes of NARs that are to be fetched, once that is known.
    planned: Option<(usize, u64)>,
    /// Those that have come.
    came: (usize, u64),
    /// Those of them that count, since all that they refer to is there.
    settled: (usize, u64),
}

fn count((paths, sum): &mut (usize, u64), bytes: u64) {
    *paths += 1;
    *sum = sum.saturating_add(bytes);
}

impl SoFar {
    /// So many paths, with so many bytes of NARs, are to be fetched.
    pub(super) fn plan(&self, paths: usize, bytes: u64) {
        self.change(|state| state.planned = Some((paths, bytes)));
    }

    /// A path of so many bytes has come.
    pub(super) fn came(&self, bytes: u64) {
        self.change(|state| count(&mut state.came, bytes));
    }

    /// A path of so many bytes counts as being there.
    pub(super) fn settled(&self, bytes: u64) {
        self.change(|state| count(&mut state.settled, bytes));
    }

    /// How many paths have come, and bytes of their NARs.
    pub(super) fn total(&self) -> (usize, u64) {
        self.change(|state| state.came)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock())
    }
}

/// Held while a run lasts. Dropped before its [end](Self::end), as by Ctrl-C, it says what is there.
pub(super) struct Lasting {
    pub(super) so_far: Arc<SoFar>,
    ended: bool,
}

impl Lasting {
    pub(super) fn new() -> Self {
        Self {
            so_far: Arc::default(),
            ended: false,
        }
    }

    /// Whatever there is to say is said elsewhere.
    pub(super) fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        // The panic hook has reported a panic.
        if !self.ended && !std::thread::panicking() {
            log::warn!("{}", words(self.so_far.change(|state| *state)));
        }
    }
}

fn words(
    State {
        planned, settled, ..
    }: State,
) -> String {
    let Some((paths, bytes)) = planned else {
        return "interrupted before anything was fetched".to_owned();
    };
    let part = text::part(settled.1, bytes.max(settled.1));
    let next = match settled.0 {
        0 => "the same command begins again",
        _ => "they stay, and the same command goes on with the others",
    };
    let there = settled.0;
    format!("interrupted: {there} of {paths} paths to be fetched are there ({part}); {next}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_told() {
        let mut state = State::default();
        assert_eq!(words(state), "interrupted before anything was fetched");
        state.planned = Some((12, 4 << 20));
        assert_eq!(
            words(state),
            "interrupted: 0 of 12 paths to be fetched are there (0.0 of 4.0 MiB); the same command begins again"
        );
        state.settled = (3, 1 << 20);
        assert_eq!(
            words(state),
            "interrupted: 3 of 12 paths to be fetched are there (1.0 of 4.0 MiB); they stay, and the same command goes on with the others"
        );
    }
}
