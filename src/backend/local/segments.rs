//! Parts of the NARs of a local store: listed, read, hashed and compressed on threads that may block.

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
    MAX_DELTA, MAX_ENTRIES, MAX_LISTING, NarRange, Request, Status, put_entry, put_piece_head,
};

/// How long a piece of a body is at most, in bytes: what a pipe holds on Linux.
const PIECE: usize = 64 << 10;

/// How many pieces may be made before the caller has taken them.
const PIECES_AHEAD: usize = 4;

/// How many layouts are kept for the requests that follow, and how many entries all of them have at most: 10 MB, and their
/// names.
const LAYOUTS: usize = 8;
const LAYOUT_ENTRIES: usize = 250_000;

/// Windows of deltas, as powers of two: what zstd has at least, and 128 MiB.
const MIN_WINDOW_LOG: u32 = 10;
const MAX_WINDOW_LOG: u32 = 27;

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

    /// Answers a request; blocks.
    fn run(&self, request: &Request, body: &mut Body) -> Result<(), Refusal> {
        match request {
            Request::List { path, level } => {
                let mut listing = Vec::new();
                for entry in self.list(path)?.list() {
                    put_entry(&mut listing, &entry.as_entry());
                    if listing.len() > MAX_LISTING {
                        return Err(Refusal::unfit(
                            "too many files, or too long names".to_owned(),
                        ));
                    }
                }
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
                let mut hasher = Sha256::new();
                let mut take = |bytes: &[u8]| {
                    hasher.update(bytes);
                    body.check_wanted()
                };
                self.store
                    .read_segment(&segment, *contents_only, &mut take)?;
                let digest = hasher.finalize();
                body.fill(0, Some(32), |out| Ok(out.write_all(&digest)?))
            }
            Request::Delta { part, base, level } => {
                for NarRange { len, .. } in [part, base] {
                    if *len > MAX_DELTA {
                        let reason = format!("expected at most {MAX_DELTA} bytes, got {len}");
                        return Err(Refusal::unfit(reason));
                    }
                }
                let segment_of = |range: &NarRange| {
                    let layout = self.layout(&range.path)?;
                    segment(&layout, range.start, range.len)
                };
                let (part, base) = (segment_of(part)?, segment_of(base)?);
                let mut prefix = Vec::new();
                let mut take = |bytes: &[u8]| {
                    prefix.extend_from_slice(bytes);
                    body.check_wanted()
                };
                self.store.read_segment(&base, false, &mut take)?;
                body.fill_against(&prefix, *level, part.len(), |out| {
                    let mut take = |bytes: &[u8]| out.write_all(bytes);
                    Ok(self.store.read_segment(&part, false, &mut take)?)
                })
            }
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
            let mut body = Body {
                pieces,
                piece: Vec::new(),
            };
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

/// Cuts a body into pieces.
struct Body {
    pieces: mpsc::Sender<Vec<u8>>,
    piece: Vec<u8>,
}

impl Body {
    /// Makes the whole body of what `write` writes, `len` bytes if that is known.
    fn fill(
        &mut self,
        level: u8,
        len: Option<u64>,
        write: impl FnOnce(&mut dyn Write) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        if level == 0 {
            write(self)?;
        } else {
            let mut encoder = zstd::Encoder::new(&mut *self, i32::from(level))?;
            // Windows are no larger than what is in them.
            encoder.set_pledged_src_size(len)?;
            write(&mut encoder)?;
            encoder.finish()?;
        }
        Ok(self.flush()?)
    }

    /// Makes the whole body of what `write` writes, `len` bytes, as a frame that refers to `prefix`.
    fn fill_against(
        &mut self,
        prefix: &[u8],
        level: u8,
        len: u64,
        write: impl FnOnce(&mut dyn Write) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let mut encoder = zstd::Encoder::with_ref_prefix(&mut *self, i32::from(level), prefix)?;
        encoder.include_checksum(true)?;
        encoder.long_distance_matching(true)?;
        // What stands at the same place of both is in reach.
        let reach = len.max(prefix.len() as u64);
        let bits = u64::BITS - reach.leading_zeros();
        encoder.window_log(bits.clamp(MIN_WINDOW_LOG, MAX_WINDOW_LOG))?;
        encoder.set_pledged_src_size(Some(len))?;
        write(&mut encoder)?;
        encoder.finish()?;
        Ok(self.flush()?)
    }

    /// Fails when the caller has gone away.
    fn check_wanted(&self) -> io::Result<()> {
        match self.pieces.is_closed() {
            true => Err(io::ErrorKind::BrokenPipe.into()),
            false => Ok(()),
        }
    }
}

impl Write for Body {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..len]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let mut framed = Vec::with_capacity(8 + self.piece.len());
        put_piece_head(&mut framed, self.piece.len());
        framed.append(&mut self.piece);
        let sent = self.pieces.blocking_send(framed);
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use crate::wire::serve::extension::{MAX_LEVEL, max_frame_len};

    #[test]
    fn what_does_not_compress_is_no_longer_than_a_frame_may_be() {
        let mut state = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .take(1 << 20)
        .collect();
        for len in [0, 1, 1000, noise.len()] {
            for level in [1, 3, MAX_LEVEL.into()] {
                let frame = zstd::encode_all(&noise[..len], level).unwrap();
                assert!(frame.len() as u64 <= max_frame_len(len as u64));
            }
        }
    }
}
