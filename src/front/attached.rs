//! The doors' answers, from an engine; and from the hosts directly, from the same byte, once there is
//! none any more.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::AsyncWrite;
use tokio::sync::Mutex;

use super::closed::Closed;
use super::engine_replies::{aside, ask, ask_infos, ask_set};
use super::hosts::HostsBackend;
use super::serve_loop::{Backend, DumpError, ServeError};
use super::source::{Reason, Source, Undelivered};
use super::stdio::Splice;
use super::taker::{AsSink, Taker, ToCaller, ToSink};
use crate::ipc::{Client, IpcError};
use crate::model::{PathInfo, StorePath};
use crate::transfer::progress::{Outcome, Progress, TransferInfo, TransferProgress};
use crate::transfer::{NarSink, Piece, ResumePoint};
use crate::wire::WireError;
use crate::wire::serve::Request;
use crate::wire::serve::engine::Frame;

/// Of how many paths it is remembered what the engine told of them.
const TOLD: usize = 200_000;

/// How much of a verified NAR may come before its end, in bytes.
const MAX_HELD: usize = 16 << 20;

/// Gives what brings a path that the engine cannot, from hosts that do not let it in.
pub(super) type More<'a> = &'a (dyn Fn(&[String]) -> Option<Arc<HostsBackend>> + Send + Sync);

/// Makes what goes on without an engine.
pub type Alone = Box<dyn Fn() -> HostsBackend + Send + Sync>;

/// Answers one connection of a caller through an engine, as long as that lives.
pub struct AttachedBackend {
    state: Mutex<State>,
    alone: Alone,
    progress: Arc<dyn Progress>,
    /// What `dump` writes to, where bytes can be moved there without being looked at.
    splice: Option<Splice>,
    /// Hosts that do not let the engine in.
    closed: Closed,
}

enum State {
    Attached {
        client: Box<Client>,
        /// What the caller was told: that NAR is delivered and no other.
        told: HashMap<StorePath, PathInfo>,
    },
    Alone(Arc<HostsBackend>),
}

/// Why a NAR did not come from the engine.
enum Stop {
    /// The engine is to blame.
    Engine(IpcError),
    /// Nobody wants the rest.
    Caller(io::Error),
    /// No host can deliver it.
    Broken(Undelivered),
}

impl From<IpcError> for Stop {
    fn from(error: IpcError) -> Self {
        Self::Engine(error)
    }
}

impl AttachedBackend {
    /// Answers through `client`; what `alone` makes goes on when that fails. `progress` shows the
    /// transfers. What `splice` leads to is what [`Backend::dump`] is going to write to.
    #[must_use]
    pub fn new(
        client: Client,
        alone: Alone,
        progress: Arc<dyn Progress>,
        splice: Option<Splice>,
    ) -> Self {
        Self {
            state: Mutex::new(State::Attached {
                client: Box::new(client),
                told: HashMap::new(),
            }),
            alone,
            progress,
            splice,
            closed: Closed::default(),
        }
    }

    /// For a caller with a login of its own: what the engine says of hosts that do not let it in is not
    /// told to the user, and [`closed`](Self::closed) gives them.
    #[must_use]
    pub(super) fn with_own_login(mut self) -> Self {
        self.closed = Closed::for_own_login();
        self
    }

    /// The hosts that do not let the engine in, as far as it has said.
    pub(super) fn closed(&self) -> Vec<String> {
        self.closed.hosts()
    }

    /// To be called before the process ends: waits until the answers that were given without an
    /// engine are on disk.
    pub async fn flush(&self) {
        if let State::Alone(alone) = &*self.state.lock().await {
            alone.flush().await;
        }
    }

    /// From now on without the engine.
    fn go_alone(&self, state: &mut State, error: &IpcError) -> Arc<HostsBackend> {
        log::debug!("goes on without the engine: {error}");
        let alone = Arc::new((self.alone)());
        let before = std::mem::replace(state, State::Alone(alone.clone()));
        if let State::Attached { told, .. } = before {
            for info in told.into_values() {
                alone.was_told(info);
            }
        }
        alone
    }

    /// Where the engine cannot deliver it, `more` may be able to.
    async fn deliver(
        &self,
        path: &StorePath,
        taker: &mut dyn Taker,
        more: More<'_>,
    ) -> Result<(), Undelivered> {
        let mut state = self.state.lock().await;
        let mut resume = None;
        let alone = match &mut *state {
            State::Alone(alone) => alone.clone(),
            State::Attached { client, told } => {
                let watch = self.progress.start(&TransferInfo {
                    path: path.clone(),
                    host: String::new(),
                    total: told.get(path).map_or(0, |info| info.nar_size),
                });
                let mut nar = Nar {
                    client,
                    taker,
                    watch: &*watch,
                    closed: &self.closed,
                    held: Vec::new(),
                    passed: &mut resume,
                };
                let result = nar.run(path).await;
                watch.finish(match &result {
                    Ok(()) => Outcome::Done,
                    Err(Stop::Engine(_)) => Outcome::GoesOn,
                    Err(_) => Outcome::Failed,
                });
                match result {
                    Ok(()) => return Ok(()),
                    Err(Stop::Broken(undelivered)) => {
                        let Some(more) = more(&self.closed()) else {
                            return Err(undelivered);
                        };
                        log::debug!("{path} comes by another login: {}", undelivered.reason);
                        if let Some(info) = told.get(path) {
                            more.was_told(info.clone());
                        }
                        more
                    }
                    Err(Stop::Caller(error)) => {
                        return Err(Undelivered {
                            reason: Reason::Sink(error),
                            rest: Default::default(),
                        });
                    }
                    Err(Stop::Engine(error)) => self.go_alone(&mut state, &error),
                }
            }
        };
        drop(state);
        alone.bring_rest(path, resume, &mut AsSink(taker)).await
    }
}

#[async_trait]
impl Backend for AttachedBackend {
    async fn valid_paths(&self, paths: &[StorePath]) -> Result<Vec<StorePath>, ServeError> {
        let request = Request::QueryValidPaths {
            lock: false,
            substitute: false,
            paths: paths.to_vec(),
        };
        let mut state = self.state.lock().await;
        let alone = match &mut *state {
            State::Alone(alone) => alone.clone(),
            State::Attached { client, .. } => match ask_set(client, &request, &self.closed).await {
                Ok(valid) => return Ok(valid),
                Err(error) => self.go_alone(&mut state, &error),
            },
        };
        drop(state);
        alone.valid_paths(paths).await
    }

    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<PathInfo>, ServeError> {
        let mut state = self.state.lock().await;
        let alone = match &mut *state {
            State::Alone(alone) => alone.clone(),
            State::Attached { client, told } => {
                match ask_infos(client, paths, &self.closed).await {
                    Ok(infos) => {
                        for info in &infos {
                            if told.len() < TOLD {
                                told.insert(info.path.clone(), info.clone());
                            }
                        }
                        return Ok(infos);
                    }
                    Err(error) => self.go_alone(&mut state, &error),
                }
            }
        };
        drop(state);
        alone.path_infos(paths).await
    }

    async fn closure(
        &self,
        paths: &[StorePath],
        include_outputs: bool,
    ) -> Result<Vec<StorePath>, ServeError> {
        let request = Request::QueryClosure {
            include_outputs,
            paths: paths.to_vec(),
        };
        let mut state = self.state.lock().await;
        let alone = match &mut *state {
            State::Alone(alone) => alone.clone(),
            State::Attached { client, .. } => match ask_set(client, &request, &self.closed).await {
                Ok(closure) => return Ok(closure),
                Err(error) => self.go_alone(&mut state, &error),
            },
        };
        drop(state);
        alone.closure(paths, include_outputs).await
    }

    async fn dump(
        &self,
        path: &StorePath,
        out: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), DumpError> {
        self.dump_or(path, out, &|_| None).await
    }
}

impl AttachedBackend {
    /// As [`Backend::dump`]; where the engine cannot deliver it, what `more` gives goes on.
    pub(super) async fn dump_or(
        &self,
        path: &StorePath,
        out: &mut (dyn AsyncWrite + Send + Unpin),
        more: More<'_>,
    ) -> Result<(), DumpError> {
        let splice = self.splice.as_ref();
        let delivered = self
            .deliver(path, &mut ToCaller { out, splice }, more)
            .await;
        delivered.map_err(Undelivered::into_dump_error)
    }

    /// As [`Source::bring`], in the same way.
    pub(super) async fn bring_or(
        &self,
        path: &StorePath,
        sink: &mut dyn NarSink,
        more: More<'_>,
    ) -> Result<(), Undelivered> {
        self.deliver(path, &mut ToSink(sink), more).await
    }
}

#[async_trait]
impl Source for AttachedBackend {
    async fn bring(&self, path: &StorePath, sink: &mut dyn NarSink) -> Result<(), Undelivered> {
        self.bring_or(path, sink, &|_| None).await
    }
}

/// One NAR on its way from the engine.
struct Nar<'a> {
    client: &'a mut Client,
    taker: &'a mut dyn Taker,
    watch: &'a dyn TransferProgress,
    closed: &'a Closed,
    /// Verified, and passed on once all of it is here.
    held: Vec<Piece>,
    /// How much was passed on.
    passed: &'a mut Option<ResumePoint>,
}

impl Nar<'_> {
    async fn run(&mut self, path: &StorePath) -> Result<(), Stop> {
        let path = path.clone();
        ask(self.client, &Request::DumpStorePath { path }).await?;
        loop {
            match self.client.frame().await? {
                Frame::Inline(bytes, Some(checkpoint)) => {
                    let len = bytes.len();
                    let piece = Piece::verified(bytes);
                    self.taker.take(piece).await.map_err(Stop::Caller)?;
                    self.passed(len, checkpoint);
                }
                Frame::Inline(bytes, None) => {
                    self.watch.advance(bytes.len() as u64);
                    self.held.push(Piece::verified(bytes));
                    let held = self.held.iter().map(|piece| piece.bytes.len());
                    if held.sum::<usize>() > MAX_HELD {
                        let error = WireError::new("verified NAR", "its end", "more of it");
                        return Err(Stop::Engine(error.into()));
                    }
                }
                Frame::Piped(len, checkpoint) => {
                    self.pass_piped(len).await?;
                    self.passed(len, checkpoint);
                }
                Frame::Last(len) => {
                    self.pass_held().await?;
                    self.watch.advance(len as u64);
                    return self.pass_piped(len).await;
                }
                Frame::Done => return self.pass_held().await,
                Frame::Broken(reason, rest) => {
                    let reason = Reason::Engine(reason);
                    return Err(Stop::Broken(Undelivered { reason, rest }));
                }
                Frame::From(host) => self.watch.set_host(&host),
                frame => aside(frame, self.closed)?,
            }
        }
    }

    async fn pass_piped(&mut self, len: usize) -> Result<(), Stop> {
        let pipe = self.client.pipe()?;
        self.taker.take_from(pipe, len).await.map_err(Stop::Caller)
    }

    async fn pass_held(&mut self) -> Result<(), Stop> {
        for piece in std::mem::take(&mut self.held) {
            self.taker.take(piece).await.map_err(Stop::Caller)?;
        }
        Ok(())
    }

    fn passed(&mut self, len: usize, checkpoint: crate::transfer::Checkpoint) {
        self.watch.advance(len as u64);
        let at = self.passed.as_ref().map_or(0, |passed| passed.at) + len as u64;
        *self.passed = Some(ResumePoint { at, checkpoint });
    }
}
