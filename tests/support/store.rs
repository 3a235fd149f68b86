//! Real Nix stores in temporary folders (`local?root=DIR`: the store path P is the file DIR/P).

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use data_encoding::HEXLOWER;
use rusqlite::{Connection, OpenFlags};
use sha2::{Digest, Sha256};

use super::archive;
use super::trees::{Random, canonicalise, nar_size, write_many, write_random};
use super::{NixEnv, TempUser, percent_encode, run, run_with_input, run_with_timeout};

/// How long one command on a store may take; some hash a gigabyte.
const LONG: Duration = Duration::from_secs(300);

/// So many bytes are hashed here sooner than `nix-hash` is started.
const SMALL: u64 = 8 << 20;

/// Paths in one command line: well below its limit of bytes.
const BATCH: usize = 1000;

/// A path to be registered: its files stand in the store already, made canonical.
pub struct Entry {
    pub path: String,
    pub references: Vec<String>,
    pub deriver: Option<String>,
}

/// A Nix store in a temporary folder. Two stores filled by the same calls hold the same paths with the same bytes.
pub struct Store {
    env: NixEnv,
    root: PathBuf,
    keys: AtomicU32,
}

impl Store {
    pub fn new() -> Self {
        let env = NixEnv::new();
        let root = env.folder().join("root");
        fs::create_dir_all(root.join("nix/store")).expect("make the folder of a store");
        Self {
            env,
            root,
            keys: AtomicU32::new(0),
        }
    }

    pub fn env(&self) -> &NixEnv {
        &self.env
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `local?root=DIR`.
    pub fn uri(&self) -> String {
        format!("local?root={}", self.root.display())
    }

    /// The same for the parameter `remote-store` of a store URL.
    pub fn remote_store_param(&self) -> String {
        percent_encode(&self.uri())
    }

    /// A Nix command on this store, in a hermetic environment. Put the operation or the subcommand after it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.env.command(program);
        command.args(["--store", &self.uri()]);
        command
    }

    /// `nix-store --serve` on this store.
    pub fn serve(&self, write: bool) -> Command {
        let mut command = self.command("nix-store");
        command.arg("--serve").args(write.then_some("--write"));
        command
    }

    /// Where the files of a store path really are.
    pub fn physical(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn nix_store(&self, args: &[&str], paths: &[impl AsRef<str>]) -> String {
        let mut command = self.command("nix-store");
        command.args(args).args(paths.iter().map(AsRef::as_ref));
        run(command, LONG)
    }

    /// Adds a text as `builtins.toFile` does: content-addressed by `text:`. The text gets the references, one on a line each.
    pub fn add_text(&self, name: &str, text: &str, references: &[&str]) -> String {
        let quoted = text
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace("${", "\\${");
        let references: String = references
            .iter()
            .map(|path| format!(" + \"${{builtins.storePath {path}}}\\n\""))
            .collect();
        let mut command = self.command("nix-instantiate");
        // Without read-write mode the path is computed but not made.
        command.args(["--eval", "--read-write-mode", "--expr"]);
        command.arg(format!(
            "builtins.toFile \"{name}\" (\"{quoted}\"{references})"
        ));
        run(command, LONG).trim_matches('"').to_owned()
    }

    /// Adds a file or a folder as `nix-store --add` does: content-addressed by `fixed:r:sha256:`.
    pub fn add_dir(&self, source: &Path) -> String {
        self.nix_store(&["--add"], &[source.to_str().expect("UTF-8 path")])
    }

    /// Adds a file as `nix-store --add-fixed sha256` does: content-addressed by `fixed:sha256:`, a flat hash.
    pub fn add_flat(&self, source: &Path) -> String {
        self.nix_store(
            &["--add-fixed", "sha256"],
            &[source.to_str().expect("UTF-8 path")],
        )
    }

    /// A path that holds one file of so many pseudo-random bytes.
    pub fn big(&self, name: &str, bytes: u64) -> String {
        let mut random = Random::new(bytes, name);
        self.add_made(random.store_path(name), |folder| {
            fs::create_dir(folder).expect("make a folder");
            write_random(&folder.join("data"), bytes, &mut random);
        })
    }

    /// A path with so many small files in nested folders, executables, symlinks, an empty folder and odd names.
    pub fn many_files(&self, count: usize) -> String {
        let mut random = Random::new(count as u64, "many");
        self.add_made(random.store_path("many"), |folder| {
            write_many(folder, count, &mut random)
        })
    }

    /// Has the files of a path made at their real place, then registers it, without references.
    pub fn add_made(&self, path: String, make: impl FnOnce(&Path)) -> String {
        self.add_made_with(path, &[], make)
    }

    /// The same, with references.
    pub fn add_made_with(
        &self,
        path: String,
        references: &[&str],
        make: impl FnOnce(&Path),
    ) -> String {
        let physical = self.physical(&path);
        make(&physical);
        canonicalise(&physical);
        self.register(&[Entry {
            path: path.clone(),
            references: references.iter().map(|path| (*path).to_owned()).collect(),
            deriver: None,
        }]);
        path
    }

    /// Registers paths, as input-addressed, with the hashes of what stands there.
    pub fn register(&self, entries: &[Entry]) {
        let hashes: Vec<String> = entries
            .chunks(BATCH)
            .flat_map(|batch| self.hashes(batch))
            .collect();
        assert_eq!(hashes.len(), entries.len(), "one hash for each path");
        let mut input = String::new();
        for (entry, hash) in entries.iter().zip(&hashes) {
            let size = nar_size(&self.physical(&entry.path));
            let deriver = entry.deriver.as_deref().unwrap_or_default();
            let lines = [
                &entry.path,
                hash,
                &size.to_string(),
                deriver,
                &entry.references.len().to_string(),
            ];
            for line in lines
                .into_iter()
                .chain(entry.references.iter().map(String::as_str))
            {
                input.push_str(line);
                input.push('\n');
            }
        }
        let mut command = self.command("nix-store");
        command.arg("--load-db");
        let shown = format!("{command:?}");
        super::proc::assert_success(&shown, &run_with_input(command, input.as_bytes(), LONG));
    }

    /// SHA-256 of the NARs, in hexadecimal.
    fn hashes(&self, entries: &[Entry]) -> Vec<String> {
        let physical = entries.iter().map(|entry| self.physical(&entry.path));
        if physical.clone().map(|path| nar_size(&path)).sum::<u64>() < SMALL {
            let hash = |path: PathBuf| HEXLOWER.encode(&Sha256::digest(archive::nar(&path)));
            return physical.map(hash).collect();
        }
        let mut command = self.env.command("nix-hash");
        command
            .args(["--type", "sha256"])
            .args(entries.iter().map(|entry| self.physical(&entry.path)));
        run(command, LONG).lines().map(str::to_owned).collect()
    }

    /// Signs paths with a fresh key; returns the public key, as for `trusted-public-keys`.
    pub fn sign(&self, key_name: &str, paths: &[impl AsRef<str>]) -> String {
        let number = self.keys.fetch_add(1, Ordering::Relaxed);
        let [secret, public] =
            ["secret", "public"].map(|kind| self.env.folder().join(format!("{kind}{number}")));
        // Nix opens a store even for this; the machine's own must not play a part.
        let mut command = self.command("nix-store");
        command
            .args(["--generate-binary-cache-key", key_name])
            .arg(&secret)
            .arg(&public);
        run(command, LONG);
        for batch in paths.chunks(BATCH) {
            let mut command = self.command("nix");
            command
                .args(["store", "sign", "--key-file"])
                .arg(&secret)
                .args(batch.iter().map(AsRef::as_ref));
            run(command, LONG);
        }
        fs::read_to_string(public)
            .expect("read a public key")
            .trim_end()
            .to_owned()
    }

    /// Signs all paths of the store; see [`sign`](Self::sign).
    pub fn sign_all(&self, key_name: &str) -> String {
        self.sign(key_name, &self.all_paths())
    }

    /// All valid paths, sorted.
    pub fn all_paths(&self) -> Vec<String> {
        let mut command = self.command("nix");
        command.args(["path-info", "--all"]);
        let mut paths: Vec<String> = run(command, LONG).lines().map(str::to_owned).collect();
        paths.sort();
        paths
    }

    /// Copies paths with all that they refer to, signatures too, from another store.
    pub fn copy_from(&self, other: &Store, paths: &[impl AsRef<str>]) {
        for batch in paths.chunks(BATCH) {
            let mut command = self.env.command("nix");
            command.args([
                "copy",
                "--no-check-sigs",
                "--from",
                &other.uri(),
                "--to",
                &self.uri(),
            ]);
            command.args(batch.iter().map(AsRef::as_ref));
            run(command, LONG);
        }
    }

    pub fn is_valid(&self, path: &str) -> bool {
        let mut command = self.command("nix-store");
        command.args(["--check-validity", path]);
        run_with_timeout(command, LONG).status.success()
    }

    /// Whether the path is valid and its files have the registered hash.
    pub fn verify_path(&self, path: &str) -> bool {
        let mut command = self.command("nix-store");
        command.args(["--verify-path", path]);
        run_with_timeout(command, LONG).status.success()
    }

    /// Verifies the whole store; panics unless all is right.
    pub fn verify(&self) {
        self.nix_store(&["--verify", "--check-contents"], &[] as &[&str]);
    }

    /// The NAR hash as registered: `sha256:` and base32.
    pub fn nar_hash(&self, path: &str) -> String {
        self.nix_store(&["--query", "--hash"], &[path])
    }

    /// The NAR size as registered.
    pub fn nar_size(&self, path: &str) -> u64 {
        let db = self.root.join("nix/var/nix/db/db.sqlite");
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
        let db = Connection::open_with_flags(db, flags).expect("open a database");
        let query = "SELECT narSize FROM ValidPaths WHERE path = ?";
        let size: i64 = db
            .query_row(query, [path], |row| row.get(0))
            .expect("a path that is registered");
        size.try_into().expect("a size")
    }

    /// References as registered, sorted.
    pub fn references(&self, path: &str) -> Vec<String> {
        let mut paths: Vec<String> = self
            .nix_store(&["--query", "--references"], &[path])
            .lines()
            .map(str::to_owned)
            .collect();
        paths.sort();
        paths
    }

    /// The NAR of what stands there now; empty where nothing does.
    pub fn nar(&self, path: &str) -> Vec<u8> {
        archive::nar(&self.physical(path))
    }

    /// The same by `nix-store --dump`.
    pub fn nar_by_nix(&self, path: &str) -> Vec<u8> {
        let mut command = self.env.command("nix-store");
        command.arg("--dump").arg(self.physical(path));
        run_with_timeout(command, LONG).stdout
    }

    /// Forgets paths and removes their files. Nothing in the store may refer to them.
    pub fn delete(&self, paths: &[impl AsRef<str>]) {
        self.nix_store(&["--delete"], paths);
    }

    /// Flips one bit in the first non-empty file of a path: the size stays, the hash is wrong from now on.
    pub fn corrupt(&self, path: &str) {
        let file = first_file(&self.physical(path))
            .unwrap_or_else(|| panic!("{path} has no bytes to corrupt"));
        let mode = fs::metadata(&file).expect("look at a file").permissions();
        fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("make a file writable");
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&file)
            .expect("open a file");
        let middle = opened.metadata().expect("look at a file").len() / 2;
        let mut byte = [0];
        opened
            .read_exact_at(&mut byte, middle)
            .expect("read a byte");
        opened
            .write_all_at(&[byte[0] ^ 1], middle)
            .expect("write a byte");
        fs::set_permissions(&file, mode).expect("restore the mode of a file");
    }

    /// Makes another user the owner of the store: Nix wants to write to its database even for reading.
    pub fn give_to(&self, user: &TempUser) {
        user.give(&self.root);
    }
}

fn first_file(path: &Path) -> Option<PathBuf> {
    let kind = fs::symlink_metadata(path).ok()?;
    if kind.is_dir() {
        let mut entries: Vec<PathBuf> = fs::read_dir(path)
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        entries.sort();
        return entries.iter().find_map(|entry| first_file(entry));
    }
    (kind.is_file() && kind.len() > 0).then(|| path.to_owned())
}
