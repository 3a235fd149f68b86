//! The running transfers: how far each is, how fast, from which hosts, and what is to be written about them when. No IO;
//! time is an argument.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `tracker` | all running transfers, and what is to be written about them |
//! | `totals` | all transfers of a command together |
//! | `hosts` | the hosts of one transfer |
//! | `rate` | bytes a second |
//! | `status` | one moment of a transfer, and its words |
//! | `line_timer` | when lines are due |

mod hosts;
mod line_timer;
mod rate;
mod status;
mod totals;
mod tracker;

pub use hosts::by_host;
pub(super) use status::TransferStatus;
pub(super) use totals::Totals;
pub(super) use tracker::{Output, Style, Tracker};
