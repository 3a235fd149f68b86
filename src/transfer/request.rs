//! What is to be fetched.

use super::caller::Caller;
use super::progress::Progress;
use super::verify::ResumePoint;
use crate::model::PathInfo;
use crate::pool::HostId;

/// What is to be fetched, and for whom.
pub struct FetchRequest<'a> {
    /// The path, and the NAR that was promised.
    pub info: &'a PathInfo,
    /// Who is known to have it, the best host first.
    pub holders: &'a [HostId],
    /// For whom.
    pub caller: &'a Caller,
    /// Where another transfer of the same NAR broke off: only what follows is passed on.
    pub resume: Option<ResumePoint>,
    /// Shows it.
    pub progress: &'a dyn Progress,
}
