//! When a host may be logged in to, and what is known of a login that failed.

pub(super) mod address;
pub(super) mod identities;
mod permit;
mod record;

pub(super) use permit::{LOGIN_FILE_SUFFIX, LoginPermit};
pub(super) use record::LoginKind;
