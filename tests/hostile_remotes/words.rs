//! What a host wants people to read: words that drive a terminal, or pass for somebody else's.

use ssh_substituter::model::{PathInfo, StorePath};
use ssh_substituter::wire::put_u64;

use super::host::{Attack, Io, Line, World, hello};
use super::scene::{BOTH, Scene, User};
use super::sizes::{Tells, string};

/// Clears the screen, sets the title, asks for an answer, in 7 and in 8 bits; turns text around; passes for another line.
pub const EVIL: &str = "\x1b[2J\x1b]0;owned\x07\u{9b}5n\u{90}x\u{9c}\x7f\u{202e}txet\u{2066}\u{200f}\r\nssh-substituter: error: all is well\x08\x08\0";

/// The same in bytes that are no UTF-8.
const RAW: &[u8] = b"\x9b2J\x9d0;owned\x9c\xff\xfe\xc0\x80\xed\xa0\x80";

fn evil() -> Vec<u8> {
    [EVIL.as_bytes(), RAW].concat()
}

/// Prints before the handshake, and to stderr, and then is honest.
struct Chatters;

impl Attack for Chatters {
    fn hello(&self, line: &mut Line) -> Io {
        line.err(&evil())?;
        line.out(&evil())?;
        line.out(&hello())
    }
}

/// Says it and ends.
struct Leaves;

impl Attack for Leaves {
    fn hello(&self, line: &mut Line) -> Io {
        line.err(&evil())?;
        line.exit(3)
    }
}

/// Answers with these bytes.
struct Replies(fn(&StorePath) -> Vec<u8>);

impl Attack for Replies {
    fn infos(&self, line: &mut Line, _: &World, asked: &[StorePath]) -> Io {
        line.err(&evil())?;
        line.out(&(self.0)(&asked[0]))?;
        line.hold()
    }
}

/// Sends a NAR that begins so.
struct Sends(fn() -> Vec<u8>);

impl Attack for Sends {
    fn dump(&self, line: &mut Line, _: &PathInfo, _: &[u8]) -> Io {
        line.out(&(self.0)())?;
        line.hold()
    }
}

#[test]
fn before_the_handshake() {
    let scene = Scene::new();
    scene.survives(|| Leaves, &scene.small, &["exit status 3"]);
    scene.bad.attack(Chatters);
    for engine in [false, true] {
        for door in BOTH {
            let user = User::new(&scene.alone(), engine);
            let run = scene.fetch(&user, door, &scene.small, &[]);
            scene.is_told(&run, &["skipped text", "\\u{1b}[2J"]);
            assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
        }
    }
}

#[test]
fn where_all_is_logged() {
    let scene = Scene::new();
    scene.bad.attack(Chatters);
    for engine in [false, true] {
        for door in BOTH {
            let user = User::new(&scene.alone(), engine);
            let run = scene.fetch(&user, door, &scene.small, &["-vv"]);
            assert!(run.stderr.contains("owned"), "{}", run.stderr);
        }
    }
}

#[test]
fn in_place_of_an_answer() {
    let scene = Scene::new();
    let path = || Replies(|_| string(format!("/nix/store/{EVIL}").as_bytes()));
    scene.survives(path, &scene.small, &["the reply to QueryPathInfos"]);
    let raw = || Replies(|_| string(RAW));
    scene.survives(raw, &scene.small, &["the reply to QueryPathInfos"]);
    let deriver = || Replies(|path| [string(path.as_str().as_bytes()), string(&evil())].concat());
    scene.survives(deriver, &scene.small, &["the reply to QueryPathInfos"]);
    let hash = || {
        Replies(|path| {
            let mut out = [string(path.as_str().as_bytes()), string(b"")].concat();
            [0, 0, 0]
                .iter()
                .for_each(|number| put_u64(&mut out, *number));
            out.extend(string(EVIL.as_bytes()));
            out
        })
    };
    scene.survives(
        hash,
        &scene.small,
        &["the reply to QueryPathInfos", "NAR hash"],
    );
    let nobodys = || {
        Replies(|path| {
            let path = StorePath::parse(&format!("/n\u{202e}ix/{}", path.base_name()));
            string(path.expect("a path").as_str().as_bytes())
        })
    };
    scene.survives(nobodys, &scene.small, &["the reply to QueryPathInfos"]);
}

#[test]
fn in_an_archive() {
    let scene = Scene::new();
    let magic = || Sends(|| string(&EVIL.as_bytes()[..20]));
    scene.survives(
        magic,
        &scene.small,
        &[&scene.small, "malformed NAR at byte 0"],
    );
    let kind = || {
        Sends(|| {
            let tokens: [&[u8]; 4] = [b"nix-archive-1", b"(", b"type", b"\x1b[2J\x9b\x07"];
            tokens.map(string).concat()
        })
    };
    scene.survives(
        kind,
        &scene.small,
        &[&scene.small, "type of a node", "\\x1b[2J"],
    );
}

#[test]
fn in_signatures_and_addresses() {
    let scene = Scene::new();
    // The host is not trusted for this one: what it says has to be looked at.
    let attack = || {
        Tells(|info: &mut PathInfo| {
            info.ca = Some(EVIL.to_owned());
            info.sigs = vec![format!("{EVIL}:AAAA"), format!("cache.nixos.org-1:{EVIL}")];
        })
    };
    scene.bad.attack(attack());
    for engine in [false, true] {
        let user = User::new(&scene.distrusted(), engine);
        let words = ["such paths from there are not used"];
        scene.gets_nothing(&user, &scene.small, &words);
    }
}
