//! A chroot store of its own for each test, made by the real Nix.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use sha2::{Digest, Sha256};
use ssh_substituter::local_store::{Dump, LocalStore, LocalStoreError};
use ssh_substituter::model::{NarHash, StorePath};
use ssh_substituter::wire::nar::Decoder;
use ssh_substituter::wire::put_u64;

/// A store in a temporary folder, and what it takes to run Nix on it.
pub struct Store {
    dir: tempfile::TempDir,
}

impl Store {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["conf", "home", "root"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let store = Self { dir };
        store.nix("nix-store", &["--init"]);
        store
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn root(&self) -> PathBuf {
        self.dir().join("root")
    }

    pub fn db(&self) -> PathBuf {
        self.root().join("nix/var/nix/db/db.sqlite")
    }

    /// Where the files of a path really are.
    pub fn files(&self, path: &StorePath) -> PathBuf {
        self.root().join(&path.as_str()[1..])
    }

    pub fn open(&self) -> LocalStore {
        LocalStore::open(&self.root()).unwrap()
    }

    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_remove("NIX_REMOTE")
            .env("NIX_CONF_DIR", self.dir().join("conf"))
            .env("HOME", self.dir().join("home"))
            .arg("--store")
            .arg(format!("local?root={}", self.root().display()))
            .args(["--option", "build-users-group", ""])
            .args(["--option", "sandbox", "false"]);
        command
    }

    pub fn nix_output(&self, program: &str, args: &[&str]) -> Output {
        self.command(program)
            .args(args)
            .output()
            .expect("the Nix tools are installed")
    }

    /// Runs a Nix program that must succeed; its stdout without the last line feed.
    pub fn nix(&self, program: &str, args: &[&str]) -> String {
        let output = self.nix_output(program, args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {args:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Adds what `make` makes at the path that it is given, with a recursive content address.
    pub fn add(&self, name: &str, make: impl FnOnce(&Path)) -> StorePath {
        let source = self.dir().join(name);
        make(&source);
        let path = self.nix("nix-store", &["--add", source.to_str().unwrap()]);
        remove(&source);
        StorePath::parse(&path).unwrap()
    }

    /// Registers paths whose files are there already, as a build would: no content address.
    /// Each comes with its deriver and its references.
    pub fn register(&self, paths: &[(&StorePath, &str, &[&StorePath])]) {
        let mut text = String::new();
        for (path, deriver, references) in paths {
            let nar = self.dump_by_nix(&self.files(path));
            let (hash, size) = (NarHash::new(Sha256::digest(&nar).into()), nar.len());
            let count = references.len();
            text += &format!("{path}\n{}\n{size}\n{deriver}\n{count}\n", hash.base16());
            for reference in *references {
                text += &format!("{reference}\n");
            }
        }
        let mut child = self
            .command("nix-store")
            .arg("--load-db")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        drop(stdin);
        assert!(child.wait().unwrap().success(), "{text}");
    }

    /// What `nix-store --dump` makes of a file, wherever it is.
    pub fn dump_by_nix(&self, file: &Path) -> Vec<u8> {
        let output = self.nix_output("nix-store", &["--dump", file.to_str().unwrap()]);
        assert!(output.status.success(), "{}", file.display());
        output.stdout
    }

    /// Sends requests to a real `nix-store --serve`; all that it answers after its greeting.
    pub fn serve(&self, requests: &[u8]) -> Vec<u8> {
        let mut child = self
            .command("nix-store")
            .arg("--serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut hello = Vec::new();
        put_u64(&mut hello, 0x390c_9deb);
        put_u64(&mut hello, 2 << 8 | 7);
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&hello).unwrap();
        stdin.write_all(requests).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        output.stdout[16..].to_vec()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        make_writable(&self.root());
    }
}

/// Removes files of the store, which nobody but root may do as they are.
pub fn remove(path: &Path) {
    make_writable(path.parent().unwrap());
    if path.symlink_metadata().unwrap().is_dir() {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
}

pub fn make_writable(folder: &Path) {
    fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            make_writable(&entry.path());
        }
    }
}

/// Pulls the whole dump.
pub fn dump(store: &LocalStore, path: &StorePath) -> Result<Vec<u8>, LocalStoreError> {
    let (mut nar, mut chunk) = (Vec::new(), Vec::new());
    let mut dump = Dump::open(store, path)?;
    while dump.next_chunk(&mut chunk)? {
        nar.extend_from_slice(&chunk);
    }
    assert_eq!(dump.bytes_given(), nar.len() as u64);
    Ok(nar)
}

/// Whether `nar` is one well-formed archive with nothing behind it.
pub fn is_well_formed(nar: &[u8]) -> bool {
    let mut decoder = Decoder::new(u64::MAX);
    let mut pos = 0;
    while !decoder.is_complete() {
        match decoder.step(&nar[pos..]) {
            Ok((read, Some(_))) => pos += read,
            _ => return false,
        }
    }
    pos == nar.len()
}
