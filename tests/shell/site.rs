//! A server with a store behind it, and what is read from it through shells.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use ssh_substituter::config::host::Host as Spec;
use ssh_substituter::model::StorePath;
use ssh_substituter::remote::{Shell, ShellError, ShellOptions, open_shell};
use ssh_substituter::transport::{OpenSsh, SshSettings};
use ssh_substituter::wire::nar::layout::Layout;

use super::support::{Random, RuntimeDir, SHORT, Sshd, SshdBuilder, Store, run, tool};

pub const OPTIONS: ShellOptions = ShellOptions {
    connect: Duration::from_secs(20),
    silence: Duration::from_secs(20),
};

/// A server, a store, and connections to them that end with the value.
pub struct Site {
    pub store: Store,
    pub sshd: Sshd,
    pub runtime: RuntimeDir,
}

impl Site {
    pub fn new(sshd: SshdBuilder) -> Self {
        Self {
            store: Store::new(),
            sshd: sshd.start(),
            runtime: RuntimeDir::new(),
        }
    }

    pub fn ssh(&self) -> OpenSsh {
        OpenSsh::new(SshSettings {
            ssh_options: ["-F", "none"].map(str::to_owned).to_vec(),
            runtime_dir: Some(self.runtime.path().to_owned()),
            ..SshSettings::default()
        })
    }

    pub fn spec(&self) -> Spec {
        let store = self.store.remote_store_param();
        let url = self.sshd.store_url(&format!("remote-store={store}"));
        Spec::parse(&url).unwrap()
    }

    pub async fn try_open(&self) -> Result<Shell, ShellError> {
        open_shell(&self.ssh(), &self.spec(), &OPTIONS).await
    }

    pub async fn shell(&self) -> Shell {
        self.try_open().await.unwrap()
    }

    /// Why there is no shell.
    pub async fn none(&self) -> String {
        match self.try_open().await {
            Err(ShellError::NoShell(none)) if none.is_certain => none.reason,
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("a shell"),
        }
    }

    /// All that a store path can hold, once more with each byte in a name.
    pub fn odd(&self) -> String {
        let mut random = Random::new(3, "odd");
        let path = self.store.many_files(400);
        let made = random.store_path("odd");
        let from = self.store.physical(&path);
        self.store.add_made(made, |to| {
            let mut copy = Command::new(tool("cp"));
            copy.arg("-a").arg(from).arg(to);
            run(copy, SHORT);
            fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
            let all: Vec<u8> = (1..=255).filter(|b| *b != b'/').collect();
            for byte in &all {
                let name = [b'x', *byte, b'y'];
                fs::write(to.join(OsStr::from_bytes(&name)), random.bytes(9)).unwrap();
            }
            for name in [
                &all[..],
                b"-",
                b"--help",
                b"$(id)",
                b"''",
                b"it's \"so\" `id`\n",
            ] {
                fs::write(to.join(OsStr::from_bytes(name)), random.bytes(70)).unwrap();
            }
            let big = to.join("x big");
            fs::write(&big, random.bytes(40 << 20)).unwrap();
            fs::set_permissions(&big, fs::Permissions::from_mode(0o755)).unwrap();
        })
    }
}

pub fn parse(path: &str) -> StorePath {
    StorePath::parse(path).unwrap()
}

pub async fn list(shell: &mut Shell, path: &str) -> Layout {
    shell.list(&parse(path)).await.unwrap().unwrap()
}

/// All of it in parts of that length, so many asked for ahead; every second part is compressed.
pub async fn read(shell: &mut Shell, layout: &Layout, len: u64, ahead: usize) -> Vec<u8> {
    let mut levels = [None, Some(3)].into_iter().cycle();
    let mut segments = layout.segments(0, len);
    let mut out = Vec::new();
    loop {
        while shell.outstanding() < ahead
            && let Some(segment) = segments.next()
        {
            shell.request(&segment, levels.next().unwrap());
        }
        if shell.outstanding() == 0 {
            assert!(shell.is_clean());
            return out;
        }
        out.extend_from_slice(&shell.segment().await.unwrap().bytes);
    }
}
