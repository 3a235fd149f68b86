//! What the systems that this program runs on do differently: everything that depends on which one it is.
//!
//! The program is tested on Linux. That it compiles for macOS is checked (`packaging/check-targets`); what is said of
//! macOS here comes from its manual pages, and has not been run.

pub(crate) mod files;
pub(crate) mod pipes;
pub(crate) mod processes;
pub(crate) mod sockets;

use rustix::io::Errno;

/// Whether a file system or system says that it does not know how to do something. Linux has one number for ENOTSUP and
/// EOPNOTSUPP, others have two.
pub(crate) fn is_unsupported(error: Errno) -> bool {
    let unsupported = [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::NOTSUP];
    unsupported.contains(&error)
}
