//! What a transfer reports while it runs, to whatever draws it.

use crate::model::StorePath;

/// A transfer that begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferInfo {
    /// What is transferred.
    pub path: StorePath,
    /// Where it comes from, as the user named the host.
    pub host: String,
    /// Size of the NAR in bytes; 0 when it is not known.
    pub total: u64,
}

/// How a transfer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All of it came, and it verified.
    Done,
    /// It was given up.
    Failed,
    /// Another transfer, which begins next, brings the rest of the same path: both are shown as one.
    GoesOn,
}

/// Watches transfers, several at a time.
pub trait Progress: Send + Sync {
    /// A transfer begins. Dropping what is returned without
    /// [`finish`](TransferProgress::finish) counts as a failure.
    fn start(&self, transfer: &TransferInfo) -> Box<dyn TransferProgress>;

    /// So many paths, with so many bytes of NARs together, are to be fetched (or sent) in all. Called by a
    /// command that knows beforehand; what is fetched without it adds up as it comes.
    fn expected(&self, _paths: u64, _bytes: u64) {}
}

/// Watches one transfer. Called for every piece that arrives, so it must be quick.
pub trait TransferProgress: Send + Sync {
    /// So many more bytes of the NAR have come, from the host that was named last.
    fn advance(&self, bytes: u64);

    /// The following bytes come from this host. To be called whenever that changes: a transfer from several hosts
    /// alternates between them.
    fn set_host(&self, host: &str);

    /// What an interrupted command had received of the NAR comes first: so many bytes.
    fn goes_on_from(&self, _bytes: u64) {}

    /// So many of the bytes that came last do not count: they are dropped, and come again.
    fn lose(&self, bytes: u64);

    /// The transfer has ended.
    fn finish(self: Box<Self>, outcome: Outcome);
}

/// Shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn start(&self, _: &TransferInfo) -> Box<dyn TransferProgress> {
        Box::new(Self)
    }
}

impl TransferProgress for NoProgress {
    fn advance(&self, _: u64) {}

    fn set_host(&self, _: &str) {}

    fn lose(&self, _: u64) {}

    fn finish(self: Box<Self>, _: Outcome) {}
}

/// Bytes of transfers, by the host that sent them.
#[derive(Debug, Clone, Default)]
pub struct ByHost {
    /// In the order in which hosts were named first.
    hosts: Vec<(String, u64)>,
    /// The one that sends now.
    current: Option<usize>,
}

impl ByHost {
    /// The following bytes come from this host, or from an unknown one if that is empty.
    pub fn set_host(&mut self, host: &str) {
        self.current = (!host.is_empty()).then(|| self.place(host));
    }

    fn place(&mut self, host: &str) -> usize {
        let known = self.hosts.iter().position(|(name, _)| name == host);
        known.unwrap_or_else(|| {
            self.hosts.push((host.to_owned(), 0));
            self.hosts.len() - 1
        })
    }

    /// The host that sends now.
    #[must_use]
    pub fn current(&self) -> Option<&str> {
        self.current.map(|current| self.hosts[current].0.as_str())
    }

    /// So many bytes have come from the host that sends now.
    pub fn advance(&mut self, bytes: u64) {
        if let Some(current) = self.current {
            let (_, sum) = &mut self.hosts[current];
            *sum = sum.saturating_add(bytes);
        }
    }

    /// So many bytes do not count: those of the host that sends now, then those of others.
    pub fn lose(&mut self, mut bytes: u64) {
        let others = (0..self.hosts.len()).rev();
        for at in self.current.into_iter().chain(others) {
            let (_, sum) = &mut self.hosts[at];
            let lost = bytes.min(*sum);
            *sum -= lost;
            bytes -= lost;
        }
    }

    /// Counts what was counted elsewhere, too.
    pub fn add(&mut self, other: &Self) {
        for (host, bytes) in other.sums() {
            let at = self.place(host);
            self.hosts[at].1 = self.hosts[at].1.saturating_add(bytes);
        }
    }

    /// The hosts from which something has come, with the number of bytes.
    pub fn sums(&self) -> impl Iterator<Item = (&str, u64)> {
        let sums = self.hosts.iter().filter(|(_, bytes)| *bytes > 0);
        sums.map(|(host, bytes)| (host.as_str(), *bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_for_the_host_that_sent_them() {
        let mut sums = ByHost::default();
        sums.advance(7);
        sums.set_host("a");
        sums.set_host("b");
        sums.advance(10);
        sums.set_host("a");
        sums.advance(3);
        assert_eq!(sums.sums().collect::<Vec<_>>(), [("a", 3), ("b", 10)]);
        assert_eq!(sums.current(), Some("a"));
        // The last ones first.
        sums.lose(5);
        assert_eq!(sums.sums().collect::<Vec<_>>(), [("b", 8)]);
        let mut all = sums.clone();
        all.add(&sums);
        assert_eq!(all.sums().collect::<Vec<_>>(), [("b", 16)]);
        sums.set_host("");
        sums.advance(1);
        sums.lose(u64::MAX);
        assert_eq!(sums.sums().count(), 0);
    }
}
