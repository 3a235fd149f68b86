//! What a server reads and writes.

use bytes::BytesMut;

use super::{
    CLIENT_MAGIC, DUMP_STORE_PATH, QUERY_CLOSURE, QUERY_PATH_INFOS, QUERY_VALID_PATHS, Request,
    SetDecoder, Version,
};
use crate::model::{MAX_PATH_LEN, PathInfo, StorePath, StorePathError};
use crate::wire::{WireError, put_string, put_u64, take};

/// Takes the client's magic and version; the number it gave as its version.
///
/// # Errors
/// When the magic is another.
pub fn take_client_hello(buf: &mut BytesMut) -> Result<Option<u64>, WireError> {
    take(buf, |c| {
        let magic = c.u64()?;
        if magic != CLIENT_MAGIC {
            let want = format!("the client's magic {CLIENT_MAGIC:#x}");
            return Err(WireError::new("handshake", want, format!("{magic:#x}")).into());
        }
        c.u64()
    })
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A read operation. Strings in sets that are not store paths are left out: nobody has them.
    Request(Request),
    /// DumpStorePath of something that is not a store path.
    DumpOf(StorePathError),
    /// An operation that is not served. What belongs to it has not been read, so nothing that
    /// follows can be understood.
    NotServed {
        /// Its number.
        op: u64,
        /// Its name.
        name: &'static str,
    },
}

/// Decodes requests, one after the other.
#[derive(Debug, Default)]
pub struct RequestDecoder {
    /// The head of a request whose set has not come whole.
    head: Option<Head>,
    set: SetDecoder<StorePath>,
}

#[derive(Debug, Clone, Copy)]
enum Head {
    ValidPaths { lock: bool, substitute: bool },
    PathInfos,
    Closure { include_outputs: bool },
}

enum Begin {
    Head(Head),
    Whole(Incoming),
}

impl RequestDecoder {
    /// Takes what is complete in `buf`; a request once it has come whole.
    ///
    /// # Errors
    /// When a limit is exceeded or padding is not zero.
    pub fn step(&mut self, buf: &mut BytesMut) -> Result<Option<Incoming>, WireError> {
        let head = match self.head {
            Some(head) => head,
            None => match begin(buf)? {
                None => return Ok(None),
                Some(Begin::Whole(incoming)) => return Ok(Some(incoming)),
                Some(Begin::Head(head)) => *self.head.insert(head),
            },
        };
        let Some(paths) = self
            .set
            .step(buf, |bytes| Ok(StorePath::from_bytes(bytes).ok()))?
        else {
            return Ok(None);
        };
        self.head = None;
        Ok(Some(Incoming::Request(match head {
            Head::ValidPaths { lock, substitute } => Request::QueryValidPaths {
                lock,
                substitute,
                paths,
            },
            Head::PathInfos => Request::QueryPathInfos { paths },
            Head::Closure { include_outputs } => Request::QueryClosure {
                include_outputs,
                paths,
            },
        })))
    }

    /// Whether the client may end here: no request has come in part.
    #[must_use]
    pub fn is_between_requests(&self, buf: &BytesMut) -> bool {
        !self.has_begun() && buf.is_empty()
    }

    /// Whether a request has been taken in part.
    pub(super) fn has_begun(&self) -> bool {
        self.head.is_some()
    }
}

fn begin(buf: &mut BytesMut) -> Result<Option<Begin>, WireError> {
    take(buf, |c| {
        Ok(match c.u64()? {
            QUERY_VALID_PATHS => Begin::Head(Head::ValidPaths {
                lock: c.u64()? != 0,
                substitute: c.u64()? != 0,
            }),
            QUERY_PATH_INFOS => Begin::Head(Head::PathInfos),
            QUERY_CLOSURE => Begin::Head(Head::Closure {
                include_outputs: c.u64()? != 0,
            }),
            DUMP_STORE_PATH => {
                let path = c.string("store path", MAX_PATH_LEN)?;
                Begin::Whole(match StorePath::from_bytes(path) {
                    Ok(path) => Incoming::Request(Request::DumpStorePath { path }),
                    Err(error) => Incoming::DumpOf(error),
                })
            }
            op => Begin::Whole(Incoming::NotServed {
                op,
                name: op_name(op),
            }),
        })
    })
}

fn op_name(op: u64) -> &'static str {
    match op {
        4 => "ImportPaths",
        5 => "ExportPaths",
        6 => "BuildPaths",
        8 => "BuildDerivation",
        9 => "AddToStoreNar",
        _ => "an unknown operation",
    }
}

/// Appends a set of store paths.
pub fn put_set(out: &mut Vec<u8>, paths: &[StorePath]) {
    put_u64(out, paths.len() as u64);
    for path in paths {
        put_string(out, path.as_str().as_bytes());
    }
}

/// Appends one info to a reply to QueryPathInfos. From 2.4 on, an info without hash is sent with
/// an empty one.
pub fn put_info(out: &mut Vec<u8>, version: Version, info: &PathInfo) {
    put_string(out, info.path.as_str().as_bytes());
    let deriver = info.deriver.as_ref().map_or("", StorePath::as_str);
    put_string(out, deriver.as_bytes());
    put_set(out, &info.references);
    put_u64(out, info.download_size);
    put_u64(out, info.nar_size);
    if version.has_hash() {
        let hash = info.nar_hash.map_or(String::new(), |hash| hash.to_string());
        put_string(out, hash.as_bytes());
        put_string(out, info.ca.as_deref().unwrap_or("").as_bytes());
        put_u64(out, info.sigs.len() as u64);
        for sig in &info.sigs {
            put_string(out, sig.as_bytes());
        }
    }
}

/// Ends a reply to QueryPathInfos.
pub fn put_infos_end(out: &mut Vec<u8>) {
    put_string(out, b"");
}
