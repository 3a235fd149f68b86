//! Throw-away users of this machine, for login shells other than one's own. Only root can make them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{SHORT, Scratch, run, run_with_timeout, tool};

static MADE: AtomicU32 = AtomicU32::new(0);

/// A user that exists until this is dropped.
pub struct TempUser {
    name: String,
    home: Scratch,
}

impl TempUser {
    /// Makes a user with this login shell (a name to be looked up, or a path). Panics if not run by root.
    pub fn new(shell: &str) -> Self {
        Self::with_suffix(shell, "")
    }

    /// The same; the user's name ends with `suffix`, which may hold what names of local users do not have as a rule.
    pub fn with_suffix(shell: &str, suffix: &str) -> Self {
        assert!(is_root(), "only root can make users");
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("sshsub{}x{number}{suffix}", std::process::id());
        let home = Scratch::new();
        let mut command = Command::new(tool("useradd"));
        // A password of `*` matches nothing, but, other than the `!` that is there by default, doesn't lock the account:
        // sshd lets nobody into a locked one.
        command
            .args([
                "--badname",
                "--no-create-home",
                "--password",
                "*",
                "--home-dir",
            ])
            .arg(home.path())
            .arg("--shell");
        command.arg(tool(shell)).arg(&name);
        run(command, SHORT);
        let user = Self { name, home };
        user.give(user.home.path());
        user
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The home folder, for start-up files of the shell.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Writes a file into the home folder, for example a start-up file of the shell.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.home.write(name, content);
        self.give(self.home.path());
        path
    }

    /// Makes the user the owner of a file or of a folder with all that is in it.
    pub fn give(&self, path: &Path) {
        let mut command = Command::new(tool("chown"));
        command.args(["-hR", &self.name]).arg(path);
        run(command, SHORT);
    }
}

impl Drop for TempUser {
    fn drop(&mut self) {
        let mut command = Command::new(tool("userdel"));
        // Forced: processes of the user may take a moment to end.
        command.args(["--force", &self.name]);
        let _ = run_with_timeout(command, SHORT);
    }
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Name of the user who runs the tests.
pub fn current_user() -> String {
    let mut command = Command::new(tool("id"));
    command.arg("-un");
    run(command, SHORT)
}
