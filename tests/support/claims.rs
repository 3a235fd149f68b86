//! What a store says of a path, changed behind Nix's back.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use rusqlite::Connection;

use super::{SHORT, Store, run};

impl Store {
    fn database(&self) -> Connection {
        let path = self.root().join("nix/var/nix/db/db.sqlite");
        Connection::open(path).expect("open a store's database")
    }

    /// A column of `ValidPaths`, as text; empty where the store says nothing.
    pub fn claim(&self, path: &str, column: &str) -> String {
        let query = format!("SELECT ifnull({column}, '') || '' FROM ValidPaths WHERE path = ?1");
        let claim = self.database().query_row(&query, [path], |row| row.get(0));
        claim.expect("read a store's database")
    }

    /// Has the store say something else of a path.
    pub fn set_claim(&self, path: &str, column: &str, value: &str) {
        let change = format!("UPDATE ValidPaths SET {column} = ?1 WHERE path = ?2");
        let changed = self.database().execute(&change, (value, path));
        assert_eq!(changed.expect("change a store's database"), 1, "{path}");
    }

    /// Has the store say that a path refers to another one of its own.
    pub fn refer(&self, path: &str, reference: &str) {
        let change = "INSERT INTO Refs (referrer, reference) SELECT a.id, b.id FROM ValidPaths a, ValidPaths b
            WHERE a.path = ?1 AND b.path = ?2";
        let changed = self.database().execute(change, [path, reference]);
        assert_eq!(changed.expect("change a store's database"), 1, "{path}");
    }

    /// Writes other contents into a file of a path (`None`: the path is the file), and has the store say that NAR hash and
    /// size are those of what stands there now. A content address then tells that it is wrong, and nothing else.
    pub fn falsify(&self, path: &str, file: Option<&str>, contents: impl AsRef<[u8]>) {
        let mut target = self.physical(path);
        target.extend(file);
        let mode = |mode| {
            fs::set_permissions(&target, Permissions::from_mode(mode)).expect("change a mode");
        };
        mode(0o644);
        fs::write(&target, contents).expect("write a file");
        mode(0o444);
        let mut command = self.env().command("nix-hash");
        command.args(["--type", "sha256"]).arg(self.physical(path));
        let hash = format!("sha256:{}", run(command, SHORT));
        self.set_claim(path, "hash", &hash);
        self.set_claim(path, "narSize", &self.nar(path).len().to_string());
    }
}
