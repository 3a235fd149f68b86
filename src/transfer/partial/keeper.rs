//! Keeps what one transfer has passed on, as long as that is worth it.
//!
//! Writing costs a fast transfer time and brings it nothing. So nothing is written before it is known that the rest will
//! take some seconds, by the measured throughput of the hosts; until then the first pieces are held in memory. A disk that
//! is slower than the hosts, or full, ends the keeping and holds up nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Known, MIN_NAR_SIZE, OpenPartial, PartialFile, Partials};
use crate::model::{NarHash, PathInfo};
use crate::pool::HostId;
use crate::transfer::hosts::HostBookkeeping;

/// Something is kept when the rest takes longer than this, in seconds.
const WORTH_KEEPING_SECS: f64 = 4.0;

/// Nothing more is written when the rest takes less than this, in seconds.
const NEARLY_DONE_SECS: f64 = 0.25;

/// How many bytes are held in memory until it is known how long the rest takes.
const HELD_MAX: usize = 8 << 20;

/// If it is not known by then, this is how long that may have taken at most.
const FAST: Duration = Duration::from_secs(4);

/// How many pieces, of 512 KiB at most, wait for the disk.
const WAITING_MAX: usize = 16;

/// Keeps what one transfer passes on.
pub(in crate::transfer) struct Keeper {
    partials: Option<Arc<Partials>>,
    nar: Option<NarHash>,
    nar_size: u64,
    /// How far the NAR was passed on.
    at: u64,
    /// So many bytes are in the file or on their way there.
    kept: u64,
    /// So many are in the file.
    written: Arc<AtomicU64>,
    file: Option<OpenPartial>,
    state: State,
}

enum State {
    /// It is not known whether it is worth it.
    Undecided { held: Vec<Bytes>, began: Instant },
    /// Pieces are on their way to the disk.
    Writing(Writer),
    /// Nothing more is kept.
    Off,
}

enum Writer {
    /// A thread of its own.
    Thread(mpsc::Sender<Vec<Bytes>>),
    /// The disk does not block.
    Here(OpenPartial),
}

impl Keeper {
    /// For a NAR that is passed on from the byte `from` on.
    pub(in crate::transfer) fn new(
        partials: Option<&Arc<Partials>>,
        info: &PathInfo,
        from: u64,
    ) -> Self {
        let suits = info.nar_hash.is_some() && info.nar_size >= MIN_NAR_SIZE;
        let partials = partials.filter(|_| suits).cloned();
        let state = match partials.is_some() && from == 0 {
            true => State::Undecided {
                held: Vec::new(),
                began: Instant::now(),
            },
            false => State::Off,
        };
        Self {
            partials,
            nar: info.nar_hash,
            nar_size: info.nar_size,
            at: from,
            kept: 0,
            written: Arc::default(),
            file: None,
            state,
        }
    }

    /// The file has this NAR's first `size` bytes, which are passed on first: what follows goes behind them.
    pub(in crate::transfer) fn go_on_behind(&mut self, file: OpenPartial, size: u64) {
        let Some(partials) = self.partials.clone() else {
            return;
        };
        self.kept = size;
        self.written.store(size, Ordering::Relaxed);
        // Where bytes before those are not passed on here, there would be a gap.
        self.state = match self.at <= size {
            true => State::Writing(self.writer(&partials, file.clone())),
            false => State::Off,
        };
        self.file = Some(file);
        self.note(size, true);
    }

    /// The file is of no use now, but may be for a later command. It stays, unless the NAR becomes complete.
    pub(in crate::transfer) fn leave(&mut self, file: OpenPartial, size: u64) {
        self.written.store(size, Ordering::Relaxed);
        self.file = Some(file);
        self.state = State::Off;
    }

    /// The file is empty, and is there for what is passed on.
    pub(in crate::transfer) fn begin_in(&mut self, file: OpenPartial) {
        self.file = Some(file);
    }

    /// These bytes were passed on, of a NAR that these hosts have.
    pub(in crate::transfer) async fn keep(
        &mut self,
        bytes: &Bytes,
        hosts: &HostBookkeeping,
        holders: impl FnOnce() -> Vec<HostId>,
    ) {
        let from = self.at;
        self.at += bytes.len() as u64;
        if matches!(self.state, State::Off) || self.at <= self.kept {
            return;
        }
        let known = usize::try_from(self.kept.saturating_sub(from)).unwrap_or(usize::MAX);
        let new = bytes.slice(known.min(bytes.len())..);
        let holders = holders();
        let rest = self.rest_secs(hosts, &holders);
        if let State::Undecided { held, began } = &mut self.state {
            held.push(new);
            let is_full = self.at >= HELD_MAX as u64;
            let is_slow = match rest {
                Some(secs) => secs > WORTH_KEEPING_SECS,
                None => is_full && began.elapsed() > FAST,
            };
            let held = match is_slow {
                true => std::mem::take(held),
                false if is_full => return self.state = State::Off,
                false => return,
            };
            // Without digests nothing could be proven.
            let can_prove = holders.iter().any(|host| hosts.pool.may_have_shell(*host));
            self.state = State::Off;
            if can_prove {
                self.begin(held).await;
            }
        } else if rest.is_some_and(|secs| secs < NEARLY_DONE_SECS) {
            self.state = State::Off;
        } else {
            self.write(vec![new]);
        }
    }

    /// How long the rest takes, in seconds, as far as that is known.
    fn rest_secs(&self, hosts: &HostBookkeeping, holders: &[HostId]) -> Option<f64> {
        let well = holders.iter().filter(|host| hosts.pool.is_healthy(**host));
        let rates = well.filter_map(|host| hosts.throughput.of(*host));
        let rate: u64 = rates.sum();
        let rest = self.nar_size.saturating_sub(self.at);
        (rate > 0).then(|| rest as f64 / rate as f64)
    }

    async fn begin(&mut self, held: Vec<Bytes>) {
        let (Some(partials), Some(nar)) = (self.partials.clone(), self.nar) else {
            return;
        };
        if self.file.is_none() {
            let files = partials.files.clone();
            let created = partials.run(move || files.create(nar)).await;
            match created {
                Ok(file) => self.file = Some(file.into()),
                Err(error) => log::debug!("what comes is not kept: {error}"),
            }
        }
        if let Some(file) = self.file.clone() {
            self.state = State::Writing(self.writer(&partials, file));
            self.write(held);
        }
    }

    fn writer(&self, partials: &Partials, file: OpenPartial) -> Writer {
        if !partials.files.may_block() {
            return Writer::Here(file);
        }
        let (sender, pieces) = mpsc::channel(WAITING_MAX);
        let (written, nar_size) = (self.written.clone(), self.nar_size);
        // It ends with the sender.
        drop(tokio::task::spawn_blocking(move || {
            write_all(&*file, &written, nar_size, pieces);
        }));
        Writer::Thread(sender)
    }

    /// Has pieces written that follow what is kept.
    fn write(&mut self, pieces: Vec<Bytes>) {
        let len: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let is_taken = match &self.state {
            State::Writing(Writer::Thread(sender)) => sender.try_send(pieces).is_ok(),
            State::Writing(Writer::Here(file)) => {
                write(&**file, &self.written, self.nar_size, pieces).is_ok()
            }
            State::Undecided { .. } | State::Off => false,
        };
        if !is_taken {
            // The disk is slower, or has failed.
            self.state = State::Off;
            return self.note(self.written.load(Ordering::Relaxed), true);
        }
        self.kept += len;
        self.note(self.kept, true);
    }

    /// Removes what is kept: the NAR is complete, or what was passed on is wrong. Nothing more is kept.
    pub(in crate::transfer) async fn remove(&mut self) {
        self.state = State::Off;
        let (Some(partials), Some(file)) = (self.partials.take(), self.file.take()) else {
            return;
        };
        if let Some(nar) = &self.nar {
            partials.known.lock().remove(nar);
        }
        let removed = partials.run(move || {
            file.remove();
            Ok(())
        });
        let _ = removed.await;
    }
}

impl Keeper {
    /// Has it known that so many bytes are kept, and whether this transfer still brings more.
    fn note(&self, bytes: u64, is_in_use: bool) {
        if let (Some(partials), Some(nar), Some(_)) = (&self.partials, self.nar, &self.file) {
            let known = Known {
                bytes,
                is_ours: true,
                is_in_use,
            };
            partials.known.lock().insert(nar, known);
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.note(self.written.load(Ordering::Relaxed), false);
    }
}

fn write_all(
    file: &dyn PartialFile,
    written: &AtomicU64,
    nar_size: u64,
    mut pieces: mpsc::Receiver<Vec<Bytes>>,
) {
    while let Some(next) = pieces.blocking_recv() {
        if write(file, written, nar_size, next).is_err() {
            return;
        }
    }
}

/// Writes pieces behind what is `written`, which moves on with them.
fn write(
    file: &dyn PartialFile,
    written: &AtomicU64,
    nar_size: u64,
    pieces: Vec<Bytes>,
) -> std::io::Result<()> {
    for piece in pieces {
        let at = written.load(Ordering::Relaxed);
        let end = at + piece.len() as u64;
        let result = file.write_at(&piece, at, nar_size.saturating_sub(end));
        result.inspect_err(|error| {
            log::debug!("no more is kept of what comes: {error}");
            // The transfer may need the room.
            if error.kind() == std::io::ErrorKind::StorageFull {
                file.remove();
                written.store(0, Ordering::Relaxed);
            }
        })?;
        written.store(end, Ordering::Relaxed);
    }
    Ok(())
}
