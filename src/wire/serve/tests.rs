use super::*;
use crate::model::{NarHash, PathInfo};
use crate::wire::{WireError, put_string};
use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;

fn store_paths() -> impl Strategy<Value = StorePath> {
    "[0-9a-df-np-sv-z]{32}-[a-z0-9+_?=][a-z0-9.+_?=-]{0,20}"
        .prop_map(|base| StorePath::parse(&format!("/nix/store/{base}")).unwrap())
}

fn infos() -> impl Strategy<Value = PathInfo> {
    let hash = any::<[u8; 32]>().prop_map(NarHash::new);
    (
        store_paths(),
        proptest::option::of(store_paths()),
        vec(store_paths(), 0..5),
        (0..=MAX_SIZE, 0..=MAX_SIZE),
        hash,
        proptest::option::of("fixed:r:sha256:[a-z0-9]{52}"),
        vec("[a-z.-]{1,10}:[A-Za-z0-9+/]{86}==", 0..3),
    )
        .prop_map(|(path, deriver, mut references, sizes, hash, ca, sigs)| {
            references.sort();
            references.dedup();
            PathInfo {
                path,
                deriver,
                references,
                download_size: sizes.0,
                nar_size: sizes.1,
                nar_hash: Some(hash),
                ca,
                sigs,
            }
        })
}

fn requests() -> impl Strategy<Value = Request> {
    let paths = || vec(store_paths(), 0..6);
    prop_oneof![
        (any::<bool>(), any::<bool>(), paths()).prop_map(|(lock, substitute, paths)| {
            Request::QueryValidPaths {
                lock,
                substitute,
                paths,
            }
        }),
        paths().prop_map(|paths| Request::QueryPathInfos { paths }),
        store_paths().prop_map(|path| Request::DumpStorePath { path }),
        (any::<bool>(), paths()).prop_map(|(include_outputs, paths)| Request::QueryClosure {
            include_outputs,
            paths,
        }),
    ]
}

/// Feeds `bytes` in pieces and collects what `step` gives.
fn feed<T>(
    bytes: &[u8],
    piece: usize,
    mut step: impl FnMut(&mut BytesMut) -> Result<Option<T>, WireError>,
) -> Result<Vec<T>, WireError> {
    let (mut buf, mut out) = (BytesMut::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        buf.extend_from_slice(piece);
        while let Some(value) = step(&mut buf)? {
            out.push(value);
        }
    }
    assert!(buf.is_empty(), "bytes left over");
    Ok(out)
}

proptest! {
    #[test]
    fn requests_survive(requests in vec(requests(), 1..4), piece in 1usize..60) {
        let mut bytes = Vec::new();
        requests.iter().for_each(|request| request.put(&mut bytes));
        for piece in [1, piece] {
            let mut decoder = RequestDecoder::default();
            let got = feed(&bytes, piece, |buf| decoder.step(buf)).unwrap();
            let want: Vec<_> = requests.iter().cloned().map(Incoming::Request).collect();
            prop_assert_eq!(got, want);
            prop_assert!(decoder.is_between_requests(&BytesMut::new()));
        }
    }

    #[test]
    fn infos_survive_in_every_version(infos in vec(infos(), 0..4), minor in 0u8..9, piece in 1usize..60) {
        let version = Version::new(2, minor);
        let mut bytes = Vec::new();
        infos.iter().for_each(|info| put_info(&mut bytes, version, info));
        put_infos_end(&mut bytes);
        let mut want: Vec<_> = infos.iter().cloned().map(InfosStep::Info).collect();
        if !version.has_hash() {
            for step in &mut want {
                if let InfosStep::Info(info) = step {
                    (info.nar_hash, info.ca) = (None, None);
                    info.sigs.clear();
                }
            }
        }
        want.push(InfosStep::End);
        let mut decoder = InfosDecoder::new(version);
        for piece in [1, piece] {
            prop_assert_eq!(feed(&bytes, piece, |buf| decoder.step(buf)).unwrap(), want.clone());
        }
    }

    #[test]
    fn sets_survive(paths in vec(store_paths(), 0..9), piece in 1usize..60) {
        let mut bytes = Vec::new();
        put_set(&mut bytes, &paths);
        let mut decoder = SetDecoder::default();
        let keep = |bytes: &[u8]| Ok(StorePath::from_bytes(bytes).ok());
        let got = feed(&bytes, piece, |buf| decoder.step(buf, keep)).unwrap();
        prop_assert_eq!(got, vec![paths]);
    }

    #[test]
    fn nothing_panics(bytes in vec(any::<u8>(), 0..200), op in 0u64..12) {
        let mut input = op.to_le_bytes().to_vec();
        input.extend(&bytes);
        let mut decoder = RequestDecoder::default();
        let _ = decoder.step(&mut BytesMut::from(&input[..]));
        let _ = InfosDecoder::new(Version::NEWEST).step(&mut BytesMut::from(&bytes[..]));
        let _ = ServerHello::default().step(&mut BytesMut::from(&bytes[..]));
        let _ = take_client_hello(&mut BytesMut::from(&bytes[..]));
    }

    #[test]
    fn a_banner_is_kept_apart(banner in vec(any::<u8>(), 0..300), piece in 1usize..40) {
        prop_assume!(!banner.contains(&0xcb));
        let mut bytes = banner.clone();
        put_u64(&mut bytes, SERVER_MAGIC);
        put_u64(&mut bytes, 0x207);
        let mut hello = ServerHello::default();
        prop_assert_eq!(feed(&bytes, piece, |buf| hello.step(buf)).unwrap(), vec![0x207]);
        prop_assert_eq!(hello.banner(), &banner[..]);
    }
}

#[test]
fn an_endless_banner_is_refused() {
    let mut hello = ServerHello::default();
    let mut buf = BytesMut::from(&vec![b'x'; MAX_BANNER + 8][..]);
    assert!(
        hello
            .step(&mut buf)
            .unwrap_err()
            .to_string()
            .contains("magic")
    );
}

#[test]
fn the_smaller_version_counts() {
    assert_eq!(Version::NEWEST.negotiate(0x207), Some(Version::new(2, 7)));
    assert_eq!(Version::NEWEST.negotiate(0x209), Some(Version::new(2, 8)));
    assert_eq!(Version::NEWEST.negotiate(0x200), Some(Version::new(2, 0)));
    for other in [0x101, 0x300, 0, u64::MAX] {
        assert_eq!(Version::NEWEST.negotiate(other), None);
    }
}

#[test]
fn sizes_beyond_their_limits_are_refused() {
    let refused = |build: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        build(&mut bytes);
        let mut decoder = RequestDecoder::default();
        decoder.step(&mut BytesMut::from(&bytes[..])).unwrap_err()
    };
    refused(&|out| {
        put_u64(out, QUERY_PATH_INFOS);
        put_u64(out, MAX_SET as u64 + 1);
    });
    refused(&|out| {
        put_u64(out, QUERY_PATH_INFOS);
        put_u64(out, 1);
        put_u64(out, 4097);
    });
    refused(&|out| {
        put_u64(out, DUMP_STORE_PATH);
        put_u64(out, u64::MAX);
    });
}

#[test]
fn what_is_no_store_path_does_not_break_the_step() {
    let mut bytes = Vec::new();
    put_u64(&mut bytes, QUERY_PATH_INFOS);
    put_u64(&mut bytes, 1);
    put_string(&mut bytes, b"/etc/passwd");
    put_u64(&mut bytes, DUMP_STORE_PATH);
    put_string(&mut bytes, b"/etc/passwd");
    put_u64(&mut bytes, 9);
    let mut decoder = RequestDecoder::default();
    let got = feed(&bytes, 5, |buf| decoder.step(buf)).unwrap();
    assert_eq!(
        got[0],
        Incoming::Request(Request::QueryPathInfos { paths: vec![] })
    );
    assert!(matches!(&got[1], Incoming::DumpOf(error) if error.path == "/etc/passwd"));
    let name = "AddToStoreNar";
    assert_eq!(got[2], Incoming::NotServed { op: 9, name });
}

/// An entry of a reply of this version.
fn entry(version: Version, strings: [&[u8]; 6], sizes: [u64; 2]) -> Vec<u8> {
    let [path, deriver, reference, hash, ca, sig] = strings;
    let mut out = Vec::new();
    put_string(&mut out, path);
    put_string(&mut out, deriver);
    put_u64(&mut out, 1);
    put_string(&mut out, reference);
    sizes.iter().for_each(|size| put_u64(&mut out, *size));
    if version.has_hash() {
        put_string(&mut out, hash);
        put_string(&mut out, ca);
        put_u64(&mut out, 1);
        put_string(&mut out, sig);
    }
    out
}

#[test]
fn an_entry_that_cannot_be_read_does_not_break_the_step() {
    const A: &[u8] = b"/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-a";
    const B: &[u8] = b"/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-b";
    const HASH: &[u8] = b"sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
    let good: [&[u8]; 6] = [A, b"", B, HASH, b"", b"k:AAAA"];
    let bad: [(&str, usize, &[u8]); 11] = [
        ("path of an info", 0, b"/etc/passwd"),
        (
            "path of an info",
            0,
            b"/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-..-x",
        ),
        ("deriver", 1, b"unknown-deriver"),
        (
            "deriver",
            1,
            b"/etc/store/7rjj86a15146cq1d3qy068lml7n7ykzm-b",
        ),
        ("reference", 2, b""),
        (
            "reference",
            2,
            b"/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-.",
        ),
        (
            "reference",
            2,
            b"/etc/store/7rjj86a15146cq1d3qy068lml7n7ykzm-b",
        ),
        ("NAR hash", 3, b""),
        ("NAR hash", 3, b"sha256:\xff"),
        ("content address", 4, b"\xc0"),
        ("signature", 5, b"k:\xff"),
    ];
    let large = MAX_SIZE + 1;
    for minor in [0, 3, 4, 8] {
        let version = Version::new(2, minor);
        let mut bytes = entry(version, good, [0, 8]);
        let mut want = vec![None];
        let mut add = |strings, sizes, field| {
            bytes.extend(entry(version, strings, sizes));
            bytes.extend(entry(version, good, [0, 8]));
            want.extend([Some(field), None]);
        };
        for (field, place, value) in bad {
            if place < 3 || version.has_hash() {
                let mut strings = good;
                strings[place] = value;
                add(strings, [0, 8], field);
            }
        }
        add(good, [large, 8], "download size");
        add(good, [0, large], "NAR size");
        put_infos_end(&mut bytes);
        for piece in [1, 7, 4096] {
            let mut decoder = InfosDecoder::new(version);
            let mut got = feed(&bytes, piece, |buf| decoder.step(buf)).unwrap();
            assert_eq!(got.pop(), Some(InfosStep::End));
            let fields = got.iter().map(|step| match step {
                InfosStep::Info(_) => None,
                InfosStep::Unreadable(entry) => {
                    assert!(entry.why.field == "path of an info" || entry.path.contains("ykzm-a"));
                    Some(entry.why.field)
                }
                InfosStep::End => Some("an end too early"),
            });
            assert_eq!(fields.collect::<Vec<_>>(), want, "2.{minor} by {piece}");
        }
    }
}

#[test]
fn framing_that_is_wrong_ends_a_reply() {
    let reply = |strings: &[(&[u8], u8)]| {
        let mut bytes = Vec::new();
        for (string, padding) in strings {
            put_string(&mut bytes, string);
            *bytes.last_mut().unwrap() = *padding;
        }
        let mut decoder = InfosDecoder::new(Version::NEWEST);
        decoder.step(&mut BytesMut::from(&bytes[..]))
    };
    let path = b"/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-a";
    assert_eq!(reply(&[(path, 0)]), Ok(None));
    assert!(reply(&[(path, 1)]).is_err());
    assert!(reply(&[(&[b'x'; 4097], 0)]).is_err());
    // Also behind what cannot be read.
    assert_eq!(reply(&[(b"no path", 0), (b"deriver", 0)]), Ok(None));
    assert!(reply(&[(b"no path", 0), (b"deriver", 1)]).is_err());
}
