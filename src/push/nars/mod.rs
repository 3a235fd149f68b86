//! NARs of the local store, read and verified once for all hosts that are about equally fast.
//!
//! A small NAR is read and verified before any of it is sent. A large one is passed on while it is read; its last bytes
//! are withheld until its hash is known to be right, so that no host ever has all of a wrong one.

mod stream;

use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use super::PathFault;
use super::plan::Plan;
use crate::local_store::{LocalStore, LocalStoreError};
use crate::model::{NarHash, PathInfo};
pub(super) use stream::NarStream;
use stream::{Patience, SHARED_AHEAD_MAX, Shared};

/// How many bytes of small NARs are kept for hosts that have not asked for them yet.
const KEPT_MAX: u64 = 16 << 20;

/// Reads NARs for the hosts of one push.
pub(super) struct Nars {
    plan: Arc<Plan>,
    store: Arc<LocalStore>,
    /// How many hosts there are.
    hosts: usize,
    /// How many of them may want a path.
    wanted_by: Vec<AtomicUsize>,
    /// Until when nobody waits for slower hosts: it was in vain.
    patience: Arc<Patience>,
    small: Mutex<Small>,
    streams: Mutex<Streams>,
}

/// Large NARs that are read for several hosts.
#[derive(Default)]
struct Streams {
    running: HashMap<usize, Weak<Shared>>,
    /// The last ones, for hosts that begin after others are done with them, and how many bytes each may hold.
    kept: VecDeque<(Arc<Shared>, u64)>,
}

impl Streams {
    fn keep(&mut self, stream: &Arc<Shared>, size: u64) {
        self.kept
            .push_back((stream.clone(), size.min(SHARED_AHEAD_MAX as u64)));
        let bytes = |kept: &VecDeque<(_, u64)>| kept.iter().map(|(_, bytes)| bytes).sum::<u64>();
        while bytes(&self.kept) > KEPT_MAX {
            self.kept.pop_front();
        }
    }
}

/// A small NAR, once it has been read.
type Cell = Arc<OnceCell<Result<Bytes, PathFault>>>;

/// Small NARs that not every host has asked for yet.
#[derive(Default)]
struct Small {
    cells: HashMap<usize, (Cell, usize)>,
    /// The oldest first; some may be gone already.
    order: VecDeque<usize>,
    bytes: u64,
}

impl Nars {
    pub(super) fn new(plan: Arc<Plan>, store: Arc<LocalStore>, hosts: usize) -> Self {
        let wanted_by = plan.items.iter().map(|_| AtomicUsize::new(hosts));
        Self {
            wanted_by: wanted_by.collect(),
            patience: Arc::default(),
            plan,
            store,
            hosts,
            small: Mutex::default(),
            streams: Mutex::default(),
        }
    }

    /// A host does not want that path, which it might have.
    pub(super) fn not_wanted(&self, place: usize) {
        let count = &self.wanted_by[place];
        let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            count.checked_sub(1)
        });
    }

    /// A whole NAR, verified. To be asked for once by each host.
    ///
    /// # Errors
    /// When its files cannot be read or have changed.
    pub(super) async fn whole(&self, place: usize) -> Result<Bytes, PathFault> {
        let cell = self.cell(place);
        let read = || async {
            let (store, plan) = (self.store.clone(), self.plan.clone());
            let read = move || read_whole(&store, plan.info(place));
            let read = tokio::task::spawn_blocking(read).await;
            read.unwrap_or_else(|_| Err(broken_off(self.plan.info(place))))
        };
        cell.get_or_init(read).await.clone()
    }

    fn cell(&self, place: usize) -> Cell {
        if self.hosts == 1 {
            return Cell::default();
        }
        let size = self.plan.info(place).nar_size;
        let mut small = self.small.lock();
        if let Some((cell, asked)) = small.cells.get_mut(&place) {
            *asked += 1;
            let cell = cell.clone();
            if *asked == self.hosts {
                small.cells.remove(&place);
                small.bytes -= size;
            }
            return cell;
        }
        let cell = Cell::default();
        small.cells.insert(place, (cell.clone(), 1));
        small.order.push_back(place);
        small.bytes += size;
        while small.bytes > KEPT_MAX
            && let Some(oldest) = small.order.pop_front()
        {
            if small.cells.remove(&oldest).is_some() {
                small.bytes -= self.plan.info(oldest).nar_size;
            }
        }
        cell
    }

    /// A NAR that is passed on while it is read: by a reader that other hosts share, where it has not gone on yet.
    pub(super) fn stream(&self, place: usize) -> NarStream {
        let mut streams = self.streams.lock();
        let running = streams.running.get(&place).and_then(Weak::upgrade);
        if let Some(stream) = running.and_then(NarStream::join) {
            return stream;
        }
        let (store, info) = (self.store.clone(), self.plan.info(place).clone());
        let hosts = self.wanted_by[place].load(Ordering::Relaxed).max(1);
        let stream = NarStream::start(store, info, hosts, &self.patience);
        if hosts > 1 {
            streams
                .running
                .retain(|_, stream| stream.strong_count() > 0);
            let shared = stream.shared();
            streams.running.insert(place, Arc::downgrade(shared));
            streams.keep(shared, self.plan.info(place).nar_size);
        }
        stream
    }
}

/// Reads a NAR chunk by chunk. `each` gets all of them but the last; that one comes back once all of it is verified.
/// Stops with `None` when `each` wants no more.
fn read(
    store: &LocalStore,
    info: &PathInfo,
    mut each: impl FnMut(Bytes) -> bool,
) -> Result<Option<Bytes>, PathFault> {
    let unreadable = |source| unreadable(info, source);
    let mut dump = store.dump(&info.path, info.nar_size).map_err(unreadable)?;
    let mut hash = Sha256::new();
    let mut last = Bytes::new();
    let mut chunk = Vec::new();
    while dump.next_chunk(&mut chunk).map_err(unreadable)? {
        // A file that grows is found out before it is sent without end.
        if dump.bytes_given() > info.nar_size {
            return Err(changed(info, None, dump.bytes_given()));
        }
        hash.update(&chunk);
        let next = Bytes::from(std::mem::take(&mut chunk));
        let before = std::mem::replace(&mut last, next);
        if !before.is_empty() && !each(before) {
            return Ok(None);
        }
    }
    let got = NarHash::new(hash.finalize().into());
    if info.nar_hash != Some(got) || dump.bytes_given() != info.nar_size {
        return Err(changed(info, Some(got), dump.bytes_given()));
    }
    Ok(Some(last))
}

fn read_whole(store: &LocalStore, info: &PathInfo) -> Result<Bytes, PathFault> {
    let mut whole = Vec::with_capacity(usize::try_from(info.nar_size).unwrap_or(0));
    let last = read(store, info, |chunk| {
        whole.extend_from_slice(&chunk);
        true
    })?;
    whole.extend_from_slice(&last.unwrap_or_default());
    Ok(whole.into())
}

fn unreadable(info: &PathInfo, source: LocalStoreError) -> PathFault {
    match source {
        LocalStoreError::Size { got, .. } => changed(info, None, got),
        source => PathFault::Unreadable {
            path: info.path.clone(),
            source: Arc::new(source),
        },
    }
}

/// Its reading broke off in this program, which the panic hook has reported.
fn broken_off(info: &PathInfo) -> PathFault {
    let source = LocalStoreError::Io {
        action: "read",
        path: info.path.as_str().into(),
        source: std::io::ErrorKind::Interrupted.into(),
    };
    unreadable(info, source)
}

fn changed(info: &PathInfo, hash: Option<NarHash>, size: u64) -> PathFault {
    let text = |hash: Option<NarHash>, size| match hash {
        Some(hash) => format!("{hash} of {size} bytes"),
        None => format!("{size} bytes"),
    };
    PathFault::Changed {
        path: info.path.clone(),
        expected: text(info.nar_hash.filter(|_| hash.is_some()), info.nar_size),
        got: text(hash, size),
    }
}
