//! Which program, with which configuration: an engine serves exactly one.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::config::Config;
use crate::wire::serve::engine::EXTENSION;

/// This process's own program, even after its file was replaced (Linux).
const PROC_SELF_EXE: &str = "/proc/self/exe";

/// Environment variables that change what an engine does: where its private folders are, and which user ssh runs as.
const ENVIRONMENT: &[&str] = &[
    "SSH_SUBSTITUTER_CACHE_DIR",
    "SSH_SUBSTITUTER_STATE_DIR",
    "SSH_SUBSTITUTER_RUNTIME_DIR",
    "NSS_WRAPPER_PASSWD",
];

/// The identity of a program that runs with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    fingerprint: String,
    program: Option<FileVersion>,
}

/// Device, inode, size, and modification time (seconds, nanoseconds): differs once a file is replaced or rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileVersion(u64, u64, u64, i64, i64);

impl FileVersion {
    fn of(meta: &Metadata) -> Self {
        let (seconds, nanoseconds) = (meta.mtime(), meta.mtime_nsec());
        Self(meta.dev(), meta.ino(), meta.size(), seconds, nanoseconds)
    }
}

impl Identity {
    /// The identity of this process with `config`.
    #[must_use]
    pub fn of_process(config: &Config) -> Self {
        let program = own_program();
        let mut hasher = Sha256::new();
        let mut add = |part: &str| {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        };
        add(env!("CARGO_PKG_VERSION"));
        add(&EXTENSION.to_string());
        add(&format!("{program:?}"));
        add(&format!("{:?}", find_ssh()));
        for name in ENVIRONMENT {
            add(&format!("{:?}", std::env::var_os(name)));
        }
        add(&config.identity());
        Self {
            fingerprint: data_encoding::HEXLOWER.encode(&hasher.finalize()),
            program,
        }
    }

    /// 64 hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Whether the program's file has been replaced or removed since.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        let path = std::env::current_exe().ok();
        let meta = path.and_then(|path| fs::metadata(path).ok());
        self.program.is_some() && meta.as_ref().map(FileVersion::of) != self.program
    }
}

fn own_program() -> Option<FileVersion> {
    let meta = fs::metadata(PROC_SELF_EXE).or_else(|_| fs::metadata(std::env::current_exe()?));
    meta.ok().as_ref().map(FileVersion::of)
}

/// The path that starts another process of this program.
pub(super) fn own_program_path() -> PathBuf {
    match std::env::current_exe() {
        Ok(path) if path.exists() => path,
        // The file was removed, or replaced: Linux then appends " (deleted)" to the path.
        _ => PathBuf::from(PROC_SELF_EXE),
    }
}

/// The `ssh` that would be started, by `PATH`.
fn find_ssh() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut all = std::env::split_paths(&path).map(|folder| folder.join("ssh"));
    all.find(|candidate| Path::is_file(candidate))
}
