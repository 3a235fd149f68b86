//! Errors that are shown to people bring their own hint: what to do about them.
//!
//! Each error type implements [`Hint`] beside its definition, so that a new variant cannot be added without a decision
//! about its hint. `report` puts message and hint together. Hints are listed in `docs/messages.md`.

use std::error::Error;
use std::io;
use std::sync::Arc;

/// An error that can be reported to a person.
pub trait Hint: Error {
    /// What the person can do about it, with commands spelled out to be pasted; `None` where the message says all.
    /// An error that wraps another one gives the hint of that where it has none of its own.
    fn hint(&self) -> Option<String>;

    /// What ssh or the program on the host wrote to stderr, if that is known and not empty.
    fn remote_output(&self) -> Option<&str> {
        None
    }
}

impl<E: Hint> Hint for Arc<E> {
    fn hint(&self) -> Option<String> {
        (**self).hint()
    }

    fn remote_output(&self) -> Option<&str> {
        (**self).remote_output()
    }
}

/// Errors whose message says all.
macro_rules! without_hint {
    ($($error:ty),*) => {$(
        impl $crate::hint::Hint for $error {
            fn hint(&self) -> Option<String> {
                None
            }
        }
    )*};
}
pub(crate) use without_hint;

// What libraries report.
without_hint!(
    io::Error,
    serde_json::Error,
    tokio::task::JoinError,
    Message
);

impl<'a, E: Hint + 'a> From<E> for Box<dyn Hint + 'a> {
    fn from(error: E) -> Self {
        Box::new(error)
    }
}

/// An error that is nothing but its message.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Message(String);

impl From<String> for Box<dyn Hint> {
    fn from(message: String) -> Self {
        Box::new(Message(message))
    }
}

impl From<&str> for Box<dyn Hint> {
    fn from(message: &str) -> Self {
        message.to_owned().into()
    }
}
