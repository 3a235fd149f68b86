//! The terminal that indicatif draws on: what it draws is collected and written through `stderr`, since indicatif's own
//! implementation blocks on a terminal that is stopped.

use parking_lot::Mutex;
use std::io;

use indicatif::TermLike;

/// Columns and rows where the terminal does not say.
const DEFAULT_SIZE: (u16, u16) = (80, 24);

/// Stderr's terminal, written to by `write`, one drawing at a time.
#[derive(Debug)]
pub(in crate::progress) struct Terminal {
    write: fn(&str),
    drawn: Mutex<String>,
}

impl Terminal {
    pub(in crate::progress) fn new(write: fn(&str)) -> Self {
        Self {
            write,
            drawn: Mutex::default(),
        }
    }

    /// Columns and rows, as they are now.
    pub(in crate::progress) fn size() -> (u16, u16) {
        match rustix::termios::tcgetwinsize(io::stderr()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col, size.ws_row),
            _ => DEFAULT_SIZE,
        }
    }

    fn add(&self, text: &str) -> io::Result<()> {
        let mut drawn = self.drawn.lock();
        drawn.push_str(text);
        Ok(())
    }

    /// A control sequence of ECMA-48 that moves the cursor.
    fn move_cursor(&self, count: usize, direction: char) -> io::Result<()> {
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
        self.move_cursor(count, 'A')
    }

    fn move_cursor_down(&self, count: usize) -> io::Result<()> {
        self.move_cursor(count, 'B')
    }

    fn move_cursor_right(&self, count: usize) -> io::Result<()> {
        self.move_cursor(count, 'C')
    }

    fn move_cursor_left(&self, count: usize) -> io::Result<()> {
        self.move_cursor(count, 'D')
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
