//! The registration of a folder: what `nix-store --dump-db` writes and `nix-store --load-db` reads.
//!
//! ```text
//! for each path:   path
//!                  SHA-256 of its NAR, base16
//!                  size of its NAR in bytes
//!                  deriver, or an empty line
//!                  number of references
//!                  the references, one a line
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use crate::commands::get::error::{GetError, io_error};
use crate::model::{NarHash, StorePath};

/// Longest file that is read, in bytes: room for more than a million paths.
const MAX_FILE_SIZE: u64 = 1 << 30;

/// What is registered about a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) hash: NarHash,
    /// In bytes.
    pub(super) size: u64,
    pub(super) deriver: Option<StorePath>,
    pub(super) references: Vec<StorePath>,
}

/// All that is registered, in no order of references (Nix sorts them itself).
#[derive(Debug, Default)]
pub(super) struct Registration(pub(super) BTreeMap<StorePath, Entry>);

impl Registration {
    /// Reads a file; a missing file registers nothing.
    pub(super) fn read(file: &Path) -> Result<Self, GetError> {
        let opened = match File::open(file) {
            Ok(opened) => opened,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(io_error("open", file)(error)),
        };
        let mut text = String::new();
        let read = opened.take(MAX_FILE_SIZE + 1).read_to_string(&mut text);
        read.map_err(io_error("read", file))?;
        if text.len() as u64 > MAX_FILE_SIZE {
            let file = file.to_owned();
            return Err(GetError::TooLong {
                file,
                most: MAX_FILE_SIZE,
            });
        }
        Self::parse(&text, file)
    }

    fn parse(text: &str, file: &Path) -> Result<Self, GetError> {
        let mut all = BTreeMap::new();
        let mut lines = Lines {
            count: text.lines().count(),
            lines: text.lines().enumerate(),
            file,
        };
        while let Some((number, line)) = lines.lines.next() {
            let path = lines.path(number, line)?;
            let hash = lines.next("64 digits of a hash", |line| {
                format!("sha256:{line}")
                    .parse()
                    .ok()
                    .filter(|_| line.len() == 64)
            })?;
            let size = lines.next("the size of a NAR", |line| line.parse().ok())?;
            let deriver = lines.next("a deriver or nothing", |line| match line {
                "" => Some(None),
                line => StorePath::parse(line).ok().map(Some),
            })?;
            let count: u64 = lines.next("the number of references", |line| line.parse().ok())?;
            let mut references = Vec::new();
            for _ in 0..count {
                references.push(lines.next("a store path", |line| StorePath::parse(line).ok())?);
            }
            let entry = Entry {
                hash,
                size,
                deriver,
                references,
            };
            all.insert(path, entry);
        }
        Ok(Self(all))
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (path, entry) in &self.0 {
            let deriver = entry.deriver.as_ref().map_or("", StorePath::as_str);
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{path}\n{}\n{}\n{deriver}\n{}",
                entry.hash.base16(),
                entry.size,
                entry.references.len(),
            );
            for reference in &entry.references {
                let _ = writeln!(text, "{reference}");
            }
        }
        text
    }

    /// Replaces the file in one step. For one process at a time.
    pub(super) fn write(&self, file: &Path) -> Result<(), GetError> {
        let temporary = temporary(file);
        let written = || {
            let mut out = File::create(&temporary)?;
            out.write_all(self.text().as_bytes())?;
            out.sync_all()?;
            fs::rename(&temporary, file)
        };
        written().map_err(io_error("write", file))
    }
}

/// Where the new file is written. An interrupted run leaves it, and the next one overwrites it.
fn temporary(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!(".{name}.tmp"))
}

struct Lines<'a> {
    /// How many there are.
    count: usize,
    lines: std::iter::Enumerate<std::str::Lines<'a>>,
    file: &'a Path,
}

impl Lines<'_> {
    fn path(&self, number: usize, line: &str) -> Result<StorePath, GetError> {
        StorePath::parse(line).map_err(|_| self.wrong(number, "a store path", line))
    }

    fn next<T>(
        &mut self,
        expected: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, GetError> {
        let (number, line) = self.lines.next().unwrap_or((self.count, "the end"));
        read(line).ok_or_else(|| self.wrong(number, expected, line))
    }

    fn wrong(&self, number: usize, expected: &'static str, got: &str) -> GetError {
        GetError::Format {
            file: self.file.to_owned(),
            line: number + 1,
            expected,
            got: got.chars().take(100).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-hello-2.12";
    const TWO: &str = "/nix/store/ab3li50xq0nl4q5lxdyinb8w8y13my9s-f";
    const HASH: &str = "10551daed7fa467d0b58826e7eb9a0f2af7d693de319f2ef775fffcda244b9f6";

    #[test]
    fn what_nix_writes_is_read_and_written_alike() {
        let text =
            format!("{ONE}\n{HASH}\n120\n\n2\n{ONE}\n{TWO}\n{TWO}\n{HASH}\n7\n{ONE}.drv\n0\n");
        let all = Registration::parse(&text, Path::new("x")).unwrap();
        assert_eq!(all.0.len(), 2);
        assert_eq!(all.0.values().map(|entry| entry.size).sum::<u64>(), 127);
        assert_eq!(all.text(), text);
    }

    #[test]
    fn nonsense_is_told_by_its_line() {
        let long = format!("{ONE}\n{HASH}\n120\n\n18446744073709551615\n{ONE}\n");
        for (text, line) in [
            ("hello\n".to_owned(), "line 1: expected a store path"),
            (format!("{ONE}\nabc\n"), "line 2: expected 64 digits"),
            (format!("{ONE}\n{HASH}\n-1\n"), "line 3: expected the size"),
            (
                format!("{ONE}\n{HASH}\n1\nx\n"),
                "line 4: expected a deriver",
            ),
            (format!("{ONE}\n{HASH}\n1\n\n1\n"), "got \"the end\""),
            (long, "got \"the end\""),
        ] {
            let error = Registration::parse(&text, Path::new("x")).unwrap_err();
            assert!(error.to_string().contains(line), "{error}");
        }
    }
}
