//! The one way to stderr: lines, and below them bars that stay. Each has the lock while it writes.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};

use log::Level;

use super::bars::Bars;
use super::json;
use super::stderr::{self, write};
use super::table::Line;
use super::terminal::Terminal;
use super::text::fit;

/// Stderr, shared by all that write to it.
#[derive(Debug, Clone)]
pub(super) struct Screen(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// A terminal that can move its cursor.
    moves: bool,
    colours: bool,
    // Held while something is queued, so that nothing comes in between.
    drawn: Mutex<Drawn>,
}

#[derive(Debug)]
struct Drawn {
    bars: Bars,
    /// Another program may have a bar of its own on this terminal.
    shared: bool,
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
            json: false,
        };
        Self(Arc::new(Inner {
            moves,
            colours,
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

    /// From now on messages are JSON.
    pub(super) fn speak_json(&self) {
        self.with(|drawn| drawn.json = true);
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
                return write(&json::line(&json::message(level, &format!("{kind}{text}"))));
            }
            let text = fit(text);
            let kind = match (level, self.0.colours) {
                (Level::Error, true) => format!("\x1b[31m{kind}\x1b[m"),
                (Level::Warn, true) => format!("\x1b[33m{kind}\x1b[m"),
                _ => kind.to_owned(),
            };
            self.above(drawn, &format!("{name}: {kind}{text}"));
        });
    }

    /// Prints a line, above the bars if there are any.
    pub(super) fn line(&self, line: &str) {
        self.with(|drawn| match drawn.json {
            true => write(&json::line(&json::message(Level::Info, line))),
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
            return drawn.bars.above(&line, self.size());
        }
        if drawn.shared && self.0.moves {
            // EL of ECMA-48: clears to the end of the line.
            return write(&format!("\r\x1b[K{line}"));
        }
        write(&line);
    }

    fn with<T>(&self, act: impl FnOnce(&mut Drawn) -> T) -> T {
        act(&mut self.0.drawn.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether this kind of terminal can move its cursor.
pub(super) fn moves(term: &str) -> bool {
    !term.is_empty() && term != "dumb"
}
