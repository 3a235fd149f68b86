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

/// Takes lines off a buffer that nobody else takes from, without a second look at what has come of one.
#[derive(Debug, Default)]
pub struct LineDecoder {
    /// How much of the buffer holds no line feed.
    looked: usize,
}

impl LineDecoder {
    /// Takes a line off the buffer, without its line feed; `None` when it has not come whole.
    ///
    /// # Errors
    /// When more than [`MAX_LINE`] bytes come without a line feed.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::samples::{bare, path};
    use proptest::prelude::*;

    fn store_paths() -> impl Strategy<Value = StorePath> {
        "[0-9a-df-np-sv-z]{32}-[a-z0-9+_?=]{1,20}"
            .prop_map(|base| StorePath::parse(&format!("/nix/store/{base}")).unwrap())
    }

    proptest! {
        #[test]
        fn requests_survive(paths in proptest::collection::vec(store_paths(), 0..6), info: bool) {
            let (word, kind) = if info { ("info", QueryKind::Info) } else { ("have", QueryKind::Have) };
            let mut bytes = Vec::new();
            put_query(&mut bytes, word, &paths);
            let (mut buf, mut decoder) = (BytesMut::new(), LineDecoder::default());
            let mut line = None;
            for byte in bytes {
                prop_assert_eq!(&line, &None);
                buf.extend_from_slice(&[byte]);
                line = decoder.step(&mut buf).unwrap();
            }
            prop_assert_eq!(parse_query(&line.unwrap()), Query { kind, paths, bad: vec![], more_bad: 0 });
        }

        #[test]
        fn nothing_panics(line in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse_query(&line);
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
    fn replies_are_what_nix_reads() {
        let [a, b] =
            ["a", "b"].map(|name| path(&format!("7rjj86a15146cq1d3qy068lml7n7ykzm-{name}")));
        let mut out = Vec::new();
        put_have(&mut out, &[a.clone(), b.clone()]);
        put_have(&mut out, &[]);
        let full = PathInfo {
            deriver: Some(b.clone()),
            references: vec![a.clone(), b.clone()],
            download_size: 5,
            nar_size: u64::MAX,
            ..bare(a.clone())
        };
        let bare = PathInfo {
            deriver: None,
            references: vec![],
            ..full.clone()
        };
        put_infos(&mut out, [&full, &bare]);
        put_infos(&mut out, []);
        let most = u64::MAX;
        let want =
            format!("{a}\n{b}\n\n\n{a}\n{b}\n2\n{a}\n{b}\n5\n{most}\n{a}\n\n0\n5\n{most}\n\n\n");
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut buf = BytesMut::from(&vec![b'x'; MAX_LINE + 1][..]);
        assert!(LineDecoder::default().step(&mut buf).is_err());
    }
}
