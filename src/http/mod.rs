//! A binary cache over HTTP/1.1, in front of any backend: the way in for clients that ask in parallel, and for those that have
//! no ssh keys.
//!
//! ```text
//! GET /nix-cache-info          StoreDir, WantMassQuery, Priority
//! GET /HASH.narinfo            what a path is (`crate::wire::narinfo`); 404 where no host has it now
//! GET /HASH.ls                 what is in it (`crate::wire::nar::Listing`); takes all of its NAR from a host
//! GET /nar/NARHASH-HASH-NAME.nar
//!                              its NAR, uncompressed; all of it or one range
//! GET /nar/NARHASH-HASH-NAME.nar.zst
//!                              the same, compressed with zstd while it is sent; always all of it
//! GET /log/HASH-NAME.drv       how it was built, where a host with a shell knows that
//! GET /                        a page for people
//! GET /metrics                 numbers for Prometheus
//! GET /healthz                 200 while the server runs
//! ```
//!
//! HEAD works as GET does. What cannot be delivered is a 404 and never a 5xx: Nix goes on to its next cache after the one, and
//! may end its whole command after the other.
//!
//! | module | what it does |
//! | --- | --- |
//! | `server` | listens, limits what clients may occupy |
//! | `service` | from a request to a response |
//! | `route` | what a URL asks for |
//! | `nar_name` | what NARs are called |
//! | `range` | parts of bodies |
//! | `listing` | what is in a path |
//! | `nar_body` | the bytes of a NAR |
//! | `packer` | compresses them |
//! | `page` | a page for people |
//! | `metrics` | numbers for Prometheus |
//! | `status` | what these tell of |
//! | `passwords` | who may read, from other machines |
//! | `host_check` | which names a server on loopback answers to |

mod host_check;
mod listing;
mod metrics;
mod nar_body;
mod nar_name;
mod packer;
mod page;
mod passwords;
mod range;
mod route;
mod server;
mod service;
mod status;

use std::net::IpAddr;

pub use passwords::{Passwords, PasswordsError};
pub use server::{HttpError, OpenToOthers, bind, serve};
pub use service::Service;
pub use status::{HostStatus, Status, TransferStatus};

use crate::backend::Backend;
use crate::model::SecretKey;

/// By what the server names itself, before a slash and its version, in the Server header of all responses.
pub const SERVER_NAME: &str = "ssh-substituter";

/// Makes backends for those who connect.
pub trait Clients: Send + Sync {
    /// A connection from this address has begun.
    fn connect(&self, peer: IpAddr) -> Box<dyn Client>;

    /// How the hosts and the transfers are, for people.
    fn status(&self) -> Status;
}

/// One connection. It has ended when this is dropped.
pub trait Client: Send + Sync {
    /// A backend for one request of it about a path.
    fn backend(&self) -> Box<dyn Backend>;
}

/// What the server says of itself.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder that all store paths are in.
    pub store_dir: String,
    /// Signs what is served, besides the signatures that it has.
    pub signing_key: Option<SecretKey>,
    /// What clients need that come from other machines.
    pub passwords: Option<Passwords>,
    /// Which clients are told to fetch NARs compressed.
    pub packed_for: PackedFor,
}

/// Which clients are told to fetch NARs compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackedFor {
    /// Those that connect to an address which is not of loopback.
    Others,
    /// All of them.
    All,
    /// None of them.
    Nobody,
}
