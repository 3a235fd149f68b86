//! What is to be fetched.

use super::caller::Caller;
use super::progress::Progress;
use super::verify::ResumePoint;
use crate::model::PathInfo;
use crate::pool::HostId;

/// What is to be fetched, and for whom.
pub struct FetchRequest<'a> {
    /// The path, and the NAR that is expected.
    pub info: &'a PathInfo,
    /// The hosts known to have it, the best first.
    pub holders: &'a [HostId],
    /// Whose readahead it may come from.
    pub caller: &'a Caller,
    /// Where another transfer of the same NAR broke off: only what follows is written.
    pub resume: Option<ResumePoint>,
    /// Is told how far it is.
    pub progress: &'a dyn Progress,
}
