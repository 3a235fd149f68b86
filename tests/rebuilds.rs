//! Paths that are the same as versions that are here but for hashes of store paths: all of them, or their files.

mod rig;
mod support;

use std::fs;
use std::sync::atomic::Ordering;

use rig::{Account, Setup, setup_account, setup_restricted, slow_line};
use support::Store;

const MIB: usize = 1 << 20;
const KIB: u64 = 1 << 10;

/// Fetches these paths one after the other, which must come as they are.
async fn fetch(setup: &Setup, store: &Store, paths: &[String]) {
    setup.expect(paths).await;
    for path in paths {
        let (nar, result) = setup.fetch(path).await;
        assert!(result.is_ok(), "{path}: {:?}", result.err());
        assert!(nar == store.nar(path), "{path}: wrong content");
    }
}

/// A host with two builds of packages of these sizes, and a store here with the first builds.
fn packages(sizes: &[usize], others: [&str; 2]) -> (Store, Store, Vec<String>) {
    let (remote, local) = (Store::new(), Store::new());
    for size in sizes {
        local.package(1, *size, others[0]);
    }
    let new = sizes.iter();
    let new = new.map(|size| remote.package(2, *size, others[1]));
    let new = new.collect();
    (remote, local, new)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_of_the_same_is_made_from_what_is_here() {
    let (remote, local, new) = packages(&[30_000, 3 * MIB, 12 * MIB + 1], ["", ""]);
    // Hosts without a shell serve as well: with Nix's program, and with ours.
    let hosts: [&[&str]; 2] = [&[], &["one"]];
    for (memory, ours) in [
        (0, hosts[0]),
        (64 << 20, hosts[0]),
        (0, hosts[1]),
        (64 << 20, hosts[1]),
    ] {
        let link = slow_line();
        let account = Account {
            memory,
            ours,
            ..Account::with_bases(&[&local])
        };
        let setup = setup_restricted(&[(&remote, &link)], memory, &account);
        fetch(&setup, &remote, &new).await;
        let came = link.came.load(Ordering::SeqCst);
        // The first one comes from the host if it is a small one: nothing is read ahead before it is fetched.
        assert!(came < 40 * KIB, "{came}");
        assert_eq!(setup.extension_requests("one", 0x5386), 0, "no survey");
        setup.assert_told_nothing();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_turns_out_to_differ_costs_no_path() {
    let sizes = [30_000, 300_000, 3 * MIB, 12 * MIB + 1];
    let (remote, local, new) = packages(&sizes, ["built in May ", "built in June"]);
    for memory in [0, 64 << 20] {
        let link = slow_line();
        let account = Account {
            memory,
            ..Account::with_bases(&[&local])
        };
        let setup = setup_account(&remote, &link, &account);
        fetch(&setup, &remote, &new).await;
        setup.assert_told_nothing();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_has_changed_here_makes_no_rebuild() {
    for size in [300_000, 12 * MIB + 1] {
        for memory in [0, 64 << 20] {
            let (remote, local, new) = packages(&[size], ["", ""]);
            let paths = local.all_paths();
            let old = paths.iter().find(|path| path.contains("package")).unwrap();
            let file = local.physical(old).join("data");
            let mut bytes = fs::read(&file).unwrap();
            bytes[50] ^= 1;
            fs::remove_file(&file).unwrap();
            fs::write(&file, bytes).unwrap();
            let account = Account {
                memory,
                ..Account::with_bases(&[&local])
            };
            let setup = setup_account(&remote, &slow_line(), &account);
            fetch(&setup, &remote, &new).await;
            setup.assert_told_nothing();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_differ_in_hashes_alone_do_not_come() {
    let (remote, local, new) = packages(&[3 * MIB], ["old", "newer"]);
    // Whose host has no version that patches could be made from.
    let old = remote.all_paths();
    assert!(!old.iter().any(|path| local.all_paths().contains(path)));
    let link = slow_line();
    let account = Account {
        params: "&delta=always",
        ..Account::with_bases(&[&local])
    };
    let setup = setup_account(&remote, &link, &account);
    fetch(&setup, &remote, &new).await;
    let came = link.came.load(Ordering::SeqCst);
    // One of them differs in its last block too.
    assert!(came < 20 * KIB, "{came}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_paths_are_asked_for_together() {
    let sizes: Vec<usize> = (0..24).map(|number| 200_000 + number).collect();
    let (remote, local, new) = packages(&sizes, ["old", "newer"]);
    // One has gone, which costs the others nothing.
    let gone = remote.physical(&new[5]);
    fs::rename(&gone, gone.with_extension("gone")).unwrap();
    let link = slow_line();
    let account = Account {
        memory: 64 << 20,
        params: "&delta=always",
        ..Account::with_bases(&[&local])
    };
    let setup = setup_account(&remote, &link, &account);
    setup.expect(&new).await;
    let before = link.came.load(Ordering::SeqCst);
    for path in &new {
        let (nar, result) = setup.fetch(path).await;
        if *path == new[5] {
            assert!(result.is_err(), "it has gone");
            continue;
        }
        assert!(result.is_ok(), "{path}: {:?}", result.err());
        assert!(nar == remote.nar(path), "{path}: wrong content");
    }
    let came = link.came.load(Ordering::SeqCst) - before;
    // A quarter of each, and all of the first one, which is asked for before anything is decided.
    assert!(came < 23 * 60 * KIB + 300 * KIB, "{came}");
    let surveys = setup.surveys("one");
    assert!((1..=8).contains(&surveys), "{surveys}");
}
