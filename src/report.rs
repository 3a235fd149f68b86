//! From an error to what a person reads: message, causes, and the hint that the error brings.

use std::error::Error;

use crate::hint::Hint;
use crate::progress::text::fit;

/// What there is to say of an error, for those who lay it out by themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// The message and its causes, in one line.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// What ssh or the remote wrote to stderr, line by line.
    pub remote_output: Vec<String>,
}

/// Takes an error apart.
#[must_use]
pub fn parts(error: &dyn Hint) -> Parts {
    Parts {
        message: one_line(&message(error)),
        hint: error.hint().map(|hint| one_line(&hint)),
        remote_output: remote_output(error)
            .map(|line| fit(line.trim()).into_owned())
            .collect(),
    }
}

/// One line: the message, its causes, and the hint where there is one. Nothing in it can drive a
/// terminal, and its length is bounded, whatever remotes sent: it is not shown by the logger alone.
#[must_use]
pub fn line(error: &dyn Hint) -> String {
    let mut text = message(error);
    if let Some(hint) = error.hint() {
        text = format!("{text} (hint: {hint})");
    }
    fit(&one_line(&text)).into_owned()
}

/// The message of an error and of its causes. Some messages quote their cause: it is not repeated.
#[must_use]
pub fn message(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

/// Messages quote remotes; their words get no line of their own.
fn one_line(text: &str) -> String {
    text.replace(['\r', '\n'], " ")
}

/// Most lines of [`details`]. An engine sends each as a message to its clients; of too many at once they would miss the
/// one that matters.
const MAX_DETAILS: usize = 40;

/// The last lines of what ssh or the remote wrote to stderr, for those who want to know.
#[must_use]
pub fn details(error: &dyn Hint) -> Vec<String> {
    remote_output(error)
        .map(|line| format!("  {}", fit(line)))
        .collect()
}

fn remote_output(error: &dyn Hint) -> impl Iterator<Item = &str> {
    let output = error.remote_output().unwrap_or_default();
    let skipped = output.lines().count().saturating_sub(MAX_DETAILS);
    output.lines().skip(skipped)
}

/// Reports something that does not stop the work.
pub fn warn(error: &dyn Hint) {
    log::warn!("{}", line(error));
    for detail in details(error) {
        log::debug!("{detail}");
    }
}

/// Reports something that ends the work.
pub fn error(error: &dyn Hint) {
    log::error!("{}", line(error));
}
