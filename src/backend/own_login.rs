//! Answers for a caller with a login of its own, the ssh agent of a client of Nix's daemon. The engine answers with the
//! login that all callers share. The caller's own one is used by this process alone, and only at hosts that do not let
//! the engine in.

use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;

use super::engine::EngineBackend;
use super::hosts::{HostsBackend, MAX_ADVERTISED};
use super::{Backend, BackendError, Undelivered};
use crate::model::{PathInfo, StorePath};
use crate::transfer::NarSink;

/// Makes the backend that asks these hosts, by the names under which they are shown, with the caller's own login.
pub type MakeForHosts = Box<dyn Fn(&[String]) -> HostsBackend + Send + Sync>;

/// Answers one connection of such a caller.
pub struct OwnLoginBackend {
    shared: EngineBackend,
    make_for_hosts: MakeForHosts,
    own: Mutex<Option<Own>>,
    /// The paths that hosts which do not let the engine in have advertised.
    own_paths: Mutex<HashSet<StorePath>>,
}

struct Own {
    hosts: Vec<String>,
    backend: Arc<HostsBackend>,
}

impl OwnLoginBackend {
    /// Answers through `shared`, and with what `make_for_hosts` makes for hosts that do not let the engine in.
    #[must_use]
    pub fn new(shared: EngineBackend, make_for_hosts: MakeForHosts) -> Self {
        Self {
            shared: shared.with_own_login(),
            make_for_hosts,
            own: Mutex::default(),
            own_paths: Mutex::default(),
        }
    }

    /// The backend for these hosts; `None` if there are none.
    fn own_for(&self, hosts: &[String]) -> Option<Arc<HostsBackend>> {
        if hosts.is_empty() {
            return None;
        }
        let mut own = self.own.lock();
        if let Some(own) = &*own
            && own.hosts == hosts
        {
            return Some(own.backend.clone());
        }
        log::debug!("the caller's own login is used at {}", hosts.join(", "));
        let backend = Arc::new((self.make_for_hosts)(hosts));
        *own = Some(Own {
            hosts: hosts.to_vec(),
            backend: backend.clone(),
        });
        Some(backend)
    }

    /// The backend for the hosts that do not let the engine in.
    fn own(&self) -> Option<Arc<HostsBackend>> {
        self.own_for(&self.shared.refusing_hosts())
    }
}

/// The paths that are not in `found`.
fn missing<'a>(paths: &[StorePath], found: impl Iterator<Item = &'a StorePath>) -> Vec<StorePath> {
    let found: HashSet<&StorePath> = found.collect();
    let missing = paths.iter().filter(|path| !found.contains(path));
    missing.cloned().collect()
}

#[async_trait]
impl Backend for OwnLoginBackend {
    async fn valid_paths(&self, paths: &[StorePath]) -> Result<Vec<StorePath>, BackendError> {
        let mut valid = self.shared.valid_paths(paths).await?;
        let missing = missing(paths, valid.iter());
        if !missing.is_empty()
            && let Some(own) = self.own()
        {
            valid.extend(own.valid_paths(&missing).await?);
            valid.sort();
            valid.dedup();
        }
        Ok(valid)
    }

    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<PathInfo>, BackendError> {
        let mut infos = self.shared.path_infos(paths).await?;
        let missing = missing(paths, infos.iter().map(|info| &info.path));
        if !missing.is_empty()
            && let Some(own) = self.own()
        {
            let more = own.path_infos(&missing).await?;
            let mut own_paths = self.own_paths.lock();
            for info in &more {
                if own_paths.len() < MAX_ADVERTISED {
                    own_paths.insert(info.path.clone());
                }
            }
            infos.extend(more);
        }
        Ok(infos)
    }

    async fn closure(
        &self,
        paths: &[StorePath],
        include_outputs: bool,
    ) -> Result<Vec<StorePath>, BackendError> {
        let mut closure = self.shared.closure(paths, include_outputs).await?;
        if let Some(own) = self.own() {
            closure.extend(own.closure(paths, include_outputs).await?);
            closure.sort();
            closure.dedup();
        }
        Ok(closure)
    }

    async fn deliver(&self, path: &StorePath, sink: &mut dyn NarSink) -> Result<(), Undelivered> {
        let is_own = self.own_paths.lock().contains(path);
        if let Some(own) = is_own.then(|| self.own()).flatten() {
            return own.deliver(path, sink).await;
        }
        let for_refusing_hosts = |hosts: &[String]| self.own_for(hosts);
        self.shared
            .deliver_or(path, sink, &for_refusing_hosts)
            .await
    }

    async fn flush(&self) {
        self.shared.flush().await;
        let own = self.own.lock().as_ref().map(|own| own.backend.clone());
        if let Some(own) = own {
            own.flush().await;
        }
    }
}
