//! Which chunk of a NAR is requested from which channel, and what has come. Pure: the time is an argument.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use bytes::Bytes;

use crate::pool::HostId;

/// Length of a chunk, in bytes: what ssh moves on one channel in one round trip.
pub(super) const CHUNK_SIZE: u64 = 2 << 20;

/// How many chunks may be requested or held out of order.
const WINDOW_CHUNKS: usize = 20;

/// A chunk that takes so many times longer than usual is requested from another channel too.
const SLOW_FACTOR: u32 = 2;

/// Time added to that, for chunks that come fast.
const SLOW_SLACK: Duration = Duration::from_millis(200);

/// Time added to that when the other channel is to the same host: both share one link, on which requesting twice makes
/// all slower.
const SAME_HOST_SLACK: Duration = Duration::from_secs(5);

/// Names one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ChannelId {
    pub(super) host: HostId,
    pub(super) number: u64,
}

/// The chunks of a NAR from some byte on, with a sliding window of those that are requested.
#[derive(Debug)]
pub(super) struct ChunkWindow {
    bytes: Range<u64>,
    /// How many chunks were taken in order. The window begins behind them.
    taken: u64,
    /// The window: chunks that were requested.
    open: VecDeque<Chunk>,
    /// How long each host takes for a chunk, smoothed.
    usual: BTreeMap<HostId, Duration>,
}

#[derive(Debug, Default)]
struct Chunk {
    /// The channels it is requested from.
    asked: Vec<Asked>,
    /// What has come.
    arrived: Option<Arrived>,
}

#[derive(Debug)]
struct Arrived {
    bytes: Bytes,
    /// The host that sent it.
    host: HostId,
    at: Instant,
    check: Check,
}

/// Whether another host has the same bytes there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// Nobody was asked.
    Open,
    /// This channel was asked.
    Asked(ChannelId),
    /// It has.
    Agreed,
    /// It has not: one of the two is wrong.
    Disputed,
}

#[derive(Debug)]
struct Asked {
    channel: ChannelId,
    since: Instant,
    /// How many bytes of the chunk have come from there.
    received: u64,
}

impl ChunkWindow {
    pub(super) fn new(bytes: Range<u64>) -> Self {
        Self {
            bytes,
            taken: 0,
            open: VecDeque::new(),
            usual: BTreeMap::new(),
        }
    }

    /// Start and length of a chunk.
    pub(super) fn range(&self, chunk: u64) -> (u64, u64) {
        let start = self.bytes.start + chunk * CHUNK_SIZE;
        (start, CHUNK_SIZE.min(self.bytes.end - start))
    }

    fn count(&self) -> u64 {
        (self.bytes.end - self.bytes.start).div_ceil(CHUNK_SIZE)
    }

    /// Which chunk a channel should request next: one that others failed to bring, then the next one that was never
    /// requested, both only if it `may_add`; else one that another channel takes long for.
    pub(super) fn next(&mut self, channel: ChannelId, may_add: bool, now: Instant) -> Option<u64> {
        let nobody = |chunk: &Chunk| chunk.arrived.is_none() && chunk.asked.is_empty();
        let at = if let Some(channel_ended) = self.open.iter().position(nobody).filter(|_| may_add)
        {
            channel_ended
        } else if may_add && self.has_room() {
            self.open.push_back(Chunk::default());
            self.open.len() - 1
        } else {
            (0..self.open.len()).find(|at| self.is_late(*at, channel, now))?
        };
        self.open[at].asked.push(Asked {
            channel,
            since: now,
            received: 0,
        });
        Some(self.taken + at as u64)
    }

    /// Whether the window has room for a chunk that was never requested, and there is one.
    fn has_room(&self) -> bool {
        let fresh = self.taken + self.open.len() as u64;
        self.open.len() < WINDOW_CHUNKS && fresh < self.count()
    }

    /// Whether something may be requested now that nobody is asked for.
    pub(super) fn can_ask(&self) -> bool {
        let nobody = |chunk: &Chunk| chunk.arrived.is_none() && chunk.asked.is_empty();
        self.has_room() || self.open.iter().any(nobody)
    }

    /// How many bytes are not requested from any channel.
    pub(super) fn unasked(&self) -> u64 {
        let fresh = self.taken + self.open.len() as u64;
        let fresh = match fresh < self.count() {
            true => self.bytes.end - self.range(fresh).0,
            false => 0,
        };
        let channel_ended = self.open.iter().enumerate();
        let channel_ended =
            channel_ended.filter(|(_, chunk)| chunk.arrived.is_none() && chunk.asked.is_empty());
        let channel_ended = channel_ended.map(|(at, _)| self.range(self.taken + at as u64).1);
        fresh + channel_ended.sum::<u64>()
    }

    /// Whether a chunk takes so long that this channel should request it too. A chunk that flows is left alone, unless
    /// this channel would be done long before: its bytes would come twice.
    fn is_late(&self, at: usize, channel: ChannelId, now: Instant) -> bool {
        let chunk = &self.open[at];
        let (None, [other]) = (&chunk.arrived, chunk.asked.as_slice()) else {
            return false;
        };
        let host = other.channel.host;
        let Some(usual) = self.usual(host).filter(|_| other.channel != channel) else {
            return false;
        };
        let more = match host == channel.host {
            true => SAME_HOST_SLACK,
            false => Duration::ZERO,
        };
        let elapsed = now.saturating_duration_since(other.since);
        if elapsed <= usual * SLOW_FACTOR + SLOW_SLACK + more {
            return false;
        }
        if other.received == 0 {
            return true;
        }
        let (_, len) = self.range(self.taken + at as u64);
        let missing = len.saturating_sub(other.received);
        let left = elapsed.mul_f64(missing as f64 / other.received as f64);
        let mine = self.usual(channel.host).unwrap_or(usual);
        left > mine * SLOW_FACTOR + SLOW_SLACK
    }

    /// How long a host takes for a chunk, or the quickest one where nothing is known of it.
    fn usual(&self, host: HostId) -> Option<Duration> {
        let quickest = || self.usual.values().min().copied();
        self.usual.get(&host).copied().or_else(quickest)
    }

    /// So many bytes of a chunk have come by now from a channel that is asked for it.
    pub(super) fn progressed(&mut self, chunk: u64, channel: ChannelId, received: u64) {
        let Some(chunk) = self.chunk(chunk) else {
            return;
        };
        let mut asked = chunk.asked.iter_mut();
        if let Some(asked) = asked.find(|asked| asked.channel == channel) {
            asked.received = received;
        }
    }

    /// Whether some chunk has not come yet.
    pub(super) fn is_missing_some(&self) -> bool {
        let fresh = self.taken + self.open.len() as u64;
        fresh < self.count() || self.open.iter().any(|chunk| chunk.arrived.is_none())
    }

    /// Takes a chunk that has come, unless it has come already.
    pub(super) fn arrived(&mut self, chunk: u64, bytes: Bytes, channel: ChannelId, now: Instant) {
        let Some(chunk) = self.chunk(chunk).filter(|chunk| chunk.arrived.is_none()) else {
            return;
        };
        chunk.arrived = Some(Arrived {
            bytes,
            host: channel.host,
            at: now,
            check: Check::Open,
        });
        let asked = chunk.asked.iter().find(|asked| asked.channel == channel);
        let Some(since) = asked.map(|asked| asked.since) else {
            return;
        };
        let took = now.saturating_duration_since(since);
        let usual = self.usual.entry(channel.host).or_insert(took);
        *usual = (*usual * 7 + took) / 8;
    }

    /// A channel has ended: what it had outstanding is to be requested from others.
    pub(super) fn channel_ended(&mut self, channel: ChannelId) {
        for chunk in &mut self.open {
            chunk.asked.retain(|asked| asked.channel != channel);
            if let Some(arrived) = &mut chunk.arrived
                && arrived.check == Check::Asked(channel)
            {
                arrived.check = Check::Open;
            }
        }
    }

    /// The chunk that this channel should compare next with what its host has: the first one that came
    /// from another host and that nobody was asked about.
    pub(super) fn next_check(&mut self, channel: ChannelId) -> Option<u64> {
        let suits = |chunk: &Chunk| {
            let arrived = chunk.arrived.as_ref();
            arrived.is_some_and(|chunk| chunk.check == Check::Open && chunk.host != channel.host)
        };
        let at = self.open.iter().position(suits)?;
        self.open[at].arrived.as_mut()?.check = Check::Asked(channel);
        Some(self.taken + at as u64)
    }

    /// What a chunk's bytes are, and who sent them, for the channel that was asked to compare them.
    pub(super) fn to_compare(&self, chunk: u64, channel: ChannelId) -> Option<(Bytes, HostId)> {
        let at = usize::try_from(chunk.checked_sub(self.taken)?).ok()?;
        let arrived = self.open.get(at)?.arrived.as_ref()?;
        let asked = arrived.check == Check::Asked(channel);
        asked.then(|| (arrived.bytes.clone(), arrived.host))
    }

    /// What came of comparing: whether the host of that channel has the same; `None` when it cannot tell.
    pub(super) fn compared(&mut self, chunk: u64, channel: ChannelId, agreed: Option<bool>) {
        let arrived = self.chunk(chunk).and_then(|chunk| chunk.arrived.as_mut());
        let asked = arrived.filter(|chunk| chunk.check == Check::Asked(channel));
        if let Some(arrived) = asked {
            arrived.check = match agreed {
                Some(true) => Check::Agreed,
                Some(false) => Check::Disputed,
                None => Check::Open,
            };
        }
    }

    /// A dispute is over, and these hosts were found to have something else: what they sent and nobody
    /// has confirmed is to be asked again, as is what was disputed.
    pub(super) fn settle(&mut self, wrong: &[HostId]) {
        for chunk in &mut self.open {
            let Some(arrived) = &mut chunk.arrived else {
                continue;
            };
            let is_wrong = wrong.contains(&arrived.host);
            match arrived.check {
                Check::Disputed if is_wrong || wrong.is_empty() => *chunk = Chunk::default(),
                // The other one was wrong.
                Check::Disputed => arrived.check = Check::Open,
                Check::Agreed => {}
                Check::Open | Check::Asked(_) if is_wrong => *chunk = Chunk::default(),
                Check::Open | Check::Asked(_) => {}
            }
        }
    }

    /// Takes the next chunk in order, with the host that sent it, if it has come and may be passed on: another host has
    /// the same bytes, or none can tell. `waits` says whether some host may still confirm what a sender sent at that
    /// time.
    pub(super) fn take(
        &mut self,
        mut waits: impl FnMut(HostId, Instant) -> bool,
    ) -> Option<(Bytes, HostId)> {
        let arrived = self.open.front()?.arrived.as_ref()?;
        match arrived.check {
            Check::Disputed => return None,
            Check::Open | Check::Asked(_) if waits(arrived.host, arrived.at) => return None,
            Check::Open | Check::Asked(_) | Check::Agreed => {}
        }
        let chunk = self.open.pop_front()?;
        self.taken += 1;
        chunk.arrived.map(|arrived| (arrived.bytes, arrived.host))
    }

    /// Whether the next chunk in order has come and is not confirmed yet.
    pub(super) fn is_next_unconfirmed(&self) -> bool {
        let arrived = self.open.front().and_then(|chunk| chunk.arrived.as_ref());
        arrived.is_some_and(|chunk| chunk.check != Check::Agreed)
    }

    /// Whether a chunk is to be compared with what that host has.
    pub(super) fn has_check_for(&self, host: HostId) -> bool {
        let mut arrived = self.open.iter().filter_map(|chunk| chunk.arrived.as_ref());
        arrived.any(|chunk| chunk.check == Check::Open && chunk.host != host)
    }

    /// Stops comparing: no result is awaited any more.
    pub(super) fn stop_comparing(&mut self) {
        let arrived = self
            .open
            .iter_mut()
            .filter_map(|chunk| chunk.arrived.as_mut());
        for chunk in arrived.filter(|chunk| chunk.check != Check::Agreed) {
            chunk.check = Check::Open;
        }
    }

    /// Whether all has been taken.
    pub(super) fn is_done(&self) -> bool {
        self.taken == self.count()
    }

    fn chunk(&mut self, chunk: u64) -> Option<&mut Chunk> {
        let at = usize::try_from(chunk.checked_sub(self.taken)?).ok()?;
        self.open.get_mut(at)
    }

    /// The channels that have a needed chunk outstanding.
    #[cfg(test)]
    fn owing(&self) -> std::collections::BTreeSet<ChannelId> {
        let missing = self.open.iter().filter(|chunk| chunk.arrived.is_none());
        missing
            .flat_map(|chunk| chunk.asked.iter().map(|asked| asked.channel))
            .collect()
    }
}

#[cfg(test)]
mod tests;
