use bytes::BytesMut;
use proptest::prelude::*;

use super::reply::BUSY;
use super::*;
use crate::wire::nar::layout::{Entry, EntryKind, Layout};
use crate::wire::serve::Incoming as ServeIncoming;
use crate::wire::serve::Request as ServeRequest;
use crate::wire::{WireError, put_string, put_u64};

fn path() -> StorePath {
    StorePath::parse("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-a").unwrap()
}

fn requests() -> [Request; 7] {
    let path = path();
    [
        Request::List {
            path: path.clone(),
            level: 3,
        },
        Request::Chunk {
            path: path.clone(),
            start: 1 << 40,
            len: 2 << 20,
            level: 0,
        },
        Request::Digest {
            path: path.clone(),
            start: 0,
            len: u64::MAX,
            contents_only: true,
        },
        Request::Delta {
            part: NarRange {
                path: path.clone(),
                start: 7,
                len: 1 << 20,
            },
            base: FilePart {
                path: path.clone(),
                name: b"bin/a".to_vec(),
                start: 1 << 33,
                len: 0,
            },
            level: 19,
        },
        Request::Nars {
            paths: vec![path.clone(); 3],
            level: 0,
        },
        Request::Survey {
            paths: [&b""[..], b"a\0b c\xff\0"]
                .map(|names| SurveyedPath {
                    path: path.clone(),
                    names: names.to_vec(),
                })
                .to_vec(),
            level: 3,
        },
        Request::Parts {
            paths: vec![path; 2],
            parts: [(1, 9), (0, 1 << 40), (1, 0)]
                .map(|(index, start)| NarPart {
                    index,
                    start,
                    len: 7,
                })
                .to_vec(),
            level: 1,
        },
    ]
}

#[test]
fn requests_of_both_kinds_are_told_apart_byte_by_byte() {
    let valid = ServeRequest::QueryValidPaths {
        lock: false,
        substitute: false,
        // Its count looks like an operation.
        paths: vec![path(); 2],
    };
    let mut bytes = Vec::new();
    let mut want = Vec::new();
    for request in requests() {
        request.put(&mut bytes);
        want.push(Incoming::Extension(request));
        valid.put(&mut bytes);
        want.push(Incoming::Serve(ServeIncoming::Request(valid.clone())));
    }
    for piece in [1, 7, bytes.len()] {
        let (mut decoder, mut buf, mut got) =
            (RequestDecoder::new(true), BytesMut::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            buf.extend_from_slice(piece);
            while let Some(incoming) = decoder.step(&mut buf).unwrap() {
                got.push(incoming);
            }
        }
        assert_eq!(got, want);
        assert!(decoder.is_between_requests(&buf));
    }
}

#[test]
fn what_is_no_path_or_no_level_is_told_and_the_next_request_understood() {
    let mut bytes = Vec::new();
    put_u64(&mut bytes, LIST);
    put_string(&mut bytes, b"/etc/shadow");
    put_u64(&mut bytes, 3);
    put_u64(&mut bytes, CHUNK);
    put_string(&mut bytes, path().as_str().as_bytes());
    for number in [0, 10, 20] {
        put_u64(&mut bytes, number);
    }
    let [_, _, digest, ..] = requests();
    digest.put(&mut bytes);
    let (mut decoder, mut buf) = (RequestDecoder::new(true), BytesMut::from(&bytes[..]));
    for _ in 0..2 {
        let incoming = decoder.step(&mut buf).unwrap();
        assert!(matches!(incoming, Some(Incoming::Unfit(_))), "{incoming:?}");
    }
    assert_eq!(
        decoder.step(&mut buf),
        Ok(Some(Incoming::Extension(digest)))
    );
}

/// Body, times that it was busy, and end.
fn decode(bytes: &[u8], piece: usize, may_be_busy: bool) -> Result<Decoded, WireError> {
    let (mut decoder, mut buf) = (ReplyDecoder::new(may_be_busy), BytesMut::new());
    let mut decoded = Decoded::default();
    for piece in bytes.chunks(piece) {
        buf.extend_from_slice(piece);
        while let Some(step) = decoder.step(&mut buf)? {
            match step {
                ReplyStep::Body(body) => decoded.body.extend_from_slice(&body),
                ReplyStep::Busy => decoded.busy += 1,
                ReplyStep::End(status, reason) => {
                    decoded.end = Some((status, reason));
                    decoded.left = buf.len();
                    return Ok(decoded);
                }
            }
        }
    }
    Ok(decoded)
}

#[derive(Debug, Default, PartialEq)]
struct Decoded {
    body: Vec<u8>,
    busy: u32,
    end: Option<(Status, String)>,
    left: usize,
}

proptest! {
    #[test]
    fn replies_survive_however_they_are_cut(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..5),
        status in 0..4_usize,
        reason in ".{0,30}",
        cut in 1..60_usize,
    ) {
        let mut bytes = Vec::new();
        for piece in &pieces {
            put_busy(&mut bytes);
            put_piece_head(&mut bytes, piece.len());
            bytes.extend_from_slice(piece);
        }
        put_end(&mut bytes, Status::ALL[status], &reason);
        let len = bytes.len();
        let decoded = decode(&bytes, cut, true).unwrap();
        prop_assert_eq!(&decoded.body, &pieces.concat());
        prop_assert_eq!(decoded.busy as usize, pieces.len());
        prop_assert_eq!(decoded.end, Some((Status::ALL[status], reason)));
        for end in 0..len {
            prop_assert_eq!(decode(&bytes[..end], cut, true).unwrap().end, None);
        }
    }
}

#[test]
fn pieces_busy_and_status_have_limits() {
    let head = |number: u64| {
        let mut bytes = Vec::new();
        put_u64(&mut bytes, number);
        bytes
    };
    assert!(decode(&head(MAX_PIECE as u64), 8, false).is_ok());
    assert!(decode(&head(MAX_PIECE as u64 + 1), 8, true).is_err());
    assert!(decode(&head(BUSY), 8, false).is_err(), "not in a chunk");
    assert!(decode(&head(BUSY).repeat(MAX_BUSY as usize), 8, true).is_ok());
    assert!(decode(&head(BUSY).repeat(MAX_BUSY as usize + 1), 8, true).is_err());
    assert!(decode(&[head(0), head(4), head(0)].concat(), 8, true).is_err());
    assert!(decode(&[head(0), head(1), head(1025)].concat(), 8, true).is_err());
    let mut long = Vec::new();
    put_end(&mut long, Status::Failed, &"ä".repeat(2000));
    let (_, reason) = decode(&long, 99, true).unwrap().end.unwrap();
    assert_eq!(reason, "ä".repeat(512));
}

#[test]
fn a_listing_makes_the_same_layout() {
    let file = |executable, size| EntryKind::File { executable, size };
    let entries = [
        (&b""[..], EntryKind::Directory),
        (b"a", EntryKind::Directory),
        (b"a/\xff\n", file(true, 0)),
        (b"a-b", file(false, 12)),
        (b"l", EntryKind::Symlink(b"../x y")),
    ]
    .map(|(path, kind)| Entry { path, kind });
    let mut listing = Vec::new();
    entries
        .iter()
        .for_each(|entry| put_entry(&mut listing, entry));
    let want = Layout::new(path(), entries.to_vec()).unwrap();
    let got = parse_listing(path(), &listing).unwrap();
    let pieces = |layout: &Layout| layout.segment(0, u64::MAX).pieces().collect::<Vec<_>>();
    assert_eq!(pieces(&got), pieces(&want));
    for end in 0..listing.len() {
        // What is cut between two entries is a listing of fewer of them.
        let cut = parse_listing(path(), &listing[..end]);
        assert!(cut.is_err() || cut.unwrap().entries() < entries.len());
    }
    let mut other = Vec::new();
    put_u64(&mut other, 4);
    put_string(&mut other, b"");
    assert!(parse_listing(path(), &other).is_err());
}

#[test]
fn a_survey_says_of_each_path_what_it_was_asked() {
    let asked = |names: &[u8]| SurveyedPath {
        path: path(),
        names: names.to_vec(),
    };
    let listing = {
        let (mut listing, path) = (Vec::new(), &b""[..]);
        let kind = EntryKind::Directory;
        put_entry(&mut listing, &Entry { path, kind });
        listing
    };
    let mut survey = Vec::new();
    put_survey_head(&mut survey, 0);
    put_survey_head(&mut survey, listing.len());
    survey.extend_from_slice(&listing);
    survey.extend_from_slice(&[7; 32]);
    survey.extend_from_slice(&NO_DIGEST);
    let paths = [asked(b""), asked(b"a\0b\0")];
    let [none, one] = &parse_survey(&paths, &survey).unwrap()[..] else {
        panic!("two paths");
    };
    assert!(none.layout.is_none() && none.digests.is_empty());
    assert_eq!(one.layout.as_ref().map(Layout::entries), Some(1));
    assert_eq!(one.digests, [Some([7; 32]), None]);
    for wrong in [
        &survey[..survey.len() - 1],
        &[&survey[..], b"\0"].concat(),
        &[0xff; 8],
    ] {
        assert!(parse_survey(&paths, wrong).is_err());
    }
    assert!(parse_survey(&paths[..1], &survey).is_err());
    // What is no listing costs its own path only.
    survey[16] = 9;
    let surveyed = parse_survey(&paths, &survey).unwrap();
    assert!(surveyed[1].layout.is_none() && surveyed[1].digests.len() == 2);
}

#[test]
fn what_a_survey_or_parts_ask_for_has_limits() {
    let decode = |request: &Request| {
        let mut bytes = Vec::new();
        request.put(&mut bytes);
        RequestDecoder::new(true).step(&mut BytesMut::from(&bytes[..]))
    };
    let survey = |names: Vec<u8>, count: usize| {
        let surveyed = SurveyedPath {
            path: path(),
            names,
        };
        decode(&Request::Survey {
            paths: vec![surveyed; count],
            level: 3,
        })
    };
    let half = |len: usize| [&vec![b'a'; len - 1][..], b"\0"].concat();
    assert!(survey(half(MAX_NAMES_LEN / 2), 2).is_ok());
    assert!(survey(half(MAX_NAMES_LEN / 2 + 1), 2).is_err());
    assert!(survey(vec![0; MAX_NAMES / 2], 2).is_ok());
    assert!(survey(vec![0; MAX_NAMES / 2 + 1], 2).is_err());
    assert!(survey(Vec::new(), MAX_SURVEYED).is_ok());
    assert!(survey(Vec::new(), MAX_SURVEYED + 1).is_err());
    let endless = survey(b"a\0b".to_vec(), 1).unwrap();
    assert!(matches!(endless, Some(Incoming::Unfit(_))), "{endless:?}");
    let parts = |index, count| {
        let part = NarPart {
            index,
            start: 0,
            len: 1,
        };
        decode(&Request::Parts {
            paths: vec![path()],
            parts: vec![part; count],
            level: 0,
        })
    };
    assert!(matches!(
        parts(0, MAX_PARTS),
        Ok(Some(Incoming::Extension(_)))
    ));
    assert!(parts(0, MAX_PARTS + 1).is_err());
    assert!(matches!(parts(1, 1), Ok(Some(Incoming::Unfit(_)))));
}

#[test]
fn the_feature_is_a_path_of_each_store() {
    for dir in ["/nix/store", "/gnu/store"] {
        assert!(is_feature_path(&feature_path(dir).unwrap()));
    }
    assert!(!is_feature_path(&path()));
}

#[test]
fn the_example_of_the_description_is_right() {
    let page = include_str!("../../../../substituter-protocol.md");
    let dumps: Vec<Vec<u8>> = page
        .split("```hexdump\n")
        .skip(1)
        .map(|block| {
            let lines = block.split("```").next().unwrap_or_default().lines();
            let bytes = lines.flat_map(|line| {
                let columns = line.get(4..54.min(line.len())).unwrap_or_default();
                columns
                    .split_whitespace()
                    .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            });
            bytes.collect()
        })
        .collect();
    let [.., request, reply] = &dumps[..] else {
        panic!("no example");
    };
    let mut want = Vec::new();
    let chunk = Request::Chunk {
        path: path(),
        start: 0,
        len: 16,
        level: 0,
    };
    chunk.put(&mut want);
    assert_eq!(*request, want);
    let mut nar = Vec::new();
    crate::wire::nar::magic(&mut nar);
    let mut want = Vec::new();
    put_piece_head(&mut want, 16);
    want.extend_from_slice(&nar[..16]);
    put_end(&mut want, Status::Done, "");
    assert_eq!(*reply, want);
}
