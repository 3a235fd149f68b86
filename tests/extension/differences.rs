//! Paths as differences from versions that are here, from accounts that run our program and nothing else.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ssh_substituter::remote::{BasePart, Difference, FileOfPath, SegmentReader};
use ssh_substituter::wire::nar::layout::{FileRange, Layout, Piece};

use super::rig::{Account, Fault, Link, Setup, builds, setup_ours, slow_line, slow_link};
use super::support::{Random, Store};
use super::{MIB, Narrow, open, parse, process};

const KIB: u64 = 1 << 10;

/// What is asked for.
const DIGEST: u64 = 0x5383;
const DELTA: u64 = 0x5384;
const SURVEY: u64 = 0x5386;
const PARTS: u64 = 0x5387;

/// An account that runs our program, for which this store here holds other versions.
fn account(base: &Store) -> Account {
    Account {
        ours: &["one"],
        ..Account::with_bases(&[base])
    }
}

fn setup(remote: &Store, link: &Arc<Link>, account: &Account) -> Setup {
    let hosts = [(remote, 0.0, account.fault)];
    setup_ours(&hosts, std::slice::from_ref(link), account.memory, account)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_comes_as_its_differences() {
    let (remote, local, new) = builds();
    for memory in [0, 64 << 20] {
        let link = slow_line();
        let account = Account {
            memory,
            ..account(&local)
        };
        let setup = setup(&remote, &link, &account);
        let came = setup.fetch_counted(&link, &remote, &new).await;
        assert!(came < 170 * KIB, "{came}");
        assert_eq!(setup.extension_requests("one", SURVEY), 1);
        assert!(setup.extension_requests("one", DELTA) >= 2);
        setup.assert_told_nothing();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_has_no_version_of_is_compared_by_files_and_blocks() {
    let (remote, local) = (Store::new(), Store::new());
    local.build("tool-1.0", 1);
    let new = remote.build("tool-1.0", 2);
    let link = slow_line();
    let setup = setup(&remote, &link, &account(&local));
    let came = setup.fetch_counted(&link, &remote, &new).await;
    // Two large ones differ, in three blocks of 256 KiB each.
    assert!((1_500 * KIB..2_000 * KIB).contains(&came), "{came}");
    assert_eq!(setup.extension_requests("one", DIGEST), 12 + 24);
    assert_eq!(setup.extension_requests("one", DELTA), 0);
    assert!(setup.extension_requests("one", PARTS) > 0);
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
        ..account(&local)
    };
    let setup = setup(&remote, &link, &account);
    setup.expect(&new).await;
    for path in &new {
        setup.fetch_right(&remote, path).await;
    }
    let came = link.came.load(Ordering::SeqCst);
    assert!(came < 12 * 170 * KIB, "{came}");
    assert_eq!(setup.parts("one"), (0, 0));
}

/// Has the path come in another way, which nobody has to be told of.
async fn falls_back(remote: &Store, new: &str, account: &Account) {
    let link = slow_line();
    let setup = setup(remote, &link, account);
    setup.fetch_counted(&link, remote, new).await;
    setup.assert_told_nothing();
    assert_eq!(setup.extension_requests("one", SURVEY), 1);
    assert!(setup.parts("one").0 > 0, "in another way");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_here_that_is_not_what_it_should_be_costs_no_path() {
    for memory in [0, 64 << 20] {
        let (remote, local, new) = builds();
        local.damage(&local.all_paths()[0], "bin/tool");
        let account = Account {
            memory,
            ..account(&local)
        };
        falls_back(&remote, &new, &account).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_has_gone_from_the_host_meanwhile_costs_no_path() {
    for memory in [0, 64 << 20] {
        let (remote, local, new) = builds();
        // Its files are gone, and it is registered still.
        remote.remove_files(&local.all_paths()[0]);
        let account = Account {
            memory,
            ..account(&local)
        };
        falls_back(&remote, &new, &account).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_break_and_bytes_that_are_wrong_cost_no_path() {
    let (remote, local, new) = builds();
    let mut random = Random::new(1, "flips");
    for cut in [2_000, 20_000, 60_000, 110_000] {
        for memory in [0, 64 << 20] {
            let broken = Arc::new(slow_link().cut([cut]));
            let whole = Account {
                memory,
                ..account(&local)
            };
            let setup_broken = setup(&remote, &broken, &whole);
            setup_broken.fetch_counted(&broken, &remote, &new).await;
            assert_eq!(broken.breaks(), 1, "{cut}");
            let link = slow_line();
            let flipped = Account {
                fault: Some(Fault::Flip(2_000 + random.below(120_000) as u64)),
                ..whole
            };
            let setup = setup(&remote, &link, &flipped);
            setup.fetch_counted(&link, &remote, &new).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_with_another_version_of_the_extension_is_not_asked() {
    let (remote, local, new) = builds();
    let link = slow_line();
    let account = Account {
        is_other_version: true,
        memory: 64 << 20,
        ..account(&local)
    };
    let setup = setup(&remote, &link, &account);
    setup.fetch_counted(&link, &remote, &new).await;
    for op in 0x5381..=0x53ff {
        assert_eq!(setup.extension_requests("one", op), 0, "{op:x}");
    }
    assert_eq!(setup.dumps("one", &[new]).len(), 1);
    setup.assert_told_nothing();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_too_large_for_one_patch_comes_in_several() {
    let (remote, local) = (Store::new(), Store::new());
    let size = 150 << 20;
    let old = local.one_file(1, size, (0, 0));
    remote.copy_from(&local, &[&old]);
    let new = remote.one_file(2, size, (0, 30_000));
    let link = slow_line();
    let account = Account {
        memory: 64 << 20,
        ..account(&local)
    };
    let setup = setup(&remote, &link, &account);
    let came = setup.fetch_counted(&link, &remote, &new).await;
    assert!(came < 400 * KIB, "{came}");
    assert_eq!(setup.extension_requests("one", DELTA), 7);
}

/// A file of a layout.
fn file(layout: &Layout, index: usize, name: &[u8]) -> FileOfPath {
    let mut nar_start = 0;
    for piece in layout.segment(0, u64::MAX).pieces() {
        match piece {
            Piece::Framing(bytes) => nar_start += bytes.len() as u64,
            Piece::Contents(range) if range.path == name => {
                return FileOfPath {
                    index,
                    nar_start,
                    range,
                };
            }
            Piece::Contents(range) => nar_start += range.len,
        }
    }
    panic!("no such file");
}

async fn next(reader: &mut SegmentReader) -> Difference {
    reader.difference().await.unwrap().expect("it is due")
}

#[tokio::test(flavor = "multi_thread")]
async fn files_come_as_they_are_and_no_other_ones() {
    let store = Store::new();
    let [old, new] = [1, 2].map(|number| store.build("tool-1.0", number));
    let missing = parse(&Random::new(1, "missing").store_path("missing"));
    let (old_path, new_path) = (parse(&old), parse(&new));
    let read = |path: &str, file: &str| fs::read(store.physical(path).join(file)).unwrap();
    let (real, narrow) = (process(&store), Narrow(store.root().to_owned(), 64));
    for channel in [open(&real).await, open(&narrow).await] {
        let mut reader = SegmentReader::Extension(Box::new(channel));
        let paths = [&new_path, &missing, &old_path];
        let elsewhere = format!("../{}/bin/tool", &old["/nix/store/".len()..]);
        let names: [(usize, &[u8]); 7] = [
            (0, b"share/icon"),
            (0, b"bin"),
            (0, elsewhere.as_bytes()),
            (0, b"bin//tool"),
            (0, b"./bin/tool"),
            (1, b"share/icon"),
            (2, b"share/icon"),
        ];
        reader.request_survey(&paths, names.into_iter());
        let surveyed = next(&mut reader).await.surveyed(&paths).unwrap();
        let [of_new, of_missing, of_old] = &surveyed[..] else {
            panic!("three paths");
        };
        assert!(of_missing.layout.is_none() && of_missing.digests.is_empty());
        for (said, path) in [(of_new, &new), (of_old, &old)] {
            use sha2::{Digest, Sha256};
            let layout = said.layout.as_ref().unwrap();
            assert_eq!(layout.nar_size(), store.nar_size(path));
            let icon: [u8; 32] = Sha256::digest(read(path, "share/icon")).into();
            let digests: Vec<_> = said.digests.iter().collect();
            assert_eq!(digests, [(&b"share/icon".to_vec(), &icon)]);
        }
        let layout = of_new.layout.as_ref().unwrap();
        let [icon, tool] = [&b"share/icon"[..], b"bin/tool"].map(|name| file(layout, 0, name));
        let mut middle = tool.clone();
        middle.nar_start += 1000;
        middle.range = FileRange {
            offset: 1000,
            len: 2000,
            ..middle.range
        };
        reader.request_files(&paths, &[icon.clone(), middle.clone()], 3);
        let whole = |file, start, len| BasePart {
            path: &old_path,
            file,
            start,
            len,
        };
        reader.request_patch(&paths, &tool, whole(b"bin/tool", 0, 3 * MIB), 3);
        reader.request_patch(&paths, &middle, whole(b"bin/tool", 500, 3000), 19);
        // What cannot be had costs that reply only.
        let mut beyond = icon.clone();
        beyond.nar_start = store.nar_size(&new) - 1;
        reader.request_files(&paths, &[beyond], 3);
        for (file, start, len) in [
            (&b"bin/tool"[..], 0, 3 * MIB + 1),
            (b"bin/tool", u64::MAX, 1),
            (b"bin", 0, 1),
            (b"bin/nothing", 0, 1),
            (elsewhere.as_bytes(), 0, 1),
            (b"lib/libtool.so.1.2", 0, 65 * MIB),
        ] {
            reader.request_patch(&paths, &icon, whole(file, start, len), 3);
        }
        reader.request_patch(&paths, &icon, whole(b"share/icon", 0, 40_000), 3);

        let (new_tool, old_tool) = (read(&new, "bin/tool"), read(&old, "bin/tool"));
        let group = next(&mut reader).await;
        let want = [&read(&new, "share/icon")[..], &new_tool[1000..3000]].concat();
        assert!(group.contents(42_000).unwrap() == want);
        assert!(group.contents(41_999).is_err() && group.contents(42_001).is_err());
        let patch = next(&mut reader).await;
        assert!(patch.wire_len() < 2000, "{}", patch.wire_len());
        assert!(patch.patched(&old_tool, 3 * MIB).unwrap() == new_tool);
        assert!(patch.patched(&old_tool[1..], 3 * MIB).is_err());
        let patch = next(&mut reader).await;
        let patched = patch.patched(&old_tool[500..3500], 2000).unwrap();
        assert!(patched == new_tool[1000..3000]);
        for _ in 0..7 {
            let refused = next(&mut reader).await;
            assert!(refused.contents(1).is_err() && refused.patched(b"", 1).is_err());
        }
        let patch = next(&mut reader).await;
        let icon = read(&new, "share/icon");
        assert!(patch.patched(&read(&old, "share/icon"), 40_000).unwrap() == icon);
        assert!(reader.difference().await.unwrap().is_none());
        assert!(reader.is_clean());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_is_reached_through_a_symlink() {
    let store = Store::new();
    let secret = store.root().join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("file"), "a secret").unwrap();
    let path = Random::new(1, "links").store_path("links");
    store.add_made(path.clone(), |folder| {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("file"), "no secret").unwrap();
        let link = |target: &Path, name| {
            std::os::unix::fs::symlink(target, folder.join(name)).unwrap();
        };
        link(&secret, "folder");
        link(&secret.join("file"), "other");
    });
    let path = parse(&path);
    let mut reader = SegmentReader::Extension(Box::new(open(&process(&store)).await));
    let names: [&[u8]; 3] = [b"file", b"folder/file", b"other"];
    reader.request_survey(&[&path], names.into_iter().map(|name| (0, name)));
    let surveyed = next(&mut reader).await.surveyed(&[&path]).unwrap();
    let digests: Vec<_> = surveyed[0].digests.keys().collect();
    assert_eq!(digests, [b"file"]);
    let part = file(surveyed[0].layout.as_ref().unwrap(), 0, b"file");
    for name in [&b"folder/file"[..], b"other"] {
        let base = BasePart {
            path: &path,
            file: name,
            start: 0,
            len: 8,
        };
        reader.request_patch(&[&path], &part, base, 3);
        assert!(next(&mut reader).await.patched(b"a secret", 9).is_err());
    }
}
