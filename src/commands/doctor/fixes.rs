//! Fixes for errors that only `doctor` explains. Errors that commands report have hints of their own.

use std::path::Path;

use crate::cache::disk::{FolderError, InspectError};
use crate::config::ConfigError;

/// For a configuration that cannot be used.
pub(super) fn for_configuration(error: &ConfigError) -> String {
    match error {
        ConfigError::Syntax { origin, .. } => format!(
            "write a setting as NAME = VALUE at {origin}, or put a # before what is a comment"
        ),
        ConfigError::Include { path, .. } => format!(
            "let {} be there and readable, or write !include, which does without",
            path.display()
        ),
        ConfigError::IncludeLimit { origin, .. } => format!("take the include at {origin} out"),
        ConfigError::Value {
            origin, expected, ..
        } => {
            format!("write {expected} at {origin}, or remove it for the default")
        }
        ConfigError::SshOptions { .. } => {
            "quote the words in NIX_SSHOPTS as in a shell: each quote needs its other half"
                .to_owned()
        }
        ConfigError::Host { .. } | ConfigError::UntrustedHost { .. } => {
            "correct the host there".to_owned()
        }
    }
}

/// For a warning about the configuration.
pub(super) fn for_warning(warning: &str) -> String {
    let fix = if warning.contains("unknown setting") {
        "correct its name, or move it to nix.conf if it is Nix's; 'ssh-substituter config show' lists all names"
    } else if warning.contains("is ignored: ") {
        "put the whole public key there, or remove the word"
    } else if warning.contains("is listed twice") {
        "leave one of the two; 'ssh-substituter config show' tells where they stand"
    } else if warning.starts_with("cannot read ") {
        "let this user read it, or remove it"
    } else if warning.contains("SSH_AUTH_SOCK") {
        "set SSH_AUTH_SOCK to the path of an agent's socket, or unset it"
    } else {
        "correct it there"
    };
    fix.to_owned()
}

/// For a cache that cannot be used.
pub(super) fn for_cache(error: &InspectError) -> String {
    match error {
        InspectError::Folder(FolderError::Refused { path, .. }) => format!(
            "let it be a folder that only you can write: 'chown {} {path} && chmod 700 {path}', or name another one with SSH_SUBSTITUTER_CACHE_DIR",
            rustix::process::geteuid().as_raw(),
            path = quoted(path),
        ),
        InspectError::Folder(FolderError::Create { .. }) => {
            "let its parent be a folder that you can write, or name another one with SSH_SUBSTITUTER_CACHE_DIR".to_owned()
        }
        InspectError::Folder(_) => {
            "set HOME, or name a folder with SSH_SUBSTITUTER_CACHE_DIR".to_owned()
        }
        InspectError::Unusable { .. } => {
            "nothing has to be done: the next command moves it aside and begins a new one".to_owned()
        }
        InspectError::Sqlite { path, .. } => format!(
            "let {} and its folder be writable, on a disk with room; removing the file costs time only",
            path.display()
        ),
    }
}

/// A path, quoted for a shell.
pub(super) fn quoted(path: &Path) -> String {
    shell_words::quote(&path.to_string_lossy()).into_owned()
}
