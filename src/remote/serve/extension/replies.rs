//! The replies that are outstanding, as they come.

use std::sync::atomic::Ordering;

use super::body::Body;
use super::{DIGEST, ExtensionChannel, FRAME, LISTING, NARS, SEGMENT};
use crate::model::StorePath;
use crate::remote::RemoteError;
use crate::remote::link::{ReadKind, readable};
use crate::wire::WireError;
use crate::wire::serve::extension::{ReplyDecoder, ReplyStep, Status, SurveyedPath};

/// A reply that is outstanding.
pub(super) struct PendingReply {
    pub(super) kind: Kind,
    pub(super) path: StorePath,
    pub(super) decoder: ReplyDecoder,
    pub(super) body: Body,
    /// Of a survey, what was asked.
    pub(super) surveyed: Vec<SurveyedPath>,
    /// How often the host has said that it is at work.
    pub(super) busy: u64,
    /// How it ended, where it has and what came before was given out first.
    pub(super) end: Option<(Status, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Listing,
    Segment,
    Digest,
    /// A delta, a survey, or parts of several NARs.
    Frame,
    Nars,
}

impl Kind {
    pub(super) fn doing(self) -> &'static str {
        match self {
            Self::Listing => LISTING,
            Self::Segment => SEGMENT,
            Self::Digest => DIGEST,
            Self::Frame => FRAME,
            Self::Nars => NARS,
        }
    }
}

/// How far a reply is.
pub(super) enum Advance {
    /// Something of its body can be given out.
    More,
    /// It has come whole, and why it is none, if it is not.
    End(Box<PendingReply>, Result<(), String>),
    /// The oldest outstanding reply is of another kind, or there is none.
    OtherIsDue,
}

impl ExtensionChannel {
    /// The oldest outstanding reply once it has come whole, and why it is none, if it is not; `None` when another one is due.
    pub(super) async fn reply(
        &mut self,
        kind: Kind,
    ) -> Result<Option<(PendingReply, Result<(), String>)>, RemoteError> {
        match self.advance(kind, false).await? {
            Advance::End(reply, end) => Ok(Some((*reply, end))),
            Advance::More | Advance::OtherIsDue => Ok(None),
        }
    }

    /// Takes in what comes of the oldest outstanding reply: all of it, or in pieces as soon as there is something of its
    /// body to be given out.
    pub(super) async fn advance(
        &mut self,
        kind: Kind,
        in_pieces: bool,
    ) -> Result<Advance, RemoteError> {
        let doing = kind.doing();
        if self.broken {
            return Err(self.after_failure(doing));
        }
        loop {
            let oldest = self.pending.front_mut();
            let Some(oldest) = oldest.filter(|oldest| oldest.kind == kind) else {
                return Ok(Advance::OtherIsDue);
            };
            let link = &mut self.connection.link;
            let step = match oldest.end.take() {
                Some((status, reason)) => Step::End(status, reason),
                None => match oldest.step(link.input.buffer()) {
                    Ok(step) => step,
                    Err(source) => return Err(self.malformed(doing, source)),
                },
            };
            let has_more = in_pieces && oldest.body.has_more();
            match step {
                Step::End(status, reason) if has_more => {
                    oldest.end = Some((status, reason));
                    return Ok(Advance::More);
                }
                Step::NeedMore if has_more => return Ok(Advance::More),
                Step::NeedMore => {
                    let signs = oldest.body.len() + oldest.busy;
                    self.received.store(signs, Ordering::Relaxed);
                    let filled = link.fill(doing, ReadKind::Stream).await;
                    self.broken = filled.is_err();
                    filled?;
                }
                // It is not silent, and not slow.
                Step::Busy => {
                    link.finish_reply();
                    oldest.busy += 1;
                }
                Step::End(status, reason) => {
                    link.finish_reply();
                    self.received.store(0, Ordering::Relaxed);
                    let end = match status {
                        Status::Done => Ok(()),
                        _ => Err(readable(reason.as_bytes())),
                    };
                    return Ok(match self.pending.pop_front() {
                        Some(reply) => Advance::End(Box::new(reply), end),
                        None => Advance::OtherIsDue,
                    });
                }
            }
        }
    }
}

enum Step {
    NeedMore,
    Busy,
    End(Status, String),
}

impl PendingReply {
    /// Takes what is there.
    fn step(&mut self, buf: &mut bytes::BytesMut) -> Result<Step, WireError> {
        loop {
            match self.decoder.step(buf)? {
                None => return Ok(Step::NeedMore),
                Some(ReplyStep::Body(bytes)) => self.body.put(&bytes)?,
                Some(ReplyStep::Busy) => return Ok(Step::Busy),
                Some(ReplyStep::End(status, reason)) => return Ok(Step::End(status, reason)),
            }
        }
    }
}
