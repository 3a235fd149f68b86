//! Replies of the extension: pieces of a body, and how it ended.

use bytes::{Buf, BytesMut};

use super::{MAX_BUSY, MAX_PIECE, MAX_REASON};
use crate::wire::{Cursor, Stop, WireError, put_string, put_u64, take};

pub(super) const BUSY: u64 = u64::MAX;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// All of the body has come.
    Done,
    /// The path is not valid there (any more), or its files are gone.
    Absent,
    /// It cannot be had in parts, or not this part.
    Unfit,
    /// It could not be read.
    Failed,
}

impl Status {
    pub(super) const ALL: [Self; 4] = [Self::Done, Self::Absent, Self::Unfit, Self::Failed];
}

/// Appends the head of a piece of `len` bytes (1 to [`MAX_PIECE`]), which have to follow.
pub fn put_piece_head(out: &mut Vec<u8>, len: usize) {
    put_u64(out, len as u64);
}

/// Appends that the server is at work.
pub fn put_busy(out: &mut Vec<u8>) {
    put_u64(out, BUSY);
}

/// Ends a reply. A long `reason` is cut.
pub fn put_end(out: &mut Vec<u8>, status: Status, reason: &str) {
    put_u64(out, 0);
    put_u64(out, status as u64);
    let mut len = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(len) {
        len -= 1;
    }
    put_string(out, &reason.as_bytes()[..len]);
}

/// A step through a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyStep {
    /// These bytes of the body.
    Body(BytesMut),
    /// The server is at work.
    Busy,
    /// That was all. The reason is empty where it is done.
    End(Status, String),
}

/// Decodes one reply.
#[derive(Debug)]
pub struct ReplyDecoder {
    /// Bytes of the present piece that have not come.
    left: usize,
    /// How often it may still be busy.
    busy: u32,
}

impl ReplyDecoder {
    /// At the beginning of a reply that [`may be busy`](super::Request::may_be_busy).
    #[must_use]
    pub fn new(may_be_busy: bool) -> Self {
        let busy = if may_be_busy { MAX_BUSY } else { 0 };
        Self { left: 0, busy }
    }

    /// Takes what is there, part of a piece too. `None` when it needs more.
    ///
    /// # Errors
    /// When a limit is exceeded, padding is not zero, or there is no such status.
    pub fn step(&mut self, buf: &mut BytesMut) -> Result<Option<ReplyStep>, WireError> {
        if self.left == 0 {
            let busy = self.busy;
            match take(buf, |c| head(c, busy))? {
                None => return Ok(None),
                Some(Head::Busy) => {
                    self.busy -= 1;
                    return Ok(Some(ReplyStep::Busy));
                }
                Some(Head::End(status, reason)) => {
                    return Ok(Some(ReplyStep::End(status, reason)));
                }
                Some(Head::Piece(len)) => self.left = len,
            }
        }
        if buf.is_empty() {
            return Ok(None);
        }
        let body = buf.split_to(self.left.min(buf.remaining()));
        self.left -= body.len();
        Ok(Some(ReplyStep::Body(body)))
    }
}

enum Head {
    Piece(usize),
    Busy,
    End(Status, String),
}

fn head(c: &mut Cursor<'_>, busy: u32) -> Result<Head, Stop> {
    let number = c.u64()?;
    if number == BUSY && busy > 0 {
        return Ok(Head::Busy);
    }
    if number > 0 {
        let len = usize::try_from(number).ok();
        let Some(len) = len.filter(|len| *len <= MAX_PIECE) else {
            let want = format!("0 to {MAX_PIECE}");
            return Err(WireError::new("length of a piece", want, number).into());
        };
        return Ok(Head::Piece(len));
    }
    let number = c.u64()?;
    let status = usize::try_from(number)
        .ok()
        .and_then(|index| Status::ALL.get(index).copied())
        .ok_or_else(|| WireError::new("status of a reply", "0 to 3", number))?;
    let reason = c.string("reason of a reply", MAX_REASON)?;
    Ok(Head::End(
        status,
        String::from_utf8_lossy(reason).into_owned(),
    ))
}
