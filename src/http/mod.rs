//! A binary cache over HTTP/1.1, in front of any backend: the way in for clients that ask in parallel, and for those that have
//! no ssh keys.
//!
//! ```text
//! GET /nix-cache-info          StoreDir, WantMassQuery, Priority
//! GET /HASH.narinfo            what a path is (`crate::wire::narinfo`); 404 where no host has it now
//! GET /nar/NARHASH-HASH-NAME.nar
//!                              its NAR, uncompressed; all of it or one range
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
//! | `nar_body` | the bytes of a NAR |
//! | `passwords` | who may read, from other machines |
//! | `host_check` | which names a server on loopback answers to |

mod host_check;
mod nar_body;
mod nar_name;
mod passwords;
mod range;
mod route;
mod server;
mod service;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

pub use passwords::{Passwords, PasswordsError};
pub use server::{HttpError, OpenToOthers, bind, serve};
pub use service::Service;

use crate::backend::Backend;
use crate::model::SecretKey;

/// Makes backends for those who connect.
pub trait Clients: Send + Sync {
    /// A connection from this address has begun.
    fn connect(&self, peer: IpAddr) -> Box<dyn Client>;
}

/// One connection. It has ended when this is dropped.
pub trait Client: Send + Sync {
    /// A backend for one request of it.
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
}

/// What has been served since the start.
#[derive(Debug, Default)]
pub struct Counters {
    narinfos: AtomicU64,
    narinfos_missing: AtomicU64,
    nars: AtomicU64,
    bytes: AtomicU64,
}

impl Counters {
    fn add_narinfo(&self, is_there: bool) {
        let counter = match is_there {
            true => &self.narinfos,
            false => &self.narinfos_missing,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn add_nar(&self) {
        self.nars.fetch_add(1, Ordering::Relaxed);
    }

    fn add_bytes(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
