//! Narinfo files, as `crate::wire::narinfo` lays them out, of compressed NARs.

use crate::model::{NarHash, PathInfo, StorePath};
use crate::wire::narinfo::{self, NarFile};

/// A compressed NAR.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    /// SHA-256 of the file.
    pub(super) file_hash: NarHash,
    /// Its size in bytes.
    pub(super) file_size: u64,
    /// SHA-256 of the NAR in it.
    pub(super) nar_hash: NarHash,
    /// Its size in bytes.
    pub(super) nar_size: u64,
}

impl Packed {
    /// The file's place in the cache.
    pub(super) fn url(&self) -> String {
        format!("nar/{}.nar.zst", self.file_hash.base32())
    }
}

/// The text of a narinfo.
pub(super) fn render(info: &PathInfo, packed: &Packed) -> String {
    let nar = NarFile {
        url: &packed.url(),
        compression: "zstd",
        file: Some((packed.file_hash, packed.file_size)),
        nar_hash: packed.nar_hash,
        nar_size: packed.nar_size,
    };
    narinfo::render(info, &nar)
}

/// What is needed of a path that is there already.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Narinfo {
    /// The file, relative to the cache.
    pub(super) url: String,
    pub(super) file_size: u64,
    pub(super) references: Vec<StorePath>,
}

impl Narinfo {
    /// What `text` says of `path`; `None` when it is about another path, or incomplete.
    pub(super) fn parse(text: &str, path: &StorePath) -> Option<Self> {
        let field = |name: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
        };
        let url = field("URL")?;
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        let _: NarHash = field("NarHash")?.parse().ok()?;
        if field("StorePath") != Some(path.as_str()) || !url.split('/').all(plain) {
            return None;
        }
        let reference = |name| StorePath::parse(&format!("{}/{name}", path.store_dir())).ok();
        let references = field("References").unwrap_or_default().split_whitespace();
        Some(Self {
            url: url.to_owned(),
            file_size: field("FileSize")?.parse().ok()?,
            references: references.map(reference).collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::samples::{bare, path};

    fn example() -> (PathInfo, Packed) {
        let hash = NarHash::new([7; 32]);
        let info = PathInfo {
            deriver: Some(path("ab3li50xq0nl4q5lxdyinb8w8y13my9s-hello.drv")),
            references: vec![
                path("7rjj86a15146cq1d3qy068lml7n7ykzm-hello-2.12"),
                path("ab3li50xq0nl4q5lxdyinb8w8y13my9s-f"),
            ],
            sigs: vec!["key-1:AAAA".to_owned(), "evil\nStorePath: x".to_owned()],
            ..bare(path("7rjj86a15146cq1d3qy068lml7n7ykzm-hello-2.12"))
        };
        let packed = Packed {
            file_hash: hash,
            file_size: 88,
            nar_hash: hash,
            nar_size: 120,
        };
        (info, packed)
    }

    #[test]
    fn what_is_written_is_read_and_no_host_adds_lines() {
        let (info, packed) = example();
        let text = render(&info, &packed);
        let there = Narinfo::parse(&text, &info.path).unwrap();
        assert_eq!(there.url, packed.url());
        assert_eq!((there.file_size, there.references), (88, info.references));
        assert!(text.contains("\nSig: key-1:AAAA\n") && !text.contains("evil"));
        assert!(text.contains("\nDeriver: ab3li50xq0nl4q5lxdyinb8w8y13my9s-hello.drv\n"));
    }

    #[test]
    fn what_is_about_another_path_or_leads_out_of_the_cache_does_not_count() {
        let (info, packed) = example();
        let good = render(&info, &packed);
        assert!(Narinfo::parse(&good, &info.references[1]).is_none());
        for (from, to) in [
            ("URL: nar/", "URL: ../nar/"),
            ("URL: nar/", "URL: /nar/"),
            ("FileSize: 88", "FileSize: many"),
            ("NarHash: sha256:", "NarHash: sha256:x"),
            ("References: ", "References: nonsense "),
        ] {
            let text = good.replace(from, to);
            assert_ne!(text, good);
            assert!(Narinfo::parse(&text, &info.path).is_none(), "{to}");
        }
    }
}
