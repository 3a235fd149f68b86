//! The real Nix, in an environment of its own, also as the caller of what is tested.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use super::{Scratch, Sshd, Store, proc::assert_success, run_with_timeout, tool};

/// Where Nix finds its configuration, its home and its runtime folder: nothing of the machine's own plays a part.
pub struct NixEnv {
    scratch: Scratch,
}

impl NixEnv {
    pub fn new() -> Self {
        let scratch = Scratch::new();
        // Nix as root looks for its group of build users even where it builds nothing.
        scratch.write(
            "conf/nix.conf",
            "build-users-group =\nsandbox = false\nsubstituters =\nexperimental-features = nix-command\n",
        );
        // As `configure` does.
        scratch.write("conf/ssh-substituter.conf", "engine = off\n");
        scratch.folder("home");
        let run = scratch.folder("run");
        fs::set_permissions(run, Permissions::from_mode(0o700)).expect("close the runtime folder");
        Self { scratch }
    }

    /// `NIX_CONF_DIR`, also for files of one's own.
    pub fn conf_dir(&self) -> PathBuf {
        self.scratch.path().join("conf")
    }

    /// The program's private folder for what is to be done yet.
    pub fn state_dir(&self) -> PathBuf {
        self.scratch.path().join("state")
    }

    /// Folder of this environment; what is put there goes with it.
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Adds a line to nix.conf.
    pub fn add_conf(&self, line: &str) {
        let path = self.conf_dir().join("nix.conf");
        let mut file = OpenOptions::new()
            .append(true)
            .open(path)
            .expect("open nix.conf");
        writeln!(file, "{line}").expect("write nix.conf");
    }

    /// A command in this environment: `HOME`, `PATH`, `NIX_CONF_DIR` and `XDG_RUNTIME_DIR`, little else.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let program = program.as_ref();
        // A bare name is looked up now, so that a missing program is reported as such.
        let found = if program.components().count() == 1 {
            tool(&program.to_string_lossy())
        } else {
            program.to_owned()
        };
        let mut command = Command::new(found);
        command
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "TMPDIR"))
            .env("LANG", "C.UTF-8")
            .env("HOME", self.scratch.path().join("home"))
            .env("XDG_RUNTIME_DIR", self.scratch.path().join("run"))
            // That of root would be the machine's own.
            .env("SSH_SUBSTITUTER_STATE_DIR", self.state_dir())
            .env("NIX_CONF_DIR", self.conf_dir())
            .current_dir(self.scratch.path());
        command
    }
}

/// What a run gave, and how long it took.
#[derive(Debug)]
pub struct Ran {
    pub output: Output,
    pub took: Duration,
    shown: String,
}

impl Ran {
    pub fn success(&self) -> bool {
        self.output.status.success()
    }

    /// Panics, with what was printed, unless it succeeded.
    pub fn ok(self) -> Self {
        assert_success(&self.shown, &self.output);
        self
    }

    /// Panics, with what was printed, if it succeeded.
    pub fn failed(self) -> Self {
        assert!(
            !self.success(),
            "succeeded: {}\nstderr:\n{}",
            self.shown,
            self.stderr()
        );
        self
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }
}

/// Nix as a caller, fetching into a store of its own, empty at first. One value can run several commands.
pub struct Nix {
    store: Store,
    options: Vec<(String, String)>,
    env: Vec<(String, String)>,
    limit: Duration,
}

impl Nix {
    pub fn new() -> Self {
        Self {
            store: Store::new(),
            options: Vec::new(),
            env: Vec::new(),
            limit: Duration::from_secs(120),
        }
    }

    /// Sets an option for all runs (`--option NAME VALUE`). The programs that Nix starts don't see these: for what they shall
    /// read use [`conf`](Self::conf).
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a line to nix.conf.
    pub fn conf(self, line: &str) -> Self {
        self.store.env().add_conf(line);
        self
    }

    /// Store URLs, separated by spaces.
    pub fn substituters(self, urls: &str) -> Self {
        self.option("substituters", urls)
    }

    /// Public keys whose signatures count, separated by spaces.
    pub fn trust(self, public_keys: &str) -> Self {
        self.option("trusted-public-keys", public_keys)
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Leads all of Nix's own ssh connections to this server (`NIX_SSHOPTS`).
    pub fn ssh(self, sshd: &Sshd) -> Self {
        self.env("NIX_SSHOPTS", &sshd.ssh_options())
    }

    /// How long one run may take (2 minutes if not set).
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The destination.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// `nix-store --realise`.
    pub fn realise(&self, paths: &[impl AsRef<str>]) -> Ran {
        let mut command = self.command("nix-store");
        command
            .arg("--realise")
            .args(paths.iter().map(AsRef::as_ref));
        self.run(command)
    }

    /// `nix build`.
    pub fn build(&self, paths: &[impl AsRef<str>]) -> Ran {
        let mut command = self.command("nix");
        command
            .args(["build", "--no-link"])
            .args(paths.iter().map(AsRef::as_ref));
        self.run(command)
    }

    /// `nix copy --from URL`, with further arguments such as `--no-check-sigs`.
    pub fn copy_from(&self, url: &str, paths: &[impl AsRef<str>], extra: &[&str]) -> Ran {
        let mut command = self.command("nix");
        command
            .args(["copy", "--from", url, "--to", &self.store.uri()])
            .args(extra);
        command.args(paths.iter().map(AsRef::as_ref));
        self.run(command)
    }

    /// Any Nix command on the destination store, with the options set here; for [`run`](Self::run).
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.store.command(program);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        for (name, value) in &self.options {
            command.args(["--option", name, value]);
        }
        command
    }

    /// Runs a command with the time limit set here.
    pub fn run(&self, command: Command) -> Ran {
        let shown = format!("{command:?}");
        let started = Instant::now();
        let output = run_with_timeout(command, self.limit);
        Ran {
            output,
            took: started.elapsed(),
            shown,
        }
    }
}
