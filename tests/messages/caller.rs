//! Runs the program as Nix 1.x does, in an environment of its own, and looks at what people read.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use super::support::{
    NixEnv, RuntimeDir, Sshd, Store, percent_encode, program, run_with_input, run_with_timeout,
};

/// How long one run may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A valid path that nobody has.
pub const NOBODYS: &str = "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-nobodys";

pub struct Caller {
    env: NixEnv,
    runtime: RuntimeDir,
    hosts: Vec<String>,
    options: Vec<(String, String)>,
    ssh_options: String,
}

impl Caller {
    /// One that knows this host (a store URL).
    pub fn of(host: &str) -> Self {
        Self {
            env: NixEnv::new(),
            runtime: RuntimeDir::new(),
            hosts: vec![host.to_owned()],
            options: Vec::new(),
            // Whoever runs the tests has a configuration too.
            ssh_options: "-F none".to_owned(),
        }
    }

    pub fn and_host(mut self, host: &str) -> Self {
        self.hosts.push(host.to_owned());
        self
    }

    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn ssh_options(mut self, more: &str) -> Self {
        self.ssh_options = format!("{} {more}", self.ssh_options);
        self
    }

    /// `--substitute PATH DEST`
    pub fn substitute(&self, path: &str) -> Run {
        let mut command = self.command();
        command.args(["--substitute", path]);
        command.arg(self.env.folder().join("dest"));
        Run(run_with_timeout(command, LIMIT), NAME)
    }

    /// `--query`, with these lines.
    pub fn query(&self, lines: &str) -> Run {
        let mut command = self.command();
        command.arg("--query");
        // Nix 1.x puts the name of the program before each line by itself.
        Run(run_with_input(command, lines.as_bytes(), LIMIT), "")
    }

    /// `--serve`, with these bytes from the caller.
    pub fn serve(&self, input: &[u8]) -> Run {
        let mut command = self.command();
        command.arg("--serve");
        Run(run_with_input(command, input, LIMIT), NAME)
    }

    fn command(&self) -> Command {
        let mut command = self.env.command(program());
        command
            .env("SSH_SUBSTITUTER_RUNTIME_DIR", self.runtime.path())
            .env("NIX_SSHOPTS", &self.ssh_options);
        for host in &self.hosts {
            command.args(["--host", host]);
        }
        for (name, value) in &self.options {
            command.args(["--option", name, value]);
        }
        command
    }
}

/// What a run printed, and what each of its messages begins with.
pub struct Run(Output, &'static str);

const NAME: &str = "ssh-substituter: ";

impl Run {
    pub fn lines(&self, kind: &str) -> Vec<String> {
        let start = format!("{}{kind}: ", self.1);
        let stderr = String::from_utf8(self.0.stderr.clone()).expect("UTF-8 on stderr");
        let lines = stderr.lines();
        lines
            .filter_map(|line| line.strip_prefix(&start))
            .map(str::to_owned)
            .collect()
    }

    /// Nothing was brought, as the caller sees it, and one warning tells why: it begins with the host and this, and its
    /// hint holds these words. Gives the warning.
    #[track_caller]
    pub fn fails_with(&self, host: &str, happened: &str, hints: &[&str]) -> String {
        assert_eq!(self.0.status.code(), Some(1), "{}", self.shown());
        assert_eq!(self.0.stdout, b"\n", "{}", self.shown());
        assert_eq!(self.lines("error").len(), 1, "{}", self.shown());
        self.warns(host, happened, hints)
    }

    /// One warning, with the host, this, and a hint that holds these words.
    #[track_caller]
    pub fn warns(&self, host: &str, happened: &str, hints: &[&str]) -> String {
        let warnings = self.lines("warning");
        let [warning] = &warnings[..] else {
            panic!("{} warnings\n{}", warnings.len(), self.shown());
        };
        let start = format!("{host}: {happened}");
        assert!(warning.starts_with(&start), "no {start:?}\n{warning}");
        let hint = warning
            .split_once(" (hint: ")
            .and_then(|(_, hint)| hint.strip_suffix(')'))
            .unwrap_or_else(|| panic!("no hint\n{warning}"));
        for word in hints {
            assert!(hint.contains(word), "no {word:?} in the hint\n{warning}");
        }
        warning.clone()
    }

    /// The last word, why nothing was brought.
    #[track_caller]
    pub fn error(&self) -> String {
        self.lines("error")
            .pop()
            .unwrap_or_else(|| panic!("{}", self.shown()))
    }

    /// It ended well, with this on stdout.
    #[track_caller]
    pub fn answers(&self, stdout: &str) {
        self.succeeds();
        assert_eq!(self.0.stdout, stdout.as_bytes(), "{}", self.shown());
    }

    #[track_caller]
    pub fn succeeds(&self) {
        assert!(self.0.status.success(), "{}", self.shown());
    }

    fn shown(&self) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        format!(
            "{}\nstdout: {:?}\n{}",
            self.0.status,
            text(&self.0.stdout),
            text(&self.0.stderr)
        )
    }
}

/// How messages name this server.
pub fn name(sshd: &Sshd) -> String {
    format!("{}@127.0.0.1:{}", sshd.user(), sshd.port())
}

/// The command that every hint about it begins with.
pub fn ssh(sshd: &Sshd) -> String {
    format!("ssh -p {} {}@127.0.0.1 ", sshd.port(), sshd.user())
}

/// The URL of a store on this server.
pub fn url(sshd: &Sshd, store: &Store) -> String {
    sshd.store_url(&format!(
        "trusted=true&remote-store={}",
        store.remote_store_param()
    ))
}

/// The same where a script stands in for nix-store.
pub fn scripted(sshd: &Sshd, store: &Store, script: &str) -> String {
    let path = script_in(store, script);
    let path = percent_encode(path.to_str().expect("UTF-8 path"));
    format!("{}&remote-program={path}", url(sshd, store))
}

fn script_in(store: &Store, script: &str) -> PathBuf {
    let path = store.env().folder().join("program");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it executable");
    path
}
