//! Dumps of several paths, one behind the other, as one frame: the requests to `nix-store --serve` are printed into it, and
//! what it replies goes through `zstd`.
//!
//! ```text
//! printf 'HELLO REQUEST …' | nix-store --serve | zstd      frame( hello NAR … ) trailer
//! ```
//!
//! Asked for a path that is not valid, `nix-store` ends: the frame then ends behind the NAR before.

use bytes::{Buf, BytesMut};

use super::command::{self, TRAILER, trailer_of, trailer_start};
use super::{PendingReply, SEGMENT, Shell};
use crate::config::host::Host;
use crate::model::StorePath;
use crate::remote::inflater::Inflater;
use crate::remote::link::hello;
use crate::remote::{RemoteError, RemoteErrorKind};
use crate::wire::serve::{Request, SERVER_MAGIC};

/// Magic and version of the server, in bytes.
const HELLO_LEN: usize = 16;

/// A run of dumps that is outstanding.
pub(super) struct Dumps {
    pub(super) first: StorePath,
    trailer: String,
    inflater: Inflater,
    /// The server's hello, as far as it has come.
    hello: Vec<u8>,
    /// Bytes of NARs that may still come.
    due: u64,
}

/// What has come of a run of dumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DumpsStep {
    /// More of the NARs is in the buffer.
    More {
        /// How many bytes came over the link for it.
        wire_len: u64,
    },
    /// All of them have come, or the host has no more of them.
    End,
}

/// The outcome of a step.
enum Taken {
    NeedMore,
    Some,
    End,
    Bad(&'static str),
}

impl Dumps {
    /// Takes from the front of `input` what it holds of NARs into `out`. Gives how many bytes were taken.
    fn step(&mut self, input: &[u8], nonce: &str, out: &mut BytesMut) -> (usize, Taken) {
        // The last bytes may be the trailer of a command that fell short.
        let sure = input.len().saturating_sub(TRAILER);
        let (hello, due) = (&mut self.hello, &mut self.due);
        let before = out.len();
        let mut is_longer = false;
        let used = self.inflater.step(&input[..sure], |mut bytes| {
            let missing = HELLO_LEN - hello.len();
            let (head, rest) = bytes.split_at(missing.min(bytes.len()));
            hello.extend_from_slice(head);
            bytes = rest;
            let len = usize::try_from(*due).map_or(bytes.len(), |due| due.min(bytes.len()));
            out.extend_from_slice(&bytes[..len]);
            *due -= len as u64;
            is_longer = len < bytes.len();
            !is_longer
        });
        let used = match used {
            Err(_) => return (0, Taken::Bad("what came is no frame of zstd's")),
            Ok(_) if is_longer => return (0, Taken::Bad("more came than the paths have")),
            Ok(used) => used,
        };
        let is_server = self.hello.starts_with(&SERVER_MAGIC.to_le_bytes());
        if self.hello.len() == HELLO_LEN && !is_server {
            return (used, Taken::Bad("what came is no reply of nix-store"));
        }
        if out.len() > before {
            return (used, Taken::Some);
        }
        let Some(last) = input[used..].get(..TRAILER) else {
            return (used, Taken::NeedMore);
        };
        let taken = match (
            self.inflater.has_ended(),
            &last[..TRAILER - 1],
            last[TRAILER - 1],
        ) {
            (true, end, b'0') if end == self.trailer.as_bytes() => {
                return (used + TRAILER, Taken::End);
            }
            (true, ..) => Taken::Bad("its zstd failed"),
            (false, end, _) if end.starts_with(trailer_start(nonce).as_bytes()) => {
                Taken::Bad("its zstd ended early")
            }
            (false, ..) => Taken::NeedMore,
        };
        (used, taken)
    }
}

/// The words that start the serve program of `host`, which may write or not.
pub(super) fn serve_words(host: &Host, writes: bool) -> Vec<&str> {
    let program = host.remote_program.iter().map(String::as_str);
    let mut words: Vec<&str> = program.collect();
    words.push("--serve");
    if writes {
        words.push("--write");
    }
    if let Some(store) = &host.remote_store {
        words.extend(["--store", store]);
    }
    words
}

impl Shell {
    /// Asks the store of `host` for the dumps of these paths, of `len` bytes together, as one frame of level `level`;
    /// they then come by [`Shell::dumps`], in their turn among what was asked for.
    pub fn request_dumps(&mut self, host: &Host, paths: &[StorePath], len: u64, level: u8) {
        let Some(first) = paths.first() else {
            return;
        };
        let mut requests = hello();
        for path in paths {
            let path = path.clone();
            Request::DumpStorePath { path }.put(&mut requests);
        }
        let number = self.number();
        let line = command::dumps(&requests, &serve_words(host, false), level, number);
        self.pending.push_back(PendingReply::Dumps(Box::new(Dumps {
            first: first.clone(),
            trailer: trailer_of(&self.nonce, number),
            inflater: Inflater::default(),
            hello: Vec::new(),
            due: len,
        })));
        self.link.output.send_bytes(line);
    }

    /// Appends what comes next of the oldest run of dumps. May be dropped and called again.
    ///
    /// # Errors
    /// When the link breaks or falls silent, or what comes is not that ([`RemoteErrorKind::BadFrame`]). The shell is
    /// unusable then.
    pub async fn dumps(&mut self, out: &mut BytesMut) -> Result<DumpsStep, RemoteError> {
        if let Some(error) = self.earlier_failure() {
            return Err(error);
        }
        let mut wire_len = 0;
        loop {
            let Some(PendingReply::Dumps(oldest)) = self.pending.front_mut() else {
                return Ok(DumpsStep::End);
            };
            let (used, taken) = oldest.step(self.link.input.peek(), &self.nonce, out);
            self.link.input.buffer().advance(used);
            wire_len += used as u64;
            match taken {
                Taken::NeedMore => self.fill(SEGMENT).await?,
                Taken::Some => return Ok(DumpsStep::More { wire_len }),
                Taken::End => {
                    self.link.finish_reply();
                    self.pending.pop_front();
                    return Ok(DumpsStep::End);
                }
                Taken::Bad(what) => {
                    self.broken = true;
                    return Err(self.link.error(RemoteErrorKind::BadFrame(what)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::command::trailer;
    use super::*;
    use crate::remote::inflater::frame;
    use crate::wire::put_u64;

    const NONCE: &str = "0123456789abcdef0123456789abcdef";

    /// Feeds it, so many bytes at a time; what came of it.
    fn feed(output: &[u8], due: u64, piece: usize) -> Result<(BytesMut, usize), &'static str> {
        let mut dumps = Dumps {
            first: StorePath::parse("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-a").unwrap(),
            trailer: trailer_of(NONCE, 3),
            inflater: Inflater::default(),
            hello: Vec::new(),
            due,
        };
        let (mut at, mut end, mut out) = (0, 0, BytesMut::new());
        loop {
            let (used, taken) = dumps.step(&output[at..end], NONCE, &mut out);
            at += used;
            match taken {
                Taken::End => return Ok((out, output.len() - at)),
                Taken::Bad(what) => return Err(what),
                Taken::NeedMore if end == output.len() => return Err("too little"),
                Taken::NeedMore => end = (end + piece).min(output.len()),
                Taken::Some => {}
            }
        }
    }

    fn reply(nars: &[u8]) -> Vec<u8> {
        let mut reply = Vec::new();
        put_u64(&mut reply, SERVER_MAGIC);
        put_u64(&mut reply, 0x207);
        [&reply, nars].concat()
    }

    #[test]
    fn nars_come_up_to_the_trailer_and_no_further() {
        let nars = vec![7; 300_000];
        for (nars, status) in [(&nars[..], 0), (&nars[..5], 0), (b"", 0)] {
            let end = trailer(NONCE, 3, status);
            let output = [&frame(&reply(nars)), end.as_bytes(), b"next"].concat();
            for piece in [1, 45, 46, 47, 100_000] {
                let (out, left) = feed(&output, 300_000, piece).unwrap();
                assert!(out == nars, "{} {piece}", nars.len());
                assert!(left <= 4);
            }
        }
    }

    #[test]
    fn what_is_wrong_shows() {
        let ok = trailer(NONCE, 3, 0);
        let of = |frame: &[u8], end: &str| [frame, end.as_bytes()].concat();
        let whole = frame(&reply(b"nar"));
        for (output, expected) in [
            (of(&whole, &trailer(NONCE, 3, 1)), "its zstd failed"),
            (of(&whole, &trailer(NONCE, 4, 0)), "its zstd failed"),
            (of(&whole[..9], &ok), "its zstd ended early"),
            (
                of(&frame(&reply(b"nar+")), &ok),
                "more came than the paths have",
            ),
            (
                of(&frame(&[1; 16]), &ok),
                "what came is no reply of nix-store",
            ),
            (of(&[1; 99], &ok), "what came is no frame of zstd's"),
        ] {
            for piece in [1, 46, 1000] {
                assert_eq!(feed(&output, 3, piece).unwrap_err(), expected);
            }
        }
    }
}
