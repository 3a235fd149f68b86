//! Large NARs in chunks, through real shells, beside real `nix-store --serve` processes.

mod rig;
mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use rig::{Fault, Setup, setup_as, setup_shells, setup_with};
use ssh_substituter::transfer::TransferError;
use support::{Random, Store};

const MIB: u64 = 1 << 20;

/// Two stores with the same large path.
fn twins(size: u64) -> (Store, Store, String) {
    let (one, two) = (Store::new(), Store::new());
    let path = one.big("large", size);
    assert_eq!(two.big("large", size), path);
    (one, two, path)
}

async fn fetch_right(setup: &Setup, store: &Store, path: &str) {
    let (nar, result) = setup.fetch(path).await;
    assert!(result.is_ok(), "{path}: {:?}", result.err());
    assert!(nar == store.nar(path), "{path}: wrong content");
}

/// Changes all bytes: any part of it is wrong.
fn spoil(store: &Store, path: &str) {
    let file = store.physical(path).join("data");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let size = fs::metadata(&file).unwrap().len();
    fs::write(&file, vec![7; usize::try_from(size).unwrap()]).unwrap();
}

/// Until both hosts are known to have it.
async fn both_have(setup: &Setup, path: &str) {
    setup.find(path).await.expect("a host has it");
    let parsed = ssh_substituter::model::StorePath::parse(path).unwrap();
    for _ in 0..500 {
        let holders = setup.resolver.holders(&parsed);
        if holders.is_some_and(|holders| holders.len() == 2) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the second host did not tell");
}

/// Asks until it is known how quickly the host answers: one answer may be late on a busy machine.
async fn is_near(setup: &Setup, store: &Store) {
    for number in 0..30 {
        let path = store.add_text(&format!("small-{number}"), "text", &[]);
        setup.find(&path).await.expect("it has it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_share_a_large_nar() {
    let (one, two, path) = twins(60 * MIB);
    let both = setup_as(&[(&one, 0.0, None), (&two, 0.0, None)], 0, true);
    both_have(&both, &path).await;
    fetch_right(&both, &one, &path).await;
    let shares = ["one", "two"].map(|host| both.chunks(host));
    assert!(shares.iter().all(|share| *share >= 5), "{shares:?}");
    let paths = [path];
    assert_eq!(both.dumps("one", &paths), []);
    assert_eq!(both.dumps("two", &paths), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_shells_it_comes_in_one_piece() {
    let (one, two, path) = twins(20 * MIB);
    let both = setup_with(&[(&one, 0.0, None), (&two, 0.0, None)], 0);
    both_have(&both, &path).await;
    fetch_right(&both, &one, &path).await;
    let paths = [path];
    let dumps = both.dumps("one", &paths).len() + both.dumps("two", &paths).len();
    assert_eq!((both.chunks("one") + both.chunks("two"), dumps), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_near_host_is_not_asked_for_parts() {
    let (one, _, path) = twins(20 * MIB);
    let alone = setup_as(&[(&one, 0.0, None)], 0, true);
    is_near(&alone, &one).await;
    fetch_right(&alone, &one, &path).await;
    assert_eq!(alone.chunks("one"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_anywhere_is_asked_for_elsewhere() {
    let (one, two, path) = twins(30 * MIB);
    let mut random = Random::new(5, "faults");
    for _ in 0..8 {
        let at = random.next() % (14 * MIB);
        let fault = match random.below(2) {
            0 => Fault::Cut(at),
            _ => Fault::Stall(at),
        };
        let both = setup_as(&[(&one, 0.0, Some(fault)), (&two, 0.0, None)], 0, true);
        both.find(&path).await.expect("a host has it");
        let (nar, result) = both.fetch(&path).await;
        assert!(result.is_ok(), "{fault:?}: {:?}", result.err());
        assert!(nar == one.nar(&path), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_transfer_goes_on_without_what_is_there() {
    let (one, _, path) = twins(60 * MIB);
    let fault = Some(Fault::Cut(40 * MIB));
    let alone = setup_as(&[(&one, 0.0, fault)], 0, true);
    is_near(&alone, &one).await;
    fetch_right(&alone, &one, &path).await;
    let paths = [path];
    assert_eq!(
        alone.dumps("one", &paths).len(),
        1,
        "not from the beginning"
    );
    let chunks = alone.chunks("one");
    assert!(
        (1..=12).contains(&chunks),
        "{chunks} chunks of 2 MiB for 20"
    );
}

/// Flips one byte of the file.
fn flip(store: &Store, path: &str, at: u64) {
    let file = store.physical(path).join("data");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let mut bytes = fs::read(&file).unwrap();
    bytes[usize::try_from(at).unwrap()] ^= 1;
    fs::write(&file, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_has_wrongly_is_replaced_before_it_is_passed_on() {
    // The first part, amid, the last one; read ahead or not.
    for (at, memory) in [
        (0, 0),
        (15 * MIB, 0),
        (30 * MIB - 1, 0),
        (15 * MIB, 256 << 20),
    ] {
        let (one, two, path) = twins(30 * MIB);
        let good = one.nar(&path);
        flip(&one, &path, at);
        let both = setup_as(&[(&one, 0.0, None), (&two, 0.0, None)], memory, true);
        both_have(&both, &path).await;
        both.expect(std::slice::from_ref(&path)).await;
        let (nar, result) = both.fetch(&path).await;
        assert!(result.is_ok(), "byte {at}: {:?}", result.err());
        assert!(nar == good, "byte {at}");
        let told = both.told.lock().unwrap().clone();
        assert!(told.len() == 1 && told[0].contains("one"), "{told:?}");
        assert!(told[0].contains("wrong content: expected"), "{told:?}");
        assert!(!told[0].contains("two"), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_on_its_way_comes_once_more_and_nobody_is_blamed() {
    for at in [3 * MIB, 11 * MIB] {
        let (one, two, path) = twins(30 * MIB);
        let fault = Some(Fault::Flip(at));
        let both = setup_as(&[(&one, 0.0, fault), (&two, 0.0, None)], 0, true);
        both_have(&both, &path).await;
        fetch_right(&both, &one, &path).await;
        let told = both.told.lock().unwrap();
        assert!(told.is_empty(), "{told:?}");
    }
}

/// 650 files of 15,000 bytes: below the size from which they are read in chunks from near hosts.
fn small(store: &Store) -> String {
    let mut random = Random::new(9, "small");
    store.add_made(random.store_path("small"), |folder| {
        fs::create_dir(folder).unwrap();
        for number in 0..650 {
            fs::write(folder.join(format!("{number}")), random.bytes(15_000)).unwrap();
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_straight_through_is_compared_too() {
    // The one that sends has no shell; or both have one, but it is not worth reading many small files in chunks.
    for small_files in [false, true] {
        let (one, two) = (Store::new(), Store::new());
        let make = |store: &Store| match small_files {
            false => store.big("large", 30 * MIB),
            true => small(store),
        };
        let path = make(&one);
        assert_eq!(make(&two), path);
        assert!(one.nar_size(&path) > 9 * MIB, "{}", one.nar_size(&path));
        let good = one.nar(&path);
        one.corrupt(&path);
        let hosts = [(&one, 0.0, None), (&two, 0.0, None)];
        let shells: &[&str] = if small_files {
            &["one", "two"]
        } else {
            &["two"]
        };
        for memory in [0, 256 * MIB] {
            let both = setup_shells(&hosts, memory, shells);
            is_near(&both, &one).await;
            both_have(&both, &path).await;
            both.expect(std::slice::from_ref(&path)).await;
            let (nar, result) = both.fetch(&path).await;
            // What was read ahead from the one alone is not compared.
            if memory > 0 && !small_files && result.is_err() {
                continue;
            }
            assert!(
                result.is_ok(),
                "{small_files}, {memory}: {:?}",
                result.err()
            );
            assert!(nar == good, "{small_files}, {memory}");
            let told = both.told.lock().unwrap().clone();
            assert!(told.iter().all(|line| line.starts_with("one")), "{told:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_have_it_wrongly_that_path_fails_cleanly() {
    let (one, two, path) = twins(30 * MIB);
    spoil(&one, &path);
    flip(&two, &path, 20 * MIB);
    let both = setup_as(&[(&one, 0.0, None), (&two, 0.0, None)], 0, true);
    both_have(&both, &path).await;
    let (_, result) = both.fetch(&path).await;
    let error = result.expect_err("nobody has it").error;
    assert!(matches!(error, TransferError::Nobody { .. }), "{error}");
    let told = both.told.lock().unwrap();
    let blamed = |host| {
        told.iter()
            .any(|line| line.contains(host) && line.contains("expected"))
    };
    assert!(blamed("one") && blamed("two"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_nars_are_read_ahead_in_parts() {
    let (one, two) = (Store::new(), Store::new());
    let paths: Vec<_> = (0..5)
        .map(|number| one.big(&format!("part-{number}"), 12 * MIB))
        .collect();
    two.copy_from(&one, &paths);
    let both = setup_as(&[(&one, 0.0, None), (&two, 0.0, None)], 256 << 20, true);
    for path in &paths {
        both_have(&both, path).await;
    }
    both.expect(&paths).await;
    for path in &paths {
        fetch_right(&both, &one, path).await;
    }
    // On a loaded machine a first chunk may take longer than the readahead waits for it.
    let dumps = both.dumps("one", &paths).len() + both.dumps("two", &paths).len();
    assert!(dumps <= 2, "{dumps}");
    assert!(both.chunks("one") + both.chunks("two") >= 18);
}
