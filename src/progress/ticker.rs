//! The thread that looks at all transfers and draws them.

use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::screen::Screen;
use super::state::{Look, Output, State};
use crate::transfer::progress::{Outcome, TransferInfo, TransferProgress};

/// How long the end waits for the last things to be written: a terminal may be stopped.
const LAST_WORDS: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Ticker {
    screen: Screen,
    // Never held while anything is written: a terminal may be stopped for as long as one likes, and
    // transfers come by here.
    state: Mutex<Watched>,
    wake: Condvar,
}

#[derive(Debug)]
struct Watched {
    state: State,
    thread: Thread,
    closed: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Thread {
    None,
    Runs,
    Ended,
}

impl Ticker {
    pub(super) fn new(look: Look, screen: Screen) -> Arc<Self> {
        Arc::new(Self {
            screen,
            state: Mutex::new(Watched {
                state: State::new(look, Instant::now()),
                thread: Thread::None,
                closed: false,
            }),
            wake: Condvar::new(),
        })
    }

    /// Shows a transfer from now on.
    pub(super) fn start(ticker: &Arc<Self>, info: &TransferInfo) -> Handle {
        let done = Arc::new(AtomicU64::new(0));
        let start = |state: &mut State| state.start(info, done.clone(), Instant::now());
        let id = Self::change(ticker, start);
        Handle {
            ticker: Arc::clone(ticker),
            id,
            done,
            outcome: Outcome::Failed,
        }
    }

    /// So much is to come in all.
    pub(super) fn expect(ticker: &Arc<Self>, paths: u64, bytes: u64) {
        Self::change(ticker, |state| state.expect(paths, bytes));
    }

    /// Changes something, which the thread then sees.
    fn change<T>(ticker: &Arc<Self>, change: impl FnOnce(&mut State) -> T) -> T {
        let mut watched = ticker.state.lock();
        let changed = change(&mut watched.state);
        if watched.thread == Thread::None && !watched.closed {
            let this = Arc::clone(ticker);
            let thread = std::thread::Builder::new().name("progress".to_owned());
            // Without a thread nothing is drawn, which harms nobody.
            watched.thread = match thread.spawn(move || this.run()) {
                Ok(_) => Thread::Runs,
                Err(_) => Thread::Ended,
            };
        }
        drop(watched);
        ticker.wake.notify_all();
        changed
    }

    /// Ends the thread, when it has said its last words.
    pub(super) fn close(&self) {
        let mut watched = self.state.lock();
        watched.closed = true;
        self.wake.notify_all();
        let runs = |watched: &mut Watched| watched.thread == Thread::Runs;
        self.wake.wait_while_for(&mut watched, runs, LAST_WORDS);
    }

    #[cfg(test)]
    pub(super) fn running(&self) -> usize {
        self.state.lock().state.running()
    }

    fn run(&self) {
        let mut watched = self.state.lock();
        let period = watched.state.look().period();
        while !watched.closed {
            let size = self.screen.size();
            let colours = self.screen.colours();
            let output = watched.state.tick(Instant::now(), size, colours);
            drop(watched);
            self.write(output);
            watched = self.state.lock();
            let open = |watched: &mut Watched| !watched.closed;
            self.wake.wait_while_for(&mut watched, open, period);
            let nothing = |watched: &mut Watched| !watched.closed && watched.state.is_idle();
            self.wake.wait_while(&mut watched, nothing);
        }
        let last = watched.state.last(Instant::now());
        drop(watched);
        self.write(last);
        self.state.lock().thread = Thread::Ended;
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
        let finished = self.state.lock().state.finish(id, outcome, Instant::now());
        self.wake.notify_all();
        if let Some(line) = finished {
            log::debug!("{line}");
        }
    }
}

/// One transfer, from the side of who transfers.
#[derive(Debug)]
pub(super) struct Handle {
    ticker: Arc<Ticker>,
    id: u64,
    done: Arc<AtomicU64>,
    outcome: Outcome,
}

impl TransferProgress for Handle {
    fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    fn set_host(&self, host: &str) {
        let mut watched = self.ticker.state.lock();
        watched.state.set_host(self.id, host, Instant::now());
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
        self.ticker.finish(self.id, self.outcome);
    }
}
