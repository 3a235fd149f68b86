//! `config show`.
use super::Status;
use crate::config::Config;

/// The settings in force.
///
/// # Errors
/// Not yet.
pub async fn show_config(_json: bool, _config: &Config) -> Status {
    Err("config: not built yet".into())
}
