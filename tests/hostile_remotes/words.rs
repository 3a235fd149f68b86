//! What a host wants people to read: words that drive a terminal, or pass for somebody else's.

use data_encoding::BASE64;
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

/// Answers with these bytes as path, deriver, NAR hash and content address.
struct Replies(fn(&str) -> [Vec<u8>; 4]);

impl Attack for Replies {
    fn infos(&self, line: &mut Line, _: &World, asked: &[StorePath]) -> Io {
        line.err(&evil())?;
        let [path, deriver, hash, ca] = (self.0)(asked[0].as_str());
        let mut out = [string(&path), string(&deriver)].concat();
        [0, 8, 8]
            .iter()
            .for_each(|number| put_u64(&mut out, *number));
        out.extend([string(&hash), string(&ca)].concat());
        put_u64(&mut out, 0);
        out.extend(string(b""));
        line.out(&out)
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
        for protocol in BOTH {
            let user = User::new(&scene.alone(), engine);
            let run = scene.fetch(&user, protocol, &scene.small, &[]);
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
        for protocol in BOTH {
            let user = User::new(&scene.alone(), engine);
            let run = scene.fetch(&user, protocol, &scene.small, &["-vv"]);
            assert!(run.stderr.contains("owned"), "{}", run.stderr);
        }
    }
}

#[test]
fn in_place_of_an_answer() {
    let scene = Scene::new();
    const HASH: &[u8] = b"sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
    let told = |field| ["cannot be read", "this path is left out", field];
    let path = || {
        Replies(|_| {
            let path = format!("/nix/store/{EVIL}");
            [path.into(), vec![], HASH.to_vec(), vec![]]
        })
    };
    scene.survives(path, &scene.small, &told("path of an info: "));
    let raw = || Replies(|_| [RAW.to_vec(), vec![], HASH.to_vec(), vec![]]);
    scene.survives(raw, &scene.small, &told("path of an info: "));
    let deriver = || Replies(|path| [path.into(), evil(), HASH.to_vec(), vec![]]);
    scene.survives(deriver, &scene.small, &told("deriver: "));
    let hash = || Replies(|path| [path.into(), vec![], EVIL.into(), vec![]]);
    scene.survives(hash, &scene.small, &told("NAR hash: "));
    let address = || Replies(|path| [path.into(), vec![], HASH.to_vec(), evil()]);
    scene.survives(address, &scene.small, &told("content address: "));
    let nobodys = || {
        Replies(|path| {
            let path = path.replace("/nix/", "/n\u{202e}ix/");
            [path.into(), vec![], HASH.to_vec(), vec![]]
        })
    };
    scene.survives(nobodys, &scene.small, &["which was not asked for"]);
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
    let unreadable = Tells(|info: &mut PathInfo| {
        info.ca = Some(EVIL.to_owned());
        info.sigs = vec![format!("{EVIL}:AAAA"), format!("cache.nixos.org-1:{EVIL}")];
    });
    // The name of a key is what stands before the first colon.
    let unknown_key = Tells(|info: &mut PathInfo| {
        info.ca = None;
        let signature = BASE64.encode(&[7; 64]);
        info.sigs = vec![format!("{}:{signature}", EVIL.replace(':', ""))];
    });
    // The host is not trusted for these: what it says has to be looked at.
    let not_trusted = |words: &[&str]| {
        for engine in [false, true] {
            let user = User::new(&scene.distrusted(), engine);
            scene.gets_nothing(&user, &scene.small, words);
        }
    };
    let not_used = "such paths from there are not used";
    scene.bad.attack(unreadable);
    not_trusted(&["its signature cannot be read", not_used]);
    scene.bad.attack(unknown_key);
    not_trusted(&["it is signed by \"\\u{1b}[2J", not_used]);
}
