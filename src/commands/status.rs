//! `status`.
use super::Status;
use crate::config::Config;

/// How all is.
///
/// # Errors
/// Not yet.
pub async fn status(_json: bool, _config: &Config) -> Status {
    Err("status: not built yet".into())
}
