//! The doors' answers, from an engine; and from the hosts directly, from the same byte, once there is
//! none any more.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncWrite;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::hosts::HostsBackend;
use super::serve_loop::{Backend, DumpError, ServeError};
use super::source::{Reason, Source, Undelivered};
use super::stdio::Splice;
use super::taker::{AsSink, Taker, ToCaller, ToSink};
use crate::meeting::{Client, MeetingError};
use crate::model::{PathInfo, StorePath};
use crate::transfer::progress::{Outcome, Progress, TransferInfo, TransferProgress};
use crate::transfer::{NarSink, Piece, Resume};
use crate::wire::WireError;
use crate::wire::serve::engine::Frame;
use crate::wire::serve::{InfosDecoder, InfosStep, Request, SetDecoder, Version};

/// Of how many paths it is remembered what the engine told of them.
const TOLD: usize = 200_000;

/// How much of a verified NAR may come before its end, in bytes.
const MAX_HELD: usize = 16 << 20;

/// How long an engine may take to read a request. It reads them whatever it is at, and the longest is
/// some megabytes.
const TAKES_WITHIN: Duration = Duration::from_secs(10);

/// Makes what goes on without an engine.
pub type Alone = Box<dyn Fn() -> HostsBackend + Send + Sync>;

/// Answers one connection of a caller through an engine, as long as that lives.
pub struct AttachedBackend {
    state: Mutex<State>,
    alone: Alone,
    progress: Arc<dyn Progress>,
    /// What `dump` writes to, where bytes can be moved there without being looked at.
    splice: Option<Splice>,
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
    Engine(MeetingError),
    /// Nobody wants the rest.
    Caller(io::Error),
    /// No host can deliver it.
    Broken(Undelivered),
}

impl From<MeetingError> for Stop {
    fn from(error: MeetingError) -> Self {
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
        }
    }

    /// To be called before the process ends: waits until the answers that were given without an
    /// engine are on disk.
    pub async fn flush(&self) {
        if let State::Alone(alone) = &*self.state.lock().await {
            alone.flush().await;
        }
    }

    /// From now on without the engine.
    fn go_alone(&self, state: &mut State, error: &MeetingError) -> Arc<HostsBackend> {
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

    async fn deliver(&self, path: &StorePath, taker: &mut dyn Taker) -> Result<(), Undelivered> {
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
                    Err(Stop::Broken(undelivered)) => return Err(undelivered),
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

/// Sends a request. One that lists many paths is more than a socket holds, and an engine that is
/// stopped takes no more.
async fn ask(client: &mut Client, request: &Request) -> Result<(), MeetingError> {
    let sent = timeout(TAKES_WITHIN, client.ask(request)).await;
    sent.unwrap_or(Err(MeetingError::Silent(TAKES_WITHIN)))
}

/// Waits for the reply to a request that has been sent; what users should know goes to the log.
async fn reply(client: &mut Client) -> Result<(), MeetingError> {
    loop {
        match client.frame().await? {
            Frame::Reply => return Ok(()),
            frame => aside(frame)?,
        }
    }
}

/// Frames that may come at any time.
fn aside(frame: Frame) -> Result<(), MeetingError> {
    match frame {
        Frame::Say(level, text) => {
            let level = log::Level::iter().find(|known| *known as u64 == level);
            log::log!(level.unwrap_or(log::Level::Debug), "{text}");
            Ok(())
        }
        Frame::Beat | Frame::From(_) => Ok(()),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(frame: &Frame) -> MeetingError {
    let got = format!("{frame:?}").chars().take(100).collect::<String>();
    WireError::new("frame", "an answer to what was asked", got).into()
}

async fn ask_infos(
    client: &mut Client,
    paths: &[StorePath],
) -> Result<Vec<PathInfo>, MeetingError> {
    let paths = paths.to_vec();
    ask(client, &Request::QueryPathInfos { paths }).await?;
    reply(client).await?;
    let (mut decoder, mut infos) = (InfosDecoder::new(Version::NEWEST), Vec::new());
    loop {
        match decoder.step(client.buffer())? {
            Some(InfosStep::Info(info)) => infos.push(info),
            Some(InfosStep::End) => return Ok(infos),
            None => client.fill().await?,
        }
    }
}

async fn ask_set(client: &mut Client, request: &Request) -> Result<Vec<StorePath>, MeetingError> {
    ask(client, request).await?;
    reply(client).await?;
    let mut decoder = SetDecoder::default();
    loop {
        let path = |bytes: &[u8]| Ok(StorePath::from_bytes(bytes).ok());
        match decoder.step(client.buffer(), path)? {
            Some(paths) => return Ok(paths),
            None => client.fill().await?,
        }
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
            State::Attached { client, .. } => match ask_set(client, &request).await {
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
            State::Attached { client, told } => match ask_infos(client, paths).await {
                Ok(infos) => {
                    for info in &infos {
                        if told.len() < TOLD {
                            told.insert(info.path.clone(), info.clone());
                        }
                    }
                    return Ok(infos);
                }
                Err(error) => self.go_alone(&mut state, &error),
            },
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
            State::Attached { client, .. } => match ask_set(client, &request).await {
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
        let splice = self.splice.as_ref();
        let delivered = self.deliver(path, &mut ToCaller { out, splice }).await;
        delivered.map_err(Undelivered::into_dump_error)
    }
}

#[async_trait]
impl Source for AttachedBackend {
    async fn bring(&self, path: &StorePath, sink: &mut dyn NarSink) -> Result<(), Undelivered> {
        self.deliver(path, &mut ToSink(sink)).await
    }
}

/// One NAR on its way from the engine.
struct Nar<'a> {
    client: &'a mut Client,
    taker: &'a mut dyn Taker,
    watch: &'a dyn TransferProgress,
    /// Verified, and passed on once all of it is here.
    held: Vec<Piece>,
    /// How much was passed on.
    passed: &'a mut Option<Resume>,
}

impl Nar<'_> {
    async fn run(&mut self, path: &StorePath) -> Result<(), Stop> {
        let path = path.clone();
        ask(self.client, &Request::DumpStorePath { path }).await?;
        loop {
            match self.client.frame().await? {
                Frame::Inline(bytes, Some(mark)) => {
                    let len = bytes.len();
                    let piece = Piece::verified(bytes);
                    self.taker.take(piece).await.map_err(Stop::Caller)?;
                    self.passed(len, mark);
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
                Frame::Piped(len, mark) => {
                    self.pass_piped(len).await?;
                    self.passed(len, mark);
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
                frame => aside(frame)?,
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

    fn passed(&mut self, len: usize, mark: crate::transfer::Mark) {
        self.watch.advance(len as u64);
        let at = self.passed.as_ref().map_or(0, |passed| passed.at) + len as u64;
        *self.passed = Some(Resume { at, mark });
    }
}
