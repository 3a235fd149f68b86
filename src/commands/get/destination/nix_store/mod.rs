//! `--into-store`: this machine's own Nix store, through the installed Nix.
//!
//! Paths go to `nix-store --serve --write` (AddToStoreNar), which finds its store as every Nix command does: by
//! `NIX_REMOTE`, `NIX_STATE_DIR` and nix.conf. Who may write to the store does so; all others go through the daemon that
//! way. Hash, signatures, content address and deriver come along.
//!
//! What counts: this program has accepted the path (see `resolver::trust`). Nix checks signatures once more where the
//! daemon does not trust the user, and refuses what is not signed by one of its own keys.
//!
//! Nix takes a path only when its references are valid, so each waits for them. A few processes write at the same time;
//! each keeps what it has added from being collected until the end.

mod serve_process;

use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Destination, Incoming, Present, ReferencesFirst};
use crate::commands::get::error::{GetError, NixError};
use crate::model::{PathInfo, StorePath};
use crate::transfer::{NarSink, Piece};
use serve_process::ServeProcess;

/// How many paths Nix is given at a time: it unpacks and registers each in one thread.
const AT_ONCE: usize = 4;

/// The local store.
pub(in crate::commands::get) struct NixStore {
    program: PathBuf,
    silence: Duration,
    idle: Arc<IdleProcesses>,
}

/// Processes that are not in use.
#[derive(Default)]
struct IdleProcesses(Mutex<Vec<ServeProcess>>);

impl IdleProcesses {
    fn take(&self) -> Option<ServeProcess> {
        self.0.lock().pop()
    }

    fn put_back(&self, process: ServeProcess) {
        let mut all = self.0.lock();
        all.push(process);
    }
}

impl NixStore {
    /// The store of the installed Nix, which may be silent for so long. Nothing is started yet.
    pub(in crate::commands::get) fn open(silence: Duration) -> Result<Self, GetError> {
        Ok(Self {
            program: serve_process::find_program()?,
            silence,
            idle: Arc::default(),
        })
    }

    async fn process(&self) -> Result<ServeProcess, NixError> {
        match self.idle.take() {
            Some(process) => Ok(process),
            None => ServeProcess::start(&self.program, self.silence).await,
        }
    }
}

#[async_trait]
impl Destination for NixStore {
    fn references_first(&self) -> ReferencesFirst {
        ReferencesFirst::Transfer
    }

    fn at_once(&self) -> usize {
        AT_ONCE
    }

    async fn present(&self, paths: &[StorePath]) -> Result<Vec<Present>, GetError> {
        let mut process = self.process().await?;
        let valid = process.valid(paths).await?;
        self.idle.put_back(process);
        // Whatever a valid path refers to is valid.
        let known = valid.into_iter().map(|path| Present {
            path,
            references: Vec::new(),
        });
        Ok(known.collect())
    }

    async fn receive(&self, info: &Arc<PathInfo>) -> Result<Box<dyn Incoming>, GetError> {
        Ok(Box::new(Adding {
            info: info.clone(),
            process: Some(self.process().await?),
            begun: false,
            failed: None,
            idle: self.idle.clone(),
        }))
    }
}

/// A path that is being added. Dropped before its end, it ends the process, and Nix drops the path.
struct Adding {
    info: Arc<PathInfo>,
    process: Option<ServeProcess>,
    begun: bool,
    failed: Option<NixError>,
    idle: Arc<IdleProcesses>,
}

impl Adding {
    async fn send(&mut self, piece: &Piece) -> Result<(), NixError> {
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        // Not before the first bytes: a path that no host delivers costs no process.
        if !std::mem::replace(&mut self.begun, true) {
            process.begin(&self.info).await?;
        }
        process.nar(&self.info.path, &piece.bytes).await
    }
}

impl Drop for Adding {
    fn drop(&mut self) {
        if !self.begun
            && let Some(process) = self.process.take()
        {
            self.idle.put_back(process);
        }
    }
}

#[async_trait]
impl NarSink for Adding {
    async fn write(&mut self, piece: Piece) -> std::io::Result<()> {
        let sent = self.send(&piece).await;
        sent.map_err(|error| {
            self.failed = Some(error);
            std::io::ErrorKind::BrokenPipe.into()
        })
    }
}

#[async_trait]
impl Incoming for Adding {
    async fn finish(mut self: Box<Self>) -> Result<(), GetError> {
        if let Some(error) = self.failed.take() {
            return Err(error.into());
        }
        if let Some(mut process) = self.process.take() {
            process.end(&self.info.path).await?;
            self.idle.put_back(process);
        }
        Ok(())
    }
}
