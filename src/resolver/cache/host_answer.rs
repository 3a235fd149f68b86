//! One host's answer about one path. Pure: the time is an argument.

use std::sync::Arc;

use crate::cache::Lifetimes;
use crate::model::PathInfo;
use crate::pool::HostId;

/// For how many seconds at least it is remembered that a host has a path, if this process heard it itself.
pub(super) const OWN_ANSWER_LIFETIME: u64 = 3600;

/// What a host answered about a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::resolver) enum AnswerKind {
    /// It has it, and this counts.
    Has(Arc<PathInfo>),
    /// It has it. The signature is not verified yet.
    Unverified(Arc<PathInfo>),
    /// It has it, but is not trusted with it; rejected for this caller generation.
    Refused(u64),
    /// It lacks it.
    Lacks,
}

impl AnswerKind {
    /// What the path is, if the host has it and is not known to be refused.
    pub(in crate::resolver) fn info(&self) -> Option<&Arc<PathInfo>> {
        match self {
            Self::Has(info) | Self::Unverified(info) => Some(info),
            Self::Refused(_) | Self::Lacks => None,
        }
    }
}

/// One host's answer.
#[derive(Debug, Clone)]
pub(in crate::resolver) struct HostAnswer {
    pub(in crate::resolver) host: HostId,
    pub(in crate::resolver) kind: AnswerKind,
    /// When it last said so, in seconds of Unix time.
    pub(in crate::resolver) checked_at: u64,
    /// An earlier process got the answer.
    pub(in crate::resolver) from_disk: bool,
}

impl HostAnswer {
    pub(super) fn is_valid(&self, lifetimes: &Lifetimes, now: u64, callers: u64) -> bool {
        match self.kind {
            // A caller to which a path was advertised comes for it. An engine outlives its callers.
            AnswerKind::Has(_) | AnswerKind::Unverified(_) => {
                let heard_here =
                    !self.from_disk && now.abs_diff(self.checked_at) < OWN_ANSWER_LIFETIME;
                heard_here || lifetimes.is_fresh(true, self.checked_at, now)
            }
            // It may have been signed since, and a new caller has not been told.
            AnswerKind::Refused(found_for) => found_for == callers,
            AnswerKind::Lacks => lifetimes.is_fresh(false, self.checked_at, now),
        }
    }

    /// Whether it counts without asking the host again, as far as time decides.
    pub(in crate::resolver) fn is_checked(&self, lifetimes: &Lifetimes, now: u64) -> bool {
        match self.kind {
            AnswerKind::Has(_) | AnswerKind::Unverified(_) => {
                lifetimes.is_checked(true, self.checked_at, now)
            }
            AnswerKind::Lacks => lifetimes.is_checked(false, self.checked_at, now),
            // What is not used need not be there.
            AnswerKind::Refused(_) => true,
        }
    }
}

/// The outcome of asking a host again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::resolver) enum CheckOutcome {
    /// As it was.
    StillHas,
    /// As it was.
    StillLacks,
    /// It has the path by now. Its info has to be asked for.
    Appeared,
    /// It has the path no longer.
    Gone,
    /// There was no answer, or none that this changes.
    Unknown,
}
