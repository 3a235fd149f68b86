//! Stores, made without Nix: the files, and the database as Nix lays it out.

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rusqlite::{Connection, params};
use sha2::{Digest, Sha256};
use ssh_substituter::model::{NarHash, StorePath};
use ssh_substituter::wire::nar;

/// The tables of Nix's database that matter here (schema 10).
const SCHEMA: &str = "
    create table ValidPaths (id integer primary key autoincrement not null, path text unique not null,
        hash text not null, registrationTime integer not null, deriver text, narSize integer,
        ultimate integer, sigs text, ca text);
    create table Refs (referrer integer not null, reference integer not null,
        primary key (referrer, reference));
    create table DerivationOutputs (drv integer not null, id text not null, path text not null,
        primary key (drv, id));";

/// A store path that holds one file, `data`.
pub struct DemoPath {
    pub path: StorePath,
    references: Vec<StorePath>,
    data: Vec<u8>,
}

/// 31 paths, each of which refers to some that come before it; the last one to all, through others.
/// Three of them are so many bytes large.
pub fn paths(large: usize) -> Vec<DemoPath> {
    let mut paths: Vec<DemoPath> = Vec::new();
    for number in 0..31_usize {
        let hash = Sha256::digest(format!("demo {number}"));
        let name = if number == 30 {
            "app".to_owned()
        } else {
            format!("lib-{number}")
        };
        let base = &nix_base32::to_nix_base32(&hash)[..32];
        let path = StorePath::parse(&format!("/nix/store/{base}-demo-{name}"));
        // Each refers to the one before it and to one far before that.
        let mut others: Vec<usize> = number.checked_sub(1).into_iter().collect();
        others.extend((number > 2).then_some(number / 2));
        let references: Vec<StorePath> = others.iter().map(|i| paths[*i].path.clone()).collect();
        // References are in the content, as they are in real store paths.
        let mut data: Vec<u8> = references
            .iter()
            .flat_map(|r| format!("{r}\n").into_bytes())
            .collect();
        // A few are large, so that there is progress to see.
        let size = if number % 10 == 9 { large } else { 200 << 10 };
        let mut state = number as u64 + 1;
        while data.len() < size {
            // xorshift: cheap bytes that do not compress
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            data.extend_from_slice(&state.to_le_bytes());
        }
        paths.push(DemoPath {
            path: path.expect("a store path"),
            references,
            data,
        });
    }
    paths
}

impl DemoPath {
    fn nar(&self) -> Vec<u8> {
        let size = self.data.len() as u64;
        let mut out = Vec::new();
        nar::magic(&mut out);
        nar::directory_start(&mut out);
        nar::entry_start(&mut out, b"data");
        nar::file_start(&mut out, false, size);
        out.extend_from_slice(&self.data);
        nar::file_end(&mut out, size);
        nar::entry_end(&mut out);
        nar::directory_end(&mut out);
        out
    }
}

/// Makes a store with these paths at `root`.
pub fn make_store(root: &Path, paths: &[DemoPath]) -> Result<(), Box<dyn Error>> {
    let store = root.join("nix/store");
    for path in paths {
        let folder = store.join(path.path.base_name());
        fs::create_dir_all(&folder)?;
        let file = folder.join("data");
        fs::write(&file, &path.data)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o444))?;
    }
    register(root, paths)
}

/// Writes the database of a store whose files are there.
pub fn register(root: &Path, paths: &[DemoPath]) -> Result<(), Box<dyn Error>> {
    let folder = root.join("nix/var/nix/db");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("schema"), "10")?;
    let mut db = Connection::open(folder.join("db.sqlite"))?;
    db.execute_batch(SCHEMA)?;
    let insert = db.transaction()?;
    for path in paths {
        let nar = path.nar();
        let hash = NarHash::new(Sha256::digest(&nar).into());
        let row = params![
            path.path.as_str(),
            format!("sha256:{}", hash.base16()),
            nar.len() as i64
        ];
        insert.execute(
            "insert into ValidPaths (path, hash, registrationTime, narSize) values (?, ?, 1, ?)",
            row,
        )?;
        for reference in &path.references {
            insert.execute(
                "insert into Refs select a.id, b.id from ValidPaths a, ValidPaths b
                 where a.path = ? and b.path = ?",
                params![path.path.as_str(), reference.as_str()],
            )?;
        }
    }
    insert.commit()?;
    Ok(())
}
