//! A real sshd on the loopback interface, with its own keys.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use data_encoding::BASE64;

use super::ports::keep_closed;
use super::user::{current_user, is_root};
use super::{
    Daemon, SHORT, Scratch, TempUser, children, kill_tree, percent_encode, resume_tree, run,
    run_with_timeout, stop_tree, tool, wait_until,
};

/// What a started sshd shall be like.
#[derive(Default)]
pub struct SshdBuilder {
    lines: Vec<String>,
    env: Vec<(String, String)>,
    user: Option<(String, PathBuf)>,
}

impl SshdBuilder {
    /// Adds a line to sshd_config. These lines come first, and for most keywords sshd takes the first value, so they win.
    /// For the environment use [`env`](Self::env): sshd takes one `SetEnv` line only.
    pub fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    /// Sets a variable in the environment of remote commands, for example a PATH without nix-store. The start-up files of
    /// the login shell may change it.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Logs in as this user, with that user's own home folder. Only root can start such a server.
    pub fn user(mut self, user: &TempUser) -> Self {
        self.user = Some((user.name().to_owned(), user.home().to_owned()));
        self
    }

    /// Starts the server; returns when it listens.
    pub fn start(self) -> Sshd {
        if is_root() {
            // Where sshd separates its privileges; a service manager would have made it.
            fs::create_dir_all("/run/sshd").expect("make /run/sshd");
        }
        let scratch = Scratch::new();
        for name in ["host", "client"] {
            let mut command = Command::new(tool("ssh-keygen"));
            command
                .args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"])
                .arg(scratch.path().join(name));
            run(command, SHORT);
        }
        let (user, home) = self
            .user
            .clone()
            .unwrap_or_else(|| (current_user(), scratch.folder("home")));
        let public = fs::read_to_string(scratch.path().join("host.pub")).expect("read a host key");
        let host_key = public.split(' ').take(2).collect::<Vec<_>>().join(" ");
        // The machine's nix.conf plays no part. Even for reading, Nix as root looks for its group of build users.
        let nix_conf = "build-users-group =\nsandbox = false\nsubstitute = false\n";
        scratch.write("nix/nix.conf", nix_conf);

        for _ in 0..20 {
            let port = free_port();
            let config = scratch.write("sshd_config", self.config(scratch.path(), &home, port));
            let log = scratch.path().join("log");
            let args = [Path::new("-D"), Path::new("-e"), Path::new("-f"), &config];
            let daemon = Daemon::start(tool("sshd"), args, &log);
            if listens(&daemon, &log) {
                let sshd = Sshd {
                    daemon,
                    scratch,
                    port,
                    user,
                    host_key,
                    home,
                };
                sshd.scratch.write(
                    "known_hosts",
                    format!("[127.0.0.1]:{port} {}\n", sshd.host_key),
                );
                sshd.scratch.write("ssh_config", sshd.client_config("*"));
                return sshd;
            }
        }
        let log = fs::read_to_string(scratch.path().join("log")).unwrap_or_default();
        panic!("sshd does not start; its last words:\n{log}");
    }

    fn config(&self, folder: &Path, home: &Path, port: u16) -> String {
        let folder = folder.display();
        let mut env = vec![
            ("NIX_CONF_DIR".to_owned(), format!("{folder}/nix")),
            // Another home folder than the real one, so that the start-up files of whoever runs the tests play no part.
            ("HOME".to_owned(), home.display().to_string()),
        ];
        env.retain(|(name, _)| !self.env.iter().any(|(given, _)| given == name));
        env.extend(self.env.clone());
        let env: String = env
            .iter()
            .map(|(name, value)| format!(" \"{name}={value}\""))
            .collect();
        // From 9.8 on sshd shuts out for a while whoever breaks off connections, as tests do.
        let penalties = if openssh_version() >= (9, 8) {
            "PerSourcePenalties no\n"
        } else {
            ""
        };
        let lines: String = self.lines.iter().map(|line| format!("{line}\n")).collect();
        format!(
            "{lines}\
             Port {port}\n\
             ListenAddress 127.0.0.1\n\
             HostKey {folder}/host\n\
             AuthorizedKeysFile {folder}/client.pub\n\
             StrictModes no\n\
             UsePAM no\n\
             PidFile none\n\
             PermitRootLogin prohibit-password\n\
             PasswordAuthentication no\n\
             KbdInteractiveAuthentication no\n\
             LogLevel VERBOSE\n\
             {penalties}\
             SetEnv{env}\n"
        )
    }
}

/// A running sshd, for one user. Its descendants end with it.
pub struct Sshd {
    // Before the folder, so that it ends before its files go.
    daemon: Daemon,
    scratch: Scratch,
    port: u16,
    user: String,
    host_key: String,
    home: PathBuf,
}

impl Sshd {
    /// Starts a server with nothing special about it.
    pub fn start() -> Self {
        Self::builder().start()
    }

    pub fn builder() -> SshdBuilder {
        SshdBuilder::default()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Who logs in: the user who runs the tests, if not chosen otherwise.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Process id of the listening server.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Private key of the account.
    pub fn client_key(&self) -> PathBuf {
        self.scratch.path().join("client")
    }

    /// A known_hosts file that holds this server, under `[127.0.0.1]:PORT`.
    pub fn known_hosts(&self) -> PathBuf {
        self.scratch.path().join("known_hosts")
    }

    /// `ssh-ed25519 AAAA…`, without a comment.
    pub fn host_key(&self) -> &str {
        &self.host_key
    }

    /// For Nix's parameter `base64-ssh-public-host-key`.
    pub fn base64_public_host_key(&self) -> String {
        BASE64.encode(self.host_key.as_bytes())
    }

    /// Home folder of remote commands, for start-up files of the shell.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// For `ssh -F`: any host name leads to this server.
    pub fn ssh_config(&self) -> PathBuf {
        self.scratch.path().join("ssh_config")
    }

    /// A `Host` block of ssh_config that leads `alias` to this server. All files in it are this server's own.
    pub fn client_config(&self, alias: &str) -> String {
        format!(
            "Host {alias}\n  HostName 127.0.0.1\n  Port {}\n  User {}\n  IdentityFile {}\n  IdentitiesOnly yes\n  \
             IdentityAgent none\n  UserKnownHostsFile {}\n  GlobalKnownHostsFile /dev/null\n  \
             StrictHostKeyChecking yes\n  BatchMode yes\n",
            self.port,
            self.user,
            self.client_key().display(),
            self.known_hosts().display()
        )
    }

    /// `ssh://USER@127.0.0.1:PORT?ssh-key=…&base64-ssh-public-host-key=…`, then `&` and `extra` unless that is empty
    /// (`NAME=VALUE&…`, already percent-encoded).
    pub fn store_url(&self, extra: &str) -> String {
        self.url(&format!("127.0.0.1:{}", self.port), extra)
    }

    /// The same for Nix's own ssh store: without the port, which Nix 2.8 takes for a part of the host's name. It
    /// must come by `NIX_SSHOPTS`: see [`ssh_options`](Self::ssh_options).
    pub fn nix_store_url(&self, extra: &str) -> String {
        self.url("127.0.0.1", extra)
    }

    fn url(&self, host: &str, extra: &str) -> String {
        let key = percent_encode(self.client_key().to_str().expect("UTF-8 path"));
        let host_key = percent_encode(&self.base64_public_host_key());
        let and = if extra.is_empty() { "" } else { "&" };
        format!(
            "ssh://{}@{host}?ssh-key={key}&base64-ssh-public-host-key={host_key}{and}{extra}",
            self.user
        )
    }

    /// A value of `NIX_SSHOPTS` that leads any host name to this server.
    pub fn ssh_options(&self) -> String {
        format!("-F {}", self.ssh_config().display())
    }

    /// `ssh -F … HOST`, ready for a remote command.
    pub fn ssh(&self) -> Command {
        let mut command = Command::new(tool("ssh"));
        command.arg("-F").arg(self.ssh_config()).arg("127.0.0.1");
        command
    }

    /// What sshd has logged so far (LogLevel VERBOSE: each login and each command).
    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.path().join("log")).expect("read the log of sshd")
    }

    /// How many logins have succeeded so far.
    pub fn logins(&self) -> usize {
        self.log().matches("\nAccepted publickey for ").count()
    }

    /// How many remote commands have been started so far.
    pub fn sessions(&self) -> usize {
        self.log().matches("\nStarting session: ").count()
    }

    /// Cuts all connections, with all remote commands; the server goes on listening.
    pub fn cut_connections(&self) {
        for pid in children(self.pid()) {
            kill_tree(pid);
        }
    }

    /// Freezes the server, all connections and remote commands: the link is up and silent.
    pub fn freeze(&self) {
        stop_tree(self.pid());
    }

    /// Undoes [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        resume_tree(self.pid());
    }

    /// Ends the server with all connections: from now on they are refused.
    pub fn kill(&self) {
        kill_tree(self.pid());
        // A process listens for a moment after the signal that kills it.
        wait_until("sshd does not listen any more", || {
            keep_closed(self.port).is_ok()
        });
    }
}

/// Writes an ssh_config with one alias for each server into `folder`; returns its path.
pub fn joint_ssh_config(folder: &Path, servers: &[(&str, &Sshd)]) -> PathBuf {
    let blocks: String = servers
        .iter()
        .map(|(alias, sshd)| sshd.client_config(alias))
        .collect();
    let path = folder.join("joint_ssh_config");
    fs::write(&path, blocks).expect("write an ssh_config");
    path
}

/// A port that was free a moment ago. Another process may take it before sshd does: then one tries again.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bind a port");
    listener.local_addr().expect("an address").port()
}

/// Waits until sshd says that it listens; `false` if it ended instead.
fn listens(daemon: &Daemon, log: &Path) -> bool {
    let started = Instant::now();
    while started.elapsed() < SHORT {
        if fs::read_to_string(log).is_ok_and(|text| text.contains("Server listening on")) {
            return true;
        }
        if !daemon.is_running() {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    false
}

/// Version of the installed OpenSSH.
fn openssh_version() -> (u32, u32) {
    let mut command = Command::new(tool("ssh"));
    command.arg("-V");
    let output = run_with_timeout(command, SHORT);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let number = text
        .strip_prefix("OpenSSH_")
        .and_then(|rest| rest.split('p').next());
    let (major, minor) = number
        .and_then(|number| number.split_once('.'))
        .unwrap_or_default();
    match (major.parse(), minor.parse()) {
        (Ok(major), Ok(minor)) => (major, minor),
        _ => panic!("not a version of OpenSSH: {text}"),
    }
}
