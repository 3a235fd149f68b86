//! The minimal local serve loop's answers: from a local store, as `nix-store --serve` gives them.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::serve_loop::{Backend, DumpError, ServeError};
use crate::local_store::{Dump, LocalStore, LocalStoreError};
use crate::model::{PathInfo, StorePath};
use crate::wire::nar::{Completion, failing_nar};

/// How many pieces of a NAR may be read ahead of the caller.
const AHEAD: usize = 4;

/// Answers from a local store.
pub struct LocalBackend(Arc<LocalStore>);

impl LocalBackend {
    /// Answers from this store.
    #[must_use]
    pub fn new(store: LocalStore) -> Self {
        Self(Arc::new(store))
    }

    /// Runs a question on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&LocalStore) -> Result<T, LocalStoreError> + Send + 'static,
    ) -> Result<T, ServeError> {
        let store = self.0.clone();
        match tokio::task::spawn_blocking(move || ask(&store)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(ServeError::Backend(Box::new(error))),
            Err(error) => Err(ServeError::Backend(Box::new(error))),
        }
    }
}

#[async_trait]
impl Backend for LocalBackend {
    async fn valid_paths(&self, paths: &[StorePath]) -> Result<Vec<StorePath>, ServeError> {
        let paths = paths.to_vec();
        self.blocking(move |store| store.query_valid_paths(&paths))
            .await
    }

    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<PathInfo>, ServeError> {
        let paths = paths.to_vec();
        self.blocking(move |store| store.query_path_infos(&paths))
            .await
    }

    async fn closure(
        &self,
        paths: &[StorePath],
        include_outputs: bool,
    ) -> Result<Vec<StorePath>, ServeError> {
        let paths = paths.to_vec();
        self.blocking(move |store| store.query_closure(&paths, include_outputs))
            .await
    }

    async fn dump(
        &self,
        path: &StorePath,
        out: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), DumpError> {
        let asked = path.clone();
        let dump = self.blocking(move |store| Dump::open(store, &asked)).await;
        let mut dump = dump.map_err(not_begun)?;
        let (pieces, mut ready) = mpsc::channel::<Vec<u8>>(AHEAD);
        let reader = tokio::task::spawn_blocking(move || read(&mut dump, &pieces));
        while let Some(piece) = ready.recv().await {
            out.write_all(&piece).await?;
        }
        match reader.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(rest)) => Err(DumpError::Broken(rest)),
            Err(error) => Err(DumpError::Fatal(ServeError::Backend(Box::new(error)))),
        }
    }
}

/// What it means that no dump began. Nonsense in the database is about that path alone; for one that is
/// not valid the loop ends, as that of `nix-store --serve` does.
fn not_begun(error: ServeError) -> DumpError {
    let ServeError::Backend(source) = &error else {
        return DumpError::Fatal(error);
    };
    if !matches!(source.downcast_ref(), Some(LocalStoreError::Row { .. })) {
        return DumpError::Fatal(error);
    }
    log::error!("{source}");
    DumpError::Broken(Completion {
        head: failing_nar(&source.to_string()),
        ..Completion::default()
    })
}

/// Reads all of it; what completes the NAR when that fails.
fn read(dump: &mut Dump, pieces: &mpsc::Sender<Vec<u8>>) -> Result<(), Completion> {
    loop {
        let mut piece = Vec::new();
        let more = dump.next_chunk(&mut piece);
        if !piece.is_empty() && pieces.blocking_send(piece).is_err() {
            // Nobody listens any more.
            return Ok(());
        }
        match more {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => {
                log::error!("{error}");
                return Err(dump.complete_after_error(&error.to_string()));
            }
        }
    }
}
