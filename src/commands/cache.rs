//! `cache`.
use super::Status;
use crate::cli::CacheAction;
use crate::config::Config;

/// The answers on disk.
///
/// # Errors
/// Not yet.
pub async fn cache(_action: &CacheAction, _config: &Config) -> Status {
    Err("cache: not built yet".into())
}
