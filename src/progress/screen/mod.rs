//! What this program shows on stderr: lines, and below them bars. All writers take one lock.
//!
//! | module | what it does |
//! | --- | --- |
//! | `bar_layout` | which columns and lines fit the terminal |
//! | `bars` | draws them by indicatif |
//! | `terminal` | the terminal that indicatif draws on |
//! | `stderr` | writes without waiting for the reader |

pub(super) mod bar_layout;
mod bars;
pub(super) mod stderr;
mod terminal;

use parking_lot::Mutex;
use std::borrow::Cow;
use std::io::IsTerminal;
use std::sync::{Arc, OnceLock};

use log::Level;

use super::internal_json;
use super::text::fit;
use bar_layout::Line;
use bars::Bars;
use stderr::write;
use terminal::Terminal;

/// Stderr, shared by all that write to it.
#[derive(Debug, Clone)]
pub(super) struct Screen(Arc<ScreenState>);

#[derive(Debug)]
struct ScreenState {
    /// A terminal that can move its cursor.
    moves: bool,
    colours: bool,
    /// Decides which warnings and errors are shown.
    filter: OnceLock<Filter>,
    // Held while a text is queued, so that texts of several threads do not mix.
    drawn: Mutex<Drawn>,
}

/// Whether a message should be shown, by its level and text.
pub(super) type ShouldShow = dyn Fn(Level, &str) -> bool + Send + Sync;

struct Filter(Box<ShouldShow>);

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Filter")
    }
}

#[derive(Debug)]
struct Drawn {
    bars: Bars,
    /// Another program may draw its own bar on this terminal.
    shared: bool,
    /// Whoever reads messages puts this program's name before each line.
    named_by_reader: bool,
    /// Messages are lines of JSON.
    json: bool,
}

impl Screen {
    /// `term` is `TERM`, `no_color` is `NO_COLOR`: with any text in it nothing is coloured
    /// (<https://no-color.org>).
    pub(super) fn new(terminal: bool, term: &str, no_color: &str) -> Self {
        let moves = terminal && moves(term);
        let colours = moves && no_color.is_empty();
        let drawn = Drawn {
            bars: Bars::new(moves, colours, write),
            shared: false,
            named_by_reader: false,
            json: false,
        };
        Self(Arc::new(ScreenState {
            moves,
            colours,
            filter: OnceLock::new(),
            drawn: Mutex::new(drawn),
        }))
    }

    /// Stderr as it is.
    pub(super) fn of_process() -> Self {
        let var = |name| std::env::var_os(name).unwrap_or_default();
        let (term, no_color) = (var("TERM"), var("NO_COLOR"));
        let terminal = std::io::stderr().is_terminal();
        Self::new(
            terminal,
            &term.to_string_lossy(),
            &no_color.to_string_lossy(),
        )
    }

    pub(super) fn colours(&self) -> bool {
        self.0.colours
    }

    /// Whether it is a terminal on which bars can be drawn.
    pub(super) fn moves(&self) -> bool {
        self.0.moves
    }

    /// From now on each line begins with clearing the terminal's line: another program's bar stands there, which
    /// is drawn again by itself.
    pub(super) fn share(&self) {
        self.with(|drawn| drawn.shared = true);
    }

    /// From now on messages do not begin with this program's name, since their reader adds it.
    pub(super) fn leave_out_name(&self) {
        self.with(|drawn| drawn.named_by_reader = true);
    }

    /// From now on messages are JSON.
    pub(super) fn use_json(&self) {
        self.with(|drawn| drawn.json = true);
    }

    /// From now on warnings and errors are shown only if `should_show` says so. Set once.
    pub(super) fn filter(&self, should_show: Box<ShouldShow>) {
        let _ = self.0.filter.set(Filter(should_show));
    }

    /// Whether this message of the `log` crate is shown.
    pub(super) fn should_show(&self, level: Level, text: &str) -> bool {
        let filter = self.0.filter.get();
        level > Level::Warn || filter.is_none_or(|Filter(should_show)| should_show(level, text))
    }

    /// Columns and rows of the terminal, as they are now.
    pub(super) fn size(&self) -> (usize, usize) {
        let (columns, rows) = Terminal::size();
        (columns.into(), rows.into())
    }

    /// Prints a message of the `log` crate: one line that begins with `name: `.
    pub(super) fn message(&self, level: Level, name: &str, kind: &str, text: &str) {
        self.with(|drawn| {
            if drawn.json {
                // The reader makes the text safe for its terminal, except a program that shows it as it is.
                let text = match drawn.shared {
                    true => fit(text),
                    false => Cow::Borrowed(text),
                };
                return write(&internal_json::line(&internal_json::message(
                    level,
                    &format!("{kind}{text}"),
                )));
            }
            let text = fit(text);
            let kind = match (level, self.0.colours) {
                (Level::Error, true) => format!("\x1b[31m{kind}\x1b[m"),
                (Level::Warn, true) => format!("\x1b[33m{kind}\x1b[m"),
                _ => kind.to_owned(),
            };
            let line = match drawn.named_by_reader {
                true => format!("{kind}{text}"),
                false => format!("{name}: {kind}{text}"),
            };
            self.above(drawn, &line);
        });
    }

    /// Prints a line, above the bars if there are any.
    pub(super) fn line(&self, line: &str) {
        self.with(|drawn| match drawn.json {
            true => write(&internal_json::line(&internal_json::message(
                Level::Info,
                line,
            ))),
            false => self.above(drawn, &fit(line)),
        });
    }

    /// Writes a text as it is.
    pub(super) fn raw(&self, text: &str) {
        self.with(|_| write(text));
    }

    /// Shows these bars, made for a terminal of that size, in place of what was shown before. On a terminal that has not
    /// taken what came before (it may be stopped) only the last ones count, those that it has when it goes on.
    pub(super) fn show(&self, bars: Vec<Line>, size: (usize, usize)) {
        if bars.is_empty() || !stderr::is_busy() {
            self.with(|drawn| drawn.bars.show(bars, size));
        }
    }

    fn above(&self, drawn: &mut Drawn, line: &str) {
        let line = format!("{line}\n");
        if !drawn.bars.is_empty() {
            return drawn.bars.write_above(&line, self.size());
        }
        if drawn.shared && self.0.moves {
            // EL of ECMA-48: clears to the end of the line.
            return write(&format!("\r\x1b[K{line}"));
        }
        write(&line);
    }

    fn with<T>(&self, act: impl FnOnce(&mut Drawn) -> T) -> T {
        act(&mut self.0.drawn.lock())
    }
}

/// Whether this kind of terminal can move its cursor.
pub(super) fn moves(term: &str) -> bool {
    !term.is_empty() && term != "dumb"
}
