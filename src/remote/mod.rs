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
mod shell;
mod stderr;
mod verdict;

use std::collections::HashSet;
use tokio::time::Instant;

use bytes::BytesMut;

pub use error::RemoteError;
pub use handshake::{ConnectOptions, connect};
pub use latency::Latency;
pub use shell::{NoShell, Shell, ShellError, ShellOptions, open_shell};
pub use stderr::readable;
pub use verdict::Verdict;

use crate::model::{PathInfo, StorePath};
use crate::wire::WireError;
pub use crate::wire::serve::Request;
use crate::wire::serve::{InfosDecoder, InfosStep, SetDecoder, Version};
use link::Link;
use pace::Kind;

/// What is being read at first.
pub(crate) const HANDSHAKE: &str = "the handshake";

const INFOS: &str = "the reply to QueryPathInfos";

/// Most bytes of the references of all infos of one reply: 33 KiB for each path that was asked for.
const INFOS_BYTES: usize = 32 << 20;

/// Paths in one QueryPathInfos: large enough that the round trip is paid rarely, small enough that
/// request and reply stay far below every limit.
const INFOS_AT_ONCE: usize = 1000;

/// One serve loop on one host, after the handshake.
pub struct Connection {
    link: Link,
    version: Version,
    banner: Vec<u8>,
    /// Replies that were asked for and have not been read to their end.
    owed: usize,
    /// When a question was asked while nothing else was owed, until its answer begins.
    asked: Option<Instant>,
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

    /// How quickly it has answered on this connection.
    #[must_use]
    pub fn latency(&self) -> Latency {
        self.link.latency
    }

    /// Asks without waiting. Replies come strictly in the order of the requests, and each has to be
    /// read to its end before the next one.
    pub(crate) fn send(&mut self, request: &Request) {
        if self.is_clean() {
            self.asked = Some(Instant::now());
        }
        self.owed += 1;
        self.link.output.send(request);
    }

    /// Infos of those of `paths` that the remote has; in no particular order, each at most once.
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
            let mut bytes = 0;
            while let InfosStep::Info(info) = self.decode(INFOS, |buf| decoder.step(buf)).await? {
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

    /// `paths` and everything they refer to, as the remote tells it.
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
        let store = paths.first().map_or("/", StorePath::store_dir);
        let keep = |bytes: &[u8]| match StorePath::from_bytes(bytes) {
            Ok(path) if paths.iter().any(|p| p.store_dir() == path.store_dir()) => Ok(Some(path)),
            Ok(path) => {
                let want = format!("a path in {store}");
                Err(WireError::new("path of a closure", want, path))
            }
            Err(error) => Err(WireError::new("store path", "STORE-DIR/HASH-NAME", error)),
        };
        let closure = self
            .decode("the reply to QueryClosure", |buf| decoder.step(buf, keep))
            .await
            .map_err(|error| error.or_absent(paths))?;
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

    fn not_asked(&self, request: &'static str, path: &StorePath) -> RemoteError {
        RemoteError::NotAsked {
            host: self.link.host.clone(),
            request,
            path: path.clone(),
        }
    }
}

/// The requests that ask for the infos of `paths`.
pub(crate) fn path_infos(paths: &[StorePath]) -> impl Iterator<Item = Request> {
    let request = |chunk: &[StorePath]| Request::QueryPathInfos {
        paths: chunk.to_vec(),
    };
    paths.chunks(INFOS_AT_ONCE).map(request)
}

/// Bytes of the references of an info.
fn references(info: &PathInfo) -> usize {
    let lengths = info.references.iter().map(|path| path.as_str().len());
    lengths.sum()
}

/// The request for a closure.
pub(crate) fn closure(paths: &[StorePath], include_outputs: bool) -> Request {
    Request::QueryClosure {
        include_outputs,
        paths: paths.to_vec(),
    }
}

/// The request for a NAR.
pub(crate) fn dump(path: &StorePath) -> Request {
    Request::DumpStorePath { path: path.clone() }
}
