//! Large NARs that hosts compress on their way: real shells, a real `zstd`, links with a rate.

mod rig;
mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rig::{Account, Link, Setup, setup_account};
use support::{Scratch, Store};

const MIB: usize = 1 << 20;

/// 20 ms away, with 25 MB/s.
fn link() -> Arc<Link> {
    let mut link = Link::slow(25_000_000);
    link.latency = Duration::from_millis(20);
    Arc::new(link)
}

/// Fetches the path, which must come as it is. Gives how many bytes came over the link.
async fn fetch(setup: &Setup, link: &Link, store: &Store, path: &str) -> u64 {
    let before = link.came.load(Ordering::SeqCst);
    let (nar, result) = setup.fetch(path).await;
    assert!(result.is_ok(), "{path}: {:?}", result.err());
    assert!(nar == store.nar(path), "{path}: wrong content");
    link.came.load(Ordering::SeqCst) - before
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_nar_over_a_slow_link_is_compressed() {
    let (store, link) = (Store::new(), link());
    let path = store.words("words", 30 * MIB);
    let setup = setup_account(&store, &link, &Account::default());
    let came = fetch(&setup, &link, &store, &path).await;
    assert!(came < 15 * MIB as u64, "{came}");
    assert!(setup.compressed_chunks("one") >= 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_get_smaller_comes_as_it_is() {
    let (store, link) = (Store::new(), link());
    let path = store.big("random", 60 * MIB as u64);
    let setup = setup_account(&store, &link, &Account::default());
    let came = fetch(&setup, &link, &store, &path).await;
    assert!(came < 62 * MIB as u64, "{came}");
    let (compressed, all) = (setup.compressed_chunks("one"), setup.chunks("one"));
    assert!((1..all / 2).contains(&compressed), "{compressed} of {all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_url_decides() {
    let store = Store::new();
    let path = store.words("words", 12 * MIB);
    for (params, compressed) in [
        ("&compression=none", false),
        ("&compression=zstd&compression-level=9", true),
    ] {
        let link = link();
        let account = Account {
            params,
            ..Account::default()
        };
        let setup = setup_account(&store, &link, &account);
        let came = fetch(&setup, &link, &store, &path).await;
        assert_eq!(came < 12 * MIB as u64, compressed, "{params}: {came}");
        assert_eq!(setup.compressed_chunks("one") > 0, compressed, "{params}");
    }
}

/// A folder with a program `zstd`: this script, which gets the real one as `$zstd`.
fn fake_zstd(script: &str) -> Scratch {
    let folder = Scratch::new();
    let file = folder.path().join("zstd");
    let zstd = support::tool("zstd");
    write_program(
        &file,
        &format!("#!/bin/sh\nzstd={}\n{script}\n", zstd.display()),
    );
    folder
}

fn write_program(file: &Path, text: &str) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zstd_that_fails_costs_no_path() {
    let store = Store::new();
    let path = store.words("words", 10 * MIB);
    for (name, script) in [
        ("fails", "exit 1"),
        ("writes something else", "cat"),
        ("ends early", "cat | \"$zstd\" -q -3 | head -c 5000"),
        ("loses something", "cat | head -c 9999 | \"$zstd\" -q -3"),
        ("says that it failed", "cat | \"$zstd\" -q -3; exit 1"),
        ("is killed", "kill -9 $$"),
    ] {
        let fake = fake_zstd(script);
        let account = Account {
            programs: Some(fake.path().to_owned()),
            ..Account::default()
        };
        let link = link();
        let setup = setup_account(&store, &link, &account);
        fetch(&setup, &link, &store, &path).await;
        assert!(
            setup.compressed_chunks("one") > 0,
            "{name}: it was not used"
        );
        // What came short may be the files' fault. All else is known from now on.
        if name == "loses something" {
            continue;
        }
        let before = setup.compressed_chunks("one");
        fetch(&setup, &link, &store, &path).await;
        assert_eq!(setup.compressed_chunks("one"), before, "{name}");
        let told = setup.told.lock().unwrap().clone();
        let told: Vec<_> = told
            .iter()
            .filter(|line| line.contains("compressed"))
            .collect();
        assert!(!told.is_empty(), "{name}: {told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_zstd_it_comes_as_it_is() {
    let (store, link) = (Store::new(), link());
    let path = store.words("words", 12 * MIB);
    let programs = Scratch::new();
    for name in ["dd", "head", "cat", "find", "sha256sum"] {
        symlink(support::tool(name), programs.path().join(name)).unwrap();
    }
    let account = Account {
        params: "&compression=zstd",
        programs: Some(programs.path().to_owned()),
        has_no_others: true,
        ..Account::default()
    };
    let setup = setup_account(&store, &link, &account);
    let came = fetch(&setup, &link, &store, &path).await;
    assert!(came >= 12 * MIB as u64, "{came}");
    assert_eq!(setup.compressed_chunks("one"), 0);
    assert_eq!(*setup.told.lock().unwrap(), [] as [String; 0]);
}

/// Small paths of words, as a caller will fetch them.
fn many(store: &Store, count: usize) -> Vec<String> {
    let name = |number: usize| format!("small-{number:03}");
    (0..count)
        .map(|number| store.words(&name(number), 20_000 + 100 * number))
        .collect()
}

/// Fetches all of them, which must come as they are. Gives how many bytes came over the link.
async fn fetch_all(setup: &Setup, link: &Link, store: &Store, paths: &[String]) -> u64 {
    setup.expect(paths).await;
    let before = link.came.load(Ordering::SeqCst);
    for path in paths {
        let (nar, result) = setup.fetch(path).await;
        assert!(result.is_ok(), "{path}: {:?}", result.err());
        assert!(nar == store.nar(path), "{path}: wrong content");
    }
    link.came.load(Ordering::SeqCst) - before
}

/// 20 ms away, with 5 MB/s, and a host that compresses where it can.
fn small(store: &Store, programs: Option<&Scratch>) -> (Arc<Link>, Setup) {
    let mut link = Link::slow(5_000_000);
    link.latency = Duration::from_millis(20);
    let link = Arc::new(link);
    let account = Account {
        params: "&compression=zstd",
        memory: 64 << 20,
        programs: programs.map(|folder| folder.path().to_owned()),
        ..Account::default()
    };
    let setup = setup_account(store, &link, &account);
    (link, setup)
}

#[tokio::test(flavor = "multi_thread")]
async fn small_nars_come_in_compressed_runs() {
    let store = Store::new();
    let paths = many(&store, 150);
    let raw: u64 = paths.iter().map(|path| store.nar_size(path)).sum();
    let (link, setup) = small(&store, None);
    let came = fetch_all(&setup, &link, &store, &paths).await;
    assert!(came < raw / 2, "{came} of {raw}");
    let runs = setup.compressed_runs("one");
    assert!((1..40).contains(&runs), "{runs}");
    assert_eq!(*setup.told.lock().unwrap(), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_link_is_enough_for_small_nars() {
    let store = Store::new();
    let paths = many(&store, 200);
    let raw: u64 = paths[50..].iter().map(|path| store.nar_size(path)).sum();
    let mut link = Link::slow(2_000_000);
    link.latency = Duration::from_millis(20);
    let link = Arc::new(link);
    let account = Account {
        memory: 64 << 20,
        ..Account::default()
    };
    let setup = setup_account(&store, &link, &account);
    // The rate shows with the first ones.
    fetch_all(&setup, &link, &store, &paths[..50]).await;
    let came = fetch_all(&setup, &link, &store, &paths[50..]).await;
    assert!(came < raw / 2, "{came} of {raw}");
    assert!(setup.compressed_runs("one") > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_has_gone_costs_no_other_one_in_its_run() {
    let store = Store::new();
    let paths = many(&store, 60);
    let (link, setup) = small(&store, None);
    setup.expect(&paths).await;
    store.delete(&paths[20..21]);
    for (number, path) in paths.iter().enumerate() {
        // On a busy machine it may have been asked anew whether the host still has it.
        if number == 20 && setup.find(path).await.is_none() {
            continue;
        }
        let (nar, result) = setup.fetch(path).await;
        assert_eq!(result.is_ok(), number != 20, "{path}");
        assert!(
            number == 20 || nar == store.nar(path),
            "{path}: wrong content"
        );
    }
    assert!(link.came.load(Ordering::SeqCst) > 0 && setup.compressed_runs("one") > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_fail_cost_no_small_path() {
    let store = Store::new();
    let paths = many(&store, 60);
    let zstd = support::tool("zstd");
    let zstd = zstd.display();
    for (name, program, script) in [
        ("no zstd", "zstd", "exit 1".to_owned()),
        ("another output", "zstd", "cat".to_owned()),
        ("cut", "zstd", format!("{zstd} -q -3|head -c 20000")),
        ("killed", "zstd", "head -c 1000; kill -9 $$".to_owned()),
        ("no nix-store", "nix-store", "exit 1".to_owned()),
        ("another program", "nix-store", "echo hello; cat".to_owned()),
        (
            "more than there is",
            "nix-store",
            "cat /dev/zero".to_owned(),
        ),
    ] {
        let programs = Scratch::new();
        write_program(
            &programs.path().join(program),
            &format!("#!/bin/sh\n{script}\n"),
        );
        let (link, setup) = small(&store, Some(&programs));
        fetch_all(&setup, &link, &store, &paths).await;
        assert!(setup.compressed_runs("one") > 0, "{name}: it was not tried");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_breaks_costs_no_small_path() {
    let store = Store::new();
    let paths = many(&store, 100);
    for cut in [1000, 50_000, 300_000, 600_000] {
        let mut link = Link::slow(5_000_000).cut([cut]);
        link.latency = Duration::from_millis(20);
        let link = Arc::new(link);
        let account = Account {
            params: "&compression=zstd",
            memory: 64 << 20,
            ..Account::default()
        };
        let setup = setup_account(&store, &link, &account);
        fetch_all(&setup, &link, &store, &paths).await;
        assert_eq!(link.breaks(), 1, "{cut}");
    }
}
