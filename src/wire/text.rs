//! The classic text protocol of Nix 1.x substituters.
//!
//! ```text
//! --query       stdout: LF                       a line that the caller ignores
//!               stdin:  "have" { SP path } LF    stdout: { path LF } LF
//!               stdin:  "info" { SP path } LF    stdout: { path LF deriver LF count LF
//!                                                  { reference LF } download-size LF nar-size LF } LF
//! --substitute  stdout: LF [ hash ] LF
//! ```
//!
//! Words are separated by spaces; one at the end of a line is normal. Sizes are decimal, 0 when
//! unknown. A request line has at most 16 MiB.

use std::io::Write;

use bytes::{Buf, BytesMut};

use super::{WireError, printable};
use crate::model::{PathInfo, StorePath, StorePathError};

/// Longest request line, in bytes, without its line feed.
pub const MAX_LINE: usize = 16 << 20;

/// Most words of a request that are reported when they are not store paths.
pub const MAX_BAD: usize = 8;

/// A request, and the words in it that are not store paths (which nobody has).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// What is asked.
    pub kind: QueryKind,
    /// About which paths.
    pub paths: Vec<StorePath>,
    /// What was named beside them, at most [`MAX_BAD`] words.
    pub bad: Vec<StorePathError>,
    /// How many such words there were besides.
    pub more_bad: usize,
}

/// What a request asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryKind {
    /// Which of the paths are there?
    Have,
    /// What is known about the paths?
    Info,
    /// A request that the protocol does not have; the word in it, made printable.
    Unknown(String),
}

/// Takes a line off the buffer, without its line feed; `None` when it has not come whole.
///
/// # Errors
/// When more than [`MAX_LINE`] bytes come without a line feed.
pub fn take_line(buf: &mut BytesMut) -> Result<Option<BytesMut>, WireError> {
    LineDecoder::default().step(buf)
}

/// Takes lines off a buffer that nobody else takes from, without a second look at what has come of one.
#[derive(Debug, Default)]
pub struct LineDecoder {
    /// How much of the buffer holds no line feed.
    looked: usize,
}

impl LineDecoder {
    /// As [`take_line`].
    ///
    /// # Errors
    /// As [`take_line`].
    pub fn step(&mut self, buf: &mut BytesMut) -> Result<Option<BytesMut>, WireError> {
        let Some(end) = line_end(buf, self.looked)? else {
            self.looked = buf.len();
            return Ok(None);
        };
        self.looked = 0;
        let line = buf.split_to(end);
        buf.advance(1);
        Ok(Some(line))
    }
}

/// Where the first line ends, of which nothing does in the first `looked` bytes.
fn line_end(buf: &[u8], looked: usize) -> Result<Option<usize>, WireError> {
    let looked = looked.min(buf.len());
    let found = buf[looked..].iter().position(|b| *b == b'\n');
    match found.map(|at| looked + at) {
        Some(end) if end <= MAX_LINE => Ok(Some(end)),
        None if buf.len() <= MAX_LINE => Ok(None),
        _ => Err(too_long(buf)),
    }
}

fn too_long(buf: &[u8]) -> WireError {
    let most = format!("at most {MAX_LINE} bytes");
    WireError::new("request line", most, printable(buf))
}

/// Parses a request line.
#[must_use]
pub fn parse_query(line: &[u8]) -> Query {
    let mut words = line.split(|b| *b == b' ').filter(|word| !word.is_empty());
    let kind = match words.next() {
        Some(b"have") => QueryKind::Have,
        Some(b"info") => QueryKind::Info,
        word => QueryKind::Unknown(printable(word.unwrap_or(b""))),
    };
    let (mut paths, mut bad, mut more_bad) = (Vec::new(), Vec::new(), 0);
    for word in words {
        match StorePath::from_bytes(word) {
            Ok(path) => paths.push(path),
            Err(error) if bad.len() < MAX_BAD => bad.push(error),
            Err(_) => more_bad += 1,
        }
    }
    Query {
        kind,
        paths,
        bad,
        more_bad,
    }
}

/// Appends a request line.
pub fn put_query(out: &mut Vec<u8>, word: &str, paths: &[StorePath]) {
    out.extend_from_slice(word.as_bytes());
    for path in paths {
        out.push(b' ');
        out.extend_from_slice(path.as_str().as_bytes());
    }
    out.push(b'\n');
}

/// Appends the reply to `have`.
pub fn put_have(out: &mut Vec<u8>, paths: &[StorePath]) {
    for path in paths {
        put_line(out, path.as_str());
    }
    out.push(b'\n');
}

/// Appends the reply to `info`.
pub fn put_infos<'a>(out: &mut Vec<u8>, infos: impl IntoIterator<Item = &'a PathInfo>) {
    for info in infos {
        put_line(out, info.path.as_str());
        put_line(out, info.deriver.as_ref().map_or("", StorePath::as_str));
        put_line(out, info.references.len());
        for reference in &info.references {
            put_line(out, reference);
        }
        put_line(out, info.download_size);
        put_line(out, info.nar_size);
    }
    out.push(b'\n');
}

fn put_line(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    // A Vec takes everything.
    let _ = writeln!(out, "{value}");
}

/// The caller's side of the replies.
pub mod caller {
    use super::{Buf, BytesMut, PathInfo, StorePath, WireError, line_end, printable, take_line};

    /// Takes the lines of a reply to `have`, up to the empty one that ends it. `lines` keeps what
    /// has come so far.
    ///
    /// # Errors
    /// When a line is not a store path or too long; it stays in the buffer.
    pub fn take_have(
        buf: &mut BytesMut,
        lines: &mut Vec<StorePath>,
    ) -> Result<Option<Vec<StorePath>>, WireError> {
        while let Some(end) = line_end(buf, 0)? {
            // A line that is wrong stays, so that nobody goes on behind it.
            let path = (end > 0).then(|| path(&buf[..end])).transpose()?;
            buf.advance(end + 1);
            match path {
                Some(path) => lines.push(path),
                None => return Ok(Some(std::mem::take(lines))),
            }
        }
        Ok(None)
    }

    /// Takes one info of a reply to `info`; `Some(None)` is the end of the reply.
    ///
    /// # Errors
    /// When a line is not what the protocol has there.
    pub fn take_info(buf: &mut BytesMut) -> Result<Option<Option<PathInfo>>, WireError> {
        // Lines are taken off a copy: an info that has not come whole stays in the buffer.
        let mut rest = buf.clone();
        let info = info(&mut rest)?;
        if info.is_some() {
            *buf = rest;
        }
        Ok(info)
    }

    fn info(buf: &mut BytesMut) -> Result<Option<Option<PathInfo>>, WireError> {
        macro_rules! line {
            () => {
                match take_line(buf)? {
                    Some(line) => line,
                    None => return Ok(None),
                }
            };
        }
        let first = line!();
        if first.is_empty() {
            return Ok(Some(None));
        }
        let path = self::path(&first)?;
        let deriver = match line!() {
            line if line.is_empty() => None,
            line => Some(self::path(&line)?),
        };
        let mut references = Vec::new();
        for _ in 0..number(&line!())? {
            references.push(self::path(&line!())?);
        }
        Ok(Some(Some(PathInfo {
            path,
            deriver,
            references,
            download_size: number(&line!())?,
            nar_size: number(&line!())?,
            nar_hash: None,
            ca: None,
            sigs: Vec::new(),
        })))
    }

    fn path(line: &[u8]) -> Result<StorePath, WireError> {
        StorePath::from_bytes(line)
            .map_err(|_| WireError::new("reply", "a store path", printable(line)))
    }

    fn number(line: &[u8]) -> Result<u64, WireError> {
        // `parse` would take a plus sign.
        let digits = line.iter().all(u8::is_ascii_digit);
        std::str::from_utf8(line)
            .ok()
            .filter(|_| digits)
            .and_then(|line| line.parse().ok())
            .ok_or_else(|| WireError::new("reply", "a decimal number", printable(line)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn store_paths() -> impl Strategy<Value = StorePath> {
        "[0-9a-df-np-sv-z]{32}-[a-z0-9+_?=]{1,20}"
            .prop_map(|base| StorePath::parse(&format!("/nix/store/{base}")).unwrap())
    }

    fn infos() -> impl Strategy<Value = PathInfo> {
        let refs = proptest::collection::vec(store_paths(), 0..5);
        (
            store_paths(),
            proptest::option::of(store_paths()),
            refs,
            any::<(u64, u64)>(),
        )
            .prop_map(|(path, deriver, references, sizes)| PathInfo {
                path,
                deriver,
                references,
                download_size: sizes.0,
                nar_size: sizes.1,
                nar_hash: None,
                ca: None,
                sigs: vec![],
            })
    }

    proptest! {
        #[test]
        fn requests_survive(paths in proptest::collection::vec(store_paths(), 0..6), info: bool) {
            let (word, kind) = if info { ("info", QueryKind::Info) } else { ("have", QueryKind::Have) };
            let mut bytes = Vec::new();
            put_query(&mut bytes, word, &paths);
            let mut buf = BytesMut::new();
            let mut line = None;
            for byte in bytes {
                prop_assert_eq!(&line, &None);
                buf.extend_from_slice(&[byte]);
                line = take_line(&mut buf).unwrap();
            }
            prop_assert_eq!(parse_query(&line.unwrap()), Query { kind, paths, bad: vec![], more_bad: 0 });
        }

        #[test]
        fn replies_survive_byte_by_byte(infos in proptest::collection::vec(infos(), 0..4)) {
            let mut bytes = Vec::new();
            put_infos(&mut bytes, &infos);
            let (mut buf, mut got, mut ended) = (BytesMut::new(), Vec::new(), false);
            for byte in bytes {
                prop_assert!(!ended);
                buf.extend_from_slice(&[byte]);
                match caller::take_info(&mut buf).unwrap() {
                    Some(Some(info)) => got.push(info),
                    Some(None) => ended = true,
                    None => {}
                }
            }
            prop_assert!(ended);
            prop_assert_eq!(got, infos);
        }

        #[test]
        fn have_survives_byte_by_byte(paths in proptest::collection::vec(store_paths(), 0..6)) {
            let mut bytes = Vec::new();
            put_have(&mut bytes, &paths);
            let (mut buf, mut lines, mut got) = (BytesMut::new(), Vec::new(), None);
            for byte in bytes {
                prop_assert_eq!(&got, &None);
                buf.extend_from_slice(&[byte]);
                got = caller::take_have(&mut buf, &mut lines).unwrap();
            }
            prop_assert_eq!(got, Some(paths));
        }

        #[test]
        fn nothing_panics(line in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse_query(&line);
            let _ = caller::take_info(&mut BytesMut::from(&line[..]));
        }
    }

    #[test]
    fn odd_words_and_spaces_are_borne() {
        let good = "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-a";
        let query = parse_query(format!("have  {good} /etc \u{1b} ").as_bytes());
        assert_eq!(query.kind, QueryKind::Have);
        assert_eq!(query.paths.len(), 1);
        assert_eq!(query.bad.len(), 2);
        assert_eq!(
            parse_query(b"\x1b[31m x").kind,
            QueryKind::Unknown(r#""\x1b[31m""#.to_owned())
        );
        assert_eq!(parse_query(b"").kind, QueryKind::Unknown("\"\"".to_owned()));
    }

    #[test]
    fn of_words_that_are_no_store_paths_a_few_are_kept() {
        let query = parse_query(b"have");
        assert!(query.bad.is_empty() && query.more_bad == 0);
        let query = parse_query(format!("have{}", " x".repeat(MAX_BAD + 5)).as_bytes());
        assert_eq!((query.bad.len(), query.more_bad), (MAX_BAD, 5));
    }

    #[test]
    fn nobody_goes_on_behind_a_wrong_line() {
        let reply = "/etc\n/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-a\n\n";
        let mut buf = BytesMut::from(reply.as_bytes());
        for _ in 0..2 {
            assert!(caller::take_have(&mut buf, &mut Vec::new()).is_err());
            assert_eq!(buf, reply);
            assert!(caller::take_info(&mut buf).is_err());
        }
    }

    #[test]
    fn numbers_of_a_reply_are_digits() {
        let path = "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-a";
        let take = |number: &str| {
            let reply = format!("{path}\n\n0\n{number}\n7\n");
            caller::take_info(&mut BytesMut::from(reply.as_bytes()))
        };
        let info = take("18446744073709551615").unwrap().unwrap().unwrap();
        assert_eq!((info.download_size, info.nar_size), (u64::MAX, 7));
        for number in ["", "+5", "-5", "5 ", "0x5", "18446744073709551616"] {
            assert!(take(number).is_err(), "{number:?}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut buf = BytesMut::from(&vec![b'x'; MAX_LINE + 1][..]);
        assert!(take_line(&mut buf).is_err());
    }
}
