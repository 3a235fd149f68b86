//! From an error to what a person reads: message, causes, and what to do about it.
//!
//! This is the only place that knows remedies. The rooms below say what happened.

use std::error::Error;
use std::sync::Arc;

use crate::progress::text::fit;
use crate::remote::RemoteError;
use crate::transfer::HostFault;
use crate::transport::TransportError;

mod hints;
mod parts;

pub use parts::{Parts, parts};

/// One line: the message, its causes, and the hint where there is one. Nothing in it can drive a
/// terminal, and it has an end, whatever remotes sent: also where others than the logger show it.
#[must_use]
pub fn line(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in chain(error).skip(1) {
        let cause = cause.to_string();
        // Some messages quote their cause.
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    if let Some(hint) = chain(error).find_map(hints::hint) {
        text = format!("{text} (hint: {hint})");
    }
    // Remotes have their words quoted here; they get no line of their own.
    fit(&text.replace(['\r', '\n'], " ")).into_owned()
}

/// Most lines of [`details`]. Each is a message to those whom an engine serves, and of too many at once
/// they would miss the one that matters.
const DETAILS: usize = 40;

/// What ssh or the remote said, line by line, for those who want to know: the end of it.
#[must_use]
pub fn details(error: &(dyn Error + 'static)) -> Vec<String> {
    let said = chain(error).find_map(said).unwrap_or_default();
    let lines: Vec<&str> = said.lines().collect();
    let last = &lines[lines.len().saturating_sub(DETAILS)..];
    last.iter().map(|line| format!("  {}", fit(line))).collect()
}

/// Tells of something that does not stop the work.
pub fn warn(error: &(dyn Error + 'static)) {
    log::warn!("{}", line(error));
    for detail in details(error) {
        log::debug!("{detail}");
    }
}

/// Tells of something that ends the work.
pub fn error(error: &(dyn Error + 'static)) {
    log::error!("{}", line(error));
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| {
        (*error).source()
    })
}

/// Looks through the transparent layers for the transport's own error.
fn transport<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a TransportError> {
    let remote = remote(error);
    match remote {
        Some(RemoteError::Transport(error)) => Some(error),
        _ => error.downcast_ref(),
    }
}

fn remote<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a RemoteError> {
    if let Some(HostFault::Remote(error)) = error.downcast_ref() {
        return Some(error);
    }
    error
        .downcast_ref::<RemoteError>()
        .or_else(|| error.downcast_ref::<Arc<RemoteError>>().map(|e| &**e))
}

/// Everything that ssh or the remote said.
fn said<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a str> {
    if let Some(error) = transport(error) {
        return error.ssh_output();
    }
    remote(error)
        .map(RemoteError::stderr)
        .filter(|said| !said.is_empty())
}
