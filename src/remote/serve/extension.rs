//! The client of the extension by which a host with our program sends parts of NARs.
//!
//! As a shell, without one: listings, segments and digests come in the order in which they were asked for, and several may be
//! asked for ahead. What the host cannot read costs that reply only.

mod body;
mod differences;
mod nars;
mod replies;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::requests::valid_paths;
use super::{ConnectOptions, Connection, connect};
use crate::config::host::Host;
use crate::model::{HashPart, StorePath};
use crate::remote::link::Latency;
use crate::remote::{ReceivedSegment, RemoteError, RemoteErrorKind};
use crate::transport::Transport;
use crate::wire::WireError;
use crate::wire::nar::layout::{Layout, Segment};
use crate::wire::serve::Request as ServeRequest;
use crate::wire::serve::extension::{
    MAX_LISTING, ReplyDecoder, Request, feature_path, name_question, parse_listing,
};
use body::{Body, Length};
pub use differences::FrameReply;
use replies::{Kind, PendingReply};

const LISTING: &str = "a listing of files";
const SEGMENT: &str = "a part of a NAR";
const DIGEST: &str = "the digest of a part of a NAR";
const FRAME: &str = "the differences of a path";
const NARS: &str = "NARs";

/// The level at which listings come: names compress well, and quickly.
const LISTING_LEVEL: u8 = 3;

/// Length of a SHA-256 in bytes.
const DIGEST_LEN: u64 = 32;

/// The question whether a host's program speaks the extension; `store_dir` is that of its store. `None` where that is no store
/// directory.
pub(crate) fn extension_question(store_dir: &str) -> Option<(StorePath, ServeRequest)> {
    let feature = feature_path(store_dir)?;
    let request = valid_paths(std::slice::from_ref(&feature));
    Some((feature, request))
}

/// A connection whose host speaks the extension.
pub struct ExtensionChannel {
    connection: Connection,
    /// The replies that are outstanding, in order.
    pending: VecDeque<PendingReply>,
    broken: bool,
    received: Arc<AtomicU64>,
}

/// Connects to `host` as [`connect`] does, for parts of NARs. `None` where the host's program does not speak the extension;
/// `store_dir` is that of its store.
///
/// # Errors
/// As [`connect`], and when there is no answer.
pub async fn open_extension(
    transport: &dyn Transport,
    host: &Host,
    options: &ConnectOptions<'_>,
    store_dir: &str,
) -> Result<Option<ExtensionChannel>, RemoteError> {
    let Some((feature, question)) = extension_question(store_dir) else {
        return Ok(None);
    };
    let connection = connect(transport, host, options, &[question]).await?;
    Ok(connection.finish_extension_question(&feature).await?.ok())
}

impl Connection {
    /// Reads the answer to an [`extension_question`] that was sent on this connection: the connection for parts of NARs where
    /// the host speaks the extension, and as it was where it does not.
    ///
    /// # Errors
    /// When the connection ends, falls silent, or what comes is no answer.
    pub(crate) async fn finish_extension_question(
        mut self,
        feature: &StorePath,
    ) -> Result<Result<ExtensionChannel, Self>, RemoteError> {
        let valid = self
            .finish_valid_paths(std::slice::from_ref(feature))
            .await?;
        Ok(match valid.is_empty() {
            true => Err(self),
            false => Ok(ExtensionChannel {
                connection: self,
                pending: VecDeque::new(),
                broken: false,
                received: Arc::default(),
            }),
        })
    }

    /// Whether the host's program speaks the extension by which large paths come in chunks without a shell. The connection
    /// can be used further.
    ///
    /// # Errors
    /// When the connection ends, falls silent, or what comes is no answer.
    pub async fn has_extension(&mut self, store_dir: &str) -> Result<bool, RemoteError> {
        let Some((feature, request)) = extension_question(store_dir) else {
            return Ok(false);
        };
        self.send(&request);
        let valid = self.finish_valid_paths(std::slice::from_ref(&feature));
        Ok(!valid.await?.is_empty())
    }
}

impl ExtensionChannel {
    /// The host, for messages.
    #[must_use]
    pub fn host(&self) -> &str {
        self.connection.host()
    }

    /// How quickly it has answered.
    #[must_use]
    pub fn latency(&self) -> Latency {
        self.connection.latency()
    }

    /// Whether no reply is outstanding and nothing went wrong: only then may it be used by others.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        !self.broken && self.pending.is_empty() && self.connection.is_clean()
    }

    /// Whether the remote has ended it while it lay idle. Does not wait.
    #[must_use]
    pub fn is_closed_by_remote(&mut self) -> bool {
        self.connection.is_closed_by_remote()
    }

    /// How many segments and digests are outstanding.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.pending.len()
    }

    /// How many bytes have come of the oldest outstanding segment; to look at while [`ExtensionChannel::segment`] waits. Of what the
    /// host works on, such as frames, each word that it does counts as one more.
    #[must_use]
    pub fn meter(&self) -> Arc<AtomicU64> {
        self.received.clone()
    }

    /// Lists the files of `path`. `None` when it is not there, cannot be listed whole, or holds what no NAR can; and when
    /// replies are outstanding.
    ///
    /// # Errors
    /// When the connection breaks, falls silent, or what comes is no listing. It is unusable then.
    pub async fn list(&mut self, path: &StorePath) -> Result<Option<Layout>, RemoteError> {
        if self.broken || !self.pending.is_empty() {
            return Ok(None);
        }
        let level = LISTING_LEVEL;
        let path = path.clone();
        self.send(
            (Kind::Listing, &path),
            &Request::List {
                path: path.clone(),
                level,
            },
            Body::new(Length::AtMost(MAX_LISTING as u64), level),
        );
        let Some((reply, end)) = self.reply(Kind::Listing).await? else {
            return Ok(None);
        };
        if let Err(reason) = end {
            log::debug!("{}: {} cannot be listed: {reason}", self.host(), reply.path);
            return Ok(None);
        }
        let path = reply.path;
        let listing = match reply.body.finish() {
            Ok(listing) => listing,
            Err(source) => return Err(self.malformed(LISTING, source)),
        };
        let layout = parse_listing(path.clone(), &listing);
        if let Err(error) = &layout {
            log::debug!("{}: {path} is not read in chunks: {error}", self.host());
        }
        Ok(layout.ok())
    }

    /// The valid paths that have one of these hash parts. Nothing when replies are outstanding.
    ///
    /// # Errors
    /// When the connection breaks, falls silent, or what comes is no answer. It is unusable then.
    pub async fn names(
        &mut self,
        store_dir: &str,
        hashes: &[HashPart],
    ) -> Result<Vec<StorePath>, RemoteError> {
        if self.broken || !self.pending.is_empty() || hashes.is_empty() {
            return Ok(Vec::new());
        }
        let questions = hashes.iter().copied();
        let questions: Vec<StorePath> = questions
            .filter_map(|hash| name_question(store_dir, hash))
            .collect();
        self.broken = true;
        self.connection.send(&valid_paths(&questions));
        let names = self.connection.finish_names(hashes).await?;
        self.broken = false;
        Ok(names)
    }

    /// Asks for a segment, which then comes by [`ExtensionChannel::segment`]; with a `level` (of zstd) compressed on its way.
    /// Several may be asked for ahead; they come in the same order.
    pub fn request(&mut self, segment: &Segment, level: Option<u8>) {
        let level = level.unwrap_or_default();
        let request = Request::Chunk {
            path: segment.layout().path().clone(),
            start: segment.start(),
            len: segment.len(),
            level,
        };
        let body = Body::new(Length::Exactly(segment.len()), level);
        self.send((Kind::Segment, segment.layout().path()), &request, body);
    }

    /// Asks for the SHA-256 of a segment as the host has it, framing included. It then comes by
    /// [`ExtensionChannel::digest`], in its turn.
    pub fn request_digest(&mut self, segment: &Segment) {
        self.request_digest_of(segment, false);
    }

    /// As [`ExtensionChannel::request_digest`], but of what comes from files alone.
    pub fn request_contents_digest(&mut self, segment: &Segment) {
        self.request_digest_of(segment, true);
    }

    fn request_digest_of(&mut self, segment: &Segment, contents_only: bool) {
        let part = (segment.start(), segment.len());
        self.request_digest_at(segment.layout().path(), part, contents_only);
    }

    /// As [`ExtensionChannel::request_digest`], of so many bytes of the NAR of `path` from that offset on.
    pub(in crate::remote) fn request_part_digest(&mut self, path: &StorePath, part: (u64, u64)) {
        self.request_digest_at(path, part, false);
    }

    fn request_digest_at(
        &mut self,
        path: &StorePath,
        (start, len): (u64, u64),
        contents_only: bool,
    ) {
        let request = Request::Digest {
            path: path.clone(),
            start,
            len,
            contents_only,
        };
        let body = Body::new(Length::Exactly(DIGEST_LEN), 0);
        self.send((Kind::Digest, path), &request, body);
    }

    /// The next outstanding segment. Empty when there is none. May be dropped and called again.
    ///
    /// # Errors
    /// When the connection breaks or falls silent, or what comes is not such a part; it is unusable then. When the host cannot
    /// read the part (any more): [`RemoteErrorKind::NotAsListed`].
    pub async fn segment(&mut self) -> Result<ReceivedSegment, RemoteError> {
        let Some((reply, end)) = self.reply(Kind::Segment).await? else {
            return Ok(ReceivedSegment {
                bytes: bytes::Bytes::new(),
                wire_len: 0,
            });
        };
        if let Err(reason) = end {
            let kind = RemoteErrorKind::NotAsListed {
                path: reply.path,
                what: "its host cannot send this part",
            };
            return Err(RemoteError::new(self.host(), kind).with_stderr(reason));
        }
        let wire_len = reply.body.wire_len();
        match reply.body.finish() {
            Ok(bytes) => Ok(ReceivedSegment {
                bytes: bytes.into(),
                wire_len,
            }),
            Err(source) => Err(self.malformed(SEGMENT, source)),
        }
    }

    /// The next outstanding digest. `None` when there is none, or when the host could not read the files; the connection can
    /// be used further then.
    ///
    /// # Errors
    /// When the connection breaks or falls silent, or what comes is no digest. It is unusable then.
    pub async fn digest(&mut self) -> Result<Option<[u8; 32]>, RemoteError> {
        let Some((reply, end)) = self.reply(Kind::Digest).await? else {
            return Ok(None);
        };
        if let Err(reason) = end {
            log::debug!("{}: no digest of {}: {reason}", self.host(), reply.path);
            return Ok(None);
        }
        match reply.body.finish() {
            Ok(digest) => Ok(digest.try_into().ok()),
            Err(source) => Err(self.malformed(DIGEST, source)),
        }
    }

    fn send(&mut self, (kind, path): (Kind, &StorePath), request: &Request, body: Body) {
        let mut bytes = Vec::new();
        request.put(&mut bytes);
        self.pending.push_back(PendingReply {
            kind,
            path: path.clone(),
            decoder: ReplyDecoder::new(request.may_be_busy()),
            body,
            surveyed: Vec::new(),
            busy: 0,
            end: None,
        });
        self.connection.link.output.send_bytes(bytes);
    }

    fn after_failure(&mut self, doing: &'static str) -> RemoteError {
        let source = WireError::new("reply", "one after a reply", "one after a failure");
        self.malformed(doing, source)
    }

    fn malformed(&mut self, doing: &'static str, source: WireError) -> RemoteError {
        self.broken = true;
        self.connection.malformed(doing, source)
    }
}
