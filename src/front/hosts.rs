//! The doors' answers, from the hosts.

use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::serve_loop::{Backend, DumpError, ServeError};
use super::source::{Reason, Source, Undelivered};
use crate::model::{PathInfo, StorePath};
use crate::resolver::{Found, Resolver};
use crate::transfer::progress::Progress;
use crate::transfer::{Caller, FetchRequest, NarSink, Piece, ResumePoint, Transfers};
use crate::wire::nar::{Completion, failing_nar};

/// Of how many paths it is remembered what the caller was told of them.
const TOLD: usize = 200_000;

/// Answers one caller, on one connection of several that it may have. Nothing that a host does ends
/// the loop: what cannot be had is not there, and a NAR that cannot be delivered is a complete one
/// with the wrong content.
pub struct HostsBackend {
    resolver: Arc<Resolver>,
    transfers: Arc<Transfers>,
    caller: Arc<Caller>,
    progress: Arc<dyn Progress>,
    /// What this connection was told: that NAR is delivered and no other, even if hosts say
    /// otherwise by then.
    told: Mutex<HashMap<StorePath, Found>>,
}

impl HostsBackend {
    /// Answers what `resolver` finds and `transfers` bring; `progress` shows the transfers.
    #[must_use]
    pub fn new(
        resolver: Arc<Resolver>,
        transfers: Arc<Transfers>,
        caller: Arc<Caller>,
        progress: Arc<dyn Progress>,
    ) -> Self {
        Self {
            resolver,
            transfers,
            caller,
            progress,
            told: Mutex::default(),
        }
    }

    /// To be called before the process ends: waits, at most about 0.3 s, until the answers that were
    /// given are on disk.
    pub async fn flush(&self) {
        self.resolver.flush().await;
    }

    /// This was told by somebody else to the same caller.
    pub fn was_told(&self, info: PathInfo) {
        let info = Arc::new(info);
        self.remember(Found {
            to_fetch: info.clone(),
            info,
            holders: Arc::from([]),
        });
    }

    fn remember(&self, found: Found) {
        let mut told = self.told();
        if told.len() < TOLD {
            told.insert(found.info.path.clone(), found);
        }
    }

    fn told(&self) -> MutexGuard<'_, HashMap<StorePath, Found>> {
        self.told.lock()
    }

    /// What was told of the path, else what can be told now.
    async fn found(&self, path: &StorePath) -> Option<Found> {
        let told = self.told().get(path).cloned();
        if let Some(told) = &told
            && !told.holders.is_empty()
        {
            return Some(told.clone());
        }
        let found = self.resolver.find(std::slice::from_ref(path)).await;
        // Who comes for a path was told of it, perhaps by another process. A host that could not be asked
        // just now may be back by the time it is tried.
        let recall = || self.resolver.recall(path);
        let found = found.into_iter().next().or_else(recall);
        match (told, found) {
            // Who has another NAR by now is of no use.
            (Some(told), Some(found)) if told.info.nar_hash != found.info.nar_hash => Some(told),
            (told, found) => found.or(told),
        }
    }
}

#[async_trait]
impl Backend for HostsBackend {
    async fn valid_paths(&self, paths: &[StorePath]) -> Result<Vec<StorePath>, ServeError> {
        let found = self.resolver.find(paths).await;
        let mut valid: Vec<_> = found.iter().map(|found| found.info.path.clone()).collect();
        valid.sort();
        Ok(valid)
    }

    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<PathInfo>, ServeError> {
        let found = self.resolver.find(paths).await;
        let mut infos = Vec::with_capacity(found.len());
        for found in found {
            self.caller.expect(&found.to_fetch, &found.holders);
            infos.push(found.info.readable());
            self.remember(found);
        }
        Ok(infos)
    }

    async fn closure(
        &self,
        paths: &[StorePath],
        include_outputs: bool,
    ) -> Result<Vec<StorePath>, ServeError> {
        match self.resolver.closure(paths, include_outputs).await {
            Ok(closure) => Ok(closure),
            Err(error) => {
                // The hosts' failures have been told. What is known is the paths themselves.
                log::debug!("no closure: {error}");
                self.valid_paths(paths).await
            }
        }
    }

    async fn dump(
        &self,
        path: &StorePath,
        out: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), DumpError> {
        let brought = self.bring(path, &mut ToCaller(out)).await;
        brought.map_err(Undelivered::into_dump_error)
    }
}

#[async_trait]
impl Source for HostsBackend {
    async fn bring(&self, path: &StorePath, sink: &mut dyn NarSink) -> Result<(), Undelivered> {
        self.bring_rest(path, None, sink).await
    }
}

impl HostsBackend {
    /// As [`Source::bring`], from where another one broke off if `resume` says so.
    pub(super) async fn bring_rest(
        &self,
        path: &StorePath,
        resume: Option<ResumePoint>,
        sink: &mut dyn NarSink,
    ) -> Result<(), Undelivered> {
        self.resolver.download_begins();
        let Some(Found {
            to_fetch, holders, ..
        }) = self.found(path).await
        else {
            let reason = self.resolver.not_found(path);
            let rest = match resume {
                Some(resume) => resume.checkpoint.rest,
                None => Completion {
                    head: failing_nar(&reason.to_string()),
                    ..Completion::default()
                },
            };
            let reason = reason.into();
            return Err(Undelivered { reason, rest });
        };
        let wish = FetchRequest {
            info: &to_fetch,
            holders: &holders,
            caller: &self.caller,
            resume,
            progress: &*self.progress,
        };
        let fetched = self.transfers.fetch(wish, sink).await;
        fetched.map(|_| ()).map_err(|failed| {
            let reason = Reason::from(failed.error);
            if !matches!(reason, Reason::Sink(_)) {
                self.resolver.forget(path);
                self.told().remove(path);
            }
            let rest = failed.rest;
            Undelivered { reason, rest }
        })
    }
}

impl Undelivered {
    /// Tells the user why, and how the caller gets something complete.
    pub(super) fn into_dump_error(self) -> DumpError {
        match self.reason {
            Reason::Sink(source) => return source.into(),
            reason @ Reason::NotFound(_) => log::warn!("{reason}"),
            reason => log::error!("{reason}"),
        }
        DumpError::Broken(self.rest)
    }
}

/// Passes a NAR on as it comes.
pub(super) struct ToCaller<'a>(pub(super) &'a mut (dyn AsyncWrite + Send + Unpin));

#[async_trait]
impl NarSink for ToCaller<'_> {
    async fn write(&mut self, piece: Piece) -> io::Result<()> {
        self.0.write_all(&piece.bytes).await
    }
}
