//! Hosts that do not stop: before the handshake, on stderr, behind what was asked for.

use std::io::Write;
use std::net::TcpListener;
use std::thread;

use ssh_substituter::model::PathInfo;

use super::host::{Attack, Io, Line, hello};
use super::scene::{BOTH, Scene, User};
use super::support::Sshd;
use super::words::EVIL;

struct Banner;

impl Attack for Banner {
    fn hello(&self, line: &mut Line) -> Io {
        line.flood(EVIL.as_bytes())
    }
}

/// On stderr, before the handshake or behind it, in lines or in one that never ends.
struct Stderr {
    greets: bool,
    words: &'static [u8],
}

impl Attack for Stderr {
    fn hello(&self, line: &mut Line) -> Io {
        if self.greets {
            line.out(&hello())?;
        }
        let piece = self.words.repeat(2000);
        loop {
            line.err(&piece)?;
        }
    }
}

/// The same beside honest answers.
struct Beside;

impl Attack for Beside {
    fn hello(&self, line: &mut Line) -> Io {
        line.out(&hello())?;
        let mut other = line.another()?;
        thread::spawn(move || while other.err(&EVIL.as_bytes().repeat(1000)).is_ok() {});
        Ok(())
    }
}

/// What follows the archive, or stands in place of it.
struct Behind {
    archive: bool,
    goes_on: &'static [u8],
}

impl Attack for Behind {
    fn dump(&self, line: &mut Line, _: &PathInfo, nar: &[u8]) -> Io {
        if self.archive {
            line.out(nar)?;
        }
        line.flood(self.goes_on)
    }
}

/// An archive that has the right size and one wrong bit.
struct Flips;

impl Attack for Flips {
    fn dump(&self, line: &mut Line, _: &PathInfo, nar: &[u8]) -> Io {
        let mut nar = nar.to_vec();
        // In a small one the contents of the one file begin there (see `wire::nar`).
        let at = if nar.len() < 200 { 96 } else { nar.len() / 2 };
        nar[at] ^= 1;
        line.out(&nar)
    }
}

#[test]
fn before_the_handshake() {
    let scene = Scene::new();
    let words = ["the handshake is malformed", "within 65536 bytes"];
    scene.survives(|| Banner, &scene.small, &words);
}

#[test]
fn on_stderr() {
    let scene = Scene::new();
    for words in [EVIL.as_bytes(), b"\xff"] {
        let attack = move || Stderr {
            greets: true,
            words,
        };
        // On a busy machine silence is noticed first. Either way the warning must get through.
        scene.survives(attack, &scene.small, &[] as &[&str]);
    }
    let silent = || Stderr {
        greets: false,
        words: b"a line\n",
    };
    scene.survives(silent, &scene.small, &["no handshake from "]);
}

#[test]
fn on_stderr_beside_honest_answers() {
    let scene = Scene::new();
    scene.bad.attack(Beside);
    for engine in [false, true] {
        for protocol in BOTH {
            let user = User::new(&scene.both(), engine);
            scene.fetch(&user, protocol, &scene.large, &[]);
        }
    }
}

#[test]
fn behind_an_archive() {
    let scene = Scene::new();
    let attack = || Behind {
        archive: true,
        goes_on: b"more",
    };
    scene.bad.attack(attack());
    for engine in [false, true] {
        for protocol in BOTH {
            // What came was right.
            let user = User::new(&scene.alone(), engine);
            scene.fetch(&user, protocol, &scene.large, &[]);
        }
    }
}

#[test]
fn in_place_of_an_archive() {
    let scene = Scene::new();
    // Zeros, and the beginning of a file as large as the promise allows, which never ends.
    let zeros = || Behind {
        archive: false,
        goes_on: &[0; 64],
    };
    scene.survives(
        zeros,
        &scene.large,
        &[&scene.large, "malformed NAR at byte 0"],
    );
    let file = || Behind {
        archive: false,
        goes_on: b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0",
    };
    scene.survives(file, &scene.large, &[&scene.large, "beginning of a node"]);
}

#[test]
fn a_wrong_bit_is_blamed_on_the_host() {
    let scene = Scene::new();
    let path = &scene.small;
    scene.survives(|| Flips, path, &words_about(&scene, path));
    // Of a large one so much has been passed on by then that this time it fails, and only once. What the caller gets is
    // complete, and not what was promised.
    let path = &scene.large;
    for engine in [false, true] {
        let user = User::new(&scene.alone(), engine);
        scene.gets_nothing(&user, path, &words_about(&scene, path));
        scene.fails_at_most_once(&User::new(&scene.both(), engine), path);
    }
}

fn words_about(scene: &Scene, path: &str) -> [String; 3] {
    let hash = scene.good.store.nar_hash(path);
    let size = scene.good.store.nar_size(path);
    let expected = format!("expected {hash} ({size} bytes), got sha256:");
    [
        path.to_owned(),
        "with the wrong content".to_owned(),
        expected,
    ]
}

/// What sshd shows before the login.
#[test]
fn a_banner_of_sshd() {
    let scene = Scene::new();
    let banner = scene.good.store.env().folder().join("banner");
    std::fs::write(&banner, EVIL.repeat(2000)).expect("write a file");
    let line = format!("Banner {}", banner.display());
    let sshd = Sshd::builder().line(line).start();
    let store = scene.good.store.remote_store_param();
    let loud = sshd.store_url(&format!("remote-store={store}&trusted=true"));
    for engine in [false, true] {
        for protocol in BOTH {
            let user = User::new(std::slice::from_ref(&loud), engine);
            scene.fetch(&user, protocol, &scene.small, &["-vv"]);
        }
    }
}

/// Whatever listens there is no sshd at all.
#[test]
fn lines_before_the_version_of_sshd() {
    let scene = Scene::new();
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bind a port");
    let port = listener.local_addr().expect("an address").port();
    // It ends with the test program.
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || while stream.write_all(EVIL.as_bytes()).is_ok() {});
        }
    });
    let loud = format!("ssh://127.0.0.1:{port}?trusted=true");
    for engine in [false, true] {
        for protocol in BOTH {
            let user = User::new(&[loud.clone(), scene.good.trusted()], engine);
            scene.fetch(&user, protocol, &scene.small, &["-vv"]);
        }
        let user = User::new(std::slice::from_ref(&loud), engine);
        let ran = user.substitute(&scene.small, &["-vv"]);
        assert_eq!(ran.stdout, "\n", "{}", ran.run.stderr);
        ran.run.is_harmless();
        assert!(
            ran.run.stderr.contains(&port.to_string()),
            "{}",
            ran.run.stderr
        );
    }
}
