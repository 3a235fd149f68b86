//! The one way to stderr: lines, and below them bars that stay.
//!
//! While bars are shown the cursor stands at the beginning of the first of them. So a line simply takes
//! its place, with the bars drawn anew below it; whatever anybody else writes is not covered later; and when the
//! terminal gets another size, the cursor is still above all that is to be drawn again, whether the
//! terminal breaks its lines anew (most do) or cuts them.
//!
//! Sequences are those of ECMA-48: EL (`CSI K`) clears to the end of the line, ED (`CSI J`) to the end of the
//! screen, CUU (`CSI n A`) goes up. What is drawn stands between the two of synchronized
//! output (`CSI ? 2026 h` and `l`), so that terminals that know it never show half of it; others skip it.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use log::Level;

use super::json;
use super::sanitize;

/// The size of a terminal that does not know it.
const USUAL: (usize, usize) = (80, 24);

const BEGIN: &str = "\x1b[?2026h";
const END: &str = "\x1b[?2026l";

/// Stderr, shared by all that write to it.
#[derive(Debug, Clone)]
pub(super) struct Screen(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// A terminal that can move its cursor.
    moves: bool,
    colours: bool,
    // Held while something is written, so that nothing comes in between.
    drawn: Mutex<Drawn>,
}

#[derive(Debug, Default)]
struct Drawn {
    /// The bars that stand below the cursor.
    bars: Vec<String>,
    /// The size that they were made for.
    size: (usize, usize),
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
        Self(Arc::new(Inner {
            moves,
            colours: moves && no_color.is_empty(),
            drawn: Mutex::default(),
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
        match rustix::termios::tcgetwinsize(std::io::stderr()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                (size.ws_col.into(), size.ws_row.into())
            }
            _ => USUAL,
        }
    }

    /// Prints a message of the `log` crate: one line that begins with `name: `.
    pub(super) fn message(&self, level: Level, name: &str, kind: &str, text: &str) {
        self.with(|drawn| {
            if drawn.json {
                return write(&json::line(&json::message(level, &format!("{kind}{text}"))));
            }
            let text = sanitize(text);
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
            false => self.above(drawn, &sanitize(line)),
        });
    }

    /// Writes a text as it is.
    pub(super) fn raw(&self, text: &str) {
        self.with(|_| write(text));
    }

    /// Shows these bars, made for a terminal of that size, in place of what was shown before.
    pub(super) fn show(&self, bars: Vec<String>, size: (usize, usize)) {
        self.with(|drawn| {
            if drawn.bars == bars && drawn.size == size {
                return;
            }
            drawn.bars = bars;
            drawn.size = size;
            write(&format!("{BEGIN}\r{}{END}", drawn.below()));
        });
    }

    fn above(&self, drawn: &mut Drawn, line: &str) {
        if drawn.bars.is_empty() {
            let clear = if drawn.shared && self.0.moves {
                "\r\x1b[K"
            } else {
                ""
            };
            return write(&format!("{clear}{line}\n"));
        }
        if drawn.size != self.size() {
            // They would be broken into more lines. They come again with the next tick.
            drawn.bars.clear();
        }
        write(&format!("{BEGIN}\r{line}\x1b[K\r\n{}{END}", drawn.below()));
    }

    fn with<T>(&self, act: impl FnOnce(&mut Drawn) -> T) -> T {
        act(&mut self.0.drawn.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drawn {
    /// Draws the bars from the beginning of the line where the cursor is, and puts it back there.
    fn below(&self) -> String {
        let mut text = String::new();
        for (index, bar) in self.bars.iter().enumerate() {
            if index > 0 {
                text.push_str("\r\n");
            }
            text.push_str(bar);
            text.push_str("\x1b[K");
        }
        match self.bars.len() {
            0 => "\x1b[J".to_owned(),
            // ED also clears where the cursor stands: behind the last letter, which leaves a column free.
            1 => format!("{text}\x1b[J\r"),
            lines => format!("{text}\x1b[J\r\x1b[{}A", lines - 1),
        }
    }
}

/// Whether this kind of terminal can move its cursor.
pub(super) fn moves(term: &str) -> bool {
    !term.is_empty() && term != "dumb"
}

/// In one call, so that other programs' output does not get in between. Errors are nobody's concern: there
/// is nowhere else to tell them, and a closed stderr must not end a transfer.
fn write(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
