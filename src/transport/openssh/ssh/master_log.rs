//! A master's log: what its ssh and the proxies of that ssh have printed.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// How much of ssh's output is kept, in bytes.
const MAX_OUTPUT_LEN: usize = 2048;

/// How much of the end of the log is looked at, in bytes.
const MAX_LOG_TAIL: u64 = 64 * 1024;

/// The end of a log, cleaned; empty when there is none.
pub(in crate::transport::openssh) fn read(log: &Path) -> String {
    File::open(log).map_or(String::new(), |file| MasterLog { file, seen: 0 }.read())
}

/// A log that is held open.
pub(in crate::transport::openssh) struct MasterLog {
    file: File,
    /// What stands before this offset, in bytes, is skipped.
    seen: u64,
}

impl MasterLog {
    /// Opens the log to read what will be written from now on.
    pub(in crate::transport::openssh) fn from_now_on(log: &Path) -> Option<Self> {
        let file = File::open(log).ok()?;
        let seen = file.metadata().ok()?.len();
        Some(Self { file, seen })
    }

    /// The end of what has been written so far, cleaned.
    pub(in crate::transport::openssh) fn read(&self) -> String {
        let tail = || {
            let mut file = &self.file;
            let length = file.metadata()?.len();
            let start = length.saturating_sub(MAX_LOG_TAIL).max(self.seen);
            file.seek(SeekFrom::Start(start))?;
            let mut bytes = Vec::new();
            file.take(MAX_LOG_TAIL).read_to_end(&mut bytes)?;
            std::io::Result::Ok(bytes)
        };
        clean(&String::from_utf8_lossy(&tail().unwrap_or_default()))
    }
}

/// Makes ssh's output fit for a terminal: no control characters or changes of writing direction,
/// no debugging output and frames of `@`, at most [`MAX_OUTPUT_LEN`] bytes, of which the last are kept.
pub(super) fn clean(text: &str) -> String {
    let mut kept: Vec<String> = Vec::new();
    let mut size = 0;
    for line in text.lines().rev() {
        let line = line.trim_matches(|c: char| c == '\r' || c == ' ' || c == '@');
        if line.is_empty() || is_debugging(line) {
            continue;
        }
        let line: String = line
            .chars()
            .map(|c| {
                let turns = matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
                if c.is_control() || turns { '\u{fffd}' } else { c }
            })
            .collect();
        size += line.len() + 1;
        if size > MAX_OUTPUT_LEN {
            break;
        }
        kept.push(line);
    }
    kept.reverse();
    kept.join("\n")
}

fn is_debugging(line: &str) -> bool {
    line.strip_prefix("debug")
        .and_then(|rest| rest.split_once(": "))
        .is_some_and(|(level, _)| level.len() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_made_harmless_and_short() {
        let ssh_output = clean("debug1: noise\r\n\x1b[31mred\x07\r\nabc\u{202e}def\n");
        assert_eq!(ssh_output, "\u{fffd}[31mred\u{fffd}\nabc\u{fffd}def");
        let long = "line of text\n".repeat(1000) + "last";
        let ssh_output = clean(&long);
        assert!(ssh_output.len() <= MAX_OUTPUT_LEN && ssh_output.ends_with("\nlast"));
        // One endless line is cut away rather than kept.
        assert_eq!(clean(&"x".repeat(100_000)), "");
    }

    #[test]
    fn a_log_is_read_from_where_it_stood() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "Warning: added a key\n").unwrap();
        let log = MasterLog::from_now_on(&path).unwrap();
        assert_eq!(log.read(), "");
        let mut file = File::options().append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut file, b"Timeout\r\n").unwrap();
        // The next master puts another one in its place.
        std::fs::remove_file(&path).unwrap();
        assert_eq!(
            (log.read(), log.read()),
            ("Timeout".into(), "Timeout".into())
        );
    }
}
