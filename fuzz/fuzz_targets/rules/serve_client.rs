//! Rules of what a client decodes. The first byte tells what comes:
//!
//! | byte | then |
//! | --- | --- |
//! | `h` | the server's hello |
//! | `H` | two bytes that tell how much banner comes first, then the hello |
//! | `i` | a byte that is the minor version, then replies to QueryPathInfos |
//! | any other | replies that are sets |
//!
//! 1. However the bytes are cut, the same is decoded; after an error nothing more is. Memory is taken in
//!    proportion to the bytes that have come.
//! 2. What is decoded, the server's side encodes to the same bytes; where the wire leaves a choice (order
//!    and number of references, spelling of hashes) to what decodes to the same.
//! 3. An entry that cannot be read is stepped over whole, whatever follows; it is told printably.
//! 4. No byte of a hello is lost or invented: banner, magic, version, the rest.

use bytes::BytesMut;
use ssh_substituter::model::{MAX_PATH_LEN, PathInfo, StorePath};
use ssh_substituter::wire::serve::{
    InfosDecoder, InfosStep, MAX_BANNER, MAX_CA_OR_SIG_LEN, MAX_SET, MAX_SIGS, SERVER_MAGIC,
    ServerHello, SetDecoder, Unreadable, Version, put_info, put_infos_end, put_set,
};
use ssh_substituter::wire::{Cursor, Stop, WireError};

use super::memory;
use super::pieces::{cuts, decode, feed};

/// All rules, for any bytes.
pub fn check(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else {
        return;
    };
    match kind {
        b'h' => hello(rest),
        b'H' => {
            let Some((len, rest)) = rest.split_first_chunk::<2>() else {
                return;
            };
            let banner = vec![b'-'; 2 * usize::from(u16::from_le_bytes(*len))];
            hello(&[&banner, rest].concat());
        }
        b'i' => {
            if let Some((minor, rest)) = rest.split_first() {
                infos(Version::new(2, minor % 9), rest);
            }
        }
        _ => sets(rest),
    }
}

fn hello(input: &[u8]) {
    let magic = SERVER_MAGIC.to_le_bytes();
    let mut hello = ServerHello::default();
    let mut buf = BytesMut::from(input);
    let _ = memory::within(input.len(), || hello.step(&mut buf));
    let outcomes = cuts(input).map(|pieces| {
        let mut hello = ServerHello::default();
        let outcome = feed(&pieces, |_| true, |buf| hello.step(buf));
        let banner = hello.banner().to_vec();
        if outcome.error.is_some() {
            assert!(banner.len() > MAX_BANNER);
            return (outcome.error.is_some(), outcome.items, Vec::new());
        }
        assert!(banner.len() <= MAX_BANNER);
        // After the banner the magic was taken, or what may be its beginning was left.
        let (taken, rest) = input.split_at(outcome.taken);
        match &outcome.items[..] {
            [] if taken == banner => assert!(rest.len() < magic.len(), "{rest:?}"),
            [] => {
                assert_eq!(taken, [&banner[..], &magic].concat());
                assert!(rest.len() < 8);
            }
            [(version, _)] => {
                let whole = [&banner[..], &magic, &version.to_le_bytes()].concat();
                assert_eq!(taken, whole);
                negotiated(*version);
            }
            more => panic!("several versions: {more:?}"),
        }
        (false, outcome.items, banner)
    });
    let [one, others @ ..] = outcomes;
    for other in others {
        assert_eq!(other, one, "it matters how the bytes are cut");
    }
}

fn negotiated(theirs: u64) {
    let Some(common) = Version::NEWEST.negotiate(theirs) else {
        return;
    };
    assert!(common <= Version::NEWEST && common >= Version::OLDEST);
    assert!(common.number() <= theirs);
    // Asked for the version that was agreed on, everybody agrees.
    assert_eq!(Version::NEWEST.negotiate(common.number()), Some(common));
}

fn infos(version: Version, input: &[u8]) {
    let begin = || {
        let mut decoder = InfosDecoder::new(version);
        move |buf: &mut BytesMut| decoder.step(buf)
    };
    let outcome = decode(input, |_| false, begin);
    for (step, span) in outcome.spans(input) {
        let mut out = Vec::new();
        let info = match step {
            InfosStep::Info(info) => info,
            InfosStep::Unreadable(entry) => {
                unreadable(version, entry, span);
                continue;
            }
            InfosStep::End => {
                put_infos_end(&mut out);
                assert_eq!(out, span);
                continue;
            }
        };
        put_info(&mut out, version, info);
        if is_canonical(version, info, span) {
            assert_eq!(out, span);
        }
        let again = InfosDecoder::new(version).step(&mut BytesMut::from(&out[..]));
        assert_eq!(again.as_ref(), Ok(&Some(step.clone())));
        limits(info);
    }
}

fn unreadable(version: Version, entry: &Unreadable, span: &[u8]) {
    super::assert_plain(&format!("{}: {}", entry.path, entry.why));
    let mut decoder = InfosDecoder::new(version);
    let mut buf = BytesMut::from(span);
    put_end(&mut buf);
    let again = decoder.step(&mut buf);
    assert_eq!(again, Ok(Some(InfosStep::Unreadable(entry.clone()))));
    assert_eq!(decoder.step(&mut buf), Ok(Some(InfosStep::End)));
}

fn put_end(buf: &mut BytesMut) {
    let mut out = Vec::new();
    put_infos_end(&mut out);
    buf.extend_from_slice(&out);
}

fn limits(info: &PathInfo) {
    assert!(info.references.len() <= MAX_SET && info.sigs.len() <= MAX_SIGS);
    assert!(info.references.is_sorted() && info.references.windows(2).all(|two| two[0] != two[1]));
    let dir = info.path.store_dir();
    assert!(info.references.iter().all(|path| path.store_dir() == dir));
    let small = info.ca.iter().chain(&info.sigs);
    assert!(
        small
            .into_iter()
            .all(|text| text.len() <= MAX_CA_OR_SIG_LEN)
    );
}

/// Whether the wire had the references sorted and each once, and the hash spelled as the encoder does.
fn is_canonical(version: Version, info: &PathInfo, span: &[u8]) -> bool {
    let parts = |c: &mut Cursor<'_>| -> Result<bool, Stop> {
        c.string("path", MAX_PATH_LEN)?;
        c.string("deriver", MAX_PATH_LEN)?;
        let count = c.length("references", MAX_SET)?;
        for place in 0..count {
            let reference = c.string("reference", MAX_PATH_LEN)?;
            let same = info
                .references
                .get(place)
                .map(|path| path.as_str().as_bytes());
            if same != Some(reference) {
                return Ok(false);
            }
        }
        c.bytes(16)?;
        let hash = info.nar_hash.map(|hash| hash.to_string());
        Ok(count == info.references.len()
            && (!version.has_hash() || hash.as_deref() == Some(c.text("hash", MAX_CA_OR_SIG_LEN)?)))
    };
    parts(&mut Cursor::new(span)).expect("it was decoded before")
}

fn sets(input: &[u8]) {
    let keep = |bytes: &[u8]| match StorePath::from_bytes(bytes) {
        Ok(path) => Ok(Some(path)),
        Err(error) => Err(WireError::new("store path", "one", error)),
    };
    let outcome = decode(
        input,
        |_| false,
        || {
            let mut decoder = SetDecoder::default();
            move |buf: &mut BytesMut| decoder.step(buf, keep)
        },
    );
    for (paths, span) in outcome.spans(input) {
        let mut out = Vec::new();
        put_set(&mut out, paths);
        assert_eq!(out, span);
    }
}
