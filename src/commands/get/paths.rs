//! From what people type to store paths: whole ones, what lies in one, and symlinks that lead there (`./result`).

use std::path::{Component, Path, PathBuf};

use super::error::{GetError, io_error};
use crate::model::StorePath;

/// How many symlinks are followed one after the other, as the system does.
const MOST_LINKS: usize = 40;

/// The store path that `given` is, lies in or leads to, as `nix-store` finds it: what is in the store is cut behind its
/// first part, what is not has its symlinks followed, the last part of it only.
///
/// # Errors
/// When it leads somewhere else, or to something that is not a store path.
pub(in crate::commands) fn store_path(given: &str, store_dir: &str) -> Result<StorePath, GetError> {
    let absolute = std::path::absolute(given).map_err(io_error("find", given))?;
    let mut at = normal(&absolute);
    for _ in 0..MOST_LINKS {
        if let Some(path) = in_store(&at, store_dir) {
            return Ok(StorePath::parse(&path)?);
        }
        let Ok(target) = std::fs::read_link(&at) else {
            return Err(GetError::NotInStore {
                given: given.to_owned(),
                store_dir: store_dir.to_owned(),
                led_to: at,
            });
        };
        let folder = at.parent().unwrap_or(Path::new("/"));
        at = normal(&folder.join(target));
    }
    Err(GetError::Links {
        given: given.to_owned(),
        most: MOST_LINKS,
    })
}

/// The store directory and the first part behind it.
fn in_store(path: &Path, store_dir: &str) -> Option<String> {
    let rest = path.strip_prefix(store_dir).ok()?;
    let first = rest.components().next()?;
    Some(format!(
        "{store_dir}/{}",
        first.as_os_str().to_string_lossy()
    ))
}

/// Without `.` and `..`, by the letters alone.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(part) => out.push(part),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const HELLO: &str = "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-hello-2.12";

    #[test]
    fn whole_paths_parts_and_links_lead_into_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let link = |name: &str, target: &str| {
            let path = folder.path().join(name);
            symlink(target, &path).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let result = link("result", &format!("{HELLO}/bin"));
        for given in [
            HELLO.to_owned(),
            format!("{HELLO}/"),
            format!("{HELLO}/bin/hello"),
            format!("/nix/./store/../store/{}", &HELLO[11..]),
            result,
            link("again", "./result"),
        ] {
            let path = store_path(&given, "/nix/store").unwrap();
            assert_eq!(path.as_str(), HELLO, "{given}");
        }
    }

    #[test]
    fn what_leads_elsewhere_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let round = folder.path().join("round");
        symlink("round", &round).unwrap();
        let error = |given: &str| store_path(given, "/nix/store").unwrap_err().to_string();
        assert!(error(round.to_str().unwrap()).contains("at most 40 symlinks"));
        assert!(error("/nix/store").contains("expected a path in /nix/store"));
        assert!(error("/nix/storeroom/x").contains("is not in the store"));
        assert!(error("no-such-file").contains("/no-such-file"));
        assert!(error("/nix/store/hello").contains("is not a store path"));
        let other = store_path(HELLO, "/other/store").unwrap_err();
        assert!(other.is_usage(), "{other}");
    }
}
