//! Paths that were not asked for or lie elsewhere, and archives that would write elsewhere.

use ssh_substituter::model::{PathInfo, StorePath};
use ssh_substituter::wire::put_u64;
use ssh_substituter::wire::serve::put_set;

use super::host::{Attack, Io, Line, World, infos_reply};
use super::scene::{BOTH, Protocol, Scene, User, Watchdog};
use super::sizes::{Tells, string};
use super::support::Random;
use super::talk::FrontEnd;

const ELSEWHERE: &str = "/etc/store/7rjj86a15146cq1d3qy068lml7n7ykzm-x";

fn path(text: &str) -> StorePath {
    StorePath::parse(text).expect("a store path")
}

/// Tells of these besides what was asked for.
struct AlsoTells(fn(&PathInfo) -> PathInfo);

impl Attack for AlsoTells {
    fn infos(&self, line: &mut Line, world: &World, asked: &[StorePath]) -> Io {
        let known = asked.iter().filter_map(|path| world.0.get(path));
        let mut infos: Vec<_> = known.map(|(info, _)| info.clone()).collect();
        let more: Vec<_> = infos.iter().map(self.0).collect();
        infos.extend(more);
        line.out(&infos_reply(&infos))
    }
}

/// Has this reference, in bytes.
struct Refers(&'static str);

impl Attack for Refers {
    fn infos(&self, line: &mut Line, _: &World, asked: &[StorePath]) -> Io {
        let mut out = [string(asked[0].as_str().as_bytes()), string(b"")].concat();
        put_u64(&mut out, 1);
        out.extend(string(self.0.as_bytes()));
        [8, 8].iter().for_each(|size| put_u64(&mut out, *size));
        let hash = "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
        out.extend([hash.as_bytes(), b""].map(string).concat());
        put_u64(&mut out, 0);
        out.extend(string(b""));
        line.out(&out)
    }
}

/// Tells of these paths in each closure.
struct Closes(fn(&StorePath) -> Vec<StorePath>);

impl Attack for Closes {
    fn closure(&self, line: &mut Line, _: &World, asked: &[StorePath]) -> Io {
        let mut out = Vec::new();
        put_set(&mut out, &(self.0)(&asked[0]));
        line.out(&out)
    }
}

/// Sends this archive in place of each.
struct Sends<F>(F);

impl<F: Fn() -> Vec<u8> + Send + Sync> Attack for Sends<F> {
    fn dump(&self, line: &mut Line, _: &PathInfo, _: &[u8]) -> Io {
        line.out(&(self.0)())
    }
}

/// A file of three bytes.
fn file() -> Vec<u8> {
    let tokens: [&[u8]; 6] = [b"(", b"type", b"regular", b"contents", b"abc", b")"];
    tokens.map(string).concat()
}

fn symlink(target: &[u8]) -> Vec<u8> {
    let tokens: [&[u8]; 6] = [b"(", b"type", b"symlink", b"target", target, b")"];
    tokens.map(string).concat()
}

fn directory(entries: &[(&[u8], Vec<u8>)]) -> Vec<u8> {
    let mut out = [&b"("[..], b"type", b"directory"].map(string).concat();
    for (name, node) in entries {
        let head = [&b"entry"[..], b"(", b"name", name, b"node"];
        out.extend(head.map(string).concat());
        out.extend_from_slice(node);
        out.extend(string(b")"));
    }
    out.extend(string(b")"));
    out
}

fn nar(node: &[u8]) -> Vec<u8> {
    [&string(b"nix-archive-1"), node].concat()
}

#[test]
fn infos_that_nobody_asked_for() {
    let scene = Scene::new();
    let other = || {
        AlsoTells(|info| PathInfo {
            path: path("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-x"),
            ..info.clone()
        })
    };
    scene.survives(other, &scene.small, &["ykzm-x, which was not asked for"]);
    let twice = || AlsoTells(PathInfo::clone);
    scene.survives(twice, &scene.small, &["which was not asked for"]);
}

#[test]
fn references_and_derivers_elsewhere() {
    let scene = Scene::new();
    for reference in [
        ELSEWHERE,
        "/nix/store/../../etc/7rjj86a15146cq1d3qy068lml7n7ykzm-x",
        "/nix/store/..",
        "/nix/store/.7rjj86a15146cq1d3qy068lml7n7ykzm-x",
        "7rjj86a15146cq1d3qy068lml7n7ykzm-x",
        "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-x\n/nix/store/y",
        "",
    ] {
        scene.bad.attack(Refers(reference));
        let user = User::new(&scene.both(), false);
        scene.fetch(&user, Protocol::Serve, &scene.small, &[]);
        let user = User::new(&scene.alone(), false);
        let words = ["cannot be read", "left out: reference", &scene.small];
        let run = scene.gets_nothing(&user, &scene.small, &words);
        assert!(!run.stderr.contains("malformed"), "{}", run.stderr);
    }
    let deriver = || Tells(|info: &mut PathInfo| info.deriver = Some(path(ELSEWHERE)));
    scene.survives(
        deriver,
        &scene.small,
        &["deriver", ELSEWHERE, "a path in /nix/store"],
    );
}

#[test]
fn closures_that_lead_elsewhere() {
    let scene = Scene::new();
    scene
        .bad
        .attack(Closes(|root| vec![root.clone(), path(ELSEWHERE)]));
    for engine in [false, true] {
        let user = User::new(&scene.alone(), engine);
        let mut command = user.env.program();
        command.arg("--serve");
        let mut front_end = FrontEnd::start(command);
        let _watchdog = Watchdog::of(front_end.pid());
        let closure = front_end.talk.closure(&scene.small);
        assert!(!closure.iter().any(|path| path == ELSEWHERE), "{closure:?}");
        let stderr = front_end.end();
        assert!(stderr.contains("path of a closure"), "{stderr}");
        for protocol in BOTH {
            let user = User::new(&scene.both(), engine);
            scene.fetch(&user, protocol, &scene.small, &[]);
        }
    }
}

#[test]
fn names_that_lead_out_of_an_archive() {
    let scene = Scene::new();
    let long = [b'x'; 256];
    for name in [
        &b".."[..],
        b".",
        b"",
        b"a/b",
        b"../x",
        b"/etc",
        b"a\0b",
        &long,
    ] {
        let name = name.to_vec();
        let archive = move || nar(&directory(&[(&name, file())]));
        is_malformed(&scene, archive, "name of an entry");
    }
    for target in [&b""[..], b"a\0b", &[b'x'; 4096]] {
        let target = target.to_vec();
        is_malformed(
            &scene,
            move || nar(&symlink(&target)),
            "target of a symlink",
        );
    }
}

#[test]
fn names_that_come_twice_or_in_another_order() {
    let scene = Scene::new();
    let out = scene.good.store.env().folder().join("out");
    std::fs::create_dir(&out).expect("make a folder");
    let target = out.to_str().expect("UTF-8 path").as_bytes().to_vec();
    // The second entry would be made where the first one leads.
    let through = move || {
        let inner = directory(&[(b"owned", file())]);
        nar(&directory(&[(b"a", symlink(&target)), (b"a", inner)]))
    };
    is_malformed(&scene, through, "sorts behind");
    let order = || nar(&directory(&[(b"b", file()), (b"a", file())]));
    is_malformed(&scene, order, "sorts behind");
    assert_eq!(std::fs::read_dir(&out).expect("read a folder").count(), 0);
}

#[test]
fn depth_bombs() {
    let scene = Scene::new();
    let bomb = || {
        let mut out = string(b"nix-archive-1");
        for _ in 0..50_000 {
            let head = [
                &b"("[..],
                b"type",
                b"directory",
                b"entry",
                b"(",
                b"name",
                b"a",
            ];
            out.extend(head.map(string).concat());
            out.extend(string(b"node"));
        }
        out
    };
    scene.survives(
        || Sends(bomb),
        &scene.large,
        &[&scene.large, "at most 64 within each other"],
    );
}

/// Without an engine: this is about what comes, not about who gets it.
#[track_caller]
fn is_malformed(scene: &Scene, archive: impl Fn() -> Vec<u8> + Send + Sync + 'static, what: &str) {
    scene.bad.attack(Sends(archive));
    for protocol in BOTH {
        let user = User::new(&scene.both(), false);
        let run = scene.fetch(&user, protocol, &scene.large, &[]);
        assert!(
            run.stderr.is_empty() || run.stderr.contains("malformed NAR"),
            "{}",
            run.stderr
        );
    }
    let user = User::new(&scene.alone(), false);
    let words = [
        &*scene.large,
        "malformed NAR at byte ",
        what,
        "expected ",
        "got ",
    ];
    scene.gets_nothing(&user, &scene.large, &words);
    let left = std::fs::read_dir(user.env.folder()).expect("read a folder");
    let is_temporary = |name: &str| name.contains(".tmp-");
    let left = left
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    assert_eq!(left.filter(|name| is_temporary(name)).count(), 0);
}

/// Legal here: each is a file of its own.
#[test]
fn names_that_differ_only_in_case_or_form_are_kept_apart() {
    let scene = Scene::new();
    let names = [
        "a",
        "A",
        "\u{e9}",
        "e\u{301}",
        "\u{df}",
        "ss",
        "\u{fb01}",
        "fi",
        "a\u{200d}",
    ];
    let store = &scene.good.store;
    let made = Random::new(1, "alike").store_path("alike");
    let alike = store.add_made(made, |to| {
        std::fs::create_dir(to).expect("make a folder");
        for name in names {
            std::fs::write(to.join(name), name).expect("write a file");
        }
    });
    let hosts = [scene.good.trusted()];
    for protocol in BOTH {
        let user = User::new(&hosts, false);
        scene.fetch(&user, protocol, &alike, &[]);
        if protocol == Protocol::Substitute {
            for name in names {
                let read = std::fs::read_to_string(user.dest().join(name));
                assert_eq!(read.expect("read a file"), name);
            }
        }
    }
}
