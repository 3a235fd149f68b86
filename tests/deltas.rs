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

use rig::{Account, Fault, Link, Setup, setup_account, setup_restricted};
use support::{Host, Nix, Random, Scratch, Store};

const KIB: u64 = 1 << 10;

/// 20 ms away, with 5 MB/s.
fn link() -> Arc<Link> {
    let mut link = Link::slow(5_000_000);
    link.latency = Duration::from_millis(20);
    Arc::new(link)
}

/// An account for which these stores hold other versions.
fn account(bases: &[&Store]) -> Account {
    Account {
        bases: bases.iter().map(|store| store.root().to_owned()).collect(),
        ..Account::default()
    }
}

/// Fetches the path, which must come as it is. Gives how many bytes came over the link.
async fn fetch(setup: &Setup, link: &Link, store: &Store, path: &str) -> u64 {
    let before = link.came.load(Ordering::SeqCst);
    setup.expect(&[path.to_owned()]).await;
    let (nar, result) = setup.fetch(path).await;
    assert!(result.is_ok(), "{path}: {:?}", result.err());
    assert!(nar == store.nar(path), "{path}: wrong content");
    link.came.load(Ordering::SeqCst) - before
}

/// A host with two builds of a package, and a store here with the first one.
fn builds() -> (Store, Store, String) {
    let (remote, local) = (Store::new(), Store::new());
    remote.build("tool-1.0", 1);
    local.build("tool-1.0", 1);
    let new = remote.build("tool-1.0", 2);
    (remote, local, new)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_comes_as_its_differences() {
    let (remote, local, new) = builds();
    for memory in [0, 64 << 20] {
        let link = link();
        let account = Account {
            memory,
            ..account(&[&local])
        };
        let setup = setup_account(&remote, &link, &account);
        let came = fetch(&setup, &link, &remote, &new).await;
        assert!(came < 200 * KIB, "{came}");
        assert_eq!(*setup.told.lock().unwrap(), [] as [String; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_has_no_version_of_is_compared_file_by_file() {
    let (remote, local) = (Store::new(), Store::new());
    local.build("tool-1.0", 1);
    let new = remote.build("tool-1.0", 2);
    let link = link();
    let setup = setup_account(&remote, &link, &account(&[&local]));
    let came = fetch(&setup, &link, &remote, &new).await;
    // Two large ones differ.
    assert!((9_000 * KIB..9_700 * KIB).contains(&came), "{came}");
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
    let link = link();
    let setup = setup_account(&remote, &link, &account(&[&local]));
    let came = fetch(&setup, &link, &remote, &new).await;
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
            ..account(&[&local])
        };
        let setup = setup_account(&remote, &link, &account);
        let came = fetch(&setup, &link, &remote, &new).await;
        assert!(came > 9_000 * KIB, "{params}: {came}");
    }
}

/// Has the path come in another way, which nobody has to be told of.
async fn falls_back(remote: &Store, new: &str, account: &Account) {
    let link = link();
    let setup = setup_account(remote, &link, account);
    fetch(&setup, &link, remote, new).await;
    let told = setup.told.lock().unwrap().clone();
    assert_eq!(told, [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_here_that_is_not_what_it_should_be_costs_no_path() {
    for file in ["bin/tool", "share/data"] {
        for memory in [0, 64 << 20] {
            let (remote, local, new) = builds();
            let path = local.physical(&local.all_paths()[0]).join(file);
            let mut bytes = fs::read(&path).unwrap();
            for at in (0..bytes.len()).step_by(1000) {
                bytes[at] ^= 1;
            }
            fs::remove_file(&path).unwrap();
            fs::write(&path, bytes).unwrap();
            let account = Account {
                memory,
                ..account(&[&local])
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
        let gone = store.physical(&old);
        assert!(
            Command::new("chmod")
                .args(["-R", "u+w"])
                .arg(&gone)
                .status()
                .unwrap()
                .success()
        );
        fs::remove_dir_all(gone).unwrap();
        falls_back(&remote, &new, &account(&[&local])).await;
    }
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
        let programs = Scratch::new();
        let file = programs.path().join("zstd");
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let account = Account {
            programs: Some(programs.path().to_owned()),
            ..account(&[&local])
        };
        let link = link();
        let setup = setup_account(&remote, &link, &account);
        let came = fetch(&setup, &link, &remote, &new).await;
        assert!(came > 5_000 * KIB, "{name}: {came}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_breaks_costs_no_path() {
    let (remote, local, new) = builds();
    for cut in [2_000, 20_000, 60_000, 110_000] {
        for memory in [0, 64 << 20] {
            let mut link = Link::slow(5_000_000).cut([cut]);
            link.latency = Duration::from_millis(20);
            let link = Arc::new(link);
            let account = Account {
                memory,
                ..account(&[&local])
            };
            let setup = setup_account(&remote, &link, &account);
            fetch(&setup, &link, &remote, &new).await;
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
                ..account(&[&local])
            };
            let link = link();
            let setup = setup_account(&remote, &link, &account);
            fetch(&setup, &link, &remote, &new).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_any_line_where_the_host_url_says_so() {
    let (remote, local, new) = builds();
    let link = Arc::new(Link::default());
    let account = Account {
        params: "&delta=always",
        ..account(&[&local])
    };
    let setup = setup_account(&remote, &link, &account);
    let came = fetch(&setup, &link, &remote, &new).await;
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
    let link = link();
    let account = Account {
        memory: 256 << 20,
        ..account(&[&local])
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

/// One build of a package of about `size` bytes that holds hashes of its dependencies and its own, as Nix registers them: in
/// contents, in names, in a symlink. `other` is what differs beside them.
fn package(store: &Store, number: u64, size: usize, other: &str) -> String {
    let letter = |digit| char::from(digit - b'0' + b'a');
    let letters: String = size.to_string().bytes().map(letter).collect();
    let name = format!("package-{letters}");
    let made = |name: &str| Random::new(number, name).store_path(name);
    let [own, first, second] = [made(&name), made("first"), made("second")];
    for dependency in [&first, &second] {
        if !store.all_paths().contains(dependency) {
            store.add_made(dependency.clone(), |file| {
                fs::write(file, number.to_string()).unwrap();
            });
        }
    }
    let references = [&*own, &*first, &*second];
    store.add_made_with(own.clone(), &references, |folder| {
        fs::create_dir_all(folder.join("bin")).unwrap();
        let mut random = Random::new(1, &name);
        for (file, share) in [("bin/tool", 2), ("data", 4), ("more", 4)] {
            let mut bytes = vec![0; size / share];
            random.fill(&mut bytes);
            let hashes = references.map(|path| &path.as_bytes()["/nix/store/".len()..][..32]);
            // One of them where pieces of the NAR meet, wherever that is.
            for (index, at) in (0..bytes.len() - 100).step_by(4099).enumerate() {
                bytes[at..at + 32].copy_from_slice(hashes[index % 3]);
            }
            bytes.extend_from_slice(other.as_bytes());
            fs::write(folder.join(file), bytes).unwrap();
        }
        std::os::unix::fs::symlink(&first, folder.join("link")).unwrap();
        // Alone there: its place among others would depend on the hash.
        let named = format!("etc/{}.conf", &second["/nix/store/".len()..]);
        let named = folder.join(named);
        fs::create_dir(folder.join("etc")).unwrap();
        fs::write(named, "").unwrap();
    })
}

/// A host with two builds of packages of these sizes, and a store here with the first builds.
fn packages(sizes: &[usize], others: [&str; 2]) -> (Store, Store, Vec<String>) {
    let (remote, local) = (Store::new(), Store::new());
    for size in sizes {
        package(&local, 1, *size, others[0]);
    }
    let new = sizes.iter();
    let new = new.map(|size| package(&remote, 2, *size, others[1]));
    let new = new.collect();
    (remote, local, new)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_of_the_same_is_made_from_what_is_here() {
    let (remote, local, new) = packages(&[30_000, 3 * MIB, 12 * MIB + 1], ["", ""]);
    for memory in [0, 64 << 20] {
        let link = link();
        let account = Account {
            memory,
            ..account(&[&local])
        };
        // A host without a shell serves as well.
        let setup = setup_restricted(&[(&remote, &link)], memory, &account);
        setup.expect(&new).await;
        // A small one that is fetched before anything is read ahead comes from the host.
        let before = link.came.load(Ordering::SeqCst);
        for path in &new {
            let (nar, result) = setup.fetch(path).await;
            assert!(result.is_ok(), "{path}: {:?}", result.err());
            assert!(nar == remote.nar(path), "{path}: wrong content");
        }
        let came = link.came.load(Ordering::SeqCst) - before;
        assert!(came < 40 * KIB, "{came}");
        assert_eq!(*setup.told.lock().unwrap(), [] as [String; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_turns_out_to_differ_costs_no_path() {
    let sizes = [30_000, 300_000, 3 * MIB, 12 * MIB + 1];
    let (remote, local, new) = packages(&sizes, ["built in May ", "built in June"]);
    for memory in [0, 64 << 20] {
        let link = link();
        let account = Account {
            memory,
            ..account(&[&local])
        };
        let setup = setup_account(&remote, &link, &account);
        setup.expect(&new).await;
        for path in &new {
            let (nar, result) = setup.fetch(path).await;
            assert!(result.is_ok(), "{path}: {:?}", result.err());
            assert!(nar == remote.nar(path), "{path}: wrong content");
        }
        assert_eq!(*setup.told.lock().unwrap(), [] as [String; 0]);
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
                ..account(&[&local])
            };
            falls_back(&remote, &new[0], &account).await;
        }
    }
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
