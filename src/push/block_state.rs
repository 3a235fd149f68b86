//! What the lane that takes blocks has come to, at one host.

use super::pace::Pace;
use super::schedule::LaneId;
use crate::remote::Version;

/// What the lane that takes blocks has come to, at one host.
#[derive(Default)]
pub(super) struct BlockState {
    /// The one that is open or is being opened.
    pub(super) lane: Option<LaneId>,
    /// The version that the host has agreed on.
    pub(super) version: Option<Version>,
    /// There is none, and there will be none.
    pub(super) is_off: bool,
    pub(super) refusals: usize,
    /// Paths that were acknowledged on the one that is open.
    pub(super) acknowledged: u64,
    /// Whether some were acknowledged since the host was asked what it has.
    pub(super) is_used: bool,
    pub(super) pace: Pace,
    /// Bytes of NARs that are to be sent.
    pub(super) planned: u64,
}
