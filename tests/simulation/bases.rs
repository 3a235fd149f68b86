//! Other versions of paths on this machine, and at hosts: as they were, changed, or gone after some time.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::Duration;

use ssh_substituter::model::{NarHash, StorePath};
use ssh_substituter::transfer::{Base, BaseLookup, BaseNar};
use tempfile::TempDir;
use tokio::time::{Instant, sleep_until};

use super::nars::{Item, Kind, catalogue};
use super::plan::Path;
use super::random::Random;
use super::store::Copy;

/// What is larger has no other version: it would take a run too long.
const LARGEST: u64 = 30 << 20;

/// Adds some paths that are large enough to come as differences.
pub fn add_paths(seed: u64, paths: &mut Vec<Path>) {
    let mut random = Random::new(seed ^ 0x7061_7468);
    let all = catalogue();
    for _ in 0..random.between(1, 5) {
        let of = random.pick(&[
            &all.small,
            &all.medium,
            &all.medium,
            &all.streamed,
            &all.large,
        ]);
        let item = &of[random.index(of.len())];
        let is_new = !paths.iter().any(|path| Arc::ptr_eq(&path.item, item));
        if is_new && item.size() >= 64 << 10 {
            let (item, references) = (item.clone(), Vec::new());
            paths.push(Path { item, references });
        }
    }
}

/// Other versions of paths.
#[derive(Debug, Clone)]
pub struct BasesPlan {
    pub bases: Vec<BasePlan>,
    /// For each host, whether differences come over any line.
    pub always: Vec<bool>,
}

/// Another version of a path.
#[derive(Clone)]
pub struct BasePlan {
    pub path: usize,
    item: Arc<Item>,
    /// The byte of a file that is another one here than it was.
    flipped: Option<u64>,
    /// When it is removed here.
    until: Option<Duration>,
    at_hosts: Vec<BaseAtHost>,
}

/// The same version at a host.
#[derive(Debug, Clone)]
struct BaseAtHost {
    host: usize,
    until: Option<Duration>,
    wrong: Option<u64>,
}

impl std::fmt::Debug for BasePlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            path,
            flipped,
            until,
            at_hosts,
            ..
        } = self;
        write!(
            f,
            "of path {path}, flipped {flipped:?}, until {until:?}, {at_hosts:?}"
        )
    }
}

impl BasePlan {
    /// It does not stay as it was, here or at a host.
    pub fn is_bad(&self) -> bool {
        let is_bad = |at: &BaseAtHost| at.until.is_some() || at.wrong.is_some();
        self.flipped.is_some() || self.until.is_some() || self.at_hosts.iter().any(is_bad)
    }
}

impl BasesPlan {
    pub fn new(seed: u64, paths: &[Path], hosts: usize) -> Self {
        let mut random = Random::new(seed ^ 0x6261_7365);
        let mut bases = Vec::new();
        for (path, of) in paths.iter().enumerate() {
            if of.item.size() > LARGEST || !random.chance(70) {
                continue;
            }
            let item = Arc::new(older(&of.item, &mut random));
            let mut a_byte = |percent| {
                let is_wrong = random.chance(percent);
                let at = super::nars::a_byte_of_a_file(&mut random, &item);
                at.filter(|_| is_wrong)
            };
            let flipped = a_byte(15);
            let wrongs: Vec<_> = (0..hosts).map(|_| a_byte(7)).collect();
            let mut at_hosts = Vec::new();
            for (host, wrong) in wrongs.into_iter().enumerate() {
                if random.chance(70) {
                    let until = random.chance(10).then(|| random.millis(0, 3000));
                    at_hosts.push(BaseAtHost { host, until, wrong });
                }
            }
            bases.push(BasePlan {
                path,
                item,
                flipped,
                until: random.chance(10).then(|| random.millis(0, 3000)),
                at_hosts,
            });
        }
        let always = (0..hosts).map(|_| random.chance(60)).collect();
        Self { bases, always }
    }

    /// What a host has of them.
    pub fn at_host(&self, host: usize, start: Instant) -> impl Iterator<Item = Copy> {
        self.bases.iter().filter_map(move |base| {
            let at = base.at_hosts.iter().find(|at| at.host == host)?;
            Some(Copy {
                info: base.item.info(Vec::new()),
                item: base.item.clone(),
                from: None,
                until: at.until.map(|until| start + until),
                again: None,
                wrong: at.wrong,
            })
        })
    }
}

/// Another version: the same but for some bytes, or the same, or quite another one.
fn older(item: &Item, random: &mut Random) -> Item {
    let other = match random.below(10) {
        0 => {
            let all = catalogue();
            let of = random.pick(&[&all.small, &all.medium]);
            of[random.index(of.len())].clone()
        }
        _ => Arc::new(Item {
            path: item.path.clone(),
            nar: item.nar.clone(),
            hash: item.hash,
            nodes: item.nodes.clone(),
        }),
    };
    let mut nar = other.nar.to_vec();
    let is_same = random.chance(10);
    for node in &other.nodes {
        let Kind::File { at, size, .. } = node.kind else {
            continue;
        };
        if is_same || size == 0 || random.chance(40) {
            continue;
        }
        for _ in 0..random.between(1, 20) {
            let at = at + random.below(size);
            nar[usize::try_from(at).expect("an index")] ^= 0x55;
        }
    }
    let hash: String = item.path.hash_part().chars().rev().collect();
    let path = format!("/nix/store/{hash}-{}", item.path.name());
    Item {
        path: StorePath::parse(&path).expect("a store path"),
        hash: {
            use sha2::{Digest, Sha256};
            NarHash::new(Sha256::digest(&nar).into())
        },
        nar: nar.into(),
        nodes: other.nodes.clone(),
    }
}

/// What there is on this machine.
pub struct Bases {
    folder: TempDir,
    /// By the paths that they are other versions of.
    found: BTreeMap<StorePath, BasePlan>,
}

impl Bases {
    pub fn new(plan: &BasesPlan, paths: &[Path]) -> Arc<Self> {
        let bases = Self {
            folder: tempfile::tempdir().expect("a folder"),
            found: plan
                .bases
                .iter()
                .map(|base| (paths[base.path].item.path.clone(), base.clone()))
                .collect(),
        };
        for base in bases.found.values() {
            bases.write(base).expect("files are written");
        }
        Arc::new(bases)
    }

    /// Removes what is to go.
    pub async fn live(self: Arc<Self>, start: Instant) {
        let mut all: Vec<_> = self
            .found
            .values()
            .filter_map(|base| Some((base.until?, base)))
            .collect();
        all.sort_by_key(|(until, base)| (*until, base.path));
        for (until, base) in all {
            sleep_until(start + until).await;
            let files = self.files(base);
            let is_folder = files.is_dir();
            let removed = match is_folder {
                true => fs::remove_dir_all(files),
                false => fs::remove_file(files),
            };
            removed.expect("files are removed");
        }
    }

    fn files(&self, base: &BasePlan) -> std::path::PathBuf {
        self.folder.path().join(base.item.path.base_name())
    }

    fn write(&self, base: &BasePlan) -> io::Result<()> {
        let (root, mut nar) = (self.files(base), base.item.nar.to_vec());
        if let Some(at) = base.flipped {
            nar[usize::try_from(at).expect("an index")] ^= 1;
        }
        for node in &base.item.nodes {
            let path = match node.path.is_empty() {
                true => root.clone(),
                false => root.join(&node.path),
            };
            match &node.kind {
                Kind::Directory => fs::create_dir(path)?,
                Kind::Symlink(target) => symlink(target, path)?,
                Kind::File { at, size, .. } => {
                    let at = usize::try_from(*at).expect("an index");
                    let size = usize::try_from(*size).expect("a size");
                    fs::write(path, &nar[at..at + size])?;
                }
            }
        }
        Ok(())
    }
}

impl BaseLookup for Bases {
    fn find(&self, wanted: &[StorePath]) -> Vec<Vec<Base>> {
        let one = |path: &StorePath| {
            let found = self.found.get(path).map(|base| Base {
                path: base.item.path.clone(),
                files: self.files(base),
                info: Some(base.item.info(Vec::new())),
            });
            found.into_iter().collect()
        };
        wanted.iter().map(one).collect()
    }

    fn may_block(&self) -> bool {
        false
    }

    fn open_nar(&self, base: &Base) -> io::Result<Box<dyn BaseNar>> {
        let mut all = self.found.values();
        let found = all.find(|found| found.item.path == base.path);
        let found = found.filter(|found| self.files(found).exists());
        let found = found.ok_or(io::ErrorKind::NotFound)?;
        let mut nar = found.item.nar.to_vec();
        if let Some(at) = found.flipped {
            nar[usize::try_from(at).expect("an index")] ^= 1;
        }
        Ok(Box::new(Nar(nar)))
    }
}

/// What is left of a NAR.
struct Nar(Vec<u8>);

impl BaseNar for Nar {
    fn next_chunk(&mut self, buf: &mut Vec<u8>) -> io::Result<bool> {
        let rest = self.0.split_off(self.0.len().min(64 << 10));
        *buf = std::mem::replace(&mut self.0, rest);
        Ok(!buf.is_empty())
    }
}
