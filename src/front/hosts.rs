//! The modern door's answers: from the hosts.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::serve_loop::{Backend, DumpError, ServeError};
use crate::model::{PathInfo, StorePath};
use crate::resolver::{Found, Resolver};
use crate::transfer::{NarSink, TransferError, Transfers};
use crate::wire::nar::{Completion, failing_nar};

/// Answers from the hosts. Nothing that a host does ends the loop: what cannot be had is not
/// there, and a NAR that cannot be delivered is a complete one with the wrong content.
pub struct HostsBackend {
    /// Finds paths.
    pub resolver: Arc<Resolver>,
    /// Brings them.
    pub transfers: Arc<Transfers>,
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
        for Found { info, holders } in &found {
            self.transfers.expect(info, holders);
        }
        Ok(found.iter().map(|found| (*found.info).clone()).collect())
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
                let found = self.resolver.find(paths).await;
                let mut known: Vec<_> = found.iter().map(|f| f.info.path.clone()).collect();
                known.sort();
                Ok(known)
            }
        }
    }

    async fn dump(
        &self,
        path: &StorePath,
        out: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), DumpError> {
        self.resolver.download_begins();
        let found = self.resolver.find(std::slice::from_ref(path)).await;
        let Some(Found { info, holders }) = found.first() else {
            let reason = self.resolver.not_found(path).to_string();
            log::warn!("{reason}");
            return Err(DumpError::Broken(Completion {
                head: failing_nar(&reason),
                ..Completion::default()
            }));
        };
        match self
            .transfers
            .fetch(info, holders, &mut ToCaller(out))
            .await
        {
            Ok(_) => Ok(()),
            Err(failed) => match failed.error {
                TransferError::Sink { source, .. } => Err(source.into()),
                error => {
                    log::error!("{error}");
                    self.resolver.forget(path);
                    Err(DumpError::Broken(failed.rest))
                }
            },
        }
    }
}

struct ToCaller<'a>(&'a mut (dyn AsyncWrite + Send + Unpin));

#[async_trait]
impl NarSink for ToCaller<'_> {
    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        self.0.write_all(&bytes).await
    }
}
