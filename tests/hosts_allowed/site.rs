//! The hosts, and the program as Nix starts it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::process::{Command, Output};

use super::support::{Host, Masters, NixEnv, SHORT, program, run_with_input};

/// A host that is configured, one that may be chosen, and one that may not.
pub struct Site {
    pub configured: Host,
    pub choosable: Host,
    /// Nobody ever answers here; that somebody knocked can be seen.
    forbidden: TcpListener,
    /// Only the first, only the second has it.
    pub paths: [String; 2],
    pub env: NixEnv,
    _masters: Masters,
}

impl Site {
    pub fn new() -> Self {
        let (configured, choosable) = (Host::new(), Host::new());
        let forbidden = TcpListener::bind("127.0.0.1:0").expect("bind a port");
        forbidden.set_nonblocking(true).expect("do not wait");
        let env = NixEnv::new();
        let choices = format!("trusted-ssh-substituter-hosts = {}", choosable.trusted());
        env.configure(&[configured.trusted()], &choices);
        let paths = [
            configured.store.big("first", 100),
            choosable.store.big("second", 100),
        ];
        let _masters = env.masters();
        Self {
            configured,
            choosable,
            forbidden,
            paths,
            env,
            _masters,
        }
    }

    pub fn forbidden(&self) -> String {
        format!(
            "127.0.0.1:{}",
            self.forbidden.local_addr().expect("an address").port()
        )
    }

    /// The program under the name that Nix 1.x knows, with its configuration as the daemon packs it.
    pub fn classic(&self, choices: &[(&str, &str)], args: &[&str]) -> Command {
        let link = self.env.folder().join("download-via-ssh");
        if !link.exists() {
            symlink(program(), &link).expect("make a link");
        }
        let mut command = self.env.command(&link);
        command.env("_NIX_OPTIONS", packed(choices)).args(args);
        command
    }

    pub fn query(&self, choices: &[(&str, &str)], more: &[&str]) -> Output {
        let args: Vec<&str> = ["--query"]
            .into_iter()
            .chain(more.iter().copied())
            .collect();
        let request = format!("\nhave {} {} \n", self.paths[0], self.paths[1]);
        let request = request.trim_start();
        run_with_input(self.classic(choices, &args), request.as_bytes(), SHORT)
    }

    pub fn substitute(&self, choices: &[(&str, &str)], path: &str) -> Output {
        let dest = self.env.folder().join("dest");
        let dest = dest.to_str().expect("UTF-8");
        let output = run_with_input(
            self.classic(choices, &["--substitute", path, dest]),
            b"",
            SHORT,
        );
        let _ = std::fs::remove_file(dest);
        let _ = std::fs::remove_dir_all(dest);
        output
    }

    /// The serve protocol; the answer to the question which of the two paths are there.
    pub fn serve(&self, store: &str, more: &[&str]) -> (Vec<String>, String) {
        let mut command = self.env.program();
        command
            .args(["--serve", "--write", "--store", store])
            .args(more);
        let output = run_with_input(command, &valid_paths(&self.paths), SHORT);
        let reply = output.stdout.get(16..).expect("a hello").to_vec();
        (set(&reply), stderr(&output))
    }

    pub fn assert_nobody_knocked(&self) {
        let knocked = self.forbidden.accept();
        let nobody = matches!(&knocked, Err(error) if error.kind() == ErrorKind::WouldBlock);
        assert!(nobody, "somebody connected: {knocked:?}");
    }

    pub fn connections(&self) -> [usize; 2] {
        [&self.configured, &self.choosable]
            .map(|host| host.sshd.log().matches("Connection from ").count())
    }
}

/// What the daemon of Nix 1.11 hands on: every setting that is set, sorted by name.
pub fn packed(choices: &[(&str, &str)]) -> String {
    let mut all = BTreeMap::from([
        ("allowed-users", "*"),
        ("build-cores", "0"),
        ("build-max-jobs", "1"),
        ("build-use-substitutes", "true"),
        ("build-users-group", "nixbld"),
        ("trusted-users", "root @wheel"),
        ("untrusted-build-cores", "4"),
        ("untrusted-ssh-auth-sock", ""),
    ]);
    all.extend(choices.iter().copied());
    all.iter()
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect()
}

pub const HOSTS: &str = "untrusted-ssh-substituter-hosts";
pub const EXTRA: &str = "untrusted-extra-ssh-substituter-hosts";

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn lines(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(str::to_owned).collect()
}

/// `user@127.0.0.1:port`
pub fn name(host: &Host) -> String {
    format!("{}@127.0.0.1:{}", host.sshd.user(), host.sshd.port())
}

/// Hello and QueryValidPaths, as Nix sends them.
pub fn valid_paths(paths: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    for number in [0x390c_9deb_u64, 0x205, 1, 0, 0, paths.len() as u64] {
        out.extend(number.to_le_bytes());
    }
    for path in paths {
        out.extend((path.len() as u64).to_le_bytes());
        out.extend(path.as_bytes());
        out.resize(out.len().next_multiple_of(8), 0);
    }
    out
}

pub fn set(mut bytes: &[u8]) -> Vec<String> {
    let number = |bytes: &mut &[u8]| {
        let (first, rest) = bytes.split_first_chunk::<8>().expect("a number");
        *bytes = rest;
        u64::from_le_bytes(*first) as usize
    };
    let count = number(&mut bytes);
    let mut all = Vec::new();
    for _ in 0..count {
        let length = number(&mut bytes);
        all.push(String::from_utf8(bytes[..length].to_vec()).expect("UTF-8"));
        bytes = &bytes[length.next_multiple_of(8)..];
    }
    assert!(bytes.is_empty(), "more than was asked for");
    all
}
