//! Where the files of a store path really are on a host.

use percent_encoding::percent_decode_str;

use crate::config::host::Host;
use crate::model::StorePath;

/// The folder that the store of a host is in: `/nix/store/X` is the file `ROOT/nix/store/X`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Root(Vec<u8>);

impl Root {
    /// From the host's `remote-store`, as Nix reads it (Nix manual, "Store Types"). `None` for a
    /// store whose files may be anywhere.
    pub(super) fn of(host: &Host) -> Option<Self> {
        let store = host.remote_store.as_deref().unwrap_or_default();
        if matches!(store, "" | "auto" | "daemon" | "local") {
            return Some(Self(Vec::new()));
        }
        if let Some(query) = store.strip_prefix("local?") {
            let (name, root) = query.split_once('=')?;
            // Further parameters may move the files elsewhere.
            if name != "root" || root.contains('&') {
                return None;
            }
            return Self::absolute(percent_decode_str(root).collect());
        }
        // A path, which Nix cuts at a question mark.
        if store.contains('?') || store.contains("://") {
            return None;
        }
        Self::absolute(store.into())
    }

    fn absolute(mut root: Vec<u8>) -> Option<Self> {
        if !root.starts_with(b"/") || root.contains(&0) {
            return None;
        }
        while root.ends_with(b"/") {
            root.pop();
        }
        Some(Self(root))
    }

    /// Where that path is.
    pub(super) fn place(&self, path: &StorePath) -> Vec<u8> {
        [&self.0, path.as_str().as_bytes()].concat()
    }

    /// Where the store directory of that path is.
    pub(super) fn store_dir(&self, path: &StorePath) -> Vec<u8> {
        let dir = match path.store_dir() {
            "" => "/",
            dir => dir,
        };
        [&self.0, dir.as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(store: Option<&str>) -> Option<String> {
        let host = Host {
            remote_store: store.map(str::to_owned),
            ..Host::parse("h").unwrap()
        };
        let path = StorePath::parse("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-a").unwrap();
        let place = Root::of(&host)?.place(&path);
        let place = String::from_utf8(place).unwrap();
        Some(place.strip_suffix(path.as_str()).unwrap().to_owned())
    }

    #[test]
    fn the_usual_stores_have_their_files_where_the_paths_say() {
        for store in [None, Some(""), Some("auto"), Some("daemon"), Some("local")] {
            assert_eq!(place(store).as_deref(), Some(""), "{store:?}");
        }
    }

    #[test]
    fn chroot_stores_have_them_below_their_root() {
        for (store, root) in [
            ("/mnt/r", "/mnt/r"),
            ("/mnt/r//", "/mnt/r"),
            ("/", ""),
            ("/a%20b", "/a%20b"),
            ("local?root=/mnt/r", "/mnt/r"),
            ("local?root=/a%20b%3d", "/a b="),
        ] {
            assert_eq!(place(Some(store)).as_deref(), Some(root), "{store}");
        }
    }

    #[test]
    fn of_others_nothing_is_known() {
        for store in [
            "local?root=/r&real=/x",
            "local?real=/x",
            "local?",
            "local?root=",
            "local?root=r",
            "local?root=/a%00",
            "/r?real=/x",
            "./r",
            "r",
            "ssh://other",
            "unix:///run/socket",
            "file:///cache",
            "dummy://",
        ] {
            assert_eq!(place(Some(store)), None, "{store}");
        }
    }
}
