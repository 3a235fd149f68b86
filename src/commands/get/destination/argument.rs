//! The argument of `--to`.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;

use crate::commands::get::error::GetError;

/// What `--to` names.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::commands::get) enum ToArgument {
    /// A folder laid out as a store.
    Folder(PathBuf),
    /// A binary cache.
    Cache(PathBuf),
}

impl ToArgument {
    /// Reads `DIR` or `file:///DIR`.
    pub(in crate::commands::get) fn parse(given: &str) -> Result<Self, GetError> {
        let wrong = |got| GetError::Destination {
            given: given.to_owned(),
            got,
        };
        if given.is_empty() {
            return Err(wrong("nothing"));
        }
        let Some((scheme, rest)) = given.split_once("://") else {
            return Ok(Self::Folder(given.into()));
        };
        if scheme != "file" {
            return Err(wrong("another kind of URL"));
        }
        if rest.contains(['?', '#']) {
            return Err(wrong("a URL with parameters"));
        }
        if !rest.starts_with('/') {
            return Err(wrong("a file URL without an absolute path"));
        }
        let path = percent_decode_str(rest).decode_utf8();
        let path = path.map_err(|_| wrong("a path that is not UTF-8"))?;
        Ok(Self::Cache(path.as_ref().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_caches_are_told_apart() {
        let folder = |path: &str| ToArgument::Folder(path.into());
        let cache = |path: &str| ToArgument::Cache(path.into());
        for (given, place) in [
            ("out", folder("out")),
            ("/a/b:c", folder("/a/b:c")),
            ("file:///a/b", cache("/a/b")),
            ("file:///a%20b", cache("/a b")),
        ] {
            assert_eq!(ToArgument::parse(given).unwrap(), place);
        }
        for given in [
            "",
            "file://host/a",
            "file://",
            "https://host/a",
            "ssh://host",
            "file:///a?compression=xz",
            "file:///%ff",
        ] {
            assert!(ToArgument::parse(given).unwrap_err().is_usage(), "{given}");
        }
    }
}
