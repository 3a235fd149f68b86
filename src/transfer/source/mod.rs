//! The ways in which the bytes of a NAR come.

pub(super) mod plain;

pub(super) use plain::{Attempt, Stopped};
