//! What a host has: paths that may come, go, or hold a wrong byte.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ssh_substituter::model::{PathInfo, StorePath};
use tokio::time::Instant;

use super::nars::{Item, Kind, Node};

/// A path at one host.
#[derive(Clone)]
pub struct Copy {
    pub item: Arc<Item>,
    pub info: PathInfo,
    /// When it is there.
    pub from: Option<Instant>,
    pub until: Option<Instant>,
    /// It has come back after that.
    pub again: Option<Instant>,
    /// The byte of the NAR that is another one here; it is one of a file.
    pub wrong: Option<u64>,
}

impl Copy {
    pub fn is_there(&self) -> bool {
        let now = Instant::now();
        let gone = self.until.is_some_and(|until| now >= until);
        let back = self.again.is_some_and(|again| now >= again);
        self.from.is_none_or(|from| now >= from) && (!gone || back)
    }

    /// Some bytes of the NAR as they are here.
    pub fn bytes(&self, at: u64, len: u64) -> Bytes {
        let bytes = self.item.nar.slice(at as usize..(at + len) as usize);
        match self.wrong {
            Some(wrong) if (at..at + len).contains(&wrong) => {
                let mut bytes = BytesMut::from(&bytes[..]);
                bytes[(wrong - at) as usize] ^= 1;
                bytes.freeze()
            }
            _ => bytes,
        }
    }
}

/// The store of one host.
pub struct Store {
    /// The folder that it is in; empty for the usual place.
    root: String,
    copies: BTreeMap<StorePath, Copy>,
    /// Its host has a program `zstd`.
    pub has_zstd: bool,
}

/// What a name leads to.
pub enum Found<'a> {
    /// A folder that holds paths, or leads there.
    Outside,
    Inside(&'a Copy, &'a Node),
}

impl Store {
    pub fn new(root: &str, copies: impl IntoIterator<Item = Copy>) -> Self {
        let copies = copies.into_iter();
        let copies = copies.map(|copy| (copy.item.path.clone(), copy)).collect();
        let root = root.to_owned();
        Self {
            root,
            copies,
            has_zstd: false,
        }
    }

    /// What is there now.
    pub fn get(&self, path: &StorePath) -> Option<&Copy> {
        self.copies.get(path).filter(|copy| copy.is_there())
    }

    /// A file by its absolute name.
    pub fn find(&self, name: &str) -> Option<Found<'_>> {
        if name == "/" {
            return Some(Found::Outside);
        }
        let name = name.strip_prefix(&self.root)?;
        if matches!(name, "" | "/nix" | "/nix/store") {
            return Some(Found::Outside);
        }
        let (base, inner) = match name.strip_prefix("/nix/store/")?.split_once('/') {
            Some((base, inner)) => (base, inner),
            None => (name.strip_prefix("/nix/store/")?, ""),
        };
        let path = StorePath::parse(&format!("/nix/store/{base}")).ok()?;
        let copy = self.get(&path)?;
        let node = copy.item.nodes.iter().find(|node| node.path == inner)?;
        Some(Found::Inside(copy, node))
    }

    /// The paths and all that they refer to, by the infos that `known` gives; the first that is missing otherwise.
    pub fn closure(
        roots: &[StorePath],
        mut known: impl FnMut(&StorePath) -> Option<PathInfo>,
    ) -> Result<BTreeSet<StorePath>, StorePath> {
        let mut closure = BTreeSet::new();
        let mut open = roots.to_vec();
        while let Some(path) = open.pop() {
            if closure.insert(path.clone()) {
                let info = known(&path).ok_or(path)?;
                open.extend(info.references);
            }
        }
        Ok(closure)
    }
}

/// The octal mode that Nix gives such an object.
pub fn mode(kind: &Kind) -> &'static str {
    match kind {
        Kind::Directory => "555",
        Kind::File {
            executable: true, ..
        } => "555",
        Kind::File { .. } => "444",
        Kind::Symlink(_) => "777",
    }
}
