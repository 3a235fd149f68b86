//! Numbers that no honest host sends, and as much of everything as a host can send.

use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ssh_substituter::model::{PathInfo, StorePath};
use ssh_substituter::wire::serve::{CLIENT_MAGIC, MAX_SIZE, Request, Version};
use ssh_substituter::wire::{put_string, put_u64};

use super::host::{Attack, Io, Line, World, infos_reply};
use super::scene::{Scene, User, Watchdog};

/// Says something else of each path than is so.
pub struct Tells<F>(pub F);

impl<F: Fn(&mut PathInfo) + Send + Sync> Attack for Tells<F> {
    fn infos(&self, line: &mut Line, world: &World, asked: &[StorePath]) -> Io {
        let known = asked.iter().filter_map(|path| world.0.get(path));
        let mut infos: Vec<_> = known.map(|(info, _)| info.clone()).collect();
        infos.iter_mut().for_each(&self.0);
        line.out(&infos_reply(&infos))
    }
}

/// Begins a reply to QueryPathInfos with these bytes, then goes on and on with those.
struct Endless {
    begins: fn(&StorePath) -> Vec<u8>,
    goes_on: fn(u64) -> Vec<u8>,
}

impl Attack for Endless {
    fn infos(&self, line: &mut Line, _: &World, asked: &[StorePath]) -> Io {
        line.out(&(self.begins)(&asked[0]))?;
        let mut number = 0;
        loop {
            let mut piece = Vec::new();
            while piece.len() < 64 << 10 {
                piece.extend_from_slice(&(self.goes_on)(number));
                number += 1;
            }
            line.out(&piece)?;
        }
    }
}

pub fn string(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_string(&mut out, bytes);
    out
}

fn numbered(number: u64, name: &str) -> Vec<u8> {
    string(format!("/nix/store/{number:032}-{name}").as_bytes())
}

/// An info up to its references, of which there are a million.
fn million(path: &StorePath) -> Vec<u8> {
    let mut out = string(path.as_str().as_bytes());
    out.extend(string(b""));
    put_u64(&mut out, 1_000_000);
    out
}

#[test]
fn nar_sizes_near_the_end_of_numbers() {
    let scene = Scene::new();
    for size in [u64::MAX, (1 << 63) - 1] {
        for path in [&scene.small, &scene.large] {
            let attack = move || Tells(move |info: &mut PathInfo| info.nar_size = size);
            scene.survives(attack, path, &["NAR size", &size.to_string()]);
        }
    }
}

#[test]
fn download_sizes_near_the_end_of_numbers() {
    let scene = Scene::new();
    let attack = || Tells(|info: &mut PathInfo| info.download_size = u64::MAX);
    scene.survives(attack, &scene.small, &["download size"]);
}

#[test]
fn a_million_references() {
    let scene = Scene::new();
    let attack = || Endless {
        begins: million,
        goes_on: |number| numbered(number, &"x".repeat(211)),
    };
    scene.survives(
        attack,
        &scene.small,
        &["the reply to QueryPathInfos", "references"],
    );
    let long = || Endless {
        begins: million,
        goes_on: |number| {
            let path = format!("/{}/{number:032}-x", "d/".repeat(2000));
            string(path.as_bytes())
        },
    };
    scene.survives(long, &scene.small, &["the reply to QueryPathInfos"]);
}

/// Promises a file without end, begins to send it, and breaks off.
struct Promises;

impl Attack for Promises {
    fn infos(&self, line: &mut Line, world: &World, asked: &[StorePath]) -> Io {
        Tells(|info: &mut PathInfo| info.nar_size = MAX_SIZE).infos(line, world, asked)
    }

    fn dump(&self, line: &mut Line, _: &PathInfo, _: &[u8]) -> Io {
        let tokens: [&[u8]; 5] = [b"nix-archive-1", b"(", b"type", b"regular", b"contents"];
        let mut begin = tokens.map(string).concat();
        put_u64(&mut begin, MAX_SIZE - 1000);
        line.out(&begin)?;
        line.out(&vec![7; 1 << 20])?;
        line.exit(1)
    }
}

/// The caller would have to take zeros for hours. It is worth the connection.
#[test]
fn a_promise_without_end_is_not_filled_up() {
    let scene = Scene::new();
    scene.bad.attack(Promises);
    for engine in [false, true] {
        let user = User::new(&scene.alone(), engine);
        let mut input = Vec::new();
        put_u64(&mut input, CLIENT_MAGIC);
        put_u64(&mut input, Version::NEWEST.number());
        let path = StorePath::parse(&scene.small).expect("a store path");
        let paths = vec![path.clone()];
        Request::QueryPathInfos { paths }.put(&mut input);
        Request::DumpStorePath { path }.put(&mut input);
        let mut command = user.env.program();
        command.arg("--serve").stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start the program");
        let watchdog = Watchdog::of(child.id());
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(&input).expect("ask");
        // A program that fills it up is not read to the end.
        let stdout = child.stdout.take().expect("a pipe");
        let mut came = Vec::new();
        let read = stdout.take(4 << 20).read_to_end(&mut came);
        read.expect("read from a pipe");
        assert!(came.len() < 2 << 20, "{}", came.len());
        drop((stdin, watchdog));
        let ran = child.wait_with_output().expect("wait for the program");
        let stderr = String::from_utf8_lossy(&ran.stderr);
        assert!(!ran.status.success(), "{stderr}");
        assert!(stderr.contains("cannot complete a NAR"), "{stderr}");
        scene.gets_nothing(&user, &scene.small, &[&scene.small]);
    }
}

/// A closure of more paths than anybody keeps.
#[derive(Clone, Copy)]
enum Closure {
    /// As many as may be in one, of the shortest names.
    Million,
    /// The same one as often.
    Same,
    /// Five times as many, and more are announced.
    Endless,
}

/// Answers with it, and sets the flag when all of it was taken, or the connection has ended.
struct Closes(Closure, Arc<AtomicBool>);

impl Attack for Closes {
    fn closure(&self, line: &mut Line, _: &World, _: &[StorePath]) -> Io {
        let (count, told) = match self.0 {
            Closure::Million | Closure::Same => (1_000_000, 1_000_000),
            // A program without limits would take more memory than it may.
            Closure::Endless => (5_000_000, u64::MAX),
        };
        let mut result = Ok(());
        let mut out = told.to_le_bytes().to_vec();
        for number in 0..count {
            let number = match self.0 {
                Closure::Same => 0,
                _ => number,
            };
            out.extend(numbered(number, "x"));
            if out.len() > 64 << 10 || number + 1 == count {
                result = line.out(&std::mem::take(&mut out));
                if result.is_err() {
                    break;
                }
            }
        }
        result = result.and_then(|()| line.out(&out));
        self.1.store(true, Ordering::SeqCst);
        result
    }
}

/// They are asked for in the background.
#[test]
fn closures_of_a_million() {
    let scene = Scene::new();
    for closure in [Closure::Million, Closure::Same, Closure::Endless] {
        for engine in [false, true] {
            let taken = Arc::<AtomicBool>::default();
            scene.bad.attack(Closes(closure, taken.clone()));
            let user = User::new(&scene.both(), engine);
            scene.fetch_around(&user, &scene.small, "the closure is taken", || {
                taken.load(Ordering::SeqCst)
            });
        }
    }
}

/// Counts of elements, and lengths of texts, beyond what is read.
struct Counts(fn(&StorePath) -> Vec<u8>);

impl Attack for Counts {
    fn infos(&self, line: &mut Line, _: &World, asked: &[StorePath]) -> Io {
        line.out(&(self.0)(&asked[0]))?;
        line.hold()
    }
}

#[test]
fn counts_and_lengths_beyond_all_limits() {
    let scene = Scene::new();
    let path = || Counts(|_| u64::MAX.to_le_bytes().to_vec());
    scene.survives(path, &scene.small, &["path of an info", "at most 4096"]);
    let references = || {
        Counts(|path| {
            let mut out = [string(path.as_str().as_bytes()), string(b"")].concat();
            put_u64(&mut out, u64::MAX);
            out
        })
    };
    scene.survives(
        references,
        &scene.small,
        &["number of references", "at most 1000000"],
    );
    let signatures = || {
        Counts(|path| {
            let mut out = [string(path.as_str().as_bytes()), string(b"")].concat();
            [0, 0, 0]
                .iter()
                .for_each(|number| put_u64(&mut out, *number));
            let hash = "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
            out.extend(string(hash.as_bytes()));
            out.extend(string(b""));
            put_u64(&mut out, u64::MAX / 2);
            out
        })
    };
    scene.survives(
        signatures,
        &scene.small,
        &["number of signatures", "at most 1000"],
    );
}
