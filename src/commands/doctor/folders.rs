//! The runtime folder and the cache. Everything here blocks.

use std::fs;
use std::path::Path;

use super::finding::{Finding, Level};
use super::fixes;
use crate::cache::Disk;
use crate::progress::text::size;
use crate::report;
use crate::transport::runtime_dir::Environment;

const AREA: &str = "Folders";

/// Less free_bytes than this soon hurts, in bytes.
const MIN_FREE_BYTES: u64 = 20 << 20;

pub(super) fn check(disk: &Disk) -> Vec<Finding> {
    let mut all = vec![runtime()];
    all.push(match disk.check() {
        Ok(path) => match free_bytes(&path) {
            Some(free_bytes) if free_bytes < MIN_FREE_BYTES => low_space(&path, free_bytes),
            _ => Finding::ok(
                AREA,
                format!("cache {}: can be read and written", path.display()),
            ),
        },
        Err(error) => {
            let parts = report::parts(&error);
            let text = format!("no cache, so that nothing is remembered: {}", parts.message);
            let level = if matches!(error, crate::cache::disk::InspectError::Unusable { .. }) {
                Finding::note(AREA, text).fix(fixes::for_cache(&error))
            } else {
                Finding::warning(AREA, text, fixes::for_cache(&error))
            };
            return [all, vec![level]].concat();
        }
    });
    all
}

fn runtime() -> Finding {
    let path = match Environment::of_process(None).runtime_dir() {
        Ok(path) => path,
        Err(error) => {
            let mut parts = report::parts(&error);
            parts.message = format!("no place for connections: {}", parts.message);
            return Finding::of(Level::Error, AREA, parts, "");
        }
    };
    let probe = path.join(format!("doctor-{}", std::process::id()));
    let written = fs::write(&probe, "");
    let _ = fs::remove_file(&probe);
    match (written, free_bytes(&path)) {
        (Err(error), _) => Finding::error(
            AREA,
            format!(
                "runtime folder {}: cannot be written: {error}",
                path.display()
            ),
            format!(
                "see 'ls -ld {path}' and 'df {path}', or name another folder with SSH_SUBSTITUTER_RUNTIME_DIR",
                path = fixes::quoted(&path)
            ),
        ),
        (Ok(()), Some(free_bytes)) if free_bytes < 1 << 20 => low_space(&path, free_bytes),
        (Ok(()), _) => Finding::ok(
            AREA,
            format!("runtime folder {}: private, can be written", path.display()),
        ),
    }
}

fn low_space(path: &Path, free_bytes: u64) -> Finding {
    Finding::warning(
        AREA,
        format!(
            "{}: only {} are free on its disk",
            path.display(),
            size(free_bytes)
        ),
        format!("make room: 'df {}'", fixes::quoted(path)),
    )
}

/// Bytes that this user may still write there.
fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
