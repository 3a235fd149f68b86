//! Machines on which the how-tos are followed to the letter: with their own `/etc`, `/root`, `/home`, `/nix` and `/run`, users,
//! host names, sshd at port 22 and Nix daemon. They share this machine's `/usr` and kernel, in namespaces of their own
//! (`stage.sh`), which takes root, as other tests do.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use super::support::{Scratch, children, is_root, kill_tree, program, run_with_timeout, tool};

/// How long one script may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Installs the program, as the README does.
pub const INSTALL: &str = "sudo install -m 755 ~/.cargo/bin/ssh-substituter /usr/local/bin/";

/// Some machines, and a network that leads to no others. They end when this is dropped.
pub struct Stage {
    keeper: Child,
    /// Process whose namespaces are theirs.
    inside: u32,
    // After the processes.
    scratch: Scratch,
}

/// What a script printed, standard error included.
pub struct Ran {
    pub text: String,
    pub ok: bool,
}

impl Stage {
    /// Machines with these names.
    pub fn new(machines: &[&str]) -> Self {
        assert!(is_root(), "only root can make machines");
        let scratch = Scratch::new();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/docs/stage.sh");
        let mut keeper = Command::new(tool("unshare"))
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child"])
            .args(["--mount-proc", "sh"])
            .arg(script)
            .arg(scratch.path())
            .arg(program())
            .args(machines)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start unshare");
        let mut line = String::new();
        let stdout = keeper.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("read");
        assert_eq!(line, "ready\n", "the machines could not be made");
        let inside = children(keeper.id())[0];
        Self {
            keeper,
            inside,
            scratch,
        }
    }

    /// Where a machine's `/` is.
    pub fn root(&self, machine: &str) -> PathBuf {
        self.scratch.path().join(machine)
    }

    /// Writes a file of a machine, as root.
    pub fn write(&self, machine: &str, file: &str, text: &str) {
        let path = self.root(machine).join(file.trim_start_matches('/'));
        fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
        fs::write(path, text).expect("write a file of a machine");
    }

    pub fn read(&self, machine: &str, file: &str) -> String {
        let path = self.root(machine).join(file.trim_start_matches('/'));
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Runs a script as a user of a machine, in that user's home folder.
    pub fn try_run(&self, machine: &str, user: &str, script: &str) -> Ran {
        self.with_env(machine, user, &[], script)
    }

    /// The same with variables, as a CI job has them.
    pub fn with_env(&self, machine: &str, user: &str, env: &[(&str, &str)], script: &str) -> Ran {
        let home = match user {
            "root" => "/root".to_owned(),
            user => format!("/home/{user}"),
        };
        let mut command = Command::new(tool("nsenter"));
        let target = format!("--target={}", self.inside);
        let keeper = fs::read_to_string(self.scratch.path().join(format!("{machine}.pid")));
        let keeper = keeper.unwrap_or_else(|error| panic!("{machine}: {error}"));
        let machine_target = format!("--target={}", keeper.trim_end());
        command
            .args([&target, "--net", "--mount", "--pid", "--"])
            // Now its process numbers count.
            .arg(tool("nsenter"))
            .args([&machine_target, "--mount", "--"])
            .args(["chroot", &format!("--userspec={user}"), "/"])
            .args(["env", "-i"])
            .args([format!("HOME={home}"), format!("USER={user}")])
            .arg("PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .arg("LANG=C.UTF-8")
            .args(env.iter().map(|(name, value)| format!("{name}={value}")))
            .args(["sh", "-euc"])
            .arg(format!("exec 2>&1; cd; {script}"));
        let Output { status, stdout, .. } = run_with_timeout(command, LIMIT);
        Ran {
            text: String::from_utf8_lossy(&stdout).trim_end().to_owned(),
            ok: status.success(),
        }
    }

    /// The same for a script that must succeed; what it printed.
    pub fn run(&self, machine: &str, user: &str, script: &str) -> String {
        let ran = self.try_run(machine, user, script);
        assert!(
            ran.ok,
            "{user}@{machine} failed:\n{script}\nand said:\n{}",
            ran.text
        );
        ran.text
    }

    /// Starts sshd with the machine's own configuration.
    pub fn sshd(&self, machine: &str) {
        self.run(machine, "root", "/usr/sbin/sshd -E /var/log/sshd");
    }

    /// Starts Nix's daemon.
    pub fn nix_daemon(&self, machine: &str) {
        let script = "setsid nix-daemon >/var/log/nix-daemon 2>&1 </dev/null &
            tries=0
            until [ -S /nix/var/nix/daemon-socket/socket ]; do
                tries=$((tries + 1)); [ $tries -lt 1000 ]; sleep 0.02
            done";
        self.run(machine, "root", script);
    }

    /// A machine that is a host: sshd, Nix's daemon, and a package that was built there. Its path.
    pub fn host(&self, machine: &str) -> String {
        self.nix_daemon(machine);
        self.sshd(machine);
        self.build(machine, "hello-2.12")
    }

    /// Builds a package that refers to another one; its path.
    pub fn build(&self, machine: &str, name: &str) -> String {
        let expression = format!(
            "let make = name: script: derivation {{ inherit name; system = builtins.currentSystem; builder = \"/bin/sh\"; \
             args = [ \"-c\" script ]; }}; lib = make \"lib-of-{name}\" \"echo a library > $out\"; \
             in make \"{name}\" \"echo hello from ${{lib}} > $out\""
        );
        let script =
            format!("NIX_REMOTE= nix-build --no-out-link -E '{expression}' 2>/var/log/build");
        self.run(machine, "root", &script)
    }

    /// Whether a machine's store has a valid path, with the right contents.
    pub fn has(&self, machine: &str, path: &str) -> bool {
        self.owner_has(machine, "root", path)
    }

    /// The same for a store that is a user's own.
    pub fn owner_has(&self, machine: &str, owner: &str, path: &str) -> bool {
        let script =
            format!("NIX_REMOTE= nix-store --option build-users-group '' --verify-path {path}");
        self.try_run(machine, owner, &script).ok
    }

    /// Lets a public key of one machine into an account of another.
    pub fn let_in(&self, (machine, key): (&str, &str), (host, user): (&str, &str)) {
        let key = self.read(machine, key);
        self.authorize(host, user, &key);
    }

    /// Writes an account's `authorized_keys`.
    pub fn authorize(&self, host: &str, user: &str, lines: &str) {
        let script = format!(
            "mkdir -p -m 700 .ssh; cat >.ssh/authorized_keys <<'END'\n{lines}\nEND\nchmod 600 .ssh/authorized_keys"
        );
        self.run(host, user, &script);
    }

    /// `NAME ssh-ed25519 AAAA…`, as a known_hosts file wants it.
    pub fn known_host(&self, machine: &str) -> String {
        format!("{machine} {}", self.host_key(machine))
    }

    /// `ssh-ed25519 AAAA… COMMENT`
    pub fn host_key(&self, machine: &str) -> String {
        let key = self.read(machine, "/etc/ssh/ssh_host_ed25519_key.pub");
        key.trim_end().to_owned()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        kill_tree(self.keeper.id());
        let _ = self.keeper.wait();
    }
}
