//! Programs that claim to be ours, and send what was not asked for.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::BytesMut;
use ssh_substituter::config::host::Host;
use ssh_substituter::remote::{BasePart, FileOfPath, RemoteErrorKind, SegmentReader};
use ssh_substituter::transport::{Channel, Program, Transport, TransportError};
use ssh_substituter::wire::nar::layout::{Entry, EntryKind, FileRange, Layout};
use ssh_substituter::wire::put_u64;
use ssh_substituter::wire::serve::extension::{
    Incoming, RequestDecoder, Status, max_frame_len, put_busy, put_end, put_entry, put_piece_head,
};
use ssh_substituter::wire::serve::{
    Incoming as ServeIncoming, Request as ServeRequest, SERVER_MAGIC, Version, put_set,
    take_client_hello,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Nobody, open, parse};

const PATH: &str = "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-a";
const LEN: u64 = 1000;

/// Answers each request for parts with these bytes, and with the same again if there are none.
struct Liar(Vec<u8>);

#[async_trait]
impl Transport for Liar {
    async fn open(&self, _: &Host, _: Program) -> Result<Channel, TransportError> {
        let (stdin, mut server_in) = tokio::io::duplex(1 << 16);
        let (stdout, mut server_out) = tokio::io::duplex(1 << 16);
        let lie = self.0.clone();
        tokio::spawn(async move {
            let mut buf = BytesMut::new();
            let mut is_greeted = false;
            let mut requests = RequestDecoder::new(true);
            loop {
                let mut out = Vec::new();
                if !is_greeted {
                    if take_client_hello(&mut buf).unwrap().is_some() {
                        is_greeted = true;
                        put_u64(&mut out, SERVER_MAGIC);
                        put_u64(&mut out, Version::NEWEST.number());
                    }
                } else {
                    match requests.step(&mut buf).unwrap() {
                        Some(Incoming::Serve(ServeIncoming::Request(
                            ServeRequest::QueryValidPaths { paths, .. },
                        ))) => put_set(&mut out, &paths),
                        Some(_) => out.extend_from_slice(&lie),
                        None => {}
                    }
                }
                if !out.is_empty() {
                    if server_out.write_all(&out).await.is_err() {
                        return;
                    }
                } else if server_in.read_buf(&mut buf).await.unwrap_or(0) == 0 {
                    return;
                }
            }
        });
        Ok(Channel {
            stdin: Box::new(stdin),
            stdout: Box::new(stdout),
            stderr: Box::new(tokio::io::empty()),
            child: Box::new(Nobody),
            opened_in: None,
        })
    }
}

/// A file whose NAR has some bytes more than it.
fn layout() -> Layout {
    let kind = EntryKind::File {
        executable: false,
        size: 2 * LEN,
    };
    Layout::new(parse(PATH), vec![Entry { path: b"", kind }]).unwrap()
}

fn reply(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in body.chunks(200_000) {
        put_piece_head(&mut out, piece.len());
        out.extend_from_slice(piece);
    }
    put_end(&mut out, Status::Done, "");
    out
}

fn busy(times: usize) -> Vec<u8> {
    let mut out = Vec::new();
    (0..times).for_each(|_| put_busy(&mut out));
    out
}

fn frame(contents: &[u8]) -> Vec<u8> {
    zstd::encode_all(contents, 3).unwrap()
}

/// What a chunk of [`LEN`] bytes fails with that is answered so.
async fn chunk_fails(lie: Vec<u8>, level: Option<u8>) -> String {
    let began = Instant::now();
    let mut channel = open(&Liar(lie)).await;
    channel.request(&layout().segment(0, LEN), level);
    let error = channel.segment().await.unwrap_err();
    assert!(
        matches!(error.kind, RemoteErrorKind::Protocol { .. }),
        "{error}"
    );
    assert!(!channel.is_clean());
    assert!(channel.segment().await.is_err(), "is used further");
    assert!(began.elapsed().as_secs() < 10);
    error.to_string()
}

#[tokio::test]
async fn a_chunk_of_another_length_is_refused() {
    let len = usize::try_from(LEN).unwrap();
    for (lie, level, what) in [
        (
            reply(&vec![7; len - 1]),
            None,
            "expected 1000 bytes, got 999",
        ),
        (reply(&[]), None, "expected 1000 bytes, got 0"),
        (
            reply(&vec![7; len + 1]),
            None,
            "expected 1000 bytes, got more",
        ),
        (reply(&vec![7; 10_000_000]), None, "got more"),
        (reply(&frame(&vec![7; len - 1])), Some(3), "got 999"),
        (reply(&frame(&vec![7; len + 1])), Some(3), "got more"),
        // A bomb: a gigabyte in some kilobytes.
        (reply(&frame(&vec![0; 1 << 30])), Some(3), "got more"),
        (reply(&[]), Some(3), "got a cut one"),
        (reply(&frame(&vec![7; len])[..9]), Some(3), "got a cut one"),
        (
            reply(&[frame(&vec![7; len]), frame(b"more")].concat()),
            Some(3),
            "got more behind it",
        ),
        (reply(&vec![7; len]), Some(3), "a frame of zstd's"),
        // Endless, and nothing is in it.
        (
            reply(&[&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58][..], &[0; 60_000]].concat()),
            Some(3),
            "got more",
        ),
        (busy(1), None, "length of a piece"),
    ] {
        let error = chunk_fails(lie, level).await;
        assert!(error.contains(what), "{error}");
    }
}

#[tokio::test]
async fn a_window_that_takes_too_much_memory_is_refused() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    std::io::Write::write_all(&mut encoder, &vec![7; 200 << 20]).unwrap();
    let error = chunk_fails(reply(&encoder.finish().unwrap()[..1000]), Some(3)).await;
    assert!(error.contains("a frame of zstd's"), "{error}");
}

#[tokio::test]
async fn a_digest_is_32_bytes_and_does_not_take_for_ever() {
    for (lie, is_one) in [
        (reply(&[7; 32]), true),
        ([busy(700), reply(&[7; 32])].concat(), true),
        (reply(&[7; 31]), false),
        (reply(&[7; 33]), false),
        (busy(721), false),
    ] {
        let mut channel = open(&Liar(lie)).await;
        channel.request_digest(&layout().segment(0, LEN));
        let digest = channel.digest().await;
        assert_eq!(digest.is_ok(), is_one, "{digest:?}");
    }
}

#[tokio::test]
async fn a_listing_has_limits_and_has_to_be_a_tree() {
    let entry = |path: &[u8]| {
        let mut out = Vec::new();
        let kind = EntryKind::Directory;
        put_entry(&mut out, &Entry { path, kind });
        out
    };
    // None of these breaks the connection.
    for listing in [
        vec![],
        entry(b"a"),
        entry(b"").repeat(2),
        entry(b"")[..9].to_vec(),
        [entry(b""), entry(b"../a")].concat(),
        entry(b"").repeat(200_001),
    ] {
        let mut channel = open(&Liar(reply(&frame(&listing)))).await;
        let listed = channel.list(&parse(PATH)).await.unwrap();
        assert!(listed.is_none() && channel.is_clean());
    }
    // More than was allowed for does.
    let mut channel = open(&Liar(reply(&frame(&vec![0; 1 << 30])))).await;
    let error = channel.list(&parse(PATH)).await.unwrap_err();
    assert!(error.to_string().contains("got more"), "{error}");
    let mut channel = open(&Liar(reply(&frame(&entry(b""))))).await;
    assert!(channel.list(&parse(PATH)).await.unwrap().is_some());
}

#[tokio::test]
async fn what_it_says_of_a_refusal_cannot_steer_a_terminal() {
    let mut lie = Vec::new();
    put_end(&mut lie, Status::Failed, "\x1b[2Jgone\n");
    let mut channel = open(&Liar(lie)).await;
    channel.request(&layout().segment(0, LEN), None);
    let error = channel.segment().await.unwrap_err();
    assert!(channel.is_clean(), "the next reply may be read");
    let text = error.to_string();
    assert!(text.contains("gone") && !text.contains('\x1b'), "{text:?}");
}

/// Somebody who wants differences of a file of [`LEN`] bytes.
struct Wanting(SegmentReader);

impl Wanting {
    async fn from(lie: Vec<u8>) -> Self {
        let channel = open(&Liar(lie)).await;
        Self(SegmentReader::Extension(Box::new(channel)))
    }

    fn request_patch(&mut self) {
        let path = parse(PATH);
        let base = BasePart {
            path: &path,
            file: b"",
            start: 0,
            len: LEN,
        };
        self.0.request_patch(&[&path], &file(), base, 3);
    }
}

fn file() -> FileOfPath {
    FileOfPath {
        index: 0,
        nar_start: 0,
        range: FileRange {
            path: Vec::new(),
            size: LEN,
            offset: 0,
            len: LEN,
        },
    }
}

#[tokio::test]
async fn differences_that_are_none_are_noticed() {
    let path = parse(PATH);
    let longest = usize::try_from(max_frame_len(LEN)).unwrap();
    let mut wanting = Wanting::from(reply(&vec![7; longest + 1])).await;
    wanting.request_patch();
    let error = wanting.0.difference().await.unwrap_err();
    assert!(
        matches!(error.kind, RemoteErrorKind::Protocol { .. }),
        "{error}"
    );
    assert!(!wanting.0.is_clean());
    // What may be the fault of a file here costs the path only.
    let too_much = frame(&vec![7; longest]);
    for lie in [&b"no frame"[..], b"", &frame(b"too little"), &too_much] {
        let mut wanting = Wanting::from(reply(lie)).await;
        let reader = &mut wanting.0;
        reader.request_survey(&[&path], std::iter::once((0, &b"a"[..])));
        let survey = reader.difference().await.unwrap().unwrap();
        assert!(survey.surveyed(&[&path]).is_none());
        reader.request_files(&[&path], &[file()], 3);
        let files = reader.difference().await.unwrap().unwrap();
        assert!(files.contents(LEN).is_err());
        wanting.request_patch();
        let patch = wanting.0.difference().await.unwrap().unwrap();
        assert!(patch.patched(&[7; 1000], LEN).is_err());
        assert!(wanting.0.is_clean());
    }
}

#[tokio::test]
async fn a_host_that_is_at_work_is_seen_to_be() {
    let mut wanting = Wanting::from(busy(3)).await;
    let meter = wanting.0.meter();
    wanting.request_patch();
    let difference = wanting.0.difference();
    let waited = tokio::time::timeout(Duration::from_secs(1), difference);
    assert!(waited.await.is_err());
    assert_eq!(meter.load(Ordering::Relaxed), 3);
}
