//! A disk for what is read ahead, in memory, with faults.

use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use ssh_substituter::transfer::{SpillDisk, SpillFile};

use super::random::Random;

const MIB: u64 = 1 << 20;

/// What is read ahead on disk.
#[derive(Debug, Clone)]
pub struct DiskPlan {
    /// How much may be, in bytes.
    pub bytes: u64,
    pub fault: Option<DiskFault>,
}

/// What is wrong with the disk.
#[derive(Debug, Clone, Copy)]
pub enum DiskFault {
    /// No file can be made.
    Unwritable,
    /// It takes so many bytes.
    Full(u64),
    /// Nothing can be read behind so many bytes of a file.
    Unreadable(u64),
    /// What was written there is something else.
    Forgets(u64),
}

impl DiskPlan {
    /// Not by the same chance as the rest of the plan, which stays as it was for each seed.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(!seed);
        let bytes = random.pick(&[0, 64 * MIB, 64 * MIB, 1024 * MIB, 1024 * MIB, 1024 * MIB]);
        let at = random.below(30 * MIB);
        let fault = match random.below(10) {
            0 => Some(DiskFault::Unwritable),
            1 => Some(DiskFault::Full(at)),
            2 => Some(DiskFault::Unreadable(at)),
            3 => Some(DiskFault::Forgets(at)),
            _ => None,
        };
        Self { bytes, fault }
    }
}

pub struct Disk {
    fault: Option<DiskFault>,
    /// Bytes that were written.
    written: Arc<AtomicU64>,
}

struct File {
    bytes: Mutex<Vec<u8>>,
    fault: Option<DiskFault>,
    written: Arc<AtomicU64>,
}

impl Disk {
    pub fn new(fault: Option<DiskFault>) -> Self {
        Self {
            fault,
            written: Arc::default(),
        }
    }
}

impl SpillDisk for Disk {
    fn create(&self, _size: u64) -> io::Result<Box<dyn SpillFile>> {
        if matches!(self.fault, Some(DiskFault::Unwritable)) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(Box::new(File {
            bytes: Mutex::default(),
            fault: self.fault,
            written: self.written.clone(),
        }))
    }

    fn may_block(&self) -> bool {
        false
    }
}

impl SpillFile for File {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let len = bytes.len() as u64;
        let written = self.written.fetch_add(len, Ordering::Relaxed) + len;
        if matches!(self.fault, Some(DiskFault::Full(most)) if written > most) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut all = self.bytes.lock().expect("no test panics in there");
        let at = usize::try_from(at).expect("an index");
        let end = at + bytes.len();
        if all.len() < end {
            all.resize(end, 0);
        }
        all[at..end].copy_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        if matches!(self.fault, Some(DiskFault::Unreadable(from)) if at >= from) {
            return Err(io::Error::other("the disk is broken"));
        }
        let all = self.bytes.lock().expect("no test panics in there");
        let start = usize::try_from(at).expect("an index");
        let there = all.get(start..start + bytes.len());
        bytes.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
        if matches!(self.fault, Some(DiskFault::Forgets(from)) if at >= from) {
            bytes[0] ^= 1;
        }
        Ok(())
    }
}
