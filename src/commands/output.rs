//! The results of commands on standard output: text or JSON.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::{Loaded, Status};
use crate::config::Config;
use crate::hint::Hint;
use crate::progress::drain;
use crate::{front, report};

/// Prints the result of a command to standard output.
///
/// # Errors
/// When standard output cannot take it.
pub async fn print(text: &str) -> Result<(), Box<dyn Hint>> {
    // Both may be the same terminal: earlier messages come first.
    drain();
    let mut stdout = front::stdout();
    stdout.write_all(text.as_bytes()).await?;
    if !text.ends_with('\n') {
        stdout.write_all(b"\n").await?;
    }
    Ok(stdout.flush().await?)
}

/// The configuration with its warnings, or what the command ends with where there is none. With `json` the error has been
/// printed to standard output then.
pub(super) async fn require_config(
    loaded: Loaded,
    json: bool,
) -> Result<(Config, Vec<String>), Status> {
    match loaded {
        Ok(loaded) => Ok(loaded),
        Err(error) if json => Err(print_json_error(report::line(&error)).await),
        Err(error) => Err(Err(error.into())),
    }
}

/// Prints an error as JSON, and returns the exit status.
pub(super) async fn print_json_error(error: String) -> Status {
    print_json(&json!({ "error": error })).await?;
    Ok(1)
}

/// Prints JSON for people and programs.
pub(super) async fn print_json(value: &Value) -> Result<(), Box<dyn Hint>> {
    print(&format!("{value:#}")).await
}
