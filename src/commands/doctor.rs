//! `doctor`.
use super::{Loaded, Status};
use crate::cli::Doctor;

/// Checks.
///
/// # Errors
/// Not yet.
pub async fn doctor(_args: &Doctor, _loaded: Loaded) -> Status {
    Err("doctor: not built yet".into())
}
