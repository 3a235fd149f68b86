//! The questions, in SQL. Each runs inside a read transaction that the caller has begun.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row, Statement};

use super::LocalStoreError;
use super::db::Failed;
use crate::model::{NarHash, PathInfo, StorePath};

/// Finds out whether the database can be read and is one of Nix.
pub(super) fn probe(db: &Connection) -> Result<(), Failed> {
    db.query_row(
        "select exists (select 1 from ValidPaths), exists (select 1 from Refs), \
         exists (select 1 from DerivationOutputs)",
        [],
        |_| Ok(()),
    )?;
    Ok(())
}

pub(super) fn valid_paths(db: &Connection, paths: &[StorePath]) -> Result<Vec<StorePath>, Failed> {
    let mut find = db.prepare("select 1 from ValidPaths where path = ?")?;
    let mut valid = BTreeSet::new();
    for path in paths {
        if find.exists([path.as_str()])? {
            valid.insert(path.clone());
        }
    }
    Ok(valid.into_iter().collect())
}

pub(super) fn nar_size(db: &Connection, path: &StorePath) -> Result<Option<u64>, Failed> {
    let mut find = db.prepare("select narSize from ValidPaths where path = ?")?;
    let size: Option<Option<i64>> = find
        .query_row([path.as_str()], |row| row.get(0))
        .optional()?;
    Ok(size.map(|size| read_size(path, size)).transpose()?)
}

pub(super) fn path_infos(db: &Connection, paths: &[StorePath]) -> Result<Vec<PathInfo>, Failed> {
    let mut find =
        db.prepare("select id, hash, deriver, narSize, sigs, ca from ValidPaths where path = ?")?;
    let mut refs =
        db.prepare("select path from Refs join ValidPaths on reference = id where referrer = ?")?;
    let mut infos = BTreeMap::new();
    for path in paths {
        if infos.contains_key(path) {
            continue;
        }
        let mut rows = find.query([path.as_str()])?;
        if let Some(row) = rows.next()? {
            let references = references(&mut refs, path, row.get("id")?)?;
            infos.insert(path.clone(), read_info(path, references, row)?);
        }
    }
    Ok(infos.into_values().collect())
}

fn references(
    refs: &mut Statement<'_>,
    path: &StorePath,
    id: i64,
) -> Result<Vec<StorePath>, Failed> {
    let mut found = BTreeSet::new();
    let mut rows = refs.query([id])?;
    while let Some(row) = rows.next()? {
        found.insert(read_path(path.as_str(), "reference", row.get(0)?)?);
    }
    Ok(found.into_iter().collect())
}

fn read_info(
    path: &StorePath,
    references: Vec<StorePath>,
    row: &Row<'_>,
) -> Result<PathInfo, Failed> {
    let text = |column: &'static str| -> Result<Option<String>, rusqlite::Error> {
        let text: Option<String> = row.get(column)?;
        Ok(text.filter(|text| !text.is_empty()))
    };
    let hash: String = row.get("hash")?;
    let nar_hash: NarHash = hash.parse().map_err(|_| {
        let expected = "sha256: and a hash";
        bad(path.as_str(), "hash", expected, &hash)
    })?;
    let nar_size = read_size(path, row.get("narSize")?)?;
    let sigs: BTreeSet<String> = text("sigs")?
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    Ok(PathInfo {
        path: path.clone(),
        deriver: text("deriver")?
            .map(|deriver| read_path(path.as_str(), "deriver", deriver))
            .transpose()?,
        references,
        download_size: nar_size,
        nar_size,
        nar_hash: Some(nar_hash),
        ca: text("ca")?,
        sigs: sigs.into_iter().collect(),
    })
}

pub(super) fn closure(
    db: &Connection,
    roots: &[StorePath],
    include_outputs: bool,
    store_root: &Path,
) -> Result<Vec<StorePath>, Failed> {
    let mut find = db.prepare("select id from ValidPaths where path = ?")?;
    let mut refs = db.prepare(
        "select id, path from Refs join ValidPaths on reference = id where referrer = ?",
    )?;
    let mut outputs = db.prepare(
        "select v.id, v.path from DerivationOutputs o join ValidPaths v on v.path = o.path \
         where o.drv = ?",
    )?;
    let mut closure = BTreeSet::new();
    let mut seen = HashSet::new();
    let mut due = Vec::new();
    for path in roots {
        let id: Option<i64> = find
            .query_row([path.as_str()], |row| row.get(0))
            .optional()?;
        let id = id.ok_or_else(|| LocalStoreError::NotValid {
            path: path.clone(),
            root: store_root.to_owned(),
        })?;
        if seen.insert(id) {
            due.push((id, path.clone()));
        }
    }
    while let Some((id, path)) = due.pop() {
        let mut follow = |find: &mut Statement<'_>, field| -> Result<(), Failed> {
            let mut rows = find.query([id])?;
            while let Some(row) = rows.next()? {
                let next: i64 = row.get(0)?;
                if seen.insert(next) {
                    due.push((next, read_path(path.as_str(), field, row.get(1)?)?));
                }
            }
            Ok(())
        };
        follow(&mut refs, "reference")?;
        if include_outputs && path.is_derivation() {
            follow(&mut outputs, "output")?;
        }
        closure.insert(path);
    }
    Ok(closure.into_iter().collect())
}

/// Rows written by very old Nix have no size.
fn read_size(path: &StorePath, size: Option<i64>) -> Result<u64, LocalStoreError> {
    let size = size.unwrap_or(0);
    u64::try_from(size).map_err(|_| {
        let expected = "a size that is not negative";
        bad(path.as_str(), "narSize", expected, &size.to_string())
    })
}

fn read_path(about: &str, field: &'static str, text: String) -> Result<StorePath, LocalStoreError> {
    StorePath::parse(&text).map_err(|_| bad(about, field, "a store path", &text))
}

fn bad(path: &str, field: &'static str, expected: &'static str, got: &str) -> LocalStoreError {
    LocalStoreError::Row {
        path: path.to_owned(),
        field,
        expected,
        got: got.chars().take(200).collect(),
    }
}
