//! A real sshd on loopback with keys of its own, ended by its process id.

#![allow(dead_code, reason = "each test file uses a part")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ssh_substituter::config::host::Host;
use ssh_substituter::transport::{Channel, OpenSsh, SshSettings};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// An sshd, its keys, and a runtime folder for the masters that connect to it.
pub struct Sshd {
    pub folder: Arc<TempDir>,
    pub port: u16,
    child: Child,
}

impl Sshd {
    /// `lines` go into sshd_config before ours.
    pub fn start(lines: &str) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let at = |name: &str| folder.path().join(name);
        for name in ["host", "user", "other"] {
            keygen(&at(name));
        }
        fs::copy(at("user.pub"), at("authorized")).unwrap();
        // A key is world-readable only in its public half; throw-away users must reach that.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(at("run")).unwrap();
        (0..20)
            .find_map(|_| Self::try_start(&folder, lines))
            .expect("sshd gets a port")
    }

    /// `None` if another process has taken the port meanwhile.
    fn try_start(folder: &Arc<TempDir>, lines: &str) -> Option<Self> {
        let at = |name: &str| folder.path().join(name);
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = format!(
            "{lines}\nListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\n\
             UsePAM no\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPidFile none\nMaxStartups 100:30:200\nLogLevel VERBOSE\n",
            at("host").display(),
            at("authorized").display()
        );
        fs::write(at("sshd_config"), config).unwrap();
        let child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(at("sshd_config"))
            .stdin(Stdio::null())
            .stderr(fs::File::create(at("sshd.log")).unwrap())
            .spawn()
            .unwrap();
        let mut sshd = Self {
            folder: Arc::clone(folder),
            port,
            child,
        };
        let mut has_ended = false;
        wait_until("sshd listens", || {
            has_ended = sshd.child.try_wait().unwrap().is_some();
            has_ended || sshd.log().contains("Server listening on 127.0.0.1")
        });
        (!has_ended).then_some(sshd)
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.at("sshd.log")).unwrap_or_default()
    }

    pub fn logins(&self) -> usize {
        self.log().matches("Accepted publickey").count()
    }

    /// With its key pinned, as `base64-ssh-public-host-key` does.
    pub fn host(&self) -> Host {
        Host {
            name: "127.0.0.1".into(),
            user: None,
            port: Some(self.port),
            ssh_key: Some(self.at("user")),
            public_host_key: Some(fs::read_to_string(self.at("host.pub")).unwrap()),
            compress: false,
            compression: Default::default(),
            delta: Default::default(),
            limit_rate: None,
            remote_program: vec!["nix-store".into()],
            remote_store: None,
            trusted: false,
            priority: None,
            max_connections: 1,
        }
    }

    /// `remote-program` is a shell script.
    pub fn host_running(&self, script: &str) -> Host {
        let remote_program = ["sh", "-c", script].map(str::to_owned).to_vec();
        Host {
            remote_program,
            ..self.host()
        }
    }

    /// Nothing of the user's own configuration.
    pub fn settings(&self) -> SshSettings {
        SshSettings {
            ssh_options: ["-F", "none"].map(str::to_owned).to_vec(),
            runtime_dir: Some(self.at("run")),
            // Ten logins at the same time, on a loaded machine.
            connect_timeout: Duration::from_secs(60),
            ..SshSettings::default()
        }
    }

    pub fn ssh(&self) -> OpenSsh {
        OpenSsh::new(self.settings())
    }

    pub fn sockets(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.at("run")).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_none()).collect()
    }

    /// The process ids of the masters that answer.
    pub fn masters(&self) -> Vec<u32> {
        let check = |socket: PathBuf| {
            let out = control(&socket, "check");
            let (_, rest) = out.split_once("pid=")?;
            rest.split(')').next()?.parse().ok()
        };
        self.sockets().into_iter().filter_map(check).collect()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        for socket in self.sockets() {
            control(&socket, "exit");
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn control(socket: &Path, what: &str) -> String {
    let out = Command::new("ssh")
        .args(["-F", "none", "-O", what, "-S"])
        .args([socket, Path::new("none")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn keygen(path: &Path) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path)
        .status()
        .unwrap();
    assert!(made.success());
}

pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "not yet: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The handshake of the serve protocol, as every client begins: it proves that a real
/// `nix-store --serve` is at the other end.
pub async fn greet(channel: &mut Channel) {
    let mut hello = 0x390c_9deb_u64.to_le_bytes().to_vec();
    hello.extend(0x205_u64.to_le_bytes());
    channel.stdin.write_all(&hello).await.unwrap();
    let mut answer = [0; 16];
    let read = channel.stdout.read_exact(&mut answer);
    let read = tokio::time::timeout(Duration::from_secs(60), read).await;
    if !matches!(read, Ok(Ok(_))) {
        let mut said = vec![0; 4096];
        let reading = channel.stderr.read(&mut said);
        let count = tokio::time::timeout(Duration::from_secs(1), reading).await;
        said.truncate(count.map_or(0, |count| count.unwrap_or(0)));
        panic!("no greeting: {}", String::from_utf8_lossy(&said));
    }
    assert_eq!(answer[..8], 0x5452_eecb_u64.to_le_bytes());
}

/// Ends the program by the end of its input, and gives what it printed and its status.
pub async fn finish(mut channel: Channel) -> (String, String, Option<i32>) {
    channel.stdin.shutdown().await.unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    channel.stdout.read_to_string(&mut out).await.unwrap();
    channel.stderr.read_to_string(&mut err).await.unwrap();
    (out, err, channel.child.wait().await)
}

pub fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

pub fn is_root() -> bool {
    let out = Command::new("id").arg("-u").output().unwrap();
    out.stdout == b"0\n"
}

/// A user for one test, with a login shell of its own.
pub struct ThrowAwayUser {
    pub name: String,
    home: TempDir,
}

impl ThrowAwayUser {
    pub fn new(shell: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sst{}x{count}", std::process::id());
        let home = tempfile::tempdir().unwrap();
        let added = Command::new("useradd")
            .args(["-M", "-N", "-p", "*", "-s", shell, "-d"])
            .arg(home.path())
            .arg(&name)
            .status()
            .unwrap();
        assert!(added.success());
        let user = Self { name, home };
        user.owns(user.home.path());
        user
    }

    /// Puts a `nix-store` into `~/.nix-profile/bin` that needs no store of this machine.
    pub fn install_nix_store(&self) {
        let bin = self.home.path().join(".nix-profile/bin");
        fs::create_dir_all(&bin).unwrap();
        let script = "#!/bin/sh\nNIX_REMOTE=dummy:// exec /usr/bin/nix-store \"$@\"\n";
        fs::write(bin.join("nix-store"), script).unwrap();
        fs::set_permissions(bin.join("nix-store"), fs::Permissions::from_mode(0o755)).unwrap();
        self.owns(self.home.path());
    }

    fn owns(&self, path: &Path) {
        let status = Command::new("chown")
            .arg("-R")
            .arg(&self.name)
            .arg(path)
            .status();
        assert!(status.unwrap().success());
    }
}

impl Drop for ThrowAwayUser {
    fn drop(&mut self) {
        let _ = Command::new("userdel").args(["-f", &self.name]).output();
    }
}
