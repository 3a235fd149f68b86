//! A folder for the sockets of ssh connections, which end with it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use super::{SHORT, Scratch, run_with_timeout, tool};

/// A runtime folder of its own, for `SSH_SUBSTITUTER_RUNTIME_DIR`. The connections that were left in it are ended on drop.
pub struct RuntimeDir {
    scratch: Scratch,
}

impl RuntimeDir {
    pub fn new() -> Self {
        let scratch = Scratch::new();
        fs::set_permissions(scratch.path(), Permissions::from_mode(0o700))
            .expect("close the runtime folder");
        Self { scratch }
    }

    pub fn path(&self) -> &Path {
        self.scratch.path()
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        end_masters(self.path());
    }
}

/// Ends the ssh connections whose sockets are in this folder. They would go by themselves, but not soon.
pub fn end_masters(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        // No ssh listens on an engine's.
        let is_engine = name == "engine" || name.to_string_lossy().starts_with("e-");
        if !is_engine && entry.file_type().is_ok_and(|kind| kind.is_socket()) {
            let mut command = Command::new(tool("ssh"));
            command.args(["-F", "none", "-O", "exit", "-S"]);
            command.arg(entry.path()).arg("x");
            let _ = run_with_timeout(command, SHORT);
        }
    }
}
