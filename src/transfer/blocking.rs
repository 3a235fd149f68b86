//! Work that blocks, where that is allowed.

use std::io;

use tokio::task::spawn_blocking;

/// Does `work` on a thread that may block, or at once where it never blocks.
///
/// # Errors
/// When it panicked, or the program is ending.
pub(in crate::transfer) async fn run<T: Send + 'static>(
    may_block: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    if !may_block {
        return Ok(work());
    }
    spawn_blocking(work).await.map_err(io::Error::other)
}
