//! Completing an archive that breaks off, in step with its grammar.
//!
//! No error can be expressed in reply to DumpStorePath. A well-formed NAR with the wrong content
//! costs the caller that one path (its hash does not match); anything else costs it the
//! connection. So whatever was passed on is always completed.

use super::decode::{Decoder, State};
use super::{directory_end, entry_end, file_end, file_start, magic};
use crate::model::NarHash;

/// The bytes that complete an archive: `head`, `fill` zero bytes, `tail`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Completion {
    /// What comes first.
    pub head: Vec<u8>,
    /// How many zero bytes fill the contents that are open.
    pub fill: u64,
    /// What closes all that is open.
    pub tail: Vec<u8>,
}

impl Completion {
    /// Closes so many directories, in each of which an entry is open.
    pub fn close_directories(&mut self, open: usize) {
        for _ in 0..open {
            entry_end(&mut self.tail);
            directory_end(&mut self.tail);
        }
    }
}

/// The state of an archive that has been passed on in part: all that is needed for somebody else
/// to go on with it, or to complete it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// SHA-256 of all bytes up to here.
    pub hash: NarHash,
    /// What makes a well-formed archive of them (with the wrong content).
    pub rest: Completion,
}

impl Decoder {
    /// What completes the archive behind the last byte that was stepped over. Where a node is due,
    /// a regular file that holds `reason` takes its place. Nothing when it is complete already.
    #[must_use]
    pub fn completion(&self, reason: &str) -> Completion {
        let mut done = Completion::default();
        let mut open = self.open.len();
        match self.state {
            State::Done => return done,
            State::Start => {
                magic(&mut done.head);
                file(&mut done.head, reason);
            }
            State::Node => file(&mut done.head, reason),
            State::Contents { size, left } => {
                done.fill = left;
                file_end(&mut done.tail, size);
            }
            State::EntryEnd => {}
            State::Directory => {
                directory_end(&mut done.tail);
                open -= 1;
            }
        }
        done.close_directories(open);
        done
    }
}

/// A small complete archive: a regular file that holds `reason`.
#[must_use]
pub fn failing_nar(reason: &str) -> Vec<u8> {
    Decoder::new(u64::MAX).completion(reason).head
}

fn file(out: &mut Vec<u8>, reason: &str) {
    file_start(out, false, reason.len() as u64);
    out.extend_from_slice(reason.as_bytes());
    file_end(out, reason.len() as u64);
}
