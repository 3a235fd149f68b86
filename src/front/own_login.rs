//! A caller with a login of its own, the agent of a client of Nix's daemon: an engine answers with the
//! login that all share, and the caller's own is used only at hosts that do not let the engine in, by
//! this process alone.

use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::AsyncWrite;

use super::attached::AttachedBackend;
use super::hosts::HostsBackend;
use super::serve_loop::{Backend, DumpError, ServeError};
use super::source::{Source, Undelivered};
use crate::model::{PathInfo, StorePath};
use crate::transfer::NarSink;

/// Makes what answers for these hosts, by the names under which they are shown, with the caller's own
/// login.
pub type ForHosts = Box<dyn Fn(&[String]) -> HostsBackend + Send + Sync>;

/// Of how many paths it is remembered that the engine does not know them.
const OWN: usize = 200_000;

/// Answers one connection of such a caller.
pub struct OwnLoginBackend {
    attached: AttachedBackend,
    for_hosts: ForHosts,
    own: Mutex<Option<Own>>,
    /// What hosts said that do not let the engine in.
    theirs: Mutex<HashSet<StorePath>>,
}

struct Own {
    hosts: Vec<String>,
    backend: Arc<HostsBackend>,
}

impl OwnLoginBackend {
    /// Answers through `attached`, and with what `for_hosts` makes for hosts that do not let that in.
    #[must_use]
    pub fn new(attached: AttachedBackend, for_hosts: ForHosts) -> Self {
        Self {
            attached: attached.with_own_login(),
            for_hosts,
            own: Mutex::default(),
            theirs: Mutex::default(),
        }
    }

    /// To be called before the process ends: waits until the answers that were given without an
    /// engine are on disk.
    pub async fn flush(&self) {
        self.attached.flush().await;
        let own = self.own.lock().as_ref().map(|own| own.backend.clone());
        if let Some(own) = own {
            own.flush().await;
        }
    }

    /// What answers for these hosts; `None` where there are none.
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
        let backend = Arc::new((self.for_hosts)(hosts));
        *own = Some(Own {
            hosts: hosts.to_vec(),
            backend: backend.clone(),
        });
        Some(backend)
    }

    /// What answers for the hosts that do not let the engine in.
    fn own(&self) -> Option<Arc<HostsBackend>> {
        self.own_for(&self.attached.closed())
    }

    /// The same, where that is who has told of the path.
    fn own_of(&self, path: &StorePath) -> Option<Arc<HostsBackend>> {
        let is_theirs = self.theirs.lock().contains(path);
        is_theirs.then(|| self.own()).flatten()
    }
}

/// Those that are not in `found`.
fn missing<'a>(paths: &[StorePath], found: impl Iterator<Item = &'a StorePath>) -> Vec<StorePath> {
    let found: HashSet<&StorePath> = found.collect();
    let missing = paths.iter().filter(|path| !found.contains(path));
    missing.cloned().collect()
}

#[async_trait]
impl Backend for OwnLoginBackend {
    async fn valid_paths(&self, paths: &[StorePath]) -> Result<Vec<StorePath>, ServeError> {
        let mut valid = self.attached.valid_paths(paths).await?;
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

    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<PathInfo>, ServeError> {
        let mut infos = self.attached.path_infos(paths).await?;
        let missing = missing(paths, infos.iter().map(|info| &info.path));
        if !missing.is_empty()
            && let Some(own) = self.own()
        {
            let more = own.path_infos(&missing).await?;
            let mut theirs = self.theirs.lock();
            for info in &more {
                if theirs.len() < OWN {
                    theirs.insert(info.path.clone());
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
    ) -> Result<Vec<StorePath>, ServeError> {
        let mut closure = self.attached.closure(paths, include_outputs).await?;
        if let Some(own) = self.own() {
            closure.extend(own.closure(paths, include_outputs).await?);
            closure.sort();
            closure.dedup();
        }
        Ok(closure)
    }

    async fn dump(
        &self,
        path: &StorePath,
        out: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), DumpError> {
        match self.own_of(path) {
            Some(own) => own.dump(path, out).await,
            None => {
                let more = |hosts: &[String]| self.own_for(hosts);
                self.attached.dump_or(path, out, &more).await
            }
        }
    }
}

#[async_trait]
impl Source for OwnLoginBackend {
    async fn bring(&self, path: &StorePath, sink: &mut dyn NarSink) -> Result<(), Undelivered> {
        match self.own_of(path) {
            Some(own) => own.bring(path, sink).await,
            None => {
                let more = |hosts: &[String]| self.own_for(hosts);
                self.attached.bring_or(path, sink, &more).await
            }
        }
    }
}
