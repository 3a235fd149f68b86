//! Finds out with a real path whether a host's shell can read the files of its store.

use std::sync::Arc;

use crate::model::StorePath;
use crate::pool::{HostId, Pool, RemoteError};
use crate::remote::Shell;

/// How many paths of a folder the host is asked about.
const MAX_ASKED_PATHS: usize = 100;

/// Where the files of a store are.
pub(in crate::commands) enum StoreFiles {
    /// In this folder: a path that the host serves has been read there, whole.
    In(String),
    /// In none of these folders; `is_empty` when nothing that could be a path is in any of them.
    Nowhere {
        /// The folders that were searched.
        looked: Vec<String>,
        /// Whether they hold nothing.
        is_empty: bool,
    },
}

/// Looks for a path that the host says it has, and lists it by the shell.
pub(super) async fn find(
    pool: &Pool,
    id: HostId,
    shell: &mut Shell,
    store_dir: &str,
) -> Result<StoreFiles, Arc<RemoteError>> {
    let sample = shell.sample(store_dir).await?;
    let (mut looked, mut is_empty) = (Vec::new(), true);
    for (dir, paths) in sample {
        is_empty &= paths.is_empty();
        if !paths.is_empty() && has(pool, id, shell, &paths).await? {
            return Ok(StoreFiles::In(dir));
        }
        looked.push(dir);
    }
    Ok(StoreFiles::Nowhere { looked, is_empty })
}

async fn has(
    pool: &Pool,
    id: HostId,
    shell: &mut Shell,
    paths: &[StorePath],
) -> Result<bool, Arc<RemoteError>> {
    let some = &paths[..paths.len().min(MAX_ASKED_PATHS)];
    let infos = pool.lease(id).await?.query_path_infos(some).await?;
    let Some(smallest) = infos.iter().min_by_key(|info| info.nar_size) else {
        return Ok(false);
    };
    let layout = shell.list(&smallest.path).await?;
    Ok(layout.is_some_and(|layout| layout.nar_size() == smallest.nar_size))
}
