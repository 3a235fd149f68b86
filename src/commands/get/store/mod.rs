//! `--into-store`: this machine's own Nix store, through the installed Nix.
//!
//! Paths go to `nix-store --serve --write` (AddToStoreNar), which finds its store as every Nix command does: by
//! `NIX_REMOTE`, `NIX_STATE_DIR` and nix.conf. Who may write to the store does so; all others go through the daemon that
//! way. Hash, signatures, content address and deriver come along.
//!
//! What counts: this program has accepted the path (see `resolver::trust`). Nix checks signatures once more where the
//! daemon does not trust the user, and refuses what is not signed by one of its own keys.
//!
//! Nix takes a path only when its references are valid, so each waits for them. A few connections write at the same time;
//! each keeps what it has added from being collected until the end.

mod connection;

use parking_lot::Mutex;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::destination::{Destination, Gate, Incoming, Known};
use super::error::{GetError, NixError};
use crate::model::{PathInfo, StorePath};
use crate::transfer::{NarSink, Piece};
use connection::Connection;

/// How many paths Nix is given at a time: it unpacks and registers each in one thread.
const AT_ONCE: usize = 4;

/// The local store.
pub(super) struct Store {
    program: PathBuf,
    silence: Duration,
    idle: Arc<Idle>,
}

/// Connections that nobody uses.
#[derive(Default)]
struct Idle(Mutex<Vec<Connection>>);

impl Idle {
    fn take(&self) -> Option<Connection> {
        self.0.lock().pop()
    }

    fn give(&self, connection: Connection) {
        let mut all = self.0.lock();
        all.push(connection);
    }
}

impl Store {
    /// The store of the installed Nix, which may be silent for so long. Nothing is started yet.
    pub(super) fn open(silence: Duration) -> Result<Self, GetError> {
        Ok(Self {
            program: connection::program()?,
            silence,
            idle: Arc::default(),
        })
    }

    async fn connection(&self) -> Result<Connection, NixError> {
        match self.idle.take() {
            Some(connection) => Ok(connection),
            None => Connection::start(&self.program, self.silence).await,
        }
    }
}

#[async_trait]
impl Destination for Store {
    fn gate(&self) -> Gate {
        Gate::Begin
    }

    fn at_once(&self) -> usize {
        AT_ONCE
    }

    async fn known(&self, paths: &[StorePath]) -> Result<Vec<Known>, GetError> {
        let mut connection = self.connection().await?;
        let valid = connection.valid(paths).await?;
        self.idle.give(connection);
        // Whatever a valid path refers to is valid.
        let known = valid.into_iter().map(|path| Known {
            path,
            references: Vec::new(),
        });
        Ok(known.collect())
    }

    async fn holds(&self, _: &[Arc<PathInfo>]) -> Result<HashSet<StorePath>, GetError> {
        Ok(HashSet::new())
    }

    async fn begin(&self) -> Result<(), GetError> {
        Ok(())
    }

    async fn receive(&self, info: &Arc<PathInfo>) -> Result<Box<dyn Incoming>, GetError> {
        Ok(Box::new(Adding {
            info: info.clone(),
            connection: Some(self.connection().await?),
            begun: false,
            failed: None,
            idle: self.idle.clone(),
        }))
    }

    async fn settle(&self, _: &Arc<PathInfo>) -> Result<(), GetError> {
        Ok(())
    }

    async fn end(&self) -> Result<(), GetError> {
        Ok(())
    }
}

/// A path on its way. Dropped before its end, it ends the connection, and Nix forgets the path.
struct Adding {
    info: Arc<PathInfo>,
    connection: Option<Connection>,
    begun: bool,
    failed: Option<NixError>,
    idle: Arc<Idle>,
}

impl Adding {
    async fn pass(&mut self, piece: &Piece) -> Result<(), NixError> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        // Not before there is something to come: a path that no host brings costs no connection.
        if !std::mem::replace(&mut self.begun, true) {
            connection.begin(&self.info).await?;
        }
        connection.nar(&self.info.path, &piece.bytes).await
    }
}

impl Drop for Adding {
    fn drop(&mut self) {
        if !self.begun
            && let Some(connection) = self.connection.take()
        {
            self.idle.give(connection);
        }
    }
}

#[async_trait]
impl NarSink for Adding {
    async fn write(&mut self, piece: Piece) -> std::io::Result<()> {
        let passed = self.pass(&piece).await;
        passed.map_err(|error| {
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
        if let Some(mut connection) = self.connection.take() {
            connection.end(&self.info.path).await?;
            self.idle.give(connection);
        }
        Ok(())
    }
}
