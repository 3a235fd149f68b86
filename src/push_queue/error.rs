//! Why the queue cannot be used.

use std::io;
use std::path::PathBuf;

use crate::folder::{FolderError, Purpose};
use crate::hint::Hint;

/// Why the queue cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// There is no folder for it.
    #[error("no queue of paths to push: {0}")]
    Folder(#[from] FolderError),
    /// SQLite cannot use it.
    #[error("the queue of paths to push, {}: {source}", .path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The file is not one of ours.
    #[error("the queue of paths to push, {}, {what}", .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A damaged one cannot be moved out of the way.
    #[error("the queue of paths to push, {}, is damaged and cannot be moved aside: {source}", .path.display())]
    Aside {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be locked.
    #[error("cannot lock {}: {source}", .path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There are too many entries.
    #[error("the queue of paths to push is full: it has {0} entries")]
    Full(u64),
}

impl Hint for QueueError {
    fn hint(&self) -> Option<String> {
        let variable = Purpose::State.override_variable();
        Some(match self {
            Self::Folder(_) => format!(
                "let it be a folder that only you can write, or name another one with {variable}"
            ),
            Self::Sqlite { path, .. } | Self::Aside { path, .. } | Self::Lock { path, .. } => {
                let folder = path.parent().unwrap_or(path).display();
                format!("see that {folder} can be written and its disk has room")
            }
            Self::Unusable { path, .. } => {
                format!(
                    "move {} elsewhere, or use the newer program",
                    path.display()
                )
            }
            Self::Full(_) => {
                "find out with 'ssh-substituter status' what keeps it from being sent".to_owned()
            }
        })
    }
}
