//! Answers from hosts.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Backend, BackendError, DeliveryError, Undelivered};
use crate::model::{HashPart, PathInfo, StorePath};
use crate::resolver::{Found, Resolver};
use crate::transfer::progress::Progress;
use crate::transfer::{Caller, FetchRequest, NarSink, ResumePoint, Transfers};
use crate::wire::nar::{Completion, failing_nar};

/// How many advertised paths are remembered.
pub(super) const MAX_ADVERTISED: usize = 200_000;

/// Answers one connection of a caller, which may have several. No failure of a host is an error: what cannot be had is
/// reported as absent, and a NAR that cannot be delivered is completed with the wrong content.
pub struct HostsBackend {
    resolver: Arc<Resolver>,
    transfers: Arc<Transfers>,
    caller: Arc<Caller>,
    progress: Arc<dyn Progress>,
    /// The path infos that this connection got: that NAR is delivered and no other, even if hosts say otherwise by then.
    advertised: Mutex<HashMap<StorePath, Found>>,
}

impl HostsBackend {
    /// Answers with what `resolver` finds and `transfers` fetch; `progress` shows the transfers.
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
            advertised: Mutex::default(),
        }
    }

    /// Another backend has advertised this path info to the same caller.
    pub(super) fn record_advertised(&self, info: PathInfo) {
        let info = Arc::new(info);
        self.remember(Found {
            to_fetch: info.clone(),
            info,
            holders: Arc::from([]),
        });
    }

    fn remember(&self, found: Found) {
        let mut advertised = self.advertised.lock();
        if advertised.len() < MAX_ADVERTISED {
            advertised.insert(found.info.path.clone(), found);
        }
    }

    /// What the caller gets to know of a path. It is read ahead, and delivered as advertised.
    fn advertise(&self, found: Found) -> PathInfo {
        self.caller.expect(&found.to_fetch, &found.holders);
        let info = found.info.sanitized();
        self.remember(found);
        info
    }

    /// What was advertised for the path, else what can be found now.
    async fn found(&self, path: &StorePath) -> Option<Found> {
        let advertised = self.advertised.lock().get(path).cloned();
        if let Some(advertised) = &advertised
            && !advertised.holders.is_empty()
        {
            return Some(advertised.clone());
        }
        let found = self.resolver.find(std::slice::from_ref(path)).await;
        // A caller that asks for a NAR knows its path info, perhaps from another process. A host that could not be
        // asked just now may be back by the time it is tried.
        let recall = || self.resolver.recall(path);
        let found = found.into_iter().next().or_else(recall);
        match (advertised, found) {
            // The host's NAR has changed: it cannot be delivered for the advertised one.
            (Some(advertised), Some(found)) if advertised.info.nar_hash != found.info.nar_hash => {
                Some(advertised)
            }
            (advertised, found) => found.or(advertised),
        }
    }

    /// As [`Backend::deliver`]; with `resume`, another transfer of the same NAR has written its beginning.
    pub(super) async fn deliver_from(
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
            let error = self.resolver.not_found(path);
            let completion = match resume {
                Some(resume) => resume.checkpoint.rest,
                None => Completion {
                    head: failing_nar(&error.to_string()),
                    ..Completion::default()
                },
            };
            let error = error.into();
            return Err(Undelivered { error, completion });
        };
        let request = FetchRequest {
            info: &to_fetch,
            holders: &holders,
            caller: &self.caller,
            resume,
            progress: &*self.progress,
        };
        let fetched = self.transfers.fetch(request, sink).await;
        fetched.map(|_| ()).map_err(|failed| {
            let error = DeliveryError::from(failed.error);
            if !matches!(error, DeliveryError::Sink(_)) {
                self.resolver.forget(path);
                self.advertised.lock().remove(path);
            }
            let completion = failed.rest;
            Undelivered { error, completion }
        })
    }
}

#[async_trait]
impl Backend for HostsBackend {
    async fn valid_paths(&self, paths: &[StorePath]) -> Result<Vec<StorePath>, BackendError> {
        let found = self.resolver.find(paths).await;
        let mut valid: Vec<_> = found.iter().map(|found| found.info.path.clone()).collect();
        valid.sort();
        Ok(valid)
    }

    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<PathInfo>, BackendError> {
        let found = self.resolver.find(paths).await.into_iter();
        Ok(found.map(|found| self.advertise(found)).collect())
    }

    async fn info_by_hash(&self, hash: HashPart) -> Result<Option<PathInfo>, BackendError> {
        let found = self.resolver.find_by_hash(hash).await;
        Ok(found.map(|found| self.advertise(found)))
    }

    async fn build_log(&self, derivation: &StorePath) -> Result<Option<Vec<u8>>, BackendError> {
        Ok(self.resolver.build_log(derivation).await)
    }

    async fn closure(
        &self,
        paths: &[StorePath],
        include_outputs: bool,
    ) -> Result<Vec<StorePath>, BackendError> {
        match self.resolver.closure(paths, include_outputs).await {
            Ok(closure) => Ok(closure),
            Err(error) => {
                // The hosts' failures have been shown already.
                log::debug!("no closure: {error}");
                self.valid_paths(paths).await
            }
        }
    }

    async fn deliver(&self, path: &StorePath, sink: &mut dyn NarSink) -> Result<(), Undelivered> {
        self.deliver_from(path, None, sink).await
    }

    async fn flush(&self) {
        self.resolver.flush().await;
    }
}
