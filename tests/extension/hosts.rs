//! Large NARs from hosts without shells, where our program is in place of `nix-store --serve`.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use crate::rig::{Account, Fault, Link, Setup, setup_ours};
use crate::support::{Random, Store};
use crate::{MIB, change};

fn account(ours: &'static [&'static str]) -> Account {
    Account {
        ours,
        ..Account::default()
    }
}

const BOTH: &[&str] = &["one", "two"];

/// Two stores with the same large path.
fn twins(size: u64) -> (Store, Store, String) {
    let (one, two) = (Store::new(), Store::new());
    let path = one.big("large", size);
    assert_eq!(two.big("large", size), path);
    (one, two, path)
}

/// The same with content that compresses.
fn twin_texts() -> (Store, Store, String) {
    let make = |store: &Store| {
        let mut random = Random::new(7, "texts");
        store.add_made(random.store_path("texts"), |folder| {
            fs::create_dir(folder).unwrap();
            for number in 0..20 {
                let line = format!("{number} {}\n", random.below(1000));
                fs::write(folder.join(format!("{number}")), line.repeat(200_000)).unwrap();
            }
        })
    };
    let (one, two) = (Store::new(), Store::new());
    let path = make(&one);
    assert_eq!(make(&two), path);
    (one, two, path)
}

async fn fetch_right(setup: &Setup, store: &Store, path: &str) {
    let (nar, result) = setup.fetch(path).await;
    assert!(result.is_ok(), "{path}: {:?}", result.err());
    assert!(nar == store.nar(path), "{path}: wrong content");
}

async fn both_have(setup: &Setup, path: &str) {
    setup.find(path).await.expect("a host has it");
    let parsed = crate::parse(path);
    for _ in 0..500 {
        let holders = setup.resolver.holders(&parsed);
        if holders.is_some_and(|holders| holders.len() == 2) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the second host did not tell");
}

fn spoil(store: &Store, path: &str, at: u64) {
    let file = store.physical(path).join("data");
    change(&file, 0o644);
    let mut bytes = fs::read(&file).unwrap();
    bytes[usize::try_from(at).unwrap()] ^= 1;
    fs::write(&file, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_share_a_large_nar_without_shells() {
    let (one, two, path) = twins(60 * MIB);
    let hosts = [(&one, 0.0, None), (&two, 0.0, None)];
    let both = setup_ours(&hosts, &[], 0, &account(BOTH));
    both_have(&both, &path).await;
    fetch_right(&both, &one, &path).await;
    let shares = BOTH.iter().map(|host| both.parts(host).0);
    let shares: Vec<_> = shares.collect();
    assert!(shares.iter().all(|share| *share >= 5), "{shares:?}");
    let paths = [path];
    for host in BOTH {
        assert_eq!(both.dumps(host, &paths), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_far_host_sends_over_several_channels_and_compressed() {
    let (one, _, path) = twin_texts();
    let link = Arc::new(Link::far(Duration::from_millis(50)));
    let hosts = [(&one, 0.0, None)];
    let alone = setup_ours(&hosts, &[link], 0, &account(&["one"]));
    alone.find(&path).await.expect("it has it");
    fetch_right(&alone, &one, &path).await;
    let (parts, compressed) = alone.parts("one");
    assert!(parts >= 10 && compressed >= 10, "{parts}, {compressed}");
    assert_eq!(alone.dumps("one", &[path]), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_files_come_in_chunks_from_near_hosts_too() {
    let make = |store: &Store| {
        let mut random = Random::new(9, "small");
        store.add_made(random.store_path("small"), |folder| {
            fs::create_dir(folder).unwrap();
            for number in 0..2000 {
                fs::write(folder.join(format!("{number}")), random.bytes(15_000)).unwrap();
            }
        })
    };
    let (one, two) = (Store::new(), Store::new());
    let path = make(&one);
    assert_eq!(make(&two), path);
    let hosts = [(&one, 0.0, None), (&two, 0.0, None)];
    let both = setup_ours(&hosts, &[], 0, &account(BOTH));
    both_have(&both, &path).await;
    fetch_right(&both, &one, &path).await;
    let shares = [both.parts("one").0, both.parts("two").0];
    assert!(shares.iter().sum::<usize>() >= 14, "{shares:?}");
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
        spoil(&one, &path, at);
        let hosts = [(&one, 0.0, None), (&two, 0.0, None)];
        let both = setup_ours(&hosts, &[], memory, &account(BOTH));
        both_have(&both, &path).await;
        both.expect(std::slice::from_ref(&path)).await;
        let (nar, result) = both.fetch(&path).await;
        assert!(result.is_ok(), "byte {at}: {:?}", result.err());
        assert!(nar == good, "byte {at}");
        let told = both.told.lock().unwrap().clone();
        let parts = BOTH.iter().map(|host| both.parts(host)).collect::<Vec<_>>();
        let about = format!("byte {at}, {memory}: {told:?} {parts:?}");
        assert!(told.len() == 1 && told[0].contains("one"), "{about}");
        assert!(told[0].contains("wrong content: expected"), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_stalls_or_is_damaged_anywhere_comes_from_elsewhere() {
    let (one, two, path) = twins(30 * MIB);
    let mut random = Random::new(5, "faults");
    for number in 0..9 {
        let at = random.next() % (14 * MIB);
        let fault = match number % 3 {
            0 => Fault::Cut(at),
            1 => Fault::Stall(at),
            _ => Fault::Flip(at),
        };
        let hosts = [(&one, 0.0, Some(fault)), (&two, 0.0, None)];
        let both = setup_ours(&hosts, &[], 0, &account(BOTH));
        // What one alone has sent cannot be compared.
        both_have(&both, &path).await;
        let (nar, result) = both.fetch(&path).await;
        assert!(result.is_ok(), "{fault:?}: {:?}", result.err());
        assert!(nar == one.nar(&path), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_vanishes_meanwhile_comes_from_the_other_host() {
    let (one, two, path) = twins(80 * MIB);
    let good = one.nar(&path);
    let link = || Arc::new(Link::slow(40 << 20));
    let hosts = [(&one, 0.0, None), (&two, 0.0, None)];
    let both = setup_ours(&hosts, &[link(), link()], 0, &account(BOTH));
    both_have(&both, &path).await;
    let vanish = async {
        for _ in 0..2000 {
            if both.parts("one").0 >= 5 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        fs::remove_dir_all(one.physical(&path)).unwrap();
    };
    let ((nar, result), ()) = tokio::join!(both.fetch(&path), vanish);
    assert!(result.is_ok(), "{:?}", result.err());
    assert!(nar == good);
    let told = both.told.lock().unwrap().clone();
    assert!(told.is_empty(), "its program works: {told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_a_plain_nix_store_is_asked_for_nothing_new() {
    let (one, two, path) = twins(20 * MIB);
    let hosts = [(&one, 0.0, None), (&two, 0.0, None)];
    let both = setup_ours(&hosts, &[], 0, &account(&[]));
    both_have(&both, &path).await;
    fetch_right(&both, &one, &path).await;
    let paths = [path];
    let dumps = BOTH.iter().map(|host| both.dumps(host, &paths).len());
    assert_eq!(dumps.sum::<usize>(), 1);
    for host in BOTH {
        assert_eq!(both.parts(host), (0, 0));
    }
    let told = both.told.lock().unwrap();
    assert!(told.is_empty(), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_with_ours_and_one_with_nixs_do_together_what_they_can() {
    let (one, two, path) = twins(30 * MIB);
    let hosts = [(&one, 0.0, None), (&two, 0.0, None)];
    let both = setup_ours(&hosts, &[], 0, &account(&["two"]));
    both_have(&both, &path).await;
    fetch_right(&both, &one, &path).await;
    assert_eq!(both.parts("one"), (0, 0));
}
