//! What a transfer tells while it runs, to whoever draws it.

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
}

/// Watches transfers, several at a time.
pub trait Progress: Send + Sync {
    /// A transfer begins. Dropping what is returned without
    /// [`finish`](TransferProgress::finish) counts as a failure.
    fn start(&self, transfer: &TransferInfo) -> Box<dyn TransferProgress>;

    /// So many paths, with so many bytes of NARs together, are to be fetched in all. Called once by a command
    /// that knows beforehand; what is fetched without it adds up as it comes.
    fn expected(&self, _paths: u64, _bytes: u64) {}
}

/// Watches one transfer. Called for every piece that arrives, so it must be quick.
pub trait TransferProgress: Send + Sync {
    /// So many more bytes of the NAR have come.
    fn advance(&self, bytes: u64);

    /// The transfer goes on from another host.
    fn set_host(&self, host: &str);

    /// The transfer has ended.
    fn finish(self: Box<Self>, outcome: Outcome);
}

/// Draws nothing.
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

    fn finish(self: Box<Self>, _: Outcome) {}
}
