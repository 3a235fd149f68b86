//! The same as a line, in parts: for those who lay them out by themselves.

use std::error::Error;

use super::{chain, details, hints};

/// What there is to say of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// The message and its causes, in one line.
    pub message: String,
    /// What mends it.
    pub hint: Option<String>,
    /// What ssh or the remote said, line by line.
    pub said: Vec<String>,
}

/// Takes an error apart.
#[must_use]
pub fn parts(error: &(dyn Error + 'static)) -> Parts {
    let mut message = error.to_string();
    for cause in chain(error).skip(1) {
        let cause = cause.to_string();
        // Some messages quote their cause.
        if !message.contains(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    let hint = chain(error).find_map(hints::hint);
    Parts {
        message: message.replace(['\r', '\n'], " "),
        hint: hint.map(|hint| hint.replace(['\r', '\n'], " ")),
        said: details(error)
            .iter()
            .map(|line| line.trim().to_owned())
            .collect(),
    }
}
