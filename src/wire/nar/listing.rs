//! What is in a NAR, as a binary cache lists it.
//!
//! ```text
//! {"version":1,"root":NODE}
//!
//! NODE = {"type":"regular","size":BYTES,"executable":true,"narOffset":OFFSET}     executable only where it is
//!      | {"type":"symlink","target":TEXT}
//!      | {"type":"directory","entries":{NAME:NODE}}
//! ```
//!
//! The offset is that of a file's contents in the NAR. See `listNar` in Nix's `libstore/nar-accessor.cc`. Names that are no
//! UTF-8 are shown with replacement characters: JSON has no others.

use serde_json::{Map, Value, json};

use super::{Decoder, Event, NarError};

/// What an entry takes besides its texts, in bytes, about.
const ENTRY_COST: usize = 160;

/// Why there is no listing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListingError {
    /// The bytes are no acceptable NAR.
    #[error(transparent)]
    Malformed(#[from] NarError),
    /// There is more in it than may be held.
    #[error("the listing would take more than {max} bytes")]
    TooLong {
        /// How many it may take.
        max: usize,
    },
}

/// Makes the listing of a NAR whose bytes come one after the other.
#[derive(Debug)]
pub struct Listing {
    decoder: Decoder,
    /// The directories that are open, each with the name of the entry that comes.
    open: Vec<(Map<String, Value>, String)>,
    root: Option<Value>,
    taken: usize,
    max: usize,
}

impl Listing {
    /// Of a NAR of at most `nar_size` bytes; the listing takes at most `max` bytes of memory.
    #[must_use]
    pub fn new(nar_size: u64, max: usize) -> Self {
        Self {
            decoder: Decoder::new(nar_size),
            open: Vec::new(),
            root: None,
            taken: 0,
            max,
        }
    }

    /// Takes what it can off the beginning of `input`, and gives how many bytes that were: call again with the rest and
    /// more behind it.
    ///
    /// # Errors
    /// When it is no NAR, or there is too much in it.
    pub fn take(&mut self, input: &[u8]) -> Result<usize, ListingError> {
        let mut read = 0;
        loop {
            let (step, event) = self.decoder.step(&input[read..])?;
            read += step;
            let at = self.decoder.bytes_read();
            match event {
                None | Some(Event::End) => return Ok(read),
                Some(Event::Directory) => self.open.push(Default::default()),
                Some(Event::Entry(name)) => {
                    let name = String::from_utf8_lossy(name).into_owned();
                    self.count(name.len())?;
                    if let Some((_, next)) = self.open.last_mut() {
                        *next = name;
                    }
                }
                Some(Event::File { executable, size }) => {
                    let mut file = json!({"type": "regular", "size": size, "narOffset": at});
                    if executable {
                        file["executable"] = Value::Bool(true);
                    }
                    self.put(file);
                }
                Some(Event::Contents(_) | Event::FileEnd) => {}
                Some(Event::Symlink(target)) => {
                    let target = String::from_utf8_lossy(target);
                    self.count(target.len())?;
                    self.put(json!({"type": "symlink", "target": target}));
                }
                Some(Event::DirectoryEnd) => {
                    if let Some((entries, _)) = self.open.pop() {
                        self.put(json!({"type": "directory", "entries": entries}));
                    }
                }
            }
        }
    }

    /// The text of the listing, once all of the NAR was taken.
    #[must_use]
    pub fn text(self) -> Option<String> {
        let root = self.root.filter(|_| self.decoder.is_complete())?;
        Some(json!({"version": 1, "root": root}).to_string())
    }

    fn count(&mut self, text: usize) -> Result<(), ListingError> {
        self.taken = self.taken.saturating_add(text + ENTRY_COST);
        match self.taken > self.max {
            true => Err(ListingError::TooLong { max: self.max }),
            false => Ok(()),
        }
    }

    /// A node is complete.
    fn put(&mut self, node: Value) {
        match self.open.last_mut() {
            Some((entries, name)) => {
                entries.insert(std::mem::take(name), node);
            }
            None => self.root = Some(node),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::nar::{
        directory_end, directory_start, entry_end, entry_start, file_end, file_start, magic,
        symlink,
    };

    /// A directory with a file, a program, a link and a directory, and the offset of the program's contents.
    fn nar() -> (Vec<u8>, usize) {
        let mut nar = Vec::new();
        magic(&mut nar);
        directory_start(&mut nar);
        entry_start(&mut nar, b"a");
        file_start(&mut nar, false, 3);
        nar.extend_from_slice(b"abc");
        file_end(&mut nar, 3);
        entry_end(&mut nar);
        entry_start(&mut nar, b"b");
        file_start(&mut nar, true, 8);
        let at = nar.len();
        nar.extend_from_slice(b"12345678");
        file_end(&mut nar, 8);
        entry_end(&mut nar);
        entry_start(&mut nar, b"c");
        symlink(&mut nar, b"a");
        entry_end(&mut nar);
        entry_start(&mut nar, b"d");
        directory_start(&mut nar);
        directory_end(&mut nar);
        entry_end(&mut nar);
        directory_end(&mut nar);
        (nar, at)
    }

    #[test]
    fn everything_is_listed_however_it_comes() {
        let (nar, at) = nar();
        for step in [1, 7, nar.len()] {
            let mut listing = Listing::new(nar.len() as u64, 10_000);
            let (mut from, mut to) = (0, 0);
            while to < nar.len() {
                to = nar.len().min(to + step);
                from += listing.take(&nar[from..to]).unwrap();
            }
            let text: Value = serde_json::from_str(&listing.text().unwrap()).unwrap();
            let entries = &text["root"]["entries"];
            assert_eq!(text["version"], 1);
            assert_eq!(entries["a"]["size"], 3);
            assert_eq!(entries["a"]["executable"], Value::Null);
            let program =
                json!({"type": "regular", "size": 8, "executable": true, "narOffset": at});
            assert_eq!(entries["b"], program);
            assert_eq!(entries["c"], json!({"type": "symlink", "target": "a"}));
            assert_eq!(entries["d"], json!({"type": "directory", "entries": {}}));
        }
    }

    #[test]
    fn what_is_cut_or_too_long_has_no_listing() {
        let (nar, _) = nar();
        let mut listing = Listing::new(nar.len() as u64, 10_000);
        listing.take(&nar[..nar.len() - 1]).unwrap();
        assert_eq!(listing.text(), None);
        let mut listing = Listing::new(nar.len() as u64, 300);
        assert_eq!(listing.take(&nar), Err(ListingError::TooLong { max: 300 }));
        let mut listing = Listing::new(8, 300);
        assert!(matches!(
            listing.take(&nar),
            Err(ListingError::Malformed(_))
        ));
    }
}
