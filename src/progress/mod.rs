//! What people read while the program works: progress of transfers and log messages, on stderr.
//!
//! On a terminal each transfer that lasts has a bar, below one for all of them; elsewhere there is a line
//! now and then, also while nothing comes, since Nix takes a substituter that is silent for long to be
//! hung; or lines of JSON as Nix prints them. Bars, lines and log messages are kept apart from each other, and
//! everything that is shown goes through [`sanitize`], line by line and each of a bounded length ([`text::fit`]).
//!
//! | module | what it does |
//! | --- | --- |
//! | `draw_thread` | the thread that looks at all transfers and draws |
//! | `tracker` | the running transfers, and what is to be written about them when |
//! | `stats` | bytes, rates and hosts of transfers |
//! | `screen` | stderr: lines, and bars below them |
//! | `internal_json` | Nix's `internal-json` |
//! | `panics`, `logger` | panics and the `log` crate's messages, on the same screen |
//! | `text` | sizes, durations, harmless text |
//!
//! A transfer itself only counts bytes; one thread looks at all of them and draws.

mod draw_thread;
mod internal_json;
mod logger;
mod panics;
mod screen;
mod stats;
pub mod text;
mod tracker;

use parking_lot::Mutex;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::transfer::progress::{NoProgress, Progress, TransferInfo, TransferProgress};
use draw_thread::DrawThread;
pub use logger::level;
use screen::{Screen, stderr};
pub use stats::by_host;
pub use text::sanitize;
use tracker::Style;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// [`Bar`](Mode::Bar) on a terminal that can move its cursor (`TERM` is not `dumb`),
    /// [`Plain`](Mode::Plain) elsewhere.
    #[default]
    Auto,
    /// A bar for each transfer; as `Plain` where stderr is no such terminal.
    Bar,
    /// A line every few seconds.
    Plain,
    /// Lines of JSON, messages as well, as Nix prints them with `--log-format internal-json`.
    Json,
    /// Not at all.
    Off,
}

/// Draws progress on stderr. Log messages that are to be readable between bars go through its
/// logger ([`Display::log_to_stderr`]). Where `NO_COLOR` is set nothing is coloured.
#[derive(Debug)]
pub struct Display {
    screen: Screen,
    draw_thread: Mutex<Option<Arc<DrawThread>>>,
}

impl Display {
    /// A display that draws in this mode. At most one in a process should draw.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        let display = Self {
            screen: Screen::of_process(),
            draw_thread: Mutex::default(),
        };
        display.set_mode(mode);
        display
    }

    /// Draws in another mode from now on: for the time before the first transfer. Messages that have become JSON
    /// stay so.
    pub fn set_mode(&self, mode: Mode) {
        if mode == Mode::Json {
            self.screen.use_json();
        }
        let style = resolve(mode, self.screen.moves());
        let draw_thread = style.map(|style| DrawThread::new(style, self.screen.clone()));
        let before = std::mem::replace(&mut *self.draw_thread.lock(), draw_thread);
        if let Some(before) = before {
            before.close();
        }
    }

    /// Another program draws a bar of its own on this terminal, as Nix does where it has started this
    /// one: each line clears that bar, which is drawn again by who draws it.
    pub fn share_terminal(&self) {
        self.screen.share();
    }

    /// The reader of stderr puts this program's name before each line, as Nix 1.x does with what `--query` says:
    /// messages do without it from now on. A terminal adds nothing, so there they keep it.
    pub fn named_by_reader(&self) {
        if !std::io::stderr().is_terminal() {
            self.screen.leave_out_name();
        }
    }

    /// Whoever has started this program reads messages in Nix's own form only (`@nix {"action":"msg",…}`): messages are
    /// written so from now on. Progress stays as it is.
    pub fn messages_as_nix(&self) {
        self.screen.use_json();
    }

    /// Warnings and errors are shown only if `should_show` says so of their text: another process may have shown them
    /// to the same user. Has an effect once.
    pub fn filter_messages(
        &self,
        should_show: impl Fn(log::Level, &str) -> bool + Send + Sync + 'static,
    ) {
        self.screen.filter(Box::new(should_show));
    }

    /// Makes this display's stderr the place where the messages of the `log` crate go:
    /// `ssh-substituter: warning: …`, `ssh-substituter: error: …`, and for all other levels
    /// `ssh-substituter: …`. Below warnings only messages of this crate are shown, unless `level`
    /// is [`log::LevelFilter::Trace`]. Without effect where a logger is set already.
    pub fn log_to_stderr(&self, level: log::LevelFilter) {
        logger::install(self.screen.clone(), level);
    }

    /// Reports panics on stderr without waiting for its reader.
    pub fn report_panics(&self) {
        panics::install_hook();
    }

    /// Shows how many bytes have come over the wire for all transfers, where these are fewer than they would be as they
    /// are. To be called in the mode that is to be used.
    pub fn show_wire_bytes(&self, count: Arc<AtomicU64>) {
        if let Some(draw_thread) = &*self.draw_thread.lock() {
            DrawThread::show_wire_bytes(draw_thread, count);
        }
    }

    /// Shows transfers as such that go to their hosts, and do not come from them. To be called in the mode that is to be
    /// used.
    pub fn show_as_sent(&self) {
        if let Some(draw_thread) = &*self.draw_thread.lock() {
            DrawThread::sends(draw_thread);
        }
    }

    /// Takes the bars away, and draws no more. Waits for what is still to be written as [`drain`] does.
    pub fn close(&self) {
        self.set_mode(Mode::Off);
        drain();
    }
}

impl Progress for Display {
    fn start(&self, transfer: &TransferInfo) -> Box<dyn TransferProgress> {
        match &*self.draw_thread.lock() {
            Some(draw_thread) => Box::new(DrawThread::start(draw_thread, transfer)),
            None => Box::new(NoProgress),
        }
    }

    fn expected(&self, paths: u64, bytes: u64) {
        if let Some(draw_thread) = &*self.draw_thread.lock() {
            DrawThread::expect(draw_thread, paths, bytes);
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.close();
    }
}

/// Waits until stderr has all that was written: up to 2 s, but no more than 0.1 s for one that takes nothing.
pub fn drain() {
    stderr::drain();
}

/// Writes a text on stderr as it is, before the process ends. Waits for that as [`drain`] does.
pub fn write_and_drain(text: &str) {
    stderr::write(text);
    stderr::drain();
}

fn resolve(mode: Mode, moves: bool) -> Option<Style> {
    match mode {
        Mode::Off => None,
        Mode::Json => Some(Style::Json),
        Mode::Auto | Mode::Bar if moves => Some(Style::Bars),
        Mode::Auto | Mode::Bar | Mode::Plain => Some(Style::Lines),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::StorePath;
    use crate::transfer::progress::Outcome;

    fn transfer(name: &str, total: u64) -> TransferInfo {
        let path = format!("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-{name}");
        TransferInfo {
            path: StorePath::parse(&path).unwrap(),
            host: "build1".to_owned(),
            total,
        }
    }

    #[test]
    fn finished_transfers_are_forgotten_and_the_thread_ends() {
        for style in [Style::Bars, Style::Lines, Style::Json] {
            let screen = Screen::new(false, "", "");
            let draw_thread = DrawThread::new(style, screen.clone());
            let display = Display {
                screen,
                draw_thread: Mutex::new(Some(draw_thread.clone())),
            };
            let (first, second) = (
                display.start(&transfer("hello-2.12", 9)),
                display.start(&transfer("hello-2.13", 0)),
            );
            first.advance(9);
            first.set_host("build2");
            first.finish(Outcome::Done);
            assert_eq!(draw_thread.running(), 1);
            drop(second);
            assert_eq!(draw_thread.running(), 0);
            drop(display);
            // The thread has the only other reference.
            let waited = std::time::Instant::now();
            while Arc::strong_count(&draw_thread) > 1 {
                assert!(waited.elapsed().as_secs() < 20, "the thread goes on");
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
    }

    #[test]
    fn bars_need_a_capable_terminal() {
        for (terminal, term, moves) in [
            (true, "xterm", true),
            (true, "dumb", false),
            (true, "", false),
            (false, "xterm", false),
        ] {
            assert_eq!(Screen::new(terminal, term, "").moves(), moves, "{term}");
        }
        for (mode, here, elsewhere) in [
            (Mode::Auto, Some(Style::Bars), Some(Style::Lines)),
            (Mode::Bar, Some(Style::Bars), Some(Style::Lines)),
            (Mode::Plain, Some(Style::Lines), Some(Style::Lines)),
            (Mode::Json, Some(Style::Json), Some(Style::Json)),
            (Mode::Off, None, None),
        ] {
            assert_eq!(resolve(mode, true), here, "{mode:?}");
            assert_eq!(resolve(mode, false), elsewhere, "{mode:?}");
        }
    }

    #[test]
    fn any_no_color_means_none() {
        let colours = |term, value| Screen::new(true, term, value).colours();
        assert!(colours("xterm", ""));
        assert!(!colours("xterm", "1"));
        assert!(!colours("xterm", "0"));
        assert!(!colours("dumb", ""));
    }
}
