//! One answer as a row of `path_infos`.

use std::sync::Arc;

use rusqlite::{Statement, params};

use super::CachedAnswer;
use crate::model::{NarHash, PathInfo, StorePath};

pub(super) const SELECT: &str = "SELECT checked_at, nar_size, download_size, nar_hash, deriver,
    refs, ca, sigs FROM path_infos WHERE host = ?1 AND path = ?2";

pub(super) const INSERT: &str = "INSERT OR REPLACE INTO path_infos (host, path, checked_at,
    nar_size, download_size, nar_hash, deriver, refs, ca, sigs)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

pub(super) const DELETE: &str = "DELETE FROM path_infos WHERE host = ?1 AND path = ?2";

pub(super) const CONFIRM: &str = "UPDATE path_infos SET checked_at = ?3
    WHERE host = ?1 AND path = ?2 AND nar_size IS NOT NULL";

/// The longest text in a column, in bytes: about 20,000 references.
const TEXT_MAX: usize = 1 << 20;

/// The columns of a row; sizes above 2^63 do not occur.
pub(super) struct Row {
    checked_at: i64,
    info: Option<Info>,
}

struct Info {
    nar_size: i64,
    download_size: i64,
    nar_hash: Option<Vec<u8>>,
    deriver: Option<String>,
    refs: String,
    ca: Option<String>,
    sigs: String,
}

impl Row {
    /// `None` when the row is not as this program writes it.
    pub(super) fn read(row: &rusqlite::Row<'_>) -> Option<Self> {
        let nar_size: Option<i64> = row.get(1).ok()?;
        let info = match nar_size {
            None => None,
            Some(nar_size) => Some(Info {
                nar_size,
                download_size: row.get(2).ok()?,
                nar_hash: row.get(3).ok()?,
                deriver: row.get(4).ok()?,
                refs: row.get(5).ok()?,
                ca: row.get(6).ok()?,
                sigs: row.get(7).ok()?,
            }),
        };
        let checked_at = row.get(0).ok()?;
        Some(Self { checked_at, info })
    }

    /// The answer about `path`; `None` when the row makes no sense.
    pub(super) fn into_answer(self, path: &StorePath) -> Option<CachedAnswer> {
        let info = match self.info {
            None => None,
            Some(info) => Some(Arc::new(info.parse(path)?)),
        };
        Some(CachedAnswer {
            path: path.clone(),
            info,
            checked_at: u64::try_from(self.checked_at).ok()?,
        })
    }

    /// `None` when it cannot be kept.
    pub(super) fn of(answer: &CachedAnswer) -> Option<Self> {
        let info = match &answer.info {
            None => None,
            Some(info) => Some(Info::of(info)?),
        };
        let checked_at = i64::try_from(answer.checked_at).ok()?;
        Some(Self { checked_at, info })
    }

    /// Runs [`INSERT`]; the number of rows.
    pub(super) fn write(
        &self,
        insert: &mut Statement<'_>,
        host: i64,
        path: &StorePath,
    ) -> rusqlite::Result<usize> {
        let (path, info) = (path.base_name(), self.info.as_ref());
        insert.execute(params![
            host,
            path,
            self.checked_at,
            info.map(|info| info.nar_size),
            info.map(|info| info.download_size),
            info.and_then(|info| info.nar_hash.as_deref()),
            info.and_then(|info| info.deriver.as_deref()),
            info.map(|info| &*info.refs),
            info.and_then(|info| info.ca.as_deref()),
            info.map(|info| &*info.sigs),
        ])
    }
}

impl Info {
    fn of(info: &PathInfo) -> Option<Self> {
        let dir = info.path.store_dir();
        let same_store = |path: &StorePath| path.store_dir() == dir;
        let has_line_feed = |sig: &String| sig.contains('\n') || sig.is_empty();
        if !info.references.iter().chain(&info.deriver).all(same_store)
            || info.sigs.iter().any(has_line_feed)
        {
            return None;
        }
        let names: Vec<_> = info.references.iter().map(StorePath::base_name).collect();
        let (refs, sigs) = (names.join(" "), info.sigs.join("\n"));
        let ca = info.ca.clone();
        if [refs.len(), sigs.len(), ca.as_ref().map_or(0, String::len)]
            .into_iter()
            .any(|len| len > TEXT_MAX)
        {
            return None;
        }
        Some(Self {
            nar_size: i64::try_from(info.nar_size).ok()?,
            download_size: i64::try_from(info.download_size).ok()?,
            nar_hash: info.nar_hash.map(|hash| hash.as_bytes().to_vec()),
            deriver: info
                .deriver
                .as_ref()
                .map(|path| path.base_name().to_owned()),
            refs,
            ca,
            sigs,
        })
    }

    fn parse(self, path: &StorePath) -> Option<PathInfo> {
        let sibling = |name: &str| StorePath::parse(&format!("{}/{name}", path.store_dir())).ok();
        let references: Option<Vec<_>> = self.refs.split_terminator(' ').map(sibling).collect();
        let references = references?;
        if !references.is_sorted_by(|a, b| a < b) {
            return None;
        }
        let deriver = match &self.deriver {
            None => None,
            Some(name) => Some(sibling(name)?),
        };
        let nar_hash = match self.nar_hash {
            None => None,
            Some(bytes) => Some(NarHash::new(bytes.try_into().ok()?)),
        };
        Some(PathInfo {
            path: path.clone(),
            deriver,
            references,
            download_size: u64::try_from(self.download_size).ok()?,
            nar_size: u64::try_from(self.nar_size).ok()?,
            nar_hash,
            ca: self.ca,
            sigs: self
                .sigs
                .split_terminator('\n')
                .map(str::to_owned)
                .collect(),
        })
    }
}
