//! What can be wrong with a host spec.

use crate::hint::Hint;

/// Why a string names no host. `spec` is the string, cut to a printable length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// The whole spec is too long to be one.
    #[error("host {spec:?} is longer than {max} bytes")]
    TooLong {
        /// The spec.
        spec: Box<str>,
        /// The longest that is read, in bytes.
        max: usize,
    },
    /// Another kind of store than ssh.
    #[error("host {spec:?} has the scheme {scheme:?}: expected ssh")]
    Scheme {
        /// The spec.
        spec: Box<str>,
        /// What stands before `://`.
        scheme: Box<str>,
    },
    /// The host's name.
    #[error("host {spec:?} has the name {name:?}: expected {expected}")]
    Name {
        /// The spec.
        spec: Box<str>,
        /// The name.
        name: Box<str>,
        /// What a name would have been.
        expected: &'static str,
    },
    /// The login name.
    #[error("host {spec:?} has the user {user:?}: expected {expected}")]
    User {
        /// The spec.
        spec: Box<str>,
        /// The user.
        user: Box<str>,
        /// What a user would have been.
        expected: &'static str,
    },
    /// The port.
    #[error("host {spec:?} has the port {port:?}: expected a number from 1 to 65535, once")]
    Port {
        /// The spec.
        spec: Box<str>,
        /// The port.
        port: Box<str>,
    },
    /// Something follows the host's name that means nothing to ssh.
    #[error("host {spec:?} has the path {path:?}: expected none")]
    Path {
        /// The spec.
        spec: Box<str>,
        /// The path.
        path: Box<str>,
    },
    /// A parameter that neither Nix nor this program knows.
    #[error("host {spec:?} has an unknown parameter {parameter:?}: expected one of {known}")]
    UnknownParameter {
        /// The spec.
        spec: Box<str>,
        /// The parameter's name.
        parameter: Box<str>,
        /// The parameters that have a meaning here, joined by commas.
        known: &'static str,
    },
    /// A parameter's value.
    #[error("host {spec:?} has {parameter} = {value:?}: expected {expected}")]
    Parameter {
        /// The spec.
        spec: Box<str>,
        /// The parameter's name.
        parameter: &'static str,
        /// Its value, decoded where it could be.
        value: Box<str>,
        /// What a value would have been.
        expected: &'static str,
    },
}

impl Hint for HostError {
    fn hint(&self) -> Option<String> {
        Some("a host is NAME, USER@NAME or ssh://USER@NAME:PORT?PARAMETER=VALUE&…".to_owned())
    }
}
