use bytes::BytesMut;
use sha2::{Digest, Sha256};

use super::{Content, ContentCheck};
use crate::model::samples::bare;
use crate::model::{NarHash, PathInfo, StorePath};
use crate::transfer::error::PathFault;
use crate::transfer::verify::ResumePoint;
use crate::transfer::verify::{Taken, Verifier};
use crate::wire::nar::tests::{Tree, nar as archive};

/// As `nix store make-content-addressed` (Nix 2.8.0) made it: it refers to itself nine times.
const ITSELF: &str = "/nix/store/50jhzyrdsdhdjysq20a3lwgm8gkahy0d-self";
const OTHER: &str = "/nix/store/72f1hzld5g7dj6wknixkal0bd6zzy2mc-text";
const ITS_HASH: &str = "sha256-RGK6keC2aLI8SXs7sipFZbuTgH79KAihyj1WsoWjBrM=";
const ITS_ADDRESS: &str = "fixed:r:sha256:1mpn1d49d6w2xr6grcckln75zdajwa1idwbxk4mld9iwwdy6xbc0";

/// As `builtins.toFile` and `nix-store --add-fixed sha256` made them.
const TEXT: &str = "/nix/store/q3laishhmk84vl44j1973qpzkyhmr90c-text";
const TEXT_ADDRESS: &str = "text:sha256:00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq";
const FLAT: &str = "/nix/store/qvhm3byg70qdq3w2fik75qavln97vcjn-file";
const FLAT_ADDRESS: &str = "fixed:sha256:1xk2hhjr0f2n4adj1h688wlz59xpl86y1r8bd2pjasg8gy16mikb";

/// An info that promises this NAR, as a host tells it that wants to be believed.
fn promise(path: &str, references: &[&str], ca: &str, nar: &[u8]) -> PathInfo {
    let parse = |path: &str| StorePath::parse(path).unwrap();
    PathInfo {
        references: references.iter().map(|path| parse(path)).collect(),
        nar_size: nar.len() as u64,
        nar_hash: Some(NarHash::new(Sha256::digest(nar).into())),
        ca: Some(ca.to_owned()),
        ..bare(parse(path))
    }
}

fn file(contents: &[u8], executable: bool) -> Vec<u8> {
    archive(&Tree::File(executable, contents.to_vec()))
}

fn folder(contents: &[u8]) -> Vec<u8> {
    let file = Tree::File(false, contents.to_vec());
    archive(&Tree::directory([("file", file)]))
}

/// The NAR of [`ITSELF`], with these contents in its file.
fn itself(contents: &str) -> Vec<u8> {
    let file = Tree::File(false, contents.into());
    let link = Tree::Symlink(format!("{ITSELF}/bin").into());
    let bin = Tree::directory([("x", file)]);
    archive(&Tree::directory([("bin", bin), ("link", link)]))
}

fn its_contents() -> String {
    let hash = &ITSELF["/nix/store/".len()..][..32];
    format!("#!{ITSELF}/bin/x\n{OTHER} and {ITSELF}\n{ITSELF}{ITSELF} {hash}{hash}")
}

fn promise_of_itself(nar: &[u8]) -> PathInfo {
    promise(ITSELF, &[ITSELF, OTHER], ITS_ADDRESS, nar)
}

/// What comes of a NAR that arrives in pieces of so many bytes; with `break_at` the host fails there and
/// another one goes on.
fn arrive(
    info: &PathInfo,
    nar: &[u8],
    piece: usize,
    break_at: Option<usize>,
) -> Result<(), PathFault> {
    let mut stream = Verifier::new(info);
    let mut buf = BytesMut::new();
    let mut break_at = break_at;
    let mut sent = 0;
    loop {
        if break_at.is_some_and(|at| at <= sent) {
            break_at = None;
            stream.roll_back();
            buf.clear();
            sent = usize::try_from(stream.offset()).unwrap();
        }
        let end = nar.len().min(sent + piece);
        assert!(end > sent, "the NAR has an end");
        buf.extend_from_slice(&nar[sent..end]);
        sent = end;
        loop {
            match stream.take(&mut buf).unwrap() {
                Taken::Complete => return stream.verify().map(|_| ()),
                Taken::Piece(_) => {}
                Taken::NeedMore => break,
            }
        }
    }
}

/// What was expected and what came.
fn refused(info: &PathInfo, nar: &[u8]) -> (String, String) {
    mismatch(arrive(info, nar, 1000, None))
}

fn mismatch(arrived: Result<(), PathFault>) -> (String, String) {
    match arrived {
        Err(PathFault::Mismatch(expected, got)) => (expected, got),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_right_content_arrives() {
    let text = file(b"hello\n", false);
    let flat = file(b"flat\n", false);
    let executable = file(b"flat\n", true);
    let own = itself(&its_contents());
    assert_eq!(promise_of_itself(&own).nar_hash, ITS_HASH.parse().ok());
    for (info, nar) in [
        (promise(TEXT, &[], TEXT_ADDRESS, &text), text),
        (promise(FLAT, &[], FLAT_ADDRESS, &flat), flat),
        // `nix store add-file` makes such.
        (promise(FLAT, &[], FLAT_ADDRESS, &executable), executable),
        (promise_of_itself(&own), own),
    ] {
        for piece in [1, 7, 31, 32, 33, 1000] {
            assert_eq!(arrive(&info, &nar, piece, None), Ok(()), "{piece}");
        }
    }
}

#[test]
fn other_contents_are_refused_although_the_nar_is_as_promised() {
    for (path, ca, right) in [
        (TEXT, TEXT_ADDRESS, &b"hello\n"[..]),
        (FLAT, FLAT_ADDRESS, b"flat\n"),
    ] {
        for wrong in [&b"evil"[..], b"", &right[1..]] {
            let nar = file(wrong, false);
            let (expected, got) = refused(&promise(path, &[], ca, &nar), &nar);
            let right = NarHash::new(Sha256::digest(right).into());
            let wrong = NarHash::new(Sha256::digest(wrong).into());
            let words = format!("the hash {right}, from which its name follows");
            assert!(expected.ends_with(&words), "{expected}");
            assert_eq!(got, wrong.to_string());
        }
        let nar = folder(right);
        let (_, got) = refused(&promise(path, &[], ca, &nar), &nar);
        assert_eq!(got, "a directory");
        let nar = archive(&Tree::Symlink(right.to_vec()));
        let (_, got) = refused(&promise(path, &[], ca, &nar), &nar);
        assert_eq!(got, "a symlink");
    }
    let nar = file(b"hello\n", true);
    let (_, got) = refused(&promise(TEXT, &[], TEXT_ADDRESS, &nar), &nar);
    assert_eq!(got, "an executable file");
}

#[test]
fn what_a_path_says_of_itself_must_stand_where_it_stood() {
    let right = its_contents();
    let hash = &ITSELF["/nix/store/".len()..][..32];
    let zeros = "\0".repeat(32);
    for wrong in [
        right.replacen(hash, &zeros, 1),
        right.replace(hash, &zeros),
        right.replacen(hash, &hash.to_uppercase(), 1),
        right.replace("and", "AND"),
        format!("{right}{hash}"),
    ] {
        let nar = itself(&wrong);
        let (expected, got) = refused(&promise_of_itself(&nar), &nar);
        assert!(
            expected.starts_with("a NAR whose hash without"),
            "{expected}"
        );
        assert!(got.starts_with("sha256:"), "{got}");
    }
}

/// As Nix 2.17 to 2.34 count: an address of the NAR with its own hash part zeroed, and nothing behind it.
#[test]
fn an_address_without_places_is_told_from_a_wrong_one() {
    let own = itself(&its_contents());
    let hash = &ITSELF["/nix/store/".len()..][..32];
    let mut zeroed = own.clone();
    for at in 0..zeroed.len() - hash.len() {
        if zeroed[at..].starts_with(hash.as_bytes()) {
            zeroed[at..at + hash.len()].fill(0);
        }
    }
    let mut info = promise_of_itself(&own);
    // The name would have to be another: this is about what comes behind that check.
    let mut check = ContentCheck::new(&info).unwrap();
    check.expected = Content::NarWithoutSelf(Sha256::digest(&zeroed).into());
    for nar in [&own, &zeroed] {
        let mut check = check.clone();
        check.bytes(nar);
        let right = check.verify();
        // Zeros that stood there before are not told from those that are put there: hence no proof.
        let proven = *nar == zeroed;
        assert_eq!(
            right,
            if proven {
                Ok(())
            } else {
                Err(PathFault::Unproven)
            }
        );
    }
    // Without an address nothing is judged.
    info.ca = None;
    assert!(ContentCheck::new(&info).is_none());
    assert_eq!(arrive(&info, &own, 1000, None), Ok(()));
}

#[test]
fn the_nar_hash_is_checked_as_well() {
    let nar = file(b"hello\n", false);
    let mut info = promise(TEXT, &[], TEXT_ADDRESS, &nar);
    info.nar_hash = Some(NarHash::new([7; 32]));
    let (expected, _) = refused(&info, &nar);
    assert!(expected.contains("(120 bytes)"), "{expected}");
}

#[test]
fn a_host_that_breaks_off_leaves_no_trace() {
    let own = itself(&its_contents());
    let text = file(b"hello\n", false);
    for (mut info, nar) in [
        (promise(TEXT, &[], TEXT_ADDRESS, &text), text),
        (promise_of_itself(&own), own),
    ] {
        for whole in [true, false] {
            if !whole {
                // What has no size is passed on as it comes.
                info.nar_size = 0;
            }
            for at in (0..nar.len()).step_by(13) {
                for piece in [5, 64] {
                    assert_eq!(arrive(&info, &nar, piece, Some(at)), Ok(()), "{at} {piece}");
                }
            }
        }
    }
}

/// Takes pieces of so many bytes of a NAR until this many have been passed on.
fn pass_on(stream: &mut Verifier, nar: &[u8], piece: usize, at: u64) -> ResumePoint {
    let mut buf = BytesMut::new();
    let mut passed = 0;
    for bytes in nar.chunks(piece) {
        buf.extend_from_slice(bytes);
        while let Taken::Piece(piece) = stream.take(&mut buf).unwrap() {
            passed += piece.bytes.len() as u64;
            let checkpoint = piece.checkpoint.expect("it is not verified whole");
            if passed >= at {
                return ResumePoint {
                    at: passed,
                    checkpoint,
                };
            }
        }
    }
    panic!("the NAR has an end")
}

#[test]
fn a_transfer_that_goes_on_elsewhere_knows_all_of_it() {
    let nar = itself(&its_contents());
    let mut info = promise_of_itself(&nar);
    info.nar_size = 0;
    for at in [1, 300, 600] {
        let resume = pass_on(&mut Verifier::new(&info), &nar, 40, at);
        for break_at in [100, 500, 900, usize::try_from(resume.at).unwrap()] {
            let mut stream = Verifier::resumed(&info, resume.clone());
            for (sent, last) in [(&nar[..break_at], false), (&nar[..], true)] {
                let start = usize::try_from(stream.offset()).unwrap();
                let mut buf = BytesMut::from(&sent[start..]);
                let end = loop {
                    match stream.take(&mut buf).unwrap() {
                        Taken::Piece(_) => {}
                        Taken::NeedMore => break false,
                        Taken::Complete => break true,
                    }
                };
                assert_eq!(end, last);
                if !last {
                    stream.roll_back();
                }
            }
            assert!(stream.verify().is_ok(), "{at} {break_at}");
        }
    }
}

#[test]
fn endless_mentions_of_itself_are_bounded() {
    let hash = &ITSELF["/nix/store/".len()..][..32];
    let nar = itself(&hash.repeat((1 << 20) + 1));
    let (_, got) = mismatch(arrive(&promise_of_itself(&nar), &nar, 1 << 20, None));
    assert_eq!(got, "more than a million references to itself");
}
