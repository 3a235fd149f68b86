//! A small file system.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{SHORT, run_with_timeout, tool};

/// A small file system of its own. Only root can make one, and not in every container.
pub struct Tiny(PathBuf);

impl Tiny {
    /// Sizes are as mount(8) takes them: `40m`.
    pub fn new(folder: PathBuf, size: &str) -> Option<Self> {
        mount(&format!("size={size}"), &folder).then_some(Self(folder))
    }

    pub fn grow(&self, size: &str) {
        let options = format!("remount,size={size}");
        assert!(mount(&options, &self.0), "grow a file system");
    }
}

fn mount(options: &str, folder: &Path) -> bool {
    let mut command = Command::new(tool("mount"));
    command
        .args(["-t", "tmpfs", "-o", options, "tmpfs"])
        .arg(folder);
    run_with_timeout(command, SHORT).status.success()
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let mut command = Command::new(tool("umount"));
        command.arg("--lazy").arg(&self.0);
        let _ = run_with_timeout(command, SHORT);
    }
}
