//! How many bytes came from each host, and in which way.

use std::collections::HashMap;
use std::iter::Sum;
use std::ops::Add;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::pool::HostId;

/// Bytes of NARs that came in one way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WayTraffic {
    /// How many they are in the NARs.
    pub nar_bytes: u64,
    /// How many came over the wire for them, without what ssh adds.
    pub wire_bytes: u64,
}

/// What came from one host since the process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostTraffic {
    /// As they are.
    pub raw: WayTraffic,
    /// Compressed by the host.
    pub compressed: WayTraffic,
    /// As differences from what was here.
    pub differences: WayTraffic,
}

impl Add for WayTraffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            nar_bytes: self.nar_bytes.saturating_add(other.nar_bytes),
            wire_bytes: self.wire_bytes.saturating_add(other.wire_bytes),
        }
    }
}

impl Sum for HostTraffic {
    fn sum<I: Iterator<Item = Self>>(hosts: I) -> Self {
        hosts.fold(Self::default(), |sum, host| Self {
            raw: sum.raw + host.raw,
            compressed: sum.compressed + host.compressed,
            differences: sum.differences + host.differences,
        })
    }
}

/// The way in which bytes came.
#[derive(Debug, Clone, Copy)]
pub(in crate::transfer) enum Way {
    Raw,
    Compressed,
    Differences,
}

/// What came from all hosts.
#[derive(Debug, Default)]
pub(in crate::transfer) struct Traffic {
    hosts: Mutex<HashMap<HostId, HostTraffic>>,
    /// Bytes that came over the wire from all of them.
    wire_bytes: Arc<AtomicU64>,
}

impl Traffic {
    /// So many bytes of a NAR have come as so many bytes.
    pub(in crate::transfer) fn record(
        &self,
        host: HostId,
        way: Way,
        nar_bytes: u64,
        wire_bytes: u64,
    ) {
        self.wire_bytes.fetch_add(wire_bytes, Ordering::Relaxed);
        let mut all = self.hosts.lock();
        let of_host = all.entry(host).or_default();
        let way = match way {
            Way::Raw => &mut of_host.raw,
            Way::Compressed => &mut of_host.compressed,
            Way::Differences => &mut of_host.differences,
        };
        way.nar_bytes += nar_bytes;
        way.wire_bytes += wire_bytes;
    }

    pub(in crate::transfer) fn of(&self, host: HostId) -> HostTraffic {
        self.hosts.lock().get(&host).copied().unwrap_or_default()
    }

    /// Counts the bytes that come over the wire from all hosts.
    pub(in crate::transfer) fn wire_bytes(&self) -> Arc<AtomicU64> {
        self.wire_bytes.clone()
    }
}
