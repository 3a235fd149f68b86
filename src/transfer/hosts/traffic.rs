//! How many bytes came from each host, and in which way.

use std::collections::HashMap;

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

/// The way in which bytes came.
#[derive(Debug, Clone, Copy)]
pub(in crate::transfer) enum Way {
    Raw,
    Compressed,
    Differences,
}

/// What came from all hosts.
#[derive(Debug, Default)]
pub(in crate::transfer) struct Traffic(Mutex<HashMap<HostId, HostTraffic>>);

impl Traffic {
    /// So many bytes of a NAR have come as so many bytes.
    pub(in crate::transfer) fn record(
        &self,
        host: HostId,
        way: Way,
        nar_bytes: u64,
        wire_bytes: u64,
    ) {
        let mut all = self.0.lock();
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
        self.0.lock().get(&host).copied().unwrap_or_default()
    }
}
