//! A terminal: a pty by script(1), and an emulator that shows what a person would have seen at each moment.

use std::num::NonZeroU16;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::run_with_timeout;

/// Ends what is to be seen at once (synchronized output).
const DRAWN: &str = "\x1b[?2026l";

/// Tells the emulator of another size; a terminal skips it.
pub fn resized(columns: u16, rows: u16) -> String {
    format!("\x1b]7777;{columns};{rows}\x07")
}

/// What a command prints on a terminal of this size. Its environment is what the command sets, and `TERM`.
pub fn on_terminal(command: &Command, (columns, rows): (u16, u16)) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
    let run = format!(
        "stty cols {columns} rows {rows}; exec {} > /dev/null",
        shell_words::join(words)
    );
    let mut script = Command::new("script");
    script
        .args(["-qec", &run, "/dev/null"])
        .env("TERM", "xterm-256color")
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    let output = run_with_timeout(script, Duration::from_secs(120));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text:?}");
    text
}

/// One of the scenes, as a command.
pub fn scene(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        &format!("scenes::{name}"),
        "--ignored",
        "--nocapture",
    ]);
    command
}

/// The screens that were to be seen, one after the other: after all that was drawn at once, and
/// after each line. Each is a list of rows without the spaces at their ends.
pub struct Replay {
    parser: vt100::Parser,
    /// Nobody looks amid a drawing.
    is_amid: bool,
    pub screens: Vec<Screen>,
}

pub struct Screen {
    pub rows: Vec<String>,
    pub size: (u16, u16),
}

impl Replay {
    pub fn of(text: &str, (columns, rows): (u16, u16)) -> Self {
        let mut replay = Self {
            parser: vt100::Parser::new(nonzero(rows), nonzero(columns), 10_000),
            is_amid: false,
            screens: Vec::new(),
        };
        let mut rest = text;
        while !rest.is_empty() {
            let at = ["\x1b]7777;", DRAWN, "\n"];
            let end = at
                .iter()
                .filter_map(|end| Some(rest.find(end)? + end.len()));
            let (piece, after) = rest.split_at(end.min().unwrap_or(rest.len()));
            rest = after;
            replay.is_amid |= piece.contains("\x1b[?2026h");
            replay.is_amid &= !piece.ends_with(DRAWN);
            replay.parser.process(piece.as_bytes());
            if piece.ends_with("7777;") {
                let (size, after) = rest.split_once('\x07').unwrap();
                let (columns, rows) = size.split_once(';').unwrap();
                replay.parser.process(format!("{size}\x07").as_bytes());
                let (rows, columns) = (rows.parse().unwrap(), columns.parse().unwrap());
                replay
                    .parser
                    .screen_mut()
                    .set_size(nonzero(rows), nonzero(columns));
                rest = after;
            } else if !replay.is_amid {
                replay.look();
            }
        }
        replay
    }

    fn look(&mut self) {
        let (rows, columns) = size(&self.parser);
        self.screens.push(Screen {
            rows: rows_of(&self.parser),
            size: (columns, rows),
        });
    }

    /// All that has ever been in the terminal and not been taken away again, from the top.
    pub fn all(mut self) -> Vec<String> {
        let mut all = Vec::new();
        let height = usize::from(size(&self.parser).0);
        self.parser.screen_mut().set_scrollback(usize::MAX);
        let mut offset = self.parser.screen().scrollback();
        loop {
            self.parser.screen_mut().set_scrollback(offset);
            let rows = rows_of(&self.parser);
            if offset == 0 {
                all.extend(rows);
                return all;
            }
            let step = offset.min(height);
            all.extend(rows.into_iter().take(step));
            offset -= step;
        }
    }
}

fn nonzero(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

fn size(parser: &vt100::Parser) -> (u16, u16) {
    let (rows, columns) = parser.screen().size();
    (rows.into(), columns.into())
}

fn rows_of(parser: &vt100::Parser) -> Vec<String> {
    let columns = size(parser).1;
    let rows = parser.screen().rows(0, columns);
    rows.map(|row| row.trim_end().to_owned()).collect()
}
