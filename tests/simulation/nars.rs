//! The paths that hosts may have: made once, the same in every run.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use ssh_substituter::model::{NarHash, PathInfo, StorePath};
use ssh_substituter::wire::nar;

use super::random::Random;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Contents are made of so many bytes, again and again with a number in front.
const BLOCK: u64 = 8 * KIB;

/// What stands at one place of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Directory,
    /// Its contents are these bytes of the NAR.
    File {
        executable: bool,
        at: u64,
        size: u64,
    },
    Symlink(String),
}

/// A file system object at or below the root of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// From the root on; empty for the root itself.
    pub path: String,
    pub kind: Kind,
}

/// A store path with its contents.
pub struct Item {
    pub path: StorePath,
    pub nar: Bytes,
    pub hash: NarHash,
    /// In the order of the archive.
    pub nodes: Vec<Node>,
}

impl Item {
    pub fn size(&self) -> u64 {
        self.nar.len() as u64
    }

    /// What Nix tells of it.
    pub fn info(&self, mut references: Vec<StorePath>) -> PathInfo {
        references.sort();
        PathInfo {
            path: self.path.clone(),
            deriver: None,
            references,
            download_size: self.size(),
            nar_size: self.size(),
            nar_hash: Some(self.hash),
            ca: None,
            sigs: Vec::new(),
        }
    }
}

/// What a catalogue holds, by size.
pub struct Catalogue {
    /// Up to 100 KB.
    pub small: Vec<Arc<Item>>,
    /// Up to 4 MiB: verified whole before they are passed on.
    pub medium: Vec<Arc<Item>>,
    /// Up to 8 MiB: passed on as they come.
    pub streamed: Vec<Arc<Item>>,
    /// More: they may come in chunks.
    pub large: Vec<Arc<Item>>,
    /// More than may be on its way in chunks at a time.
    pub huge: Vec<Arc<Item>>,
}

pub fn catalogue() -> &'static Catalogue {
    static ALL: OnceLock<Catalogue> = OnceLock::new();
    ALL.get_or_init(|| {
        let small = (0..24).map(|n| item(n, 60 + n * n * 190, 1 + n as usize % 5));
        let medium = [300, 700, 1100, 1900, 2900, 3900];
        let streamed = [4300, 5500, 7000];
        let large = [8500, 9900, 12_000, 17_000, 26_000];
        let huge = [52_000];
        let sized = |first: u64, sizes: &[u64]| {
            let all = sizes.iter().enumerate();
            let all = all.map(|(n, size)| item(first + n as u64, size * KIB, 1 + n % 4));
            all.map(Arc::new).collect()
        };
        Catalogue {
            small: small.map(Arc::new).collect(),
            medium: sized(100, &medium),
            streamed: sized(200, &streamed),
            large: sized(300, &large),
            huge: sized(400, &huge),
        }
    })
}

fn item(number: u64, size: u64, files: usize) -> Item {
    let mut random = Random::new(number * 7919 + 17);
    let digits = b"0123456789abcdfghijklmnpqrsvwxyz";
    let hash: String = (0..32)
        .map(|_| char::from(digits[random.index(32)]))
        .collect();
    let path = format!("/nix/store/{hash}-n{number}");
    let path = StorePath::parse(&path).expect("a store path");
    let mut builder = Builder {
        nar: Vec::with_capacity((size + 4 * KIB) as usize),
        nodes: Vec::new(),
    };
    nar::magic(&mut builder.nar);
    if files == 1 {
        builder.file("", number.is_multiple_of(2), size, &mut random);
    } else {
        builder.directory(size, files, &mut random);
    }
    assert!(builder.nar.len() as u64 <= 60 * MIB);
    Item {
        path,
        hash: NarHash::new(Sha256::digest(&builder.nar).into()),
        nar: builder.nar.into(),
        nodes: builder.nodes,
    }
}

struct Builder {
    nar: Vec<u8>,
    nodes: Vec<Node>,
}

impl Builder {
    fn file(&mut self, path: &str, executable: bool, size: u64, random: &mut Random) {
        nar::file_start(&mut self.nar, executable, size);
        let at = self.nar.len() as u64;
        let block: Vec<u8> = (0..BLOCK / 8)
            .flat_map(|_| random.next().to_le_bytes())
            .collect();
        for number in 0..size.div_ceil(BLOCK) {
            // No two blocks are the same.
            self.nar.extend_from_slice(&number.to_le_bytes());
            self.nar.extend_from_slice(&block[8..]);
        }
        self.nar.truncate((at + size) as usize);
        nar::file_end(&mut self.nar, size);
        let kind = Kind::File {
            executable,
            at,
            size,
        };
        self.node(path, kind);
    }

    /// Files of unlike sizes, one of them empty, in two folders, and a symlink.
    fn directory(&mut self, size: u64, files: usize, random: &mut Random) {
        nar::directory_start(&mut self.nar);
        self.node("", Kind::Directory);
        let each = size / (files as u64 + 1);
        let names = ["-a b", "bin", "it's", "lib", "z"];
        for (n, name) in names.iter().enumerate().take(files) {
            nar::entry_start(&mut self.nar, name.as_bytes());
            if *name == "bin" {
                nar::directory_start(&mut self.nar);
                self.node("bin", Kind::Directory);
                for (inner, size) in [("empty", 0), ("tool", each / 2)] {
                    nar::entry_start(&mut self.nar, inner.as_bytes());
                    self.file(&format!("bin/{inner}"), inner == "tool", size, random);
                    nar::entry_end(&mut self.nar);
                }
                nar::directory_end(&mut self.nar);
            } else {
                let rest = if n == 0 { each * 2 } else { each };
                self.file(name, false, rest, random);
            }
            nar::entry_end(&mut self.nar);
        }
        nar::entry_start(&mut self.nar, b"zz");
        nar::symlink(&mut self.nar, b"bin/tool");
        self.node("zz", Kind::Symlink("bin/tool".to_owned()));
        nar::entry_end(&mut self.nar);
        nar::directory_end(&mut self.nar);
    }

    fn node(&mut self, path: &str, kind: Kind) {
        let path = path.to_owned();
        self.nodes.push(Node { path, kind });
    }
}

/// Where a byte of some file is in the NAR, if it has any.
pub fn a_byte_of_a_file(random: &mut Random, item: &Item) -> Option<u64> {
    let files = item.nodes.iter().filter_map(|node| match node.kind {
        Kind::File { at, size, .. } if size > 0 => Some((at, size)),
        _ => None,
    });
    let files: Vec<_> = files.collect();
    let (at, size) = *files.get(random.index(files.len().max(1)))?;
    Some(at + random.below(size))
}
