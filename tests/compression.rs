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
use support::{Random, Scratch, Store};

const MIB: usize = 1 << 20;

/// A path whose one file is words: zstd makes a third of it or less.
fn words(store: &Store, name: &str, size: usize) -> String {
    let mut random = Random::new(size as u64, name);
    let path = random.store_path(name);
    let mut text = Vec::with_capacity(size + 8);
    while text.len() < size {
        text.extend_from_slice(format!("{:x} ", random.below(5000)).as_bytes());
    }
    store.add_made(path, |folder| {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("text"), &text[..size]).unwrap();
    })
}

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
    let path = words(&store, "words", 30 * MIB);
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
    let path = words(&store, "words", 12 * MIB);
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
    let path = words(&store, "words", 10 * MIB);
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
    let path = words(&store, "words", 12 * MIB);
    let programs = Scratch::new();
    for name in ["dd", "head", "cat", "find", "sha256sum"] {
        symlink(support::tool(name), programs.path().join(name)).unwrap();
    }
    let account = Account {
        params: "&compression=zstd",
        programs: Some(programs.path().to_owned()),
        has_no_others: true,
        disk: None,
    };
    let setup = setup_account(&store, &link, &account);
    let came = fetch(&setup, &link, &store, &path).await;
    assert!(came >= 12 * MIB as u64, "{came}");
    assert_eq!(setup.compressed_chunks("one"), 0);
    assert_eq!(*setup.told.lock().unwrap(), [] as [String; 0]);
}
