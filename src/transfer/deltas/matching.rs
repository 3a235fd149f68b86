//! Which file of the wanted path is another version of which file here. Pure.

use std::collections::HashMap;

use super::base_files::BaseFiles;

/// How many times larger than the other one of two files may be that have only their names in common.
const SIZE_FACTOR: u64 = 2;

/// Finds files of a version that is here, by more than their paths.
pub(super) struct Matching<'a> {
    base: &'a BaseFiles,
    /// By their paths without what differs between versions.
    by_stem: HashMap<Vec<u8>, &'a [u8]>,
    /// By their names without it.
    by_name: HashMap<Vec<u8>, Vec<&'a [u8]>>,
}

impl<'a> Matching<'a> {
    pub(super) fn new(base: &'a BaseFiles) -> Self {
        let (mut by_stem, mut by_name) = (HashMap::new(), HashMap::<_, Vec<_>>::new());
        for (path, _) in base.iter() {
            by_stem.entry(without_version(path)).or_insert(path);
            by_name
                .entry(without_version(name(path)))
                .or_default()
                .push(path);
        }
        Self {
            base,
            by_stem,
            by_name,
        }
    }

    /// The file here that is most likely another version of that one of `size` bytes: the one of the same path, else of
    /// the same path but for version numbers and hashes, else one of the same name and nearly the same size.
    pub(super) fn find(&self, path: &[u8], size: u64) -> Option<&'a [u8]> {
        if let Some((path, _)) = self.base.entry(path) {
            return Some(path);
        }
        if let Some(path) = self.by_stem.get(&without_version(path)) {
            return Some(path);
        }
        let named = self.by_name.get(&without_version(name(path)))?;
        let similar = named.iter().filter_map(|path| {
            let other = self.base.size(path)?;
            let (small, large) = (size.min(other), size.max(other));
            (large <= small.saturating_mul(SIZE_FACTOR)).then_some((large - small, *path))
        });
        similar.min().map(|(_, path)| path)
    }
}

/// The last part of a path.
fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// A path with each number, and each word that is as long as the hash of a store path, replaced by `#`.
fn without_version(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    for word in path.split_inclusive(|byte| !byte.is_ascii_alphanumeric()) {
        let (word, separator) = match word.last() {
            Some(last) if !last.is_ascii_alphanumeric() => word.split_at(word.len() - 1),
            _ => (word, &b""[..]),
        };
        if word.len() == 32 {
            out.push(b'#');
        } else {
            let mut in_number = false;
            for byte in word {
                if !byte.is_ascii_digit() {
                    out.push(*byte);
                } else if !in_number {
                    out.push(b'#');
                }
                in_number = byte.is_ascii_digit();
            }
        }
        out.extend_from_slice(separator);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_hashes_are_left_out() {
        for (a, b) in [
            ("lib/libfoo.so.1.2.3", "lib/libfoo.so.1.20.13"),
            ("lib/python3.11/a.py", "lib/python3.12/a.py"),
            (
                "7rjj86a15146cq1d3qy068lml7n7ykzm-a/x",
                "0rjj86a15146cq1d3qy068lml7n7ykzm-a/x",
            ),
        ] {
            assert_eq!(without_version(a.as_bytes()), without_version(b.as_bytes()));
        }
        assert_ne!(without_version(b"lib/a.so"), without_version(b"lib/b.so"));
        assert_eq!(without_version(b"a12/b-3"), b"a#/b-#");
    }

    #[test]
    fn the_same_path_comes_first_then_its_version_then_its_name() {
        let base = BaseFiles::of_sizes(&[
            ("bin/tool", 100),
            ("lib/1.0/data", 100),
            ("share/x/icon", 100),
            ("share/y/icon", 190),
        ]);
        let matching = Matching::new(&base);
        let find = |path: &str, size| {
            let found = matching.find(path.as_bytes(), size)?;
            Some(String::from_utf8(found.to_vec()).unwrap())
        };
        assert_eq!(find("bin/tool", 9).as_deref(), Some("bin/tool"));
        assert_eq!(find("lib/1.1/data", 9).as_deref(), Some("lib/1.0/data"));
        assert_eq!(find("z/icon", 180).as_deref(), Some("share/y/icon"));
        assert_eq!(find("z/icon", 60).as_deref(), Some("share/x/icon"));
        assert_eq!(find("z/icon", 20), None);
        assert_eq!(find("other", 100), None);
    }
}
