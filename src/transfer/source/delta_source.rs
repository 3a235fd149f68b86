//! A NAR that comes as differences from a version that is here.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::BytesMut;

use super::{Source, SourceProgress, Step, Stop};
use crate::model::PathInfo;
use crate::pool::ShellLease;
use crate::transfer::deltas::{Brought, ChosenBase, DeltaFault, DeltaFetch, Deltas};
use crate::transfer::progress::TransferProgress;
use crate::transfer::verify::{Taken, Verifier};

/// Brings what a [`DeltaFetch`] puts together, from the first byte on.
pub(in crate::transfer) struct DeltaSource<'a> {
    deltas: &'a Deltas,
    info: &'a PathInfo,
    base: Arc<ChosenBase>,
    // Dropped first.
    fetch: Option<(DeltaFetch, ShellLease)>,
    buf: BytesMut,
    progress: SourceProgress<'a>,
}

impl<'a> DeltaSource<'a> {
    pub(in crate::transfer) fn new(
        deltas: &'a Deltas,
        info: &'a PathInfo,
        base: Arc<ChosenBase>,
        progress: &'a dyn TransferProgress,
    ) -> Self {
        Self {
            progress: SourceProgress::new(progress, deltas.pool()),
            deltas,
            info,
            base,
            fetch: None,
            buf: BytesMut::new(),
        }
    }

    async fn step(&mut self, verifier: &mut Verifier) -> Result<Step, Option<DeltaFault>> {
        let wrong = |_| Some(DeltaFault::other_nar());
        if self.fetch.is_none() {
            self.fetch = Some(open(self.deltas, self.info, &self.base).await?);
            self.progress.set_host(self.base.host);
        }
        let Some((fetch, shell)) = &mut self.fetch else {
            return Err(None);
        };
        loop {
            let before = verifier.offset();
            let taken = verifier.take(&mut self.buf).map_err(wrong)?;
            self.progress
                .advance(verifier.offset().saturating_sub(before));
            match taken {
                Taken::Piece(piece) => return Ok(Step::Write(piece)),
                Taken::Complete => {
                    let pieces = verifier.verify().map_err(wrong)?;
                    let (size, wire_len) = (self.info.nar_size, fetch.wire_len());
                    self.deltas.record_done(self.base.host, size, wire_len);
                    return Ok(Step::Complete(pieces));
                }
                Taken::NeedMore => {}
            }
            match fetch.more(shell, &mut self.buf).await? {
                Brought::Bytes(_) => {}
                Brought::Refused(_, fault) => return Err(Some(fault)),
                Brought::End => return Err(None),
            }
        }
    }
}

/// A channel, which is asked for what is needed first.
async fn open(
    deltas: &Deltas,
    info: &PathInfo,
    base: &Arc<ChosenBase>,
) -> Result<(DeltaFetch, ShellLease), Option<DeltaFault>> {
    let pool = deltas.pool();
    match pool.shell(base.host).await {
        Ok(Some(mut shell)) if shell.has_zstd() => {
            let options = deltas.options(base.host);
            let info = Arc::new(info.clone());
            let fetch = DeltaFetch::start(&mut shell, vec![(info, base.clone())], options);
            Ok((fetch, shell))
        }
        // Failures are reported by the pool.
        _ => Err(None),
    }
}

#[async_trait]
impl Source for DeltaSource<'_> {
    async fn next(&mut self, verifier: &mut Verifier) -> Result<Step, Stop> {
        match self.step(verifier).await {
            Ok(step) => Ok(step),
            Err(fault) => {
                let path = &self.info.path;
                self.deltas.reject(path);
                self.deltas.record(self.base.host, path, fault).await;
                Err(Stop::NoDelta)
            }
        }
    }
}
