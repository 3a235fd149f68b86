//! What interrupted commands have kept, in memory: right or wrong, on a disk that may be full.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use ssh_substituter::model::NarHash;
use ssh_substituter::transfer::{PartialFile, PartialFiles};

use super::plan::Path;
use super::random::Random;

/// What is kept when a run begins, and what goes wrong with it.
#[derive(Debug, Clone, Default)]
pub struct KeptPlan {
    files: Vec<(usize, Kept)>,
    /// It takes so many bytes of each file.
    full_at: Option<u64>,
}

#[derive(Debug, Clone)]
struct Kept {
    size: u64,
    /// The byte that is not what it was.
    flipped: Option<u64>,
}

impl KeptPlan {
    pub fn new(seed: u64, paths: &[Path]) -> Self {
        let mut random = Random::new(seed ^ 0x6b65_7074);
        let mut files = Vec::new();
        for (place, path) in paths.iter().enumerate() {
            if random.chance(70) {
                // One more than there is may be there, too.
                let size = 1 + random.below(path.item.size() + 1);
                let flipped = random.chance(40).then(|| random.below(size));
                files.push((place, Kept { size, flipped }));
            }
        }
        let full_at = random.chance(20).then(|| random.below(30 << 20));
        Self { files, full_at }
    }

    pub fn folder(&self, paths: &[Path]) -> Folder {
        let files = self.files.iter().map(|(place, kept)| {
            let item = &paths[*place].item;
            let size = usize::try_from(kept.size).expect("a size");
            let mut bytes = item.nar.to_vec();
            bytes.resize(size, 7);
            if let Some(at) = kept.flipped {
                bytes[usize::try_from(at).expect("an index")] ^= 1;
            }
            (*item.hash.as_bytes(), Arc::new(Mutex::new(bytes)))
        });
        Folder {
            files: Arc::new(Mutex::new(files.collect())),
            full_at: self.full_at,
        }
    }
}

type Files = Arc<Mutex<BTreeMap<[u8; 32], Arc<Mutex<Vec<u8>>>>>>;

pub struct Folder {
    files: Files,
    full_at: Option<u64>,
}

struct File {
    nar: NarHash,
    bytes: Arc<Mutex<Vec<u8>>>,
    files: Files,
    full_at: Option<u64>,
}

impl Folder {
    fn lock(&self, nar: NarHash, bytes: &Arc<Mutex<Vec<u8>>>) -> io::Result<Box<dyn PartialFile>> {
        // One is in the folder, and one in the hands of whoever has it locked.
        if Arc::strong_count(bytes) > 1 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(File {
            nar,
            bytes: bytes.clone(),
            files: self.files.clone(),
            full_at: self.full_at,
        }))
    }
}

impl PartialFiles for Folder {
    fn sweep(&self) -> io::Result<Vec<(NarHash, u64)>> {
        let files = self.files.lock().expect("no test panics in there");
        Ok(files.keys().map(|nar| (NarHash::new(*nar), 1)).collect())
    }

    fn open(&self, nar: NarHash) -> io::Result<Option<Box<dyn PartialFile>>> {
        let files = self.files.lock().expect("no test panics in there");
        let found = files.get(nar.as_bytes());
        found.map(|bytes| self.lock(nar, bytes)).transpose()
    }

    fn create(&self, nar: NarHash) -> io::Result<Box<dyn PartialFile>> {
        let mut files = self.files.lock().expect("no test panics in there");
        self.lock(nar, files.entry(*nar.as_bytes()).or_default())
    }

    fn may_block(&self) -> bool {
        false
    }
}

impl PartialFile for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().expect("no test panics in there").len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        let all = self.bytes.lock().expect("no test panics in there");
        let at = usize::try_from(at).expect("an index");
        let there = all.get(at..at + bytes.len());
        bytes.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], at: u64, _rest: u64) -> io::Result<()> {
        let mut all = self.bytes.lock().expect("no test panics in there");
        assert!(at <= all.len() as u64, "a gap");
        if self.full_at.is_some_and(|most| at >= most) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let at = usize::try_from(at).expect("an index");
        let end = at + bytes.len();
        if all.len() < end {
            all.resize(end, 0);
        }
        all[at..end].copy_from_slice(bytes);
        Ok(())
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        let mut all = self.bytes.lock().expect("no test panics in there");
        all.truncate(usize::try_from(size).expect("a size"));
        Ok(())
    }

    fn remove(&self) {
        let mut files = self.files.lock().expect("no test panics in there");
        files.remove(self.nar.as_bytes());
    }
}
