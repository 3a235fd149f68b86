//! The thread that looks at all transfers and draws them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::view::{Lines, Pace};
use super::{Screen, sanitize, text::Standing};
use crate::transfer::progress::{Outcome, TransferInfo, TransferProgress};

/// A transfer has a bar only when it lasts longer than this: most paths are small, and bars that
/// come and go at once cost time and can't be read.
const FIRST_BAR: Duration = Duration::from_millis(300);
/// Longest name beside a bar, in characters.
const NAME: usize = 24;
/// Longest host beside a bar, in characters.
const HOST: usize = 24;

/// What transfers look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Bars,
    Lines,
}

#[derive(Debug)]
pub(super) struct Ticker {
    look: Look,
    screen: Screen,
    // Never held while anything is written: a terminal may be stopped for as long as one likes.
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: Vec<Running>,
    next_id: u64,
    thread: bool,
    closed: bool,
}

#[derive(Debug)]
struct Running {
    id: u64,
    host: String,
    done: Arc<AtomicU64>,
    view: View,
}

#[derive(Debug)]
enum View {
    Lines(Lines),
    Bar {
        name: String,
        total: u64,
        started: Instant,
        pace: Pace,
        bar: Option<ProgressBar>,
    },
}

/// What is to be written once the state is not locked.
enum Output {
    Line(String),
    Bar {
        bar: ProgressBar,
        new: bool,
        done: u64,
        message: String,
    },
}

impl Ticker {
    pub(super) fn new(look: Look, screen: Screen) -> Arc<Self> {
        Arc::new(Self {
            look,
            screen,
            state: Mutex::default(),
            wake: Condvar::new(),
        })
    }

    /// Shows a transfer from now on.
    pub(super) fn start(ticker: &Arc<Self>, info: &TransferInfo) -> Handle {
        let now = Instant::now();
        let name = sanitize(info.path.name()).into_owned();
        let done = Arc::new(AtomicU64::new(0));
        let view = match ticker.look {
            Look::Lines => View::Lines(Lines::new(&name, info.total, now)),
            Look::Bars => View::Bar {
                name: cut(&name, NAME),
                total: info.total,
                started: now,
                pace: Pace::new(now),
                bar: None,
            },
        };
        let mut state = ticker.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.running.push(Running {
            id,
            host: ticker.host(&info.host),
            done: Arc::clone(&done),
            view,
        });
        if !state.thread {
            // Without a thread nothing is drawn, which harms nobody.
            let this = Arc::clone(ticker);
            let thread = std::thread::Builder::new().name("progress".to_owned());
            state.thread = thread.spawn(move || this.run()).is_ok();
        }
        drop(state);
        ticker.wake.notify_all();
        Handle {
            ticker: Arc::clone(ticker),
            id,
            done,
            outcome: Outcome::Failed,
        }
    }

    /// Ends the thread.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    #[cfg(test)]
    pub(super) fn running(&self) -> usize {
        self.lock().running.len()
    }

    fn host(&self, host: &str) -> String {
        let host = sanitize(host);
        match self.look {
            Look::Bars => cut(&host, HOST),
            Look::Lines => host.into_owned(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let period = match self.look {
            Look::Bars => Duration::from_millis(200),
            Look::Lines => Duration::from_millis(500),
        };
        let mut state = self.lock();
        while !state.closed {
            if state.running.is_empty() {
                let woken = self.wake.wait(state);
                state = woken.unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let output = state.tick(Instant::now());
            drop(state);
            for output in output {
                self.draw(output);
            }
            std::thread::sleep(period);
            state = self.lock();
        }
    }

    fn draw(&self, output: Output) {
        match output {
            Output::Line(line) => self.screen.line(&line),
            Output::Bar {
                bar,
                new,
                done,
                message,
            } => {
                if new {
                    self.screen.bars.add(bar.clone());
                }
                bar.set_message(message);
                bar.set_position(done);
                // It may have been finished, and taken away in vain, just before it was added.
                if bar.is_finished() {
                    self.screen.bars.remove(&bar);
                }
            }
        }
    }

    fn set_host(&self, id: u64, host: &str) {
        let mut state = self.lock();
        if let Some(running) = state.running.iter_mut().find(|r| r.id == id) {
            running.host = self.host(host);
        }
    }

    fn finish(&self, id: u64, outcome: Outcome) {
        let mut state = self.lock();
        let Some(at) = state.running.iter().position(|r| r.id == id) else {
            return;
        };
        let running = state.running.remove(at);
        drop(state);
        let done = running.done.load(Ordering::Relaxed);
        match running.view {
            View::Lines(lines) => {
                if let Some(line) = lines.finish(Instant::now(), done, outcome) {
                    self.screen.line(&line);
                }
            }
            View::Bar { bar: Some(bar), .. } => {
                bar.finish_and_clear();
                self.screen.bars.remove(&bar);
            }
            View::Bar { bar: None, .. } => {}
        }
    }
}

impl State {
    fn tick(&mut self, now: Instant) -> Vec<Output> {
        let mut output = Vec::new();
        for Running {
            host, done, view, ..
        } in &mut self.running
        {
            let done = done.load(Ordering::Relaxed);
            match view {
                View::Lines(lines) => {
                    output.extend(lines.tick(now, done, host).map(Output::Line));
                }
                View::Bar {
                    name,
                    total,
                    started,
                    pace,
                    bar,
                } => {
                    let (rate, silence) = pace.note(now, done);
                    if now.duration_since(*started) < FIRST_BAR {
                        continue;
                    }
                    let standing = Standing {
                        done,
                        total: *total,
                        host,
                        rate,
                        silence,
                    };
                    let new = bar.is_none();
                    let bar = bar.get_or_insert_with(|| new_bar(name, *total));
                    output.push(Output::Bar {
                        bar: bar.clone(),
                        new,
                        done,
                        message: standing.short(),
                    });
                }
            }
        }
        output
    }
}

/// A bar that is not on the screen yet.
fn new_bar(name: &str, total: u64) -> ProgressBar {
    // The bar takes what the text leaves of the line.
    let (template, length) = if total > 0 {
        ("{prefix} {msg} [{wide_bar}]", Some(total))
    } else {
        ("{prefix} {msg}", None)
    };
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    ProgressBar::with_draw_target(length, ProgressDrawTarget::hidden())
        .with_style(style)
        .with_prefix(name.to_owned())
}

/// At most `max` characters, the last an ellipsis when some are missing.
fn cut(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    text.chars().take(max - 1).chain(['…']).collect()
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
        self.ticker.set_host(self.id, host);
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
