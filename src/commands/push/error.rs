//! Why a push could not begin.

use std::io;

use crate::commands::GetError;
use crate::hint::Hint;
use crate::push::{KeyFileError, PushError};
use crate::push_queue::QueueError;

/// Why a push could not begin.
#[derive(Debug, thiserror::Error)]
pub enum PushCommandError {
    /// An argument, or a line on standard input, is no path of the store.
    #[error(transparent)]
    Given(#[from] GetError),
    /// The program is switched off.
    #[error("switched off by use-ssh-substituter = false")]
    SwitchedOff,
    /// There is no host.
    #[error("no hosts to send to: see --to and ssh-substituter-push-hosts")]
    NoHosts,
    /// Standard input cannot be read.
    #[error("cannot read paths from standard input")]
    Stdin(#[source] io::Error),
    /// Standard input has no end.
    #[error("standard input: expected less than {0} bytes of paths, got more")]
    LongStdin(u64),
    /// There is no key to sign with.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The queue cannot be used.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The local store cannot be read, or does not have a path.
    #[error(transparent)]
    Push(#[from] PushError),
}

impl Hint for PushCommandError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Given(error) => error.hint(),
            Self::Push(error) => error.hint(),
            Self::Key(error) => error.hint(),
            Self::Queue(error) => error.hint(),
            Self::SwitchedOff | Self::NoHosts | Self::Stdin(_) | Self::LongStdin(_) => None,
        }
    }
}
