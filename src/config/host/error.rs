//! What can be wrong with a host spec.

use crate::config::value::printable;
use crate::hint::Hint;

/// Why a string names no host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct HostError {
    /// The string, cut to a printable length.
    pub spec: Box<str>,
    /// What is wrong with it.
    pub kind: HostErrorKind,
}

/// What is wrong with a host spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostErrorKind {
    /// The whole spec is too long to be one.
    #[error("is longer than {0} bytes")]
    TooLong(usize),
    /// The scheme, user, name, port or path.
    #[error("has the {part} {value:?}: expected {expected}")]
    Part {
        /// Which of them.
        part: &'static str,
        /// What was given, decoded where it could be.
        value: Box<str>,
        /// What would have been right.
        expected: &'static str,
    },
    /// A parameter that neither Nix nor this program knows.
    #[error("has an unknown parameter {parameter:?}: expected one of {known}")]
    UnknownParameter {
        /// The parameter's name.
        parameter: Box<str>,
        /// The parameters that have a meaning here, joined by commas.
        known: &'static str,
    },
    /// A parameter's value.
    #[error("has {parameter} = {value:?}: expected {expected}")]
    Parameter {
        /// The parameter's name.
        parameter: &'static str,
        /// Its value, decoded where it could be.
        value: Box<str>,
        /// What a value would have been.
        expected: &'static str,
    },
}

impl HostErrorKind {
    pub(super) fn part(part: &'static str, value: &str, expected: &'static str) -> Self {
        Self::Part {
            part,
            value: printable(value),
            expected,
        }
    }
}

impl Hint for HostError {
    fn hint(&self) -> Option<String> {
        Some("a host is NAME, USER@NAME or ssh://USER@NAME:PORT?PARAMETER=VALUE&…".to_owned())
    }
}
