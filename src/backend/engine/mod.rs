//! Answers from an engine; and from the hosts directly, from the same byte, once there is no engine any more.
//!
//! ```text
//! Attached -- the engine ends, is silent or sends nonsense --> Direct
//! ```

mod nar;
mod refusing_hosts;
mod replies;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::hosts::{HostsBackend, MAX_ADVERTISED};
use super::{Backend, BackendError, DeliveryError, Undelivered};
use crate::ipc::{Client, IpcError};
use crate::model::{PathInfo, StorePath};
use crate::transfer::NarSink;
use crate::transfer::progress::{Outcome, Progress, TransferInfo};
use crate::wire::serve::Request;
use nar::{NarFault, NarFromEngine};
use refusing_hosts::RefusingHosts;
use replies::{query_infos, query_set};

/// Makes the backend that answers without an engine.
pub type MakeDirect = Box<dyn Fn() -> HostsBackend + Send + Sync>;

/// Gives the backend for a path that the engine cannot deliver, from these hosts, which do not let the engine in.
pub(super) type ForRefusingHosts<'a> =
    &'a (dyn Fn(&[String]) -> Option<Arc<HostsBackend>> + Send + Sync);

/// Answers one connection of a caller through an engine, as long as that runs.
pub struct EngineBackend {
    mode: Mutex<Mode>,
    make_direct: MakeDirect,
    progress: Arc<dyn Progress>,
    refusing_hosts: RefusingHosts,
}

enum Mode {
    Attached(Attached),
    Direct(Arc<HostsBackend>),
}

struct Attached {
    client: Box<Client>,
    /// The path infos that the caller got: that NAR is delivered and no other.
    advertised: HashMap<StorePath, PathInfo>,
}

impl EngineBackend {
    /// Answers through `client`, and with what `make_direct` makes when that fails. `progress` shows the transfers.
    #[must_use]
    pub fn new(client: Client, make_direct: MakeDirect, progress: Arc<dyn Progress>) -> Self {
        Self {
            mode: Mutex::new(Mode::Attached(Attached {
                client: Box::new(client),
                advertised: HashMap::new(),
            })),
            make_direct,
            progress,
            refusing_hosts: RefusingHosts::default(),
        }
    }

    /// For a caller with a login of its own: that hosts do not let the engine in is not shown to the user, and
    /// [`refusing_hosts`](Self::refusing_hosts) lists them.
    #[must_use]
    pub(super) fn with_own_login(mut self) -> Self {
        self.refusing_hosts = RefusingHosts::for_own_login();
        self
    }

    /// The hosts that do not let the engine in, as far as the engine has reported.
    pub(super) fn refusing_hosts(&self) -> Vec<String> {
        self.refusing_hosts.list()
    }

    /// Answers without the engine from now on.
    fn detach(&self, mode: &mut Mode, error: &IpcError) -> Arc<HostsBackend> {
        log::debug!("goes on without the engine: {error}");
        let direct = Arc::new((self.make_direct)());
        if let Mode::Attached(attached) = std::mem::replace(mode, Mode::Direct(direct.clone())) {
            for info in attached.advertised.into_values() {
                direct.record_advertised(info);
            }
        }
        direct
    }

    /// Asks the engine for a set of paths. `Err` holds the backend to ask instead, without an engine.
    async fn query_set(&self, request: &Request) -> Result<Vec<StorePath>, Arc<HostsBackend>> {
        let mut mode = self.mode.lock().await;
        let error = match &mut *mode {
            Mode::Direct(direct) => return Err(direct.clone()),
            Mode::Attached(attached) => {
                match query_set(&mut attached.client, request, &self.refusing_hosts).await {
                    Ok(paths) => return Ok(paths),
                    Err(error) => error,
                }
            }
        };
        Err(self.detach(&mut mode, &error))
    }

    /// As [`query_set`](Self::query_set), for path infos.
    async fn query_infos(&self, paths: &[StorePath]) -> Result<Vec<PathInfo>, Arc<HostsBackend>> {
        let mut mode = self.mode.lock().await;
        let error = match &mut *mode {
            Mode::Direct(direct) => return Err(direct.clone()),
            Mode::Attached(Attached { client, advertised }) => {
                match query_infos(client, paths, &self.refusing_hosts).await {
                    Ok(infos) => {
                        for info in &infos {
                            if advertised.len() < MAX_ADVERTISED {
                                advertised.insert(info.path.clone(), info.clone());
                            }
                        }
                        return Ok(infos);
                    }
                    Err(error) => error,
                }
            }
        };
        Err(self.detach(&mut mode, &error))
    }

    /// As [`Backend::deliver`]; what the engine cannot deliver comes from the backend that `for_refusing_hosts` gives.
    pub(super) async fn deliver_or(
        &self,
        path: &StorePath,
        sink: &mut dyn NarSink,
        for_refusing_hosts: ForRefusingHosts<'_>,
    ) -> Result<(), Undelivered> {
        let mut mode = self.mode.lock().await;
        let mut resume = None;
        let direct = match &mut *mode {
            Mode::Direct(direct) => direct.clone(),
            Mode::Attached(Attached { client, advertised }) => {
                let progress = self.progress.start(&TransferInfo {
                    path: path.clone(),
                    host: String::new(),
                    total: advertised.get(path).map_or(0, |info| info.nar_size),
                });
                let nar = NarFromEngine::new(client, sink, &*progress, &self.refusing_hosts);
                let result = nar.receive(path, &mut resume).await;
                progress.finish(match &result {
                    Ok(()) => Outcome::Done,
                    Err(NarFault::Engine(_)) => Outcome::GoesOn,
                    Err(_) => Outcome::Failed,
                });
                match result {
                    Ok(()) => return Ok(()),
                    Err(NarFault::Undelivered(undelivered)) => {
                        let Some(backend) = for_refusing_hosts(&self.refusing_hosts()) else {
                            return Err(undelivered);
                        };
                        log::debug!("{path} comes by another login: {}", undelivered.error);
                        if let Some(info) = advertised.get(path) {
                            backend.record_advertised(info.clone());
                        }
                        backend
                    }
                    Err(NarFault::Sink(error)) => {
                        return Err(DeliveryError::Sink(error).without_completion());
                    }
                    Err(NarFault::Engine(error)) => self.detach(&mut mode, &error),
                }
            }
        };
        drop(mode);
        direct.deliver_from(path, resume, sink).await
    }
}

#[async_trait]
impl Backend for EngineBackend {
    async fn valid_paths(&self, paths: &[StorePath]) -> Result<Vec<StorePath>, BackendError> {
        let request = Request::QueryValidPaths {
            lock: false,
            substitute: false,
            paths: paths.to_vec(),
        };
        match self.query_set(&request).await {
            Ok(valid) => Ok(valid),
            Err(direct) => direct.valid_paths(paths).await,
        }
    }

    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<PathInfo>, BackendError> {
        match self.query_infos(paths).await {
            Ok(infos) => Ok(infos),
            Err(direct) => direct.path_infos(paths).await,
        }
    }

    async fn closure(
        &self,
        paths: &[StorePath],
        include_outputs: bool,
    ) -> Result<Vec<StorePath>, BackendError> {
        let request = Request::QueryClosure {
            include_outputs,
            paths: paths.to_vec(),
        };
        match self.query_set(&request).await {
            Ok(closure) => Ok(closure),
            Err(direct) => direct.closure(paths, include_outputs).await,
        }
    }

    async fn deliver(&self, path: &StorePath, sink: &mut dyn NarSink) -> Result<(), Undelivered> {
        self.deliver_or(path, sink, &|_| None).await
    }

    async fn flush(&self) {
        if let Mode::Direct(direct) = &*self.mode.lock().await {
            direct.flush().await;
        }
    }
}
