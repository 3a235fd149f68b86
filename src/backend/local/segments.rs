//! Parts of the NARs of a local store: listed, read, hashed and compressed on threads that may block.

mod body;
mod differences;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::backend::{NarSegments, SegmentReply};
use crate::local_store::{Dump, LayoutLimits, LocalStore, LocalStoreError, ReadError};
use crate::model::StorePath;
use crate::wire::nar::layout::{Layout, Segment};
use crate::wire::serve::extension::{
    MAX_ENTRIES, MAX_LISTING, MAX_SURVEYED, Request, Status, put_entry,
};
use body::Body;

/// How many pieces may be made before the caller has taken them.
const PIECES_AHEAD: usize = 4;

/// How many layouts are kept for the requests that follow, and how many entries all of them have at most: 10 MB, and their
/// names. A survey is followed by requests for parts of all its paths.
const LAYOUTS: usize = 2 * MAX_SURVEYED;
const LAYOUT_ENTRIES: usize = 250_000;

/// Answers from one local store.
#[derive(Clone)]
pub(super) struct LocalSegments {
    store: Arc<LocalStore>,
    /// Those used last, the newest in front.
    layouts: Arc<Mutex<VecDeque<Layout>>>,
}

impl LocalSegments {
    pub(super) fn new(store: Arc<LocalStore>) -> Self {
        Self {
            store,
            layouts: Arc::default(),
        }
    }

    /// The layout of a path, as it was when it was first asked for.
    fn layout(&self, path: &StorePath) -> Result<Layout, LocalStoreError> {
        if let Some(layout) = self.remembered(path) {
            // Its files are opened only where that is still so.
            self.store.check_valid(path)?;
            return Ok(layout);
        }
        self.list(path)
    }

    fn remembered(&self, path: &StorePath) -> Option<Layout> {
        let mut layouts = self.layouts.lock();
        let at = layouts.iter().position(|layout| layout.path() == path)?;
        let layout = layouts.remove(at)?;
        layouts.push_front(layout.clone());
        Some(layout)
    }

    /// The layout of a path as it is now.
    fn list(&self, path: &StorePath) -> Result<Layout, LocalStoreError> {
        let limits = LayoutLimits {
            entries: MAX_ENTRIES,
            text: MAX_LISTING,
        };
        let layout = self.store.layout(path, limits)?;
        let mut layouts = self.layouts.lock();
        layouts.retain(|layout| layout.path() != path);
        layouts.push_front(layout.clone());
        let mut entries = 0;
        let fit = layouts.iter().take_while(|layout| {
            entries += layout.entries();
            entries <= LAYOUT_ENTRIES
        });
        let fit = fit.count().clamp(1, LAYOUTS);
        layouts.truncate(fit);
        Ok(layout)
    }

    /// The listing of a path as it is now.
    fn listing(&self, path: &StorePath) -> Result<Vec<u8>, Refusal> {
        let mut listing = Vec::new();
        for entry in self.list(path)?.list() {
            put_entry(&mut listing, &entry.as_entry());
            if listing.len() > MAX_LISTING {
                return Err(Refusal::unfit(
                    "too many files, or too long names".to_owned(),
                ));
            }
        }
        Ok(listing)
    }

    /// Answers a request; blocks.
    fn run(&self, request: &Request, body: &mut Body) -> Result<(), Refusal> {
        match request {
            Request::List { path, level } => {
                let listing = self.listing(path)?;
                let all = |out: &mut dyn Write| Ok(out.write_all(&listing)?);
                body.fill(*level, Some(listing.len() as u64), all)
            }
            Request::Chunk {
                path,
                start,
                len,
                level,
            } => {
                let segment = segment(&self.layout(path)?, *start, *len)?;
                body.fill(*level, Some(*len), |out| {
                    let mut take = |bytes: &[u8]| out.write_all(bytes);
                    Ok(self.store.read_segment(&segment, false, &mut take)?)
                })
            }
            Request::Digest {
                path,
                start,
                len,
                contents_only,
            } => {
                let segment = segment(&self.layout(path)?, *start, *len)?;
                let (mut hasher, wanted) = (Sha256::new(), body.wanted());
                let mut take = |bytes: &[u8]| {
                    hasher.update(bytes);
                    wanted.check()
                };
                self.store
                    .read_segment(&segment, *contents_only, &mut take)?;
                let digest = hasher.finalize();
                body.fill(0, Some(32), |out| Ok(out.write_all(&digest)?))
            }
            Request::Delta { part, base, level } => self.delta(part, base, *level, body),
            Request::Survey { paths, level } => self.survey(paths, *level, body),
            Request::Parts {
                paths,
                parts,
                level,
            } => self.parts(paths, parts, *level, body),
            Request::Nars { paths, level } => {
                // What came before stays of use.
                let mut refused = Ok(());
                body.fill(*level, None, |out| {
                    refused = paths.iter().try_for_each(|path| self.dump(path, out));
                    Ok(())
                })?;
                refused
            }
        }
    }

    fn dump(&self, path: &StorePath, out: &mut dyn Write) -> Result<(), Refusal> {
        let (mut dump, mut chunk) = (Dump::open(&self.store, path)?, Vec::new());
        while dump.next_chunk(&mut chunk)? {
            out.write_all(&chunk)?;
        }
        Ok(())
    }
}

impl NarSegments for LocalSegments {
    fn answer(&self, request: Request) -> SegmentReply {
        let (pieces, taken) = mpsc::channel(PIECES_AHEAD);
        let segments = self.clone();
        let work = tokio::task::spawn_blocking(move || {
            let mut body = Body::new(pieces);
            match segments.run(&request, &mut body) {
                Ok(()) => (Status::Done, String::new()),
                Err(refusal) => (refusal.status, refusal.reason),
            }
        });
        SegmentReply::new(taken, work)
    }
}

fn segment(layout: &Layout, start: u64, len: u64) -> Result<Segment, Refusal> {
    let size = layout.nar_size();
    match start.checked_add(len) {
        Some(end) if end <= size => Ok(layout.segment(start, len)),
        _ => Err(Refusal::unfit(format!(
            "expected a part of its {size} bytes, got {len} from {start} on"
        ))),
    }
}

/// Why a request is not answered.
struct Refusal {
    status: Status,
    reason: String,
}

impl Refusal {
    fn unfit(reason: String) -> Self {
        let status = Status::Unfit;
        Self { status, reason }
    }
}

impl From<LocalStoreError> for Refusal {
    fn from(error: LocalStoreError) -> Self {
        let status = match &error {
            LocalStoreError::NotValid { .. } => Status::Absent,
            LocalStoreError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Status::Absent
            }
            LocalStoreError::Limit { .. }
            | LocalStoreError::Size { .. }
            | LocalStoreError::Shrank { .. }
            | LocalStoreError::Row { .. } => Status::Unfit,
            _ => Status::Failed,
        };
        let mut reason = error.to_string();
        if let Some(cause) = std::error::Error::source(&error) {
            reason += &format!(": {cause}");
        }
        Self { status, reason }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self {
            status: Status::Failed,
            reason: error.to_string(),
        }
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Store(error) => error.into(),
            ReadError::Sink(error) => error.into(),
        }
    }
}
