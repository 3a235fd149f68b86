//! What comes to a server: requests of the serve protocol and of the extension.

use bytes::BytesMut;

use super::{
    CHUNK, DELTA, FilePart, LIST, MAX_FILE_NAME, MAX_LEVEL, MAX_NAMES, MAX_NAMES_LEN, MAX_NARS,
    MAX_PARTS, MAX_SURVEYED, NARS, NarPart, NarRange, PARTS, Request, SURVEY, SurveyedPath,
};
use crate::model::{MAX_PATH_LEN, StorePath, StorePathError};
use crate::wire::serve::{Incoming as ServeIncoming, RequestDecoder as ServeDecoder};
use crate::wire::{Cursor, Stop, WireError, take};

/// What a server with the extension is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// Something of the serve protocol.
    Serve(ServeIncoming),
    /// Something of the extension.
    Extension(Request),
    /// The same, of something that is not a store path or at no level of zstd: to be answered with
    /// [`Status::Unfit`](super::Status::Unfit) and this reason.
    Unfit(String),
}

/// Decodes requests of both kinds, one after the other.
#[derive(Debug, Default)]
pub struct RequestDecoder {
    serve: ServeDecoder,
    is_extended: bool,
}

impl RequestDecoder {
    /// Without the extension (`is_extended`) its requests are operations that are not served.
    #[must_use]
    pub fn new(is_extended: bool) -> Self {
        let serve = ServeDecoder::default();
        Self { serve, is_extended }
    }

    /// Takes what is complete in `buf`; a request once it has come whole.
    ///
    /// # Errors
    /// When a limit is exceeded or padding is not zero.
    pub fn step(&mut self, buf: &mut BytesMut) -> Result<Option<Incoming>, WireError> {
        let op = Cursor::new(buf).u64();
        let is_own = self.is_extended && matches!(op, Ok(LIST..=PARTS));
        if self.serve.has_begun() || !is_own {
            return Ok(self.serve.step(buf)?.map(Incoming::Serve));
        }
        take(buf, own_request)
    }

    /// Whether the client may end here: no request has come in part.
    #[must_use]
    pub fn is_between_requests(&self, buf: &BytesMut) -> bool {
        self.serve.is_between_requests(buf)
    }
}

/// A value, or why it makes no sense. Its bytes have been read in either case.
type Fit<T> = Result<T, String>;

fn own_request(c: &mut Cursor<'_>) -> Result<Incoming, Stop> {
    let request = match c.u64()? {
        LIST => {
            let (path, level) = (path(c)?, level(c, 0)?);
            both(path, level).map(|(path, level)| Request::List { path, level })
        }
        CHUNK => {
            let (range, level) = (range(c)?, level(c, 0)?);
            both(range, level).map(|(NarRange { path, start, len }, level)| Request::Chunk {
                path,
                start,
                len,
                level,
            })
        }
        DELTA => {
            let (part, base, level) = (range(c)?, file_part(c)?, level(c, 1)?);
            both(both(part, base), level).map(|((part, base), level)| Request::Delta {
                part,
                base,
                level,
            })
        }
        NARS => {
            let (paths, level) = (paths(c)?, level(c, 0)?);
            both(paths, level).map(|(paths, level)| Request::Nars { paths, level })
        }
        SURVEY => {
            let (paths, level) = (surveyed_paths(c)?, level(c, 0)?);
            both(paths, level).map(|(paths, level)| Request::Survey { paths, level })
        }
        PARTS => {
            let paths = paths(c)?;
            let count = paths.as_ref().map_or(0, Vec::len);
            let (parts, level) = (parts(c, count)?, level(c, 0)?);
            let paths = both(paths, parts);
            both(paths, level).map(|((paths, parts), level)| Request::Parts {
                paths,
                parts,
                level,
            })
        }
        _ => {
            let (range, contents_only) = (range(c)?, c.u64()? != 0);
            range.map(|NarRange { path, start, len }| Request::Digest {
                path,
                start,
                len,
                contents_only,
            })
        }
    };
    Ok(match request {
        Ok(request) => Incoming::Extension(request),
        Err(reason) => Incoming::Unfit(reason),
    })
}

fn both<A, B>(a: Fit<A>, b: Fit<B>) -> Fit<(A, B)> {
    Ok((a?, b?))
}

fn path(c: &mut Cursor<'_>) -> Result<Fit<StorePath>, Stop> {
    let path = c.string("store path", MAX_PATH_LEN)?;
    Ok(StorePath::from_bytes(path).map_err(|error: StorePathError| error.to_string()))
}

fn range(c: &mut Cursor<'_>) -> Result<Fit<NarRange>, Stop> {
    let (path, start, len) = (path(c)?, c.u64()?, c.u64()?);
    Ok(path.map(|path| NarRange { path, start, len }))
}

fn file_part(c: &mut Cursor<'_>) -> Result<Fit<FilePart>, Stop> {
    let (path, name) = (path(c)?, c.string("name of a file", MAX_FILE_NAME)?);
    let (start, len) = (c.u64()?, c.u64()?);
    Ok(path.map(|path| FilePart {
        path,
        name: name.to_vec(),
        start,
        len,
    }))
}

fn paths(c: &mut Cursor<'_>) -> Result<Fit<Vec<StorePath>>, Stop> {
    list(c, ("number of NARs", MAX_NARS), path)
}

fn surveyed_paths(c: &mut Cursor<'_>) -> Result<Fit<Vec<SurveyedPath>>, Stop> {
    let (mut left, mut count) = (MAX_NAMES_LEN, 0);
    list(c, ("number of paths", MAX_SURVEYED), |c| {
        let (path, names) = (path(c)?, c.string("names of files", left)?);
        left -= names.len();
        count += names.iter().filter(|byte| **byte == 0).count();
        if count > MAX_NAMES {
            let want = format!("at most {MAX_NAMES}");
            return Err(WireError::new("number of files", want, count).into());
        }
        let names = match names.last() {
            None | Some(0) => Ok(names.to_vec()),
            Some(_) => Err("a name of a file has no end".to_owned()),
        };
        Ok(both(path, names).map(|(path, names)| SurveyedPath { path, names }))
    })
}

fn parts(c: &mut Cursor<'_>, paths: usize) -> Result<Fit<Vec<NarPart>>, Stop> {
    list(c, ("number of parts", MAX_PARTS), |c| {
        let (number, start, len) = (c.u64()?, c.u64()?, c.u64()?);
        let index = usize::try_from(number).ok().filter(|at| *at < paths);
        let index = index.ok_or_else(|| format!("expected one of {paths} paths, got {number}"));
        Ok(index.map(|index| NarPart { index, start, len }))
    })
}

/// So many of something, at most `max`.
fn list<T>(
    c: &mut Cursor<'_>,
    (field, max): (&'static str, usize),
    mut item: impl FnMut(&mut Cursor<'_>) -> Result<Fit<T>, Stop>,
) -> Result<Fit<Vec<T>>, Stop> {
    let mut items = Ok(Vec::new());
    for _ in 0..c.length(field, max)? {
        let next = item(c)?;
        items = both(items, next).map(|(mut items, next)| {
            items.push(next);
            items
        });
    }
    Ok(items)
}

fn level(c: &mut Cursor<'_>, min: u8) -> Result<Fit<u8>, Stop> {
    let number = c.u64()?;
    Ok(match u8::try_from(number) {
        Ok(level) if (min..=MAX_LEVEL).contains(&level) => Ok(level),
        _ => Err(format!(
            "level of zstd: expected {min} to {MAX_LEVEL}, got {number}"
        )),
    })
}
