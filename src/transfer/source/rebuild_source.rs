//! A NAR that is made from a version that is here alone.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::BytesMut;

use super::{Source, SourceProgress, Step, Stop};
use crate::model::PathInfo;
use crate::transfer::blocking;
use crate::transfer::deltas::{Deltas, Rebuild, RewrittenNar};
use crate::transfer::progress::TransferProgress;
use crate::transfer::verify::{Taken, Verifier};

/// Brings what a [`Rebuild`] gives, from the first byte on.
pub(in crate::transfer) struct RebuildSource<'a> {
    deltas: &'a Deltas,
    info: &'a PathInfo,
    rebuild: Arc<Rebuild>,
    nar: Option<RewrittenNar>,
    buf: BytesMut,
    progress: SourceProgress<'a>,
}

impl<'a> RebuildSource<'a> {
    pub(in crate::transfer) fn new(
        deltas: &'a Deltas,
        info: &'a PathInfo,
        rebuild: Arc<Rebuild>,
        progress: &'a dyn TransferProgress,
    ) -> Self {
        Self {
            progress: SourceProgress::new(progress, deltas.pool()),
            deltas,
            info,
            rebuild,
            nar: None,
            buf: BytesMut::new(),
        }
    }

    async fn step(&mut self, verifier: &mut Verifier) -> io::Result<Step> {
        let wrong = |_| io::Error::other("with other hashes it is another NAR");
        loop {
            let before = verifier.offset();
            let taken = verifier.take(&mut self.buf).map_err(wrong)?;
            self.progress
                .advance(verifier.offset().saturating_sub(before));
            match taken {
                Taken::Piece(piece) => return Ok(Step::Write(piece)),
                Taken::Complete => {
                    let pieces = verifier.verify().map_err(wrong)?;
                    self.deltas
                        .record_done(self.rebuild.host, self.info.nar_size, 0);
                    return Ok(Step::Complete(pieces));
                }
                Taken::NeedMore => {}
            }
            let bytes = self.more().await?;
            let bytes = bytes.ok_or(io::ErrorKind::UnexpectedEof)?;
            match self.buf.is_empty() {
                true => self.buf = bytes,
                false => self.buf.extend_from_slice(&bytes),
            }
        }
    }

    async fn more(&mut self) -> io::Result<Option<BytesMut>> {
        let nar = self.nar.take();
        if nar.is_none() {
            self.progress.set_host(self.rebuild.host);
        }
        let (rebuild, info) = (self.rebuild.clone(), self.info.clone());
        let more = blocking::run(self.rebuild.may_block(), move || {
            let mut nar = match nar {
                Some(nar) => nar,
                None => rebuild.open(&info)?,
            };
            let bytes = nar.next()?;
            Ok::<_, io::Error>((nar, bytes))
        });
        let (nar, bytes) = more.await??;
        self.nar = Some(nar);
        Ok(bytes)
    }
}

#[async_trait]
impl Source for RebuildSource<'_> {
    async fn next(&mut self, verifier: &mut Verifier) -> Result<Step, Stop> {
        match self.step(verifier).await {
            Ok(step) => Ok(step),
            Err(error) => {
                let path = &self.info.path;
                self.deltas.reject_rebuild(path, &error.to_string());
                Err(Stop::NoDelta)
            }
        }
    }
}
