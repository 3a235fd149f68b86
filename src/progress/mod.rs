//! What people read while the program works: progress of transfers and log messages, on stderr.
//!
//! On a terminal each transfer that lasts has a bar; elsewhere it has a line now and then, also
//! while nothing comes, since Nix takes a substituter that is silent for long to be hung. Bars,
//! lines and log messages are kept apart from each other, and everything that is shown goes
//! through [`sanitize`], line by line and each of a bounded length ([`text::fit`]).
//!
//! A transfer itself only counts bytes; one thread looks at all of them and draws.

mod logger;
pub mod text;
mod ticker;
mod view;

use std::io::{IsTerminal, Write};
use std::sync::Arc;

use indicatif::{MultiProgress, ProgressDrawTarget};

use crate::transfer::progress::{NoProgress, Progress, TransferInfo, TransferProgress};
pub use logger::level;
pub use text::sanitize;
use ticker::{Look, Ticker};

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// [`Bar`](Mode::Bar) on a terminal that can move its cursor, [`Plain`](Mode::Plain) elsewhere.
    #[default]
    Auto,
    /// A bar for each transfer; as `Plain` where stderr is no terminal.
    Bar,
    /// A line about each transfer every few seconds.
    Plain,
    /// Not at all.
    Off,
}

/// Draws progress on stderr. Log messages that are to be readable between bars go through its
/// logger ([`Display::log_to_stderr`]).
#[derive(Debug)]
pub struct Display {
    screen: Screen,
    ticker: Option<Arc<Ticker>>,
}

impl Display {
    /// A display that draws in this mode. At most one in a process should draw.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        let term = std::env::var("TERM").unwrap_or_default();
        Self::with(resolve(mode, std::io::stderr().is_terminal(), &term))
    }

    fn with(look: Option<Look>) -> Self {
        let screen = Screen::new(look == Some(Look::Bars));
        let ticker = look.map(|look| Ticker::new(look, screen.clone()));
        Self { screen, ticker }
    }

    /// Prints one line, above the bars if there are any.
    pub fn line(&self, line: &str) {
        self.screen.line(line);
    }

    /// Makes this display's stderr the place where the messages of the `log` crate go:
    /// `ssh-substituter: warning: …`, `ssh-substituter: error: …`, and for all other levels
    /// `ssh-substituter: …`. Below warnings only messages of this crate are shown, unless `level`
    /// is [`log::LevelFilter::Trace`]. Without effect where a logger is set already.
    pub fn log_to_stderr(&self, level: log::LevelFilter) {
        logger::install(self.screen.clone(), level);
    }
}

impl Progress for Display {
    fn start(&self, transfer: &TransferInfo) -> Box<dyn TransferProgress> {
        match &self.ticker {
            Some(ticker) => Box::new(Ticker::start(ticker, transfer)),
            None => Box::new(NoProgress),
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Some(ticker) = &self.ticker {
            ticker.close();
        }
    }
}

fn resolve(mode: Mode, terminal: bool, term: &str) -> Option<Look> {
    let moves = !term.is_empty() && term != "dumb";
    match mode {
        Mode::Off => None,
        Mode::Bar if terminal => Some(Look::Bars),
        Mode::Auto if terminal && moves => Some(Look::Bars),
        Mode::Auto | Mode::Bar | Mode::Plain => Some(Look::Lines),
    }
}

/// The one way to stderr.
#[derive(Debug, Clone)]
struct Screen {
    bars: MultiProgress,
}

impl Screen {
    fn new(bars: bool) -> Self {
        let target = if bars {
            ProgressDrawTarget::stderr_with_hz(10)
        } else {
            ProgressDrawTarget::hidden()
        };
        Self {
            bars: MultiProgress::with_draw_target(target),
        }
    }

    /// Prints a line with the bars out of its way. Errors are nobody's concern: there is nowhere
    /// else to tell them, and a closed stderr must not end a transfer.
    fn line(&self, line: &str) {
        let line = format!("{}\n", text::fit(line));
        self.bars.suspend(|| {
            let _ = std::io::stderr().lock().write_all(line.as_bytes());
        });
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
        for look in [Look::Bars, Look::Lines] {
            let display = Display::with(Some(look));
            let ticker = Arc::clone(display.ticker.as_ref().unwrap());
            let (first, second) = (
                display.start(&transfer("hello-2.12", 9)),
                display.start(&transfer("hello-2.13", 0)),
            );
            first.advance(9);
            first.set_host("build2");
            first.finish(Outcome::Done);
            assert_eq!(ticker.running(), 1);
            drop(second);
            assert_eq!(ticker.running(), 0);
            drop(display);
            // The thread has the only other reference.
            let waited = std::time::Instant::now();
            while Arc::strong_count(&ticker) > 1 {
                assert!(waited.elapsed().as_secs() < 20, "the thread goes on");
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
    }

    #[test]
    #[ignore = "run by bars_and_messages_share_a_terminal"]
    fn draws() {
        let display = Display::new(Mode::Auto);
        display.log_to_stderr(log::LevelFilter::Info);
        let running = display.start(&transfer("hello-2.12", 4 << 20));
        let wait = || std::thread::sleep(std::time::Duration::from_millis(700));
        wait();
        running.advance(1 << 20);
        wait();
        log::warn!("host \x1b[31mred\nis down");
        wait();
        running.finish(Outcome::Done);
        log::info!("all done");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn bars_and_messages_share_a_terminal() {
        let exe = std::env::current_exe().unwrap();
        let run = format!(
            "stty cols 100; '{}' --exact progress::tests::draws --ignored --nocapture",
            exe.display()
        );
        let out = std::process::Command::new("script")
            .args(["-qec", &run, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(std::process::Stdio::null())
            .output()
            .expect("this test needs script(1)");
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success(), "{text:?}");
        assert!(text.contains("hello-2.12 1.0 of 4.0 MiB, "), "{text:?}");
        assert!(text.contains(" s left, build1 [==="), "{text:?}");
        // Messages stand at the beginning of a line that was cleared, and end with one.
        for message in [
            "warning: host \\u{1b}[31mred",
            "warning: is down",
            "all done",
        ] {
            let line = format!("ssh-substituter: {message}\r\n");
            let at = text.find(&line).unwrap_or_else(|| panic!("{text:?}"));
            let before = &text[..at];
            let clear = before.ends_with('\n') || before.ends_with("\r\x1b[2K");
            assert!(clear, "{text:?}");
        }
        assert!(!text.contains("\x1b[31m"));
    }

    #[test]
    fn bars_need_a_terminal_and_auto_a_capable_one() {
        let cases = [
            (Mode::Auto, true, "xterm", Some(Look::Bars)),
            (Mode::Auto, true, "dumb", Some(Look::Lines)),
            (Mode::Auto, true, "", Some(Look::Lines)),
            (Mode::Auto, false, "xterm", Some(Look::Lines)),
            (Mode::Bar, true, "dumb", Some(Look::Bars)),
            (Mode::Bar, false, "xterm", Some(Look::Lines)),
            (Mode::Plain, true, "xterm", Some(Look::Lines)),
            (Mode::Off, true, "xterm", None),
        ];
        for (mode, terminal, term, look) in cases {
            assert_eq!(resolve(mode, terminal, term), look, "{mode:?} {term}");
        }
    }
}
