//! Answers from a Nix store on this machine, as `nix-store --serve` gives them.

mod segments;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Backend, BackendError, DeliveryError, NarSegments, Undelivered};
use crate::local_store::{Dump, LocalStore, LocalStoreError};
use crate::model::{HashPart, PathInfo, StorePath};
use crate::transfer::{NarSink, Piece};
use crate::wire::nar::{Completion, failing_nar};
use crate::wire::serve::extension::{is_feature_path, is_name_question};
use segments::LocalSegments;

/// How many chunks of a NAR may be read before the sink has taken them.
const READ_AHEAD_CHUNKS: usize = 4;

/// Answers from one local store.
pub struct LocalBackend {
    store: Arc<LocalStore>,
    segments: LocalSegments,
}

impl LocalBackend {
    /// Answers from `store`.
    #[must_use]
    pub fn new(store: LocalStore) -> Self {
        let store = Arc::new(store);
        Self {
            segments: LocalSegments::new(store.clone()),
            store,
        }
    }

    /// Runs a query on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        query: impl FnOnce(&LocalStore) -> Result<T, LocalStoreError> + Send + 'static,
    ) -> Result<T, BackendError> {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || query(&store)).await {
            Ok(result) => result.map_err(BackendError::new),
            Err(panicked) => Err(BackendError::new(panicked)),
        }
    }
}

#[async_trait]
impl Backend for LocalBackend {
    async fn valid_paths(&self, paths: &[StorePath]) -> Result<Vec<StorePath>, BackendError> {
        let asked = paths.to_vec();
        let mut valid = self
            .blocking(move |store| store.query_valid_paths(&asked))
            .await?;
        // That is how a caller learns that parts can be had.
        let features = paths.iter().filter(|path| is_feature_path(path));
        valid.extend(features.cloned());
        let asked: Vec<HashPart> = paths
            .iter()
            .filter(|path| is_name_question(path))
            .map(HashPart::from)
            .collect();
        if !asked.is_empty() {
            let named = self.blocking(move |store| store.valid_with_hash(&asked));
            valid.extend(named.await?);
        }
        valid.sort();
        valid.dedup();
        Ok(valid)
    }

    fn segments(&self) -> Option<&dyn NarSegments> {
        Some(&self.segments)
    }

    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<PathInfo>, BackendError> {
        let paths = paths.to_vec();
        self.blocking(move |store| store.query_path_infos(&paths))
            .await
    }

    async fn info_by_hash(&self, hash: HashPart) -> Result<Option<PathInfo>, BackendError> {
        let infos = self.blocking(move |store| {
            let paths = store.valid_with_hash(&[hash])?;
            store.query_path_infos(&paths)
        });
        Ok(infos.await?.into_iter().next())
    }

    async fn closure(
        &self,
        paths: &[StorePath],
        include_outputs: bool,
    ) -> Result<Vec<StorePath>, BackendError> {
        let paths = paths.to_vec();
        self.blocking(move |store| store.query_closure(&paths, include_outputs))
            .await
    }

    async fn deliver(&self, path: &StorePath, sink: &mut dyn NarSink) -> Result<(), Undelivered> {
        let (chunks, mut ready) = mpsc::channel(READ_AHEAD_CHUNKS);
        let (store, path) = (self.store.clone(), path.clone());
        let reader = tokio::task::spawn_blocking(move || read(&store, &path, &chunks));
        while let Some(chunk) = ready.recv().await {
            let written = sink.write(Piece::verified(Bytes::from(chunk))).await;
            written.map_err(|error| DeliveryError::Sink(error).without_completion())?;
        }
        match reader.await {
            Ok(result) => result.map_err(|undelivered| *undelivered),
            Err(panicked) => {
                let error = BackendError::new(panicked);
                Err(DeliveryError::from(error).without_completion())
            }
        }
    }
}

/// Sends the NAR of a path in chunks.
fn read(
    store: &LocalStore,
    path: &StorePath,
    chunks: &mpsc::Sender<Vec<u8>>,
) -> Result<(), Box<Undelivered>> {
    let mut dump = Dump::open(store, path).map_err(|error| Box::new(not_opened(error)))?;
    loop {
        let mut chunk = Vec::new();
        let more = dump.next_chunk(&mut chunk);
        if !chunk.is_empty() && chunks.blocking_send(chunk).is_err() {
            // The sink has failed.
            return Ok(());
        }
        match more {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => {
                let completion = dump.complete_after_error(&error.to_string());
                let error = DeliveryError::Local(error);
                return Err(Box::new(Undelivered { error, completion }));
            }
        }
    }
}

/// A row of the database that makes no sense concerns that path alone. All other errors end the loop (a path that is not
/// valid, for one), as they end `nix-store --serve`.
fn not_opened(error: LocalStoreError) -> Undelivered {
    if !matches!(error, LocalStoreError::Row { .. }) {
        return DeliveryError::from(BackendError::new(error)).without_completion();
    }
    let completion = Completion {
        head: failing_nar(&error.to_string()),
        ..Completion::default()
    };
    let error = DeliveryError::Local(error);
    Undelivered { error, completion }
}
