//! A typed client of one serve connection, and of one shell.
//!
//! Requests are written ahead, replies come in order. A connection that broke, or whose reply was
//! not read to its end, is poisoned and never used again: what would come next on it is unknown.

mod error;
mod handshake;
mod io;
mod latency;
mod link;
mod pace;
mod program;
mod requests;
mod shell;
mod stderr;
mod verdict;

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use bytes::BytesMut;

pub use error::RemoteError;
pub use handshake::{ConnectOptions, connect};
pub use latency::Latency;
pub use program::LearntProgram;
pub(crate) use requests::{closure, dump, path_infos, valid_paths};
pub use shell::{NoShell, Shell, ShellError, ShellOptions, open_shell};
pub use stderr::readable;
pub use verdict::Verdict;

use crate::model::{PathInfo, StorePath};
use crate::wire::WireError;
use crate::wire::serve::{InfosDecoder, InfosStep, SetDecoder, Version};
pub use crate::wire::serve::{Request, Unreadable};
use link::Link;
use pace::Kind;
use requests::{INFOS_AT_ONCE, path_of_closure, references};

/// What is being read at first.
pub(crate) const HANDSHAKE: &str = "the handshake";

const INFOS: &str = "the reply to QueryPathInfos";

/// How old an answer may be that a remote gives from its own memory. `nix-store` keeps each path info
/// that it was asked for, and that there was none, for as long as it runs (`pathInfoCache`, for
/// `narinfo-cache-positive-ttl` and `narinfo-cache-negative-ttl`; seen with Nix 2.8). It answers even
/// QueryValidPaths from there, but keeps nothing of such a question.
const REMOTE_MEMORY: Duration = Duration::from_secs(5);

/// Most bytes of the references of all infos of one reply: 33 KiB for each path that was asked for.
const INFOS_BYTES: usize = 32 << 20;

/// How many parts of replies that cannot be read are kept for messages.
const UNREADABLE: usize = 16;

/// One serve loop on one host, after the handshake.
pub struct Connection {
    link: Link,
    version: Version,
    banner: Vec<u8>,
    /// Replies that were asked for and have not been read to their end.
    owed: usize,
    /// When a question was asked while nothing else was owed, until its answer begins.
    asked: Option<Instant>,
    unreadable: Vec<Unreadable>,
    /// When the remote was first asked something of which it keeps the answer.
    keeps_since: Option<Instant>,
}

impl Connection {
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

    /// Whether the next byte that comes belongs to the next request: only then may the connection
    /// be used again.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.owed == 0 && self.link.input.is_empty()
    }

    /// Whether the remote has ended the connection (or sent what nobody asked for) while it lay
    /// idle. Does not wait.
    #[must_use]
    pub fn is_gone(&mut self) -> bool {
        self.link.is_gone()
    }

    /// Whether the remote may have kept answers for itself.
    #[must_use]
    pub fn keeps_answers(&self) -> bool {
        self.keeps_since.is_some()
    }

    /// Whether an answer of the remote tells how its store is now, or was a few seconds ago. One that
    /// has kept answers for longer than that is still good for NARs.
    #[must_use]
    pub fn tells_the_present(&self) -> bool {
        self.keeps_since
            .is_none_or(|since| since.elapsed() < REMOTE_MEMORY)
    }

    /// How quickly it has answered on this connection.
    #[must_use]
    pub fn latency(&self) -> Latency {
        self.link.latency
    }

    /// What could not be read in replies since the last call and was left out of them, at most 16 of
    /// it: for the user to be told.
    pub fn take_unreadable(&mut self) -> Vec<Unreadable> {
        std::mem::take(&mut self.unreadable)
    }

    /// Asks without waiting. Replies come strictly in the order of the requests, and each has to be
    /// read to its end before the next one.
    pub(crate) fn send(&mut self, request: &Request) {
        if self.is_clean() {
            self.asked = Some(Instant::now());
        }
        self.owed += 1;
        self.note(request);
        self.link.output.send(request);
    }

    /// Takes note of what the remote keeps once it is asked this.
    fn note(&mut self, request: &Request) {
        if matches!(
            request,
            Request::QueryPathInfos { .. } | Request::QueryClosure { .. }
        ) {
            self.keeps_since.get_or_insert_with(Instant::now);
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
        self.came_whole();
        Ok(valid)
    }

    /// Infos of those of `paths` that the remote has; in no particular order, each at most once. One
    /// that cannot be read is left out (see [`Connection::take_unreadable`]).
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
                let info = match self.decode(INFOS, |buf| decoder.step(buf)).await? {
                    InfosStep::End => break,
                    InfosStep::Info(info) => info,
                    InfosStep::Unreadable(entry) => {
                        unreadable += 1;
                        if unreadable > chunk.len() {
                            let want = format!("at most {}, as were asked for", chunk.len());
                            let error = WireError::new("infos", want, "more");
                            return Err(self.malformed(INFOS, error));
                        }
                        self.left_out(entry);
                        continue;
                    }
                };
                if !open.remove(&info.path) {
                    return Err(self.not_asked("QueryPathInfos", &info.path));
                }
                bytes += references(&info);
                if bytes > INFOS_BYTES {
                    let want = format!("at most {INFOS_BYTES} bytes");
                    let error = WireError::new("references of all infos", want, "more");
                    return Err(self.malformed(INFOS, error));
                }
                infos.push(info);
            }
            self.came_whole();
        }
        Ok(infos)
    }

    /// `paths` and everything they refer to, as the remote tells it. What is no path of their store is
    /// left out (see [`Connection::take_unreadable`]).
    ///
    /// # Errors
    /// As [`Connection::query_path_infos`]; [`RemoteError::Absent`] from a remote that lacks one of
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
                if left_out.len() < UNREADABLE {
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
            self.left_out(entry);
        }
        self.came_whole();
        Ok(closure)
    }

    /// Asks for the NAR of `path`. Its bytes then come through [`Connection::nar_bytes`]; where it
    /// ends is for the caller to find out by its grammar and to tell by
    /// [`Connection::end_dump`].
    pub fn start_dump(&mut self, path: &StorePath) {
        self.send(&dump(path));
    }

    /// The bytes that have come and are not taken yet. Take from the front.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.link.input.buffer()
    }

    /// Waits until there is more in [`Connection::buffer`] than now.
    ///
    /// # Errors
    /// When the connection ends or nothing comes for the time of silence that is allowed.
    pub async fn nar_bytes(&mut self) -> Result<(), RemoteError> {
        self.fill("a NAR", Kind::Stream).await
    }

    /// The NAR that was asked for has been taken whole.
    pub fn end_dump(&mut self) {
        self.came_whole();
    }

    /// A reply has been read to its end.
    fn came_whole(&mut self) {
        self.owed -= 1;
        self.link.came_whole();
    }

    async fn decode<T>(
        &mut self,
        doing: &'static str,
        mut step: impl FnMut(&mut BytesMut) -> Result<Option<T>, WireError>,
    ) -> Result<T, RemoteError> {
        loop {
            match step(self.link.input.buffer()) {
                Ok(Some(value)) => return Ok(value),
                Ok(None) => self.fill(doing, Kind::Reply).await?,
                Err(source) => return Err(self.malformed(doing, source)),
            }
        }
    }

    fn malformed(&self, doing: &'static str, source: WireError) -> RemoteError {
        RemoteError::Protocol {
            host: self.link.host.clone(),
            doing,
            source,
            stderr: self.link.stderr.tail(),
        }
    }

    async fn fill(&mut self, doing: &'static str, kind: Kind) -> Result<(), RemoteError> {
        self.link.fill(doing, kind).await?;
        if let Some(asked) = self.asked.take() {
            self.link.latency.answered(asked.elapsed());
        }
        Ok(())
    }

    /// Takes note of what cannot be read.
    fn left_out(&mut self, entry: Unreadable) {
        if self.unreadable.len() < UNREADABLE {
            self.unreadable.push(entry);
        }
    }

    fn not_asked(&self, request: &'static str, path: &StorePath) -> RemoteError {
        RemoteError::NotAsked {
            host: self.link.host.clone(),
            request,
            path: path.clone(),
        }
    }
}
