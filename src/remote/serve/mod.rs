//! The client of one serve loop on one host: [`connect`] opens it, [`Connection`] asks it. Where the host has our program,
//! [`ExtensionChannel`] asks it for parts of NARs. [`WriteConnection`] is one that writes.

mod extension;
mod handshake;
mod program;
mod requests;
mod write;

use std::collections::HashSet;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

pub(crate) use extension::extension_question;
pub use extension::{ExtensionChannel, FrameReply, open_extension};
pub use handshake::{ConnectOptions, connect};
pub use program::LearntProgram;
pub(crate) use requests::{closure, dump, path_infos, valid_paths};
pub(super) use write::OUTGOING_MAX;
pub use write::{Acknowledgements, WriteConnection, connect_for_writing, lock_valid_paths};

use super::link::{Latency, Link, ReadKind};
use super::{RemoteError, RemoteErrorKind};
use crate::model::{HashPart, PathInfo, StorePath};
use crate::wire::WireError;
use crate::wire::serve::{InfosDecoder, InfosStep, Request, SetDecoder, Unreadable, Version};
use requests::{INFOS_AT_ONCE, path_of_closure, references};

const INFOS_REPLY: &str = "the reply to QueryPathInfos";

/// How old an answer may be that a remote gives from its own cache. `nix-store` keeps each path info
/// that it was asked for, and that there was none, for as long as it runs (`pathInfoCache`, for
/// `narinfo-cache-positive-ttl` and `narinfo-cache-negative-ttl`; seen with Nix 2.8). It answers even
/// QueryValidPaths from there, but keeps nothing of such a question.
const REMOTE_CACHE_MAX_AGE: Duration = Duration::from_secs(5);

/// Most bytes of the references of all infos of one reply: 33 KiB for each path that was asked for.
const REFERENCES_BYTES_MAX: usize = 32 << 20;

/// How many unreadable entries are kept for messages.
const UNREADABLE_KEPT_MAX: usize = 16;

/// One serve loop on one host, after the handshake.
pub struct Connection {
    link: Link,
    version: Version,
    banner: Vec<u8>,
    /// Replies that were requested and not yet read to their end.
    pending_replies: usize,
    /// When a question was asked while no other reply was pending, until its reply begins.
    asked_at: Option<Instant>,
    unreadable: Vec<Unreadable>,
    /// When the remote was first asked something whose answer it caches.
    remote_cache_since: Option<Instant>,
}

impl Connection {
    /// On this link, with that version as long as nothing else is known. No reply is pending.
    fn new(link: Link, version: Version) -> Self {
        Self {
            link,
            version,
            banner: Vec::new(),
            pending_replies: 0,
            asked_at: None,
            unreadable: Vec::new(),
            remote_cache_since: None,
        }
    }

    /// The host, for messages.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.link.host
    }

    /// The version both sides agreed on.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// What the remote printed before the handshake.
    #[must_use]
    pub fn banner(&self) -> &[u8] {
        &self.banner
    }

    /// Whether the next byte belongs to the next request: only then may the connection be used again.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.pending_replies == 0 && self.link.input.is_empty()
    }

    /// Whether the remote has ended the connection (or sent what was not asked for) while it lay
    /// idle. Does not wait.
    #[must_use]
    pub fn is_closed_by_remote(&mut self) -> bool {
        self.link.is_closed_by_remote()
    }

    /// Whether the remote may have cached answers.
    #[must_use]
    pub fn may_cache_answers(&self) -> bool {
        self.remote_cache_since.is_some()
    }

    /// Whether answers of the remote show its store as it was at most a few seconds ago. A connection whose
    /// remote has cached answers for longer is still good for NARs.
    #[must_use]
    pub fn is_up_to_date(&self) -> bool {
        self.remote_cache_since
            .is_none_or(|since| since.elapsed() < REMOTE_CACHE_MAX_AGE)
    }

    /// How quickly it has answered on this connection.
    #[must_use]
    pub fn latency(&self) -> Latency {
        self.link.latency
    }

    /// The unreadable entries that were skipped in replies since the last call, at most 16, to be reported to
    /// the user.
    pub fn take_unreadable(&mut self) -> Vec<Unreadable> {
        std::mem::take(&mut self.unreadable)
    }

    /// Sends a request without waiting. Replies come strictly in the order of the requests, and each has to be
    /// read to its end before the next one.
    pub(crate) fn send(&mut self, request: &Request) {
        if self.is_clean() {
            self.asked_at = Some(Instant::now());
        }
        self.pending_replies += 1;
        self.record_request(request);
        self.link.output.send(request);
    }

    /// Records that the remote caches the answer to a request.
    fn record_request(&mut self, request: &Request) {
        if matches!(
            request,
            Request::QueryPathInfos { .. } | Request::QueryClosure { .. }
        ) {
            self.remote_cache_since.get_or_insert_with(Instant::now);
        }
    }

    /// Reads the reply to [`valid_paths`]: those of `paths` that the remote has, in no particular
    /// order. `paths` are those that were asked for.
    ///
    /// # Errors
    /// As [`Connection::query_path_infos`].
    pub(crate) async fn finish_valid_paths(
        &mut self,
        paths: &[StorePath],
    ) -> Result<Vec<StorePath>, RemoteError> {
        let mut decoder = SetDecoder::default();
        let mut open: HashSet<&StorePath> = paths.iter().collect();
        let mut keep = |bytes: &[u8]| {
            let path = StorePath::from_bytes(bytes).ok();
            match path.filter(|path| open.remove(path)) {
                Some(path) => Ok(Some(path)),
                None => {
                    let got = String::from_utf8_lossy(bytes).into_owned();
                    let want = "a path that was asked for, once";
                    Err(WireError::new("valid path", want, got))
                }
            }
        };
        let doing = "the reply to QueryValidPaths";
        let valid = self.decode(doing, |buf| decoder.step(buf, &mut keep));
        let valid = valid.await?;
        self.finish_reply();
        Ok(valid)
    }

    /// Reads the reply to [`valid_paths`] for [name questions](crate::wire::serve::extension::name_question): the paths
    /// with these hash parts.
    ///
    /// # Errors
    /// As [`Connection::query_path_infos`].
    pub(super) async fn finish_names(
        &mut self,
        hashes: &[HashPart],
    ) -> Result<Vec<StorePath>, RemoteError> {
        let mut decoder = SetDecoder::default();
        let mut keep = |bytes: &[u8]| match StorePath::from_bytes(bytes) {
            Ok(path) if hashes.contains(&HashPart::from(&path)) => Ok(Some(path)),
            _ => {
                let got = String::from_utf8_lossy(bytes).into_owned();
                let want = "a path with a hash part that was asked for";
                Err(WireError::new("name of a path", want, got))
            }
        };
        let doing = "the reply to a question for names";
        let names = self.decode(doing, |buf| decoder.step(buf, &mut keep));
        let names = names.await?;
        self.finish_reply();
        Ok(names)
    }

    /// Infos of those of `paths` that the remote has, in no particular order, each at most once. Unreadable ones
    /// are skipped (see [`Connection::take_unreadable`]).
    ///
    /// # Errors
    /// When the connection breaks, falls silent, or what comes is no proper reply to the question.
    pub async fn query_path_infos(
        &mut self,
        paths: &[StorePath],
    ) -> Result<Vec<PathInfo>, RemoteError> {
        self.start_path_infos(paths);
        self.finish_path_infos(paths).await
    }

    /// Asks for the infos of `paths` without waiting for the reply, which
    /// [`Connection::finish_path_infos`] reads when its turn has come.
    pub fn start_path_infos(&mut self, paths: &[StorePath]) {
        for request in path_infos(paths) {
            self.send(&request);
        }
    }

    /// Reads the reply to a question that was asked by [`Connection::start_path_infos`], or ahead of
    /// the handshake. `paths` are the same.
    ///
    /// # Errors
    /// As [`Connection::query_path_infos`].
    pub async fn finish_path_infos(
        &mut self,
        paths: &[StorePath],
    ) -> Result<Vec<PathInfo>, RemoteError> {
        let mut decoder = InfosDecoder::new(self.version);
        let mut infos = Vec::new();
        for chunk in paths.chunks(INFOS_AT_ONCE) {
            let mut open: HashSet<&StorePath> = chunk.iter().collect();
            let (mut bytes, mut unreadable) = (0, 0);
            loop {
                let info = match self.decode(INFOS_REPLY, |buf| decoder.step(buf)).await? {
                    InfosStep::End => break,
                    InfosStep::Info(info) => info,
                    InfosStep::Unreadable(entry) => {
                        unreadable += 1;
                        if unreadable > chunk.len() {
                            let want = format!("at most {}, as were asked for", chunk.len());
                            let error = WireError::new("infos", want, "more");
                            return Err(self.malformed(INFOS_REPLY, error));
                        }
                        self.record_unreadable(entry);
                        continue;
                    }
                };
                if !open.remove(&info.path) {
                    return Err(self.unsolicited("QueryPathInfos", &info.path));
                }
                bytes += references(&info);
                if bytes > REFERENCES_BYTES_MAX {
                    let want = format!("at most {REFERENCES_BYTES_MAX} bytes");
                    let error = WireError::new("references of all infos", want, "more");
                    return Err(self.malformed(INFOS_REPLY, error));
                }
                infos.push(info);
            }
            self.finish_reply();
        }
        Ok(infos)
    }

    /// `paths` and everything they refer to, as the remote knows it. What is no path of their store is skipped
    /// (see [`Connection::take_unreadable`]).
    ///
    /// # Errors
    /// As [`Connection::query_path_infos`]; [`RemoteErrorKind::Absent`] from a remote that lacks one of
    /// the paths, which ends the connection.
    pub async fn query_closure(
        &mut self,
        paths: &[StorePath],
        include_outputs: bool,
    ) -> Result<Vec<StorePath>, RemoteError> {
        self.start_closure(paths, include_outputs);
        self.finish_closure(paths).await
    }

    /// Asks for a closure without waiting for the reply, which [`Connection::finish_closure`] reads
    /// when its turn has come.
    pub fn start_closure(&mut self, paths: &[StorePath], include_outputs: bool) {
        self.send(&closure(paths, include_outputs));
    }

    /// Reads the reply to a question that was asked by [`Connection::start_closure`], or ahead of
    /// the handshake. `paths` are the same.
    ///
    /// # Errors
    /// As [`Connection::query_closure`].
    pub async fn finish_closure(
        &mut self,
        paths: &[StorePath],
    ) -> Result<Vec<StorePath>, RemoteError> {
        let mut decoder = SetDecoder::default();
        let mut left_out = Vec::new();
        let mut keep = |bytes: &[u8]| {
            let path = path_of_closure(bytes, paths);
            let kept = path.map_err(|unreadable| {
                if left_out.len() < UNREADABLE_KEPT_MAX {
                    left_out.push(unreadable);
                }
            });
            Ok(kept.ok())
        };
        let closure = self
            .decode("the reply to QueryClosure", |buf| {
                decoder.step(buf, &mut keep)
            })
            .await
            .map_err(|error| error.or_absent(paths))?;
        for entry in left_out {
            self.record_unreadable(entry);
        }
        self.finish_reply();
        Ok(closure)
    }

    /// Asks for the NAR of `path`. Its bytes then come through [`Connection::nar_bytes`]. The caller finds its
    /// end by the grammar, and says so by [`Connection::end_dump`].
    pub fn start_dump(&mut self, path: &StorePath) {
        self.send(&dump(path));
    }

    /// The bytes that have come and are not taken yet; to be taken from the front.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.link.input.buffer()
    }

    /// Waits until there is more in [`Connection::buffer`] than now.
    ///
    /// # Errors
    /// When the connection ends, or the remote is silent for too long.
    pub async fn nar_bytes(&mut self) -> Result<(), RemoteError> {
        self.fill("a NAR", ReadKind::Stream).await
    }

    /// The whole NAR has been taken.
    pub fn end_dump(&mut self) {
        self.finish_reply();
    }

    /// A reply has been read to its end.
    fn finish_reply(&mut self) {
        self.pending_replies -= 1;
        self.link.finish_reply();
    }

    async fn decode<T>(
        &mut self,
        doing: &'static str,
        mut step: impl FnMut(&mut BytesMut) -> Result<Option<T>, WireError>,
    ) -> Result<T, RemoteError> {
        loop {
            match step(self.link.input.buffer()) {
                Ok(Some(value)) => return Ok(value),
                Ok(None) => self.fill(doing, ReadKind::Reply).await?,
                Err(source) => return Err(self.malformed(doing, source)),
            }
        }
    }

    fn malformed(&self, doing: &'static str, source: WireError) -> RemoteError {
        self.link.error(RemoteErrorKind::Protocol { doing, source })
    }

    async fn fill(&mut self, doing: &'static str, kind: ReadKind) -> Result<(), RemoteError> {
        self.link.fill(doing, kind).await?;
        if let Some(asked) = self.asked_at.take() {
            self.link.latency.record_exchange(asked.elapsed());
        }
        Ok(())
    }

    /// Keeps an unreadable entry for a message.
    fn record_unreadable(&mut self, entry: Unreadable) {
        if self.unreadable.len() < UNREADABLE_KEPT_MAX {
            self.unreadable.push(entry);
        }
    }

    fn unsolicited(&self, request: &'static str, path: &StorePath) -> RemoteError {
        let path = path.clone();
        RemoteError::new(
            &self.link.host,
            RemoteErrorKind::Unsolicited { request, path },
        )
    }
}
