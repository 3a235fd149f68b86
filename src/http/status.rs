//! How the hosts and the transfers are, as those behind the server know.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How the hosts and the transfers are.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// The hosts, in the order in which they are asked.
    pub hosts: Vec<HostStatus>,
    /// The transfers that run, oldest first.
    pub transfers: Vec<TransferStatus>,
    /// How many bytes are read ahead and held in memory, and how many may be.
    pub readahead: (u64, u64),
}

/// How a host is.
#[derive(Debug, Clone, Default)]
pub struct HostStatus {
    /// As the configuration names it.
    pub name: String,
    /// Whether it is not known to fail.
    pub is_well: bool,
    /// The shortest time in which it has answered; `None` before the first time.
    pub latency: Option<Duration>,
    /// Its throughput of late in bytes a second; `None` while it is not known.
    pub rate: Option<u64>,
    /// How many connections to it there are.
    pub connections: usize,
    /// How many bytes of NARs it has sent.
    pub nar_bytes: u64,
    /// How many bytes came over the wire for them.
    pub wire_bytes: u64,
}

/// A transfer that runs.
#[derive(Debug, Clone)]
pub struct TransferStatus {
    /// The store path.
    pub path: String,
    /// Where its bytes come from now.
    pub host: String,
    /// How many have come.
    pub bytes: u64,
    /// The size of the NAR in bytes, 0 when it is not known.
    pub size: u64,
    /// For how long it has run.
    pub time: Duration,
}

/// What has been served since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    narinfos: AtomicU64,
    narinfos_missing: AtomicU64,
    nars: AtomicU64,
    bytes: AtomicU64,
}

/// The same at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Served {
    /// Paths that clients asked about and hosts have, or have not.
    pub(super) narinfos: u64,
    /// See `narinfos`.
    pub(super) narinfos_missing: u64,
    /// NARs whose delivery began.
    pub(super) nars: u64,
    /// Bytes of NARs that were sent.
    pub(super) bytes: u64,
}

impl Counters {
    pub(super) fn add_narinfo(&self, is_there: bool) {
        let counter = match is_there {
            true => &self.narinfos,
            false => &self.narinfos_missing,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_nar(&self) {
        self.nars.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_bytes(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn served(&self) -> Served {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Served {
            narinfos: get(&self.narinfos),
            narinfos_missing: get(&self.narinfos_missing),
            nars: get(&self.nars),
            bytes: get(&self.bytes),
        }
    }
}
