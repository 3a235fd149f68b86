//! The questions, in SQL. Each runs inside a read transaction that the caller has begun.
//!
//! What the database holds of a path and nobody can read costs that path only: it is left out of the
//! answer.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use rusqlite::types::FromSql;
use rusqlite::{Connection, OptionalExtension, Row, Statement};

use super::LocalStoreError;
use super::db::QueryError;
use crate::model::{HashPart, NarHash, PathInfo, StorePath};

/// Finds out whether the database can be read and is one of Nix.
pub(super) fn probe(db: &Connection) -> Result<(), QueryError> {
    db.query_row(
        "select exists (select 1 from ValidPaths), exists (select 1 from Refs), \
         exists (select 1 from DerivationOutputs)",
        [],
        |_| Ok(()),
    )?;
    Ok(())
}

pub(super) fn valid_paths(
    db: &Connection,
    paths: &[StorePath],
) -> Result<Vec<StorePath>, QueryError> {
    let mut find = db.prepare("select 1 from ValidPaths where path = ?")?;
    let mut valid = BTreeSet::new();
    for path in paths {
        if find.exists([path.as_str()])? {
            valid.insert(path.clone());
        }
    }
    Ok(valid.into_iter().collect())
}

pub(super) fn all_paths(db: &Connection) -> Result<Vec<StorePath>, QueryError> {
    let mut find = db.prepare("select path from ValidPaths order by id desc")?;
    let mut rows = find.query([])?;
    let mut paths = Vec::new();
    while let Some(row) = rows.next()? {
        let text: Option<String> = row.get(0).ok();
        paths.extend(text.and_then(|text| StorePath::parse(&text).ok()));
    }
    Ok(paths)
}

/// The outputs that a valid derivation is known to have, and whether each is valid.
pub(super) fn outputs(
    db: &Connection,
    derivation: &StorePath,
) -> Result<Vec<(StorePath, bool)>, QueryError> {
    let mut find = db.prepare(
        "select o.path, exists (select 1 from ValidPaths v where v.path = o.path) \
         from ValidPaths d join DerivationOutputs o on o.drv = d.id where d.path = ?",
    )?;
    let mut rows = find.query([derivation.as_str()])?;
    let mut outputs = Vec::new();
    while let Some(row) = rows.next()? {
        let (text, is_valid): (Option<String>, bool) = (row.get(0).ok(), row.get(1)?);
        let path = text.and_then(|text| StorePath::parse(&text).ok());
        outputs.extend(path.map(|path| (path, is_valid)));
    }
    Ok(outputs)
}

/// Finds valid paths between two strings.
pub(super) const VALID: &str = "select path from ValidPaths where path >= ?1 and path < ?2";

/// Finds valid paths and outputs of valid derivations between two strings.
pub(super) const KNOWN: &str = "select path from ValidPaths where path >= ?1 and path < ?2 \
    union select path from DerivationOutputs where path >= ?1 and path < ?2";

/// What `sql` finds with these hash parts, sorted.
pub(super) fn with_hash(
    db: &Connection,
    store_dir: &str,
    hashes: &[HashPart],
    sql: &str,
) -> Result<Vec<StorePath>, QueryError> {
    let mut find = db.prepare(sql)?;
    let mut paths = BTreeSet::new();
    for hash in hashes {
        // A full stop comes next to a hyphen.
        let range = [
            format!("{store_dir}/{hash}-"),
            format!("{store_dir}/{hash}."),
        ];
        let mut rows = find.query(range)?;
        while let Some(row) = rows.next()? {
            let text: Option<String> = row.get(0).ok();
            paths.extend(text.and_then(|text| StorePath::parse(&text).ok()));
        }
    }
    Ok(paths.into_iter().collect())
}

pub(super) fn nar_size(db: &Connection, path: &StorePath) -> Result<Option<u64>, QueryError> {
    let mut find = db.prepare("select narSize from ValidPaths where path = ?")?;
    let mut rows = find.query([path.as_str()])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let size = column(path.as_str(), row, "narSize")?;
    Ok(Some(read_size(path, size)?))
}

/// An answer, and why paths were left out of it.
pub(super) type Answer<T> = (Vec<T>, Vec<LocalStoreError>);

pub(super) fn path_infos(
    db: &Connection,
    paths: &[StorePath],
) -> Result<Answer<PathInfo>, QueryError> {
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
            infos.insert(
                path.clone(),
                split_row_error(read_info(path, &mut refs, row))?,
            );
        }
    }
    let (mut found, mut left_out) = (Vec::new(), Vec::new());
    for info in infos.into_values() {
        match info {
            Ok(info) => found.push(info),
            Err(error) => left_out.push(error),
        }
    }
    Ok((found, left_out))
}

/// Takes what is wrong with a row apart from what is wrong with the database.
fn split_row_error<T>(
    read: Result<T, QueryError>,
) -> Result<Result<T, LocalStoreError>, QueryError> {
    match read {
        Ok(value) => Ok(Ok(value)),
        Err(QueryError::Answer(error)) => Ok(Err(error)),
        Err(error) => Err(error),
    }
}

fn read_info(
    path: &StorePath,
    refs: &mut Statement<'_>,
    row: &Row<'_>,
) -> Result<PathInfo, QueryError> {
    let text = |field: &'static str| -> Result<Option<String>, QueryError> {
        let text: Option<String> = column(path.as_str(), row, field)?;
        Ok(text.filter(|text| !text.is_empty()))
    };
    let hash: String = column(path.as_str(), row, "hash")?;
    let nar_hash: NarHash = hash.parse().map_err(|_| {
        let expected = "sha256: and a hash";
        bad(path.as_str(), "hash", expected, &hash)
    })?;
    let nar_size = read_size(path, column(path.as_str(), row, "narSize")?)?;
    let sigs: BTreeSet<String> = text("sigs")?
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let deriver = text("deriver")?.map(|deriver| read_path(path.as_str(), "deriver", &deriver));
    let mut references = BTreeSet::new();
    let mut rows = refs.query([row.get::<_, i64>("id")?])?;
    while let Some(row) = rows.next()? {
        let reference: String = column(path.as_str(), row, "path")?;
        references.insert(read_path(path.as_str(), "reference", &reference)?);
    }
    Ok(PathInfo {
        path: path.clone(),
        deriver: deriver.transpose()?,
        references: references.into_iter().collect(),
        download_size: nar_size,
        nar_size,
        nar_hash: Some(nar_hash),
        ca: text("ca")?,
        sigs: sigs.into_iter().collect(),
    })
}

/// A column of a row about a path. What is of another type or no UTF-8 is nonsense in that row.
fn column<T: FromSql>(about: &str, row: &Row<'_>, field: &'static str) -> Result<T, QueryError> {
    use rusqlite::Error::{
        FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error,
    };
    row.get(field).map_err(|error| match error {
        FromSqlConversionFailure(..)
        | IntegralValueOutOfRange(..)
        | InvalidColumnType(..)
        | Utf8Error(..) => {
            let expected = "what Nix writes there";
            bad(about, field, expected, &error.to_string()).into()
        }
        error => error.into(),
    })
}

pub(super) fn closure(
    db: &Connection,
    roots: &[StorePath],
    include_outputs: bool,
    store_root: &Path,
) -> Result<Answer<StorePath>, QueryError> {
    let mut find = db.prepare("select id from ValidPaths where path = ?")?;
    let mut refs = db.prepare(
        "select id, path from Refs join ValidPaths on reference = id where referrer = ?",
    )?;
    let mut outputs = db.prepare(
        "select v.id, v.path from DerivationOutputs o join ValidPaths v on v.path = o.path \
         where o.drv = ?",
    )?;
    let (mut closure, mut left_out) = (BTreeSet::new(), Vec::new());
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
        let mut follow = |find: &mut Statement<'_>, field| -> Result<(), QueryError> {
            let mut rows = find.query([id])?;
            while let Some(row) = rows.next()? {
                let next: i64 = row.get(0)?;
                if !seen.insert(next) {
                    continue;
                }
                let read = column(path.as_str(), row, "path")
                    .and_then(|text: String| Ok(read_path(path.as_str(), field, &text)?));
                match split_row_error(read)? {
                    Ok(path) => due.push((next, path)),
                    Err(error) => left_out.push(error),
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
    Ok((closure.into_iter().collect(), left_out))
}

/// Rows written by very old Nix have no size.
fn read_size(path: &StorePath, size: Option<i64>) -> Result<u64, LocalStoreError> {
    let size = size.unwrap_or(0);
    u64::try_from(size).map_err(|_| {
        let expected = "a size that is not negative";
        bad(path.as_str(), "narSize", expected, &size.to_string())
    })
}

fn read_path(about: &str, field: &'static str, text: &str) -> Result<StorePath, LocalStoreError> {
    StorePath::parse(text).map_err(|_| bad(about, field, "a store path", text))
}

fn bad(path: &str, field: &'static str, expected: &'static str, got: &str) -> LocalStoreError {
    LocalStoreError::Row {
        path: path.to_owned(),
        field,
        expected,
        got: got.chars().take(200).collect(),
    }
}
