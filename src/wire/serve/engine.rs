//! The extension of the serve protocol that front ends and their engine speak with each other.
//!
//! ```text
//! version = extension * 65536 + version of the serve protocol, in both hellos
//! ```
//!
//! Nix's own numbers stay below 65536, and both sides go on with the smaller one of each: a client
//! that knows nothing of the extension is served as by any `nix-store --serve`.
//!
//! Requests are those of the serve protocol, and these:
//!
//! ```text
//! op      request                         reply
//! 0x5301  Attach fingerprint caller       Attached or Refused; with it comes, beside the bytes,
//!                                         the writing end of a pipe for NARs (SCM_RIGHTS)
//! 0x5302  Status                          Text, JSON
//! 0x5303  Stop                            Text; then the engine ends
//! 0x5304  Forget host                     Text, once what is remembered of that host, as a text that names
//!                                         it, or of all hosts (an empty text) is forgotten
//! 0x5305  Push urgent                     Text; the queue of paths to push is looked at
//! ```
//!
//! All that the engine sends are frames, a number and what belongs to it. A reply is *Reply* and
//! then what the serve protocol has there; a NAR comes in pieces:
//!
//! ```text
//!  1 Attached
//!  2 Refused   text          this engine is not for this client
//!  3 Text      text
//!  4 Reply                   the serve protocol's reply follows
//!  5 Log       level text    a message for the user; may come before any other frame
//!  6 Heartbeat               the engine is at work
//!  7 Source    text          the host that the NAR comes from by now
//!  8 Inline    length checkpoint  so many bytes of the NAR follow, without padding
//!  9 Piped     length checkpoint  so many bytes of it are in the pipe, all of them
//! 10 Last      length        the same; they are the whole rest, and verified
//! 11 Done                    that was the NAR; it is verified
//! 12 Broken    text rest     the NAR cannot be delivered; `rest` completes it
//! 13 Closed    host text     this host does not let the engine in, as far as is known; for the user is
//!                            the text, where it is not empty. Without a host: the text is about all of
//!                            them. May come before any other frame
//!
//! checkpoint = hash rest     after this piece: SHA-256 (32 bytes) of the NAR so far, and what
//!                            completes it. An empty hash: the NAR is verified whole
//! rest = head fill tail      a string, a number of zero bytes, a string
//! ```
//!
//! | what | limit |
//! | --- | --- |
//! | a piece | 1 MiB |
//! | a text; a status | 64 KiB; 16 MiB |
//! | head, tail | 64 KiB |

use bytes::{Buf, Bytes, BytesMut};

use super::{Incoming, RequestDecoder, Version};
use crate::model::NarHash;
use crate::wire::nar::{Checkpoint, Completion};
use crate::wire::{Cursor, Stop, WireError, put_string, put_u64, take};

/// The version of the extension.
pub const EXTENSION: u64 = 2;
/// Longest piece of a NAR, in bytes.
pub const MAX_PIECE: usize = 1 << 20;
/// Longest text for people, in bytes.
pub const MAX_TEXT: usize = 64 << 10;
/// Longest status, in bytes.
pub const MAX_STATUS: usize = 16 << 20;
/// Longest beginning and end of what completes a NAR, in bytes.
const MAX_REST: usize = 64 << 10;
/// Length of a fingerprint, in bytes: hexadecimal digits of a SHA-256.
const FINGERPRINT: usize = 64;

const ATTACH: u64 = 0x5301;
const STATUS: u64 = 0x5302;
const STOP: u64 = 0x5303;
const FORGET: u64 = 0x5304;
const PUSH: u64 = 0x5305;

/// The number in a hello: this version, with the extension or without.
#[must_use]
pub fn hello_number(version: Version, extension: u64) -> u64 {
    version.number() | extension << 16
}

/// The serve protocol's number and the extension's in the number of a hello.
#[must_use]
pub fn split_number(number: u64) -> (u64, u64) {
    (number & 0xffff, number >> 16)
}

/// What a front end sends to its engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Asks to be served.
    Attach {
        /// Of the program and its configuration.
        fingerprint: String,
        /// All clients with the same number are one caller: the id of the process that started
        /// them.
        caller: u64,
    },
    /// Asks for the status.
    Status,
    /// Asks it to end.
    Stop,
    /// Asks it to forget what is remembered of this host, or of all with `None`.
    Forget(Option<String>),
    /// Tells it that something was added to the queue of paths to push, and whether that is urgent.
    Push(bool),
    /// A request of the serve protocol.
    Serve(Incoming),
}

/// Appends a call to attach.
pub fn put_attach(out: &mut Vec<u8>, fingerprint: &str, caller: u64) {
    put_u64(out, ATTACH);
    put_string(out, fingerprint.as_bytes());
    put_u64(out, caller);
}

/// Appends a call for the status.
pub fn put_status(out: &mut Vec<u8>) {
    put_u64(out, STATUS);
}

/// Appends a call to end.
pub fn put_stop(out: &mut Vec<u8>) {
    put_u64(out, STOP);
}

/// Appends a call to forget what is remembered of a host, or of all. What names a host is shorter than
/// [`MAX_TEXT`].
pub fn put_forget(out: &mut Vec<u8>, host: Option<&str>) {
    put_u64(out, FORGET);
    put_string(out, host.unwrap_or_default().as_bytes());
}

/// Appends a call to send what is queued to be pushed.
pub fn put_push(out: &mut Vec<u8>, is_urgent: bool) {
    put_u64(out, PUSH);
    put_u64(out, u64::from(is_urgent));
}

/// Decodes calls, one after the other.
#[derive(Debug, Default)]
pub struct CallDecoder {
    requests: RequestDecoder,
}

impl CallDecoder {
    /// Takes what is complete in `buf`; a call once it has come whole.
    ///
    /// # Errors
    /// When a limit is exceeded or padding is not zero.
    pub fn step(&mut self, buf: &mut BytesMut) -> Result<Option<Call>, WireError> {
        if self.requests.has_begun() || !is_own(buf) {
            return Ok(self.requests.step(buf)?.map(Call::Serve));
        }
        take(buf, own_call)
    }
}

fn is_own(buf: &[u8]) -> bool {
    let number = Cursor::new(buf).u64();
    matches!(number, Ok(ATTACH | STATUS | STOP | FORGET | PUSH))
}

fn own_call(c: &mut Cursor<'_>) -> Result<Call, Stop> {
    Ok(match c.u64()? {
        ATTACH => Call::Attach {
            fingerprint: c.text("fingerprint", FINGERPRINT)?.to_owned(),
            caller: c.u64()?,
        },
        STATUS => Call::Status,
        FORGET => {
            let host = c.text("name of a host", MAX_TEXT)?.to_owned();
            Call::Forget(Some(host).filter(|host| !host.is_empty()))
        }
        PUSH => match c.u64()? {
            0 => Call::Push(false),
            1 => Call::Push(true),
            other => return Err(WireError::new("urgency of a push", "0 or 1", other).into()),
        },
        _ => Call::Stop,
    })
}

/// What an engine sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The client is served from here on.
    Attached,
    /// The client is not served, for this reason.
    Refused(String),
    /// An answer for people.
    Text(String),
    /// The serve protocol's reply follows.
    Reply,
    /// A message for the user: the level as the crate `log` numbers it, and the text.
    Log(u64, String),
    /// The engine is at work.
    Heartbeat,
    /// The host that the NAR comes from.
    Source(String),
    /// A piece of a NAR. `None`: the whole of it is verified.
    Inline(Bytes, Option<Checkpoint>),
    /// So many bytes of a NAR are in the pipe.
    Piped(usize, Checkpoint),
    /// The rest of a NAR is in the pipe, so many bytes. All of it is verified.
    Last(usize),
    /// The NAR has come whole.
    Done,
    /// The NAR cannot be delivered: the reason, and what completes the archive.
    Broken(String, Completion),
    /// The engine's own login is of no use at this host (at all hosts where it is empty); what the user
    /// should know of it, or nothing.
    Closed(String, String),
}

impl Frame {
    /// Appends the frame.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_u64(out, self.number());
        match self {
            Self::Attached | Self::Reply | Self::Heartbeat | Self::Done => {}
            Self::Refused(text) | Self::Text(text) | Self::Source(text) => {
                put_string(out, text.as_bytes());
            }
            Self::Log(level, text) => {
                put_u64(out, *level);
                put_string(out, text.as_bytes());
            }
            Self::Closed(host, text) => {
                put_string(out, host.as_bytes());
                put_string(out, text.as_bytes());
            }
            Self::Inline(bytes, checkpoint) => {
                put_u64(out, bytes.len() as u64);
                match checkpoint {
                    Some(checkpoint) => put_checkpoint(out, checkpoint),
                    None => put_string(out, b""),
                }
                out.extend_from_slice(bytes);
            }
            Self::Piped(len, checkpoint) => {
                put_u64(out, *len as u64);
                put_checkpoint(out, checkpoint);
            }
            Self::Last(len) => put_u64(out, *len as u64),
            Self::Broken(reason, rest) => {
                put_string(out, reason.as_bytes());
                put_rest(out, rest);
            }
        }
    }

    fn number(&self) -> u64 {
        match self {
            Self::Attached => 1,
            Self::Refused(_) => 2,
            Self::Text(_) => 3,
            Self::Reply => 4,
            Self::Log(..) => 5,
            Self::Heartbeat => 6,
            Self::Source(_) => 7,
            Self::Inline(..) => 8,
            Self::Piped(..) => 9,
            Self::Last(_) => 10,
            Self::Done => 11,
            Self::Broken(..) => 12,
            Self::Closed(..) => 13,
        }
    }

    /// Takes the next frame off the buffer; `None` when it has not come whole.
    ///
    /// # Errors
    /// When a limit is exceeded, padding is not zero, or there is no such frame.
    pub fn take(buf: &mut BytesMut) -> Result<Option<Self>, WireError> {
        let mut cursor = Cursor::new(buf);
        match frame(&mut cursor) {
            Ok((Self::Inline(_, checkpoint), len)) => {
                let start = cursor.position();
                if buf.len() - start < len {
                    return Ok(None);
                }
                buf.advance(start);
                Ok(Some(Self::Inline(buf.split_to(len).freeze(), checkpoint)))
            }
            Ok((frame, _)) => {
                let read = cursor.position();
                buf.advance(read);
                Ok(Some(frame))
            }
            Err(Stop::NeedMore) => Ok(None),
            Err(Stop::Error(error)) => Err(error),
        }
    }
}

/// A frame and the length of the bytes that follow it.
fn frame(c: &mut Cursor<'_>) -> Result<(Frame, usize), Stop> {
    let frame = match c.u64()? {
        1 => Frame::Attached,
        2 => Frame::Refused(text(c, MAX_TEXT)?),
        3 => Frame::Text(text(c, MAX_STATUS)?),
        4 => Frame::Reply,
        5 => Frame::Log(c.u64()?, text(c, MAX_TEXT)?),
        6 => Frame::Heartbeat,
        7 => Frame::Source(text(c, MAX_TEXT)?),
        8 => {
            let len = piece(c)?;
            return Ok((Frame::Inline(Bytes::new(), checkpoint(c)?), len));
        }
        9 => {
            let (len, checkpoint) = (piece(c)?, checkpoint(c)?);
            let none = || WireError::new("checkpoint of a piece", "a SHA-256", "none");
            Frame::Piped(len, checkpoint.ok_or_else(none)?)
        }
        10 => Frame::Last(piece(c)?),
        11 => Frame::Done,
        12 => Frame::Broken(text(c, MAX_TEXT)?, rest(c)?),
        13 => Frame::Closed(text(c, MAX_TEXT)?, text(c, MAX_TEXT)?),
        other => return Err(WireError::new("frame", "a number from 1 to 13", other).into()),
    };
    Ok((frame, 0))
}

fn text(c: &mut Cursor<'_>, max: usize) -> Result<String, Stop> {
    Ok(c.text("text of a frame", max)?.to_owned())
}

fn piece(c: &mut Cursor<'_>) -> Result<usize, Stop> {
    c.length("length of a piece", MAX_PIECE)
}

fn checkpoint(c: &mut Cursor<'_>) -> Result<Option<Checkpoint>, Stop> {
    let hash = c.string("hash of a checkpoint", 32)?;
    if hash.is_empty() {
        return Ok(None);
    }
    let wrong = |_| WireError::new("hash of a checkpoint", "32 bytes", hash.len());
    let hash = NarHash::new(hash.try_into().map_err(wrong)?);
    let rest = rest(c)?;
    Ok(Some(Checkpoint { hash, rest }))
}

fn rest(c: &mut Cursor<'_>) -> Result<Completion, Stop> {
    Ok(Completion {
        head: c.string("what completes a NAR", MAX_REST)?.to_vec(),
        fill: c.u64()?,
        tail: c.string("what completes a NAR", MAX_REST)?.to_vec(),
    })
}

fn put_checkpoint(out: &mut Vec<u8>, checkpoint: &Checkpoint) {
    put_string(out, checkpoint.hash.as_bytes());
    put_rest(out, &checkpoint.rest);
}

fn put_rest(out: &mut Vec<u8>, rest: &Completion) {
    put_string(out, &rest.head);
    put_u64(out, rest.fill);
    put_string(out, &rest.tail);
}

#[cfg(test)]
mod tests;
