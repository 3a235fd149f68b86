//! The terminal as indicatif wants it: what it draws is collected, and goes where all else goes. (indicatif's own waits for
//! a terminal that is stopped.)

use parking_lot::Mutex;
use std::io;

use indicatif::TermLike;

/// Where nothing else is known: columns and rows.
const USUAL: (u16, u16) = (80, 24);

/// Stderr's terminal, written to by `write`, one drawing at a time.
#[derive(Debug)]
pub(super) struct Terminal {
    write: fn(&str),
    drawn: Mutex<String>,
}

impl Terminal {
    pub(super) fn new(write: fn(&str)) -> Self {
        Self {
            write,
            drawn: Mutex::default(),
        }
    }

    /// Columns and rows, as they are now.
    pub(super) fn size() -> (u16, u16) {
        match rustix::termios::tcgetwinsize(io::stderr()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col, size.ws_row),
            _ => USUAL,
        }
    }

    fn add(&self, text: &str) -> io::Result<()> {
        let mut drawn = self.drawn.lock();
        drawn.push_str(text);
        Ok(())
    }

    /// A control sequence of ECMA-48 that moves the cursor.
    fn go(&self, count: usize, direction: char) -> io::Result<()> {
        match count {
            0 => Ok(()),
            count => self.add(&format!("\x1b[{count}{direction}")),
        }
    }
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        Self::size().0
    }

    fn height(&self) -> u16 {
        Self::size().1
    }

    fn move_cursor_up(&self, count: usize) -> io::Result<()> {
        self.go(count, 'A')
    }

    fn move_cursor_down(&self, count: usize) -> io::Result<()> {
        self.go(count, 'B')
    }

    fn move_cursor_right(&self, count: usize) -> io::Result<()> {
        self.go(count, 'C')
    }

    fn move_cursor_left(&self, count: usize) -> io::Result<()> {
        self.go(count, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.add(text)?;
        self.add("\n")
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.add(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.add("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let mut drawn = self.drawn.lock();
        if !drawn.is_empty() {
            (self.write)(&std::mem::take(&mut *drawn));
        }
        Ok(())
    }
}
