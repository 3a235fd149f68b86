//! Completing an archive that breaks off, in step with its grammar.
//!
//! No error can be expressed in reply to DumpStorePath. A well-formed NAR with the wrong content
//! costs the caller that one path (its hash does not match); anything else costs it the
//! connection. So whatever was passed on is always completed.
//!
//! Not all callers check the hash: `nix store dump-path` passes on what it gets and ends with status 0. So an
//! archive of which nothing was passed on becomes a directory with one file, whose name and text say what it is.

use super::decode::{Decoder, DecoderState};
use super::{directory_end, directory_start, entry_end, entry_start, file_end, file_start, magic};
use crate::model::NarHash;

/// The name of the one file in an archive that takes the place of a path which could not be delivered.
pub const NOTICE: &str = "NOT-DELIVERED-by-ssh-substituter.txt";

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

/// The state of an archive that has been passed on in part: all that another process needs to go on with it,
/// or to complete it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// SHA-256 of all bytes up to here.
    pub hash: NarHash,
    /// What makes a well-formed archive of them (with the wrong content).
    pub rest: Completion,
}

impl Decoder {
    /// What completes the archive behind the last byte that was stepped over. Where a node is due,
    /// a regular file with the `reason` takes its place, and the whole archive's is a directory with such a
    /// file, named [`NOTICE`]. Nothing when it is complete already.
    #[must_use]
    pub fn completion(&self, reason: &str) -> Completion {
        let mut done = Completion::default();
        let mut open = self.open.len();
        match self.state {
            DecoderState::Done => return done,
            DecoderState::Start => {
                magic(&mut done.head);
                directory_start(&mut done.head);
                entry_start(&mut done.head, NOTICE.as_bytes());
                notice(&mut done.head, reason);
                entry_end(&mut done.head);
                directory_end(&mut done.head);
            }
            DecoderState::Node => notice(&mut done.head, reason),
            DecoderState::Contents { size, left } => {
                done.fill = left;
                file_end(&mut done.tail, size);
            }
            DecoderState::EntryEnd => {}
            DecoderState::Directory => {
                directory_end(&mut done.tail);
                open -= 1;
            }
        }
        done.close_directories(open);
        done
    }
}

/// A small complete archive with the `reason`: a directory with a file, named [`NOTICE`].
#[must_use]
pub fn failing_nar(reason: &str) -> Vec<u8> {
    Decoder::new(u64::MAX).completion(reason).head
}

/// A regular file with the reason; empty when there is none.
fn notice(out: &mut Vec<u8>, reason: &str) {
    let text = match reason {
        "" => String::new(),
        reason => format!(
            "This is not what was asked for: ssh-substituter could not deliver the store path.\n\n\
             Reason: {reason}\n\n\
             An answer to a request for a store path has no room for an error, so this file stands in its place. Nix\n\
             refuses it where it checks hashes (when it substitutes or copies). 'nix store dump-path' checks none and\n\
             ends with status 0.\n"
        ),
    };
    file_start(out, false, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
    file_end(out, text.len() as u64);
}
