//! The thread that looks at all transfers and draws them.

use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::screen::Screen;
use super::tracker::{Output, Style, Tracker};
use crate::transfer::progress::{Outcome, TransferInfo, TransferProgress};

/// How long closing waits for the last output: a terminal may be stopped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct DrawThread {
    screen: Screen,
    // Never held while anything is written: a stopped terminal must not block transfers.
    state: Mutex<DrawState>,
    wake: Condvar,
}

#[derive(Debug)]
struct DrawState {
    tracker: Tracker,
    thread: ThreadStatus,
    closed: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum ThreadStatus {
    None,
    Runs,
    Ended,
}

impl DrawThread {
    pub(super) fn new(style: Style, screen: Screen) -> Arc<Self> {
        Arc::new(Self {
            screen,
            state: Mutex::new(DrawState {
                tracker: Tracker::new(style, Instant::now()),
                thread: ThreadStatus::None,
                closed: false,
            }),
            wake: Condvar::new(),
        })
    }

    /// Shows a transfer from now on.
    pub(super) fn start(this: &Arc<Self>, info: &TransferInfo) -> Handle {
        let done = Arc::new(AtomicU64::new(0));
        let start = |tracker: &mut Tracker| tracker.start(info, done.clone(), Instant::now());
        let id = Self::change(this, start);
        Handle {
            thread: Arc::clone(this),
            id,
            done,
            outcome: Outcome::Failed,
        }
    }

    /// So much is to come in all.
    pub(super) fn expect(this: &Arc<Self>, paths: u64, bytes: u64) {
        Self::change(this, |tracker| tracker.expect(paths, bytes));
    }

    /// So many bytes have come over the wire for all transfers.
    pub(super) fn show_wire_bytes(this: &Arc<Self>, count: Arc<AtomicU64>) {
        this.state.lock().tracker.show_wire_bytes(count);
    }

    /// Transfers go to their hosts.
    pub(super) fn sends(this: &Arc<Self>) {
        this.state.lock().tracker.sends();
    }

    /// Changes the tracker, and wakes the thread.
    fn change<T>(this: &Arc<Self>, change: impl FnOnce(&mut Tracker) -> T) -> T {
        let mut state = this.state.lock();
        let changed = change(&mut state.tracker);
        if state.thread == ThreadStatus::None && !state.closed {
            let thread_self = Arc::clone(this);
            let thread = std::thread::Builder::new().name("progress".to_owned());
            // Without a thread nothing is drawn, and transfers go on.
            state.thread = match thread.spawn(move || thread_self.run()) {
                Ok(_) => ThreadStatus::Runs,
                Err(_) => ThreadStatus::Ended,
            };
        }
        drop(state);
        this.wake.notify_all();
        changed
    }

    /// Ends the thread after its last output.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        self.wake.notify_all();
        let runs = |state: &mut DrawState| state.thread == ThreadStatus::Runs;
        self.wake.wait_while_for(&mut state, runs, CLOSE_TIMEOUT);
    }

    #[cfg(test)]
    pub(super) fn running(&self) -> usize {
        self.state.lock().tracker.running()
    }

    fn run(&self) {
        let mut state = self.state.lock();
        let period = state.tracker.style().period();
        while !state.closed {
            let size = self.screen.size();
            let colours = self.screen.colours();
            let output = state.tracker.tick(Instant::now(), size, colours);
            drop(state);
            self.write(output);
            state = self.state.lock();
            let open = |state: &mut DrawState| !state.closed;
            self.wake.wait_while_for(&mut state, open, period);
            let nothing = |state: &mut DrawState| !state.closed && state.tracker.is_idle();
            self.wake.wait_while(&mut state, nothing);
        }
        let last = state.tracker.last(Instant::now());
        drop(state);
        self.write(last);
        self.state.lock().thread = ThreadStatus::Ended;
        self.wake.notify_all();
    }

    fn write(&self, output: Vec<Output>) {
        for output in output {
            match output {
                Output::Line(line) => self.screen.line(&line),
                Output::Bars(bars, size) => self.screen.show(bars, size),
                Output::Json(text) => self.screen.raw(&text),
            }
        }
    }

    fn finish(&self, id: u64, outcome: Outcome) {
        let finished = self
            .state
            .lock()
            .tracker
            .finish(id, outcome, Instant::now());
        self.wake.notify_all();
        if let Some(line) = finished {
            log::debug!("{line}");
        }
    }
}

/// One transfer, for the code that transfers.
#[derive(Debug)]
pub(super) struct Handle {
    thread: Arc<DrawThread>,
    id: u64,
    done: Arc<AtomicU64>,
    outcome: Outcome,
}

impl TransferProgress for Handle {
    fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    fn set_host(&self, host: &str) {
        let mut state = self.thread.state.lock();
        state.tracker.set_host(self.id, host, Instant::now());
    }

    fn lose(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn finish(mut self: Box<Self>, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.thread.finish(self.id, self.outcome);
    }
}
