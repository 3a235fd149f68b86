//! `get`.
use std::sync::Arc;

use super::Status;
use crate::cli::Get;
use crate::config::Config;
use crate::progress::Display;

/// Fetches.
///
/// # Errors
/// Not yet.
pub async fn get(_args: &Get, _config: &Config, _display: &Arc<Display>) -> Status {
    Err("get: not built yet".into())
}
