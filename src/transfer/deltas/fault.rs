//! Why a path does not come as differences.

use crate::remote::RemoteError;

/// Why a path cannot be fetched as differences.
#[derive(Debug)]
pub(in crate::transfer) enum DeltaFault {
    Remote(Box<RemoteError>),
    /// What the host sent, or the version here, is not what it should be; or nothing would be gained. For logs.
    Unsuitable(String),
}

impl DeltaFault {
    /// What was put together is not the NAR that was promised.
    pub(in crate::transfer) fn other_nar() -> Self {
        unsuitable("what was put together is another NAR than the promised one")
    }
}

pub(super) fn unsuitable(reason: impl Into<String>) -> DeltaFault {
    DeltaFault::Unsuitable(reason.into())
}
