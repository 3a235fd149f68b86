//! What is measured of transfers: bytes, rates, hosts, and when lines about them are due. No IO; time is an argument.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `totals` | all transfers of a command together |
//! | `hosts` | the hosts of one transfer |
//! | `rate` | bytes a second |
//! | `status` | one moment of a transfer, and its words |
//! | `line_timer` | when lines are due |

mod hosts;
pub(super) mod line_timer;
mod rate;
mod status;
mod totals;

pub use hosts::by_host;
pub(super) use hosts::{TransferHosts, names};
pub(super) use rate::RateMeter;
pub(super) use status::TransferStatus;
pub(super) use totals::Totals;
