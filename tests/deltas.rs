//! Paths that come as differences from versions that are here: real shells, a real `zstd`, links with a rate.

mod rig;
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rig::{Account, Fault, Link, builds, setup_account, slow_line, slow_link};
use support::{Host, Nix, Random, Scratch, Store};

const KIB: u64 = 1 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_comes_as_its_differences() {
    let (remote, local, new) = builds();
    for memory in [0, 64 << 20] {
        let link = slow_line();
        let account = Account {
            memory,
            ..Account::with_bases(&[&local])
        };
        let setup = setup_account(&remote, &link, &account);
        let came = setup.fetch_counted(&link, &remote, &new).await;
        assert!(came < 200 * KIB, "{came}");
        setup.assert_told_nothing();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_has_no_version_of_is_compared_by_files_and_blocks() {
    let (remote, local) = (Store::new(), Store::new());
    local.build("tool-1.0", 1);
    let new = remote.build("tool-1.0", 2);
    let link = slow_line();
    let setup = setup_account(&remote, &link, &Account::with_bases(&[&local]));
    let came = setup.fetch_counted(&link, &remote, &new).await;
    // Two large ones differ, in three blocks of 256 KiB each.
    assert!((1_500 * KIB..2_000 * KIB).contains(&came), "{came}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_too_large_for_a_patch_comes_block_by_block() {
    let size = 150 << 20;
    let local = Store::new();
    let old = local.one_file(1, size, (5, 0));
    // Blocks of 256 KiB: one in each place where hashes have changed; the two around what was inserted.
    for (number, change, at_host, most) in [
        (2, (5, 0), true, 1400 * KIB),
        (3, (5, 30_000), false, 2000 * KIB),
    ] {
        let remote = Store::new();
        if at_host {
            remote.copy_from(&local, &[&old]);
        }
        let new = remote.one_file(number, size, change);
        let link = slow_line();
        let account = Account {
            memory: 64 << 20,
            ..Account::with_bases(&[&local])
        };
        let setup = setup_account(&remote, &link, &account);
        let came = setup.fetch_counted(&link, &remote, &new).await;
        assert!(came < most, "{number}: {came}");
        setup.assert_told_nothing();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_makes_no_digests_costs_no_path() {
    let (remote, local) = (Store::new(), Store::new());
    let size = 8 << 20;
    local.one_file(1, size, (2, 0));
    let new = remote.one_file(2, size, (2, 0));
    for script in ["exit 1", "exec echo hello", "head -c 5; exit 1", ":"] {
        let programs = program("sha256sum", script);
        let account = Account {
            programs: Some(programs.path().to_owned()),
            ..Account::with_bases(&[&local])
        };
        let link = slow_line();
        let setup = setup_account(&remote, &link, &account);
        let came = setup.fetch_counted(&link, &remote, &new).await;
        assert!(came > size as u64, "{script}: {came}");
        setup.assert_told_nothing();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_is_found_by_its_name() {
    let (remote, local) = (Store::new(), Store::new());
    let old = remote.build("tool-1.0", 1);
    local.copy_from(&remote, &[&old]);
    // All contents follow from the name: rename the files' folder instead.
    let new = remote.add_made(Random::new(3, "").store_path("tool-1.1"), |folder| {
        copy(&remote.physical(&old), folder);
        fs::rename(
            folder.join("lib/libtool.so.1.2"),
            folder.join("lib/libtool.so.1.3"),
        )
        .unwrap();
    });
    let link = slow_line();
    let setup = setup_account(&remote, &link, &Account::with_bases(&[&local]));
    let came = setup.fetch_counted(&link, &remote, &new).await;
    assert!(came < 60 * KIB, "{came}");
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").args([from, to]).status();
    assert!(copied.unwrap().success());
    let writable = Command::new("chmod").args(["-R", "u+w"]).arg(to).status();
    assert!(writable.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_a_fast_link_nor_a_host_that_says_so_gets_differences() {
    let (remote, local, new) = builds();
    for (rate, params) in [(0, ""), (5_000_000, "&delta=off")] {
        let mut link = Link::slow(rate);
        link.latency = Duration::from_millis(if rate == 0 { 0 } else { 20 });
        let link = Arc::new(link);
        let account = Account {
            params,
            ..Account::with_bases(&[&local])
        };
        let setup = setup_account(&remote, &link, &account);
        let came = setup.fetch_counted(&link, &remote, &new).await;
        assert!(came > 9_000 * KIB, "{params}: {came}");
    }
}

/// Has the path come in another way, which nobody has to be told of.
async fn falls_back(remote: &Store, new: &str, account: &Account) {
    let link = slow_line();
    let setup = setup_account(remote, &link, account);
    setup.fetch_counted(&link, remote, new).await;
    setup.assert_told_nothing();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_here_that_is_not_what_it_should_be_costs_no_path() {
    for file in ["bin/tool", "share/data"] {
        for memory in [0, 64 << 20] {
            let (remote, local, new) = builds();
            local.damage(&local.all_paths()[0], file);
            let account = Account {
                memory,
                ..Account::with_bases(&[&local])
            };
            falls_back(&remote, &new, &account).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_registered_and_gone_costs_no_path() {
    for at_host in [true, false] {
        let (remote, local, new) = builds();
        let store = if at_host { &remote } else { &local };
        let old = local.all_paths().remove(0);
        store.remove_files(&old);
        falls_back(&remote, &new, &Account::with_bases(&[&local])).await;
    }
}

/// A folder with a program of that name.
fn program(name: &str, script: &str) -> Scratch {
    let programs = Scratch::new();
    let file = programs.write(name, format!("#!/bin/sh\n{script}\n"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    programs
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zstd_that_makes_no_patches_costs_no_path() {
    let (remote, local, new) = builds();
    let zstd = support::tool("zstd");
    let zstd = zstd.display();
    for (name, script) in [
        (
            "is too old",
            format!("case \"$*\" in *patch*) exit 1;; esac; exec {zstd} \"$@\""),
        ),
        (
            "ends early",
            format!(
                "case \"$*\" in *patch*) {zstd} \"$@\"|head -c 100; exit 0;; esac; exec {zstd} \"$@\""
            ),
        ),
        (
            "sends no patch",
            format!("case \"$*\" in *patch*) echo hello; exit 0;; esac; exec {zstd} \"$@\""),
        ),
        (
            "sends too much",
            format!("case \"$*\" in *patch*) cat /dev/zero;; esac; exec {zstd} \"$@\""),
        ),
        (
            "is killed",
            format!("case \"$*\" in *patch*) kill -9 $$;; esac; exec {zstd} \"$@\""),
        ),
    ] {
        let programs = program("zstd", &script);
        let account = Account {
            programs: Some(programs.path().to_owned()),
            ..Account::with_bases(&[&local])
        };
        let link = slow_line();
        let setup = setup_account(&remote, &link, &account);
        let came = setup.fetch_counted(&link, &remote, &new).await;
        assert!(came > 5_000 * KIB, "{name}: {came}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_breaks_costs_no_path() {
    let (remote, local, new) = builds();
    for cut in [2_000, 20_000, 60_000, 110_000] {
        for memory in [0, 64 << 20] {
            let link = Arc::new(slow_link().cut([cut]));
            let account = Account {
                memory,
                ..Account::with_bases(&[&local])
            };
            let setup = setup_account(&remote, &link, &account);
            setup.fetch_counted(&link, &remote, &new).await;
            assert_eq!(link.breaks(), 1, "{cut}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_is_wrong_costs_no_path() {
    let (remote, local, new) = builds();
    let mut random = Random::new(1, "flips");
    for memory in [0, 64 << 20] {
        for _ in 0..6 {
            let at = 2_000 + random.below(150_000) as u64;
            let account = Account {
                memory,
                fault: Some(Fault::Flip(at)),
                ..Account::with_bases(&[&local])
            };
            let link = slow_line();
            let setup = setup_account(&remote, &link, &account);
            setup.fetch_counted(&link, &remote, &new).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_any_line_where_the_host_url_says_so() {
    let (remote, local, new) = builds();
    let link = Arc::new(Link::default());
    let account = Account {
        params: "&delta=always",
        ..Account::with_bases(&[&local])
    };
    let setup = setup_account(&remote, &link, &account);
    let came = setup.fetch_counted(&link, &remote, &new).await;
    assert!(came < 200 * KIB, "{came}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_paths_come_one_behind_the_other() {
    let (remote, local) = (Store::new(), Store::new());
    let names: Vec<String> = (0..12)
        .map(|number| format!("tool{}-1.0", char::from(b'a' + number)))
        .collect();
    for name in &names {
        remote.build(name, 1);
        local.build(name, 1);
    }
    let new: Vec<String> = names.iter().map(|name| remote.build(name, 2)).collect();
    let link = slow_line();
    let account = Account {
        memory: 256 << 20,
        ..Account::with_bases(&[&local])
    };
    let setup = setup_account(&remote, &link, &account);
    setup.expect(&new).await;
    for path in &new {
        let (nar, result) = setup.fetch(path).await;
        assert!(result.is_ok(), "{path}: {:?}", result.err());
        assert!(nar == remote.nar(path), "{path}: wrong content");
    }
    let came = link.came.load(Ordering::SeqCst);
    assert!(came < 12 * 200 * KIB, "{came}");
}

#[test]
fn a_real_nix_gets_them_through_an_engine() {
    let (host, nix) = (Host::new(), Nix::through(&[]));
    let old = host.store.build("tool-1.0", 1);
    let new = host.store.build("tool-1.0", 2);
    nix.store().copy_from(&host.store, &[&old]);
    let env = nix.store().env();
    let base = format!("delta-base = {}", nix.store().root().display());
    let url = host.url("trusted=true&delta=always&compression=zstd");
    let engines = env.configure_with_engine(&[url], &base);
    nix.realise(&[&new]).ok();
    assert!(nix.store().verify_path(&new));
    let received = &engines.status()[0]["hosts"][0]["received"]["differences"];
    let bytes = |field: &str| received[field].as_u64().unwrap();
    assert_eq!(bytes("narBytes"), host.store.nar_size(&new));
    assert!(bytes("wireBytes") < 200 * KIB, "{received}");
    let status = env.program().arg("status").output().unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("as differences ("), "{status}");
}
