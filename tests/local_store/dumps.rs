//! Dumps are byte for byte those of `nix-store --dump`; what goes wrong can be completed.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use ssh_substituter::local_store::{CHUNK, Dump, LocalStore, LocalStoreError};
use ssh_substituter::model::StorePath;
use ssh_substituter::wire::nar::{Completion, failing_nar};

use crate::store::{Store, dump, is_well_formed, make_writable, remove};

fn make_tree(path: &Path) {
    fs::create_dir_all(path.join("empty")).unwrap();
    fs::create_dir_all(path.join("a/b/c")).unwrap();
    for name in ["a.b", "a-b", "A", "a b", "aa", "é", "~", "0"] {
        fs::write(path.join(name), name).unwrap();
        fs::write(path.join("a/b").join(name), "").unwrap();
    }
    let odd = OsStr::from_bytes(b"a\xff\x01\n");
    symlink(odd, path.join(odd)).unwrap();
    symlink("../nowhere", path.join("a/b/c/link")).unwrap();
    symlink(OsStr::from_bytes(&[b't'; 4095]), path.join("long")).unwrap();
    fs::write(path.join("n".repeat(255)), "n").unwrap();
    for len in (0..20).chain([CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5]) {
        fs::write(path.join(format!("len{len}")), vec![b'x'; len]).unwrap();
    }
    for i in 0..2500 {
        fs::write(path.join("a/b/c").join(i.to_string()), i.to_string()).unwrap();
    }
    let script = path.join("script");
    fs::write(&script, "#!").unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
}

/// A tree that takes several chunks whatever is pulled first.
fn wide_tree(path: &Path) {
    fs::create_dir_all(path.join("d/e")).unwrap();
    for i in 0..700 {
        fs::write(path.join("d/e").join(i.to_string()), [b'x'; 500]).unwrap();
    }
}

/// Pulls to the end or the first error.
fn pull(dump: &mut Dump, nar: &mut Vec<u8>) -> Result<(), LocalStoreError> {
    let mut chunk = Vec::new();
    while dump.next_chunk(&mut chunk)? {
        nar.extend_from_slice(&chunk);
    }
    Ok(())
}

fn complete(dump: &mut Dump, nar: &mut Vec<u8>) {
    let Completion { head, fill, tail } = dump.complete_after_error("it broke");
    nar.extend(head);
    nar.resize(nar.len() + fill as usize, 0);
    nar.extend(tail);
}

/// Pulls a chunk, does something to the files, expects an error from the rest and that what came
/// can be completed.
fn break_off(store: &LocalStore, path: &StorePath, fault: impl FnOnce()) -> LocalStoreError {
    let (mut nar, mut rest) = (Vec::new(), Vec::new());
    let mut dump = Dump::open(store, path).unwrap();
    assert!(dump.next_chunk(&mut nar).unwrap());
    fault();
    let error = pull(&mut dump, &mut rest).unwrap_err();
    nar.extend(rest);
    assert_eq!(dump.bytes_given(), nar.len() as u64);
    complete(&mut dump, &mut nar);
    assert!(is_well_formed(&nar), "{error}");
    let mut chunk = Vec::new();
    assert!(!dump.next_chunk(&mut chunk).unwrap(), "it is over");
    error
}

#[test]
fn dumps_are_those_of_nix() {
    let store = Store::new();
    let file = |name: &'static str, contents: Vec<u8>| {
        store.add(name, move |path| fs::write(path, contents).unwrap())
    };
    let paths = [
        store.add("tree", make_tree),
        store.add("empty-folder", |path| fs::create_dir(path).unwrap()),
        store.add("link", |path| symlink("/nix/store", path).unwrap()),
        store.add("script", |path| {
            fs::write(path, "#!/bin/sh").unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }),
        file("empty", Vec::new()),
        file("large", (0..5_000_003u32).map(|i| (i * 7) as u8).collect()),
    ];
    // Only the owner's bit counts.
    let groups = store.files(&paths[4]);
    fs::set_permissions(groups, Permissions::from_mode(0o455)).unwrap();
    let ours = store.open();
    for path in &paths {
        let (got, want) = (dump(&ours, path), store.dump_by_nix(&store.files(path)));
        assert!(got.unwrap() == want, "{path}");
        assert_eq!(
            Dump::open(&ours, path).unwrap().nar_size(),
            want.len() as u64
        );
    }
}

#[test]
fn chunks_are_bounded_and_the_buffer_stays() {
    let store = Store::new();
    let path = store.add("tree", make_tree);
    let mut dump = Dump::open(&store.open(), &path).unwrap();
    let mut chunk = Vec::new();
    assert!(dump.next_chunk(&mut chunk).unwrap());
    let place = chunk.as_ptr();
    loop {
        assert!(chunk.len() <= CHUNK && chunk.as_ptr() == place);
        if !dump.next_chunk(&mut chunk).unwrap() {
            break;
        }
    }
    assert!(chunk.is_empty());
    assert_eq!(dump.bytes_given(), dump.nar_size());
    assert_eq!(dump.complete_after_error("no"), Completion::default());
}

#[test]
fn every_beginning_can_be_completed() {
    let store = Store::new();
    let path = store.add("tree", make_tree);
    let ours = store.open();
    for chunks in 0.. {
        let (mut nar, mut chunk) = (Vec::new(), Vec::new());
        let mut dump = Dump::open(&ours, &path).unwrap();
        let more = (0..chunks).all(|_| {
            let more = dump.next_chunk(&mut chunk).unwrap();
            nar.extend_from_slice(&chunk);
            more
        });
        complete(&mut dump, &mut nar);
        assert!(is_well_formed(&nar), "after {chunks} chunks");
        if chunks == 0 {
            assert_eq!(nar, failing_nar("it broke"));
        }
        if !more {
            assert!(chunks > 5);
            break;
        }
    }
}

#[test]
fn an_invalid_path_gives_no_dump() {
    let store = Store::new();
    let path = "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-leftover";
    let path = StorePath::parse(path).unwrap();
    fs::create_dir_all(store.files(&path)).unwrap();
    let error = Dump::open(&store.open(), &path).unwrap_err();
    assert!(matches!(error, LocalStoreError::NotValid { .. }), "{error}");
}

#[test]
fn files_that_are_gone_are_an_error_before_the_first_byte() {
    let store = Store::new();
    let path = store.add("tree", wide_tree);
    let files = store.files(&path);
    remove(&files);
    let mut dump = Dump::open(&store.open(), &path).unwrap();
    let mut chunk = Vec::new();
    let message = dump.next_chunk(&mut chunk).unwrap_err().to_string();
    assert!(message.contains(files.to_str().unwrap()), "{message}");
    assert!(chunk.is_empty());
    complete(&mut dump, &mut chunk);
    assert_eq!(chunk, failing_nar("it broke"));
}

#[test]
fn vanishing_files_are_an_error_in_the_middle() {
    let store = Store::new();
    let path = store.add("tree", wide_tree);
    let files = store.files(&path);
    let error = break_off(&store.open(), &path, || remove(&files));
    assert!(matches!(error, LocalStoreError::Io { .. }), "{error}");
    let folder = files.join("d/e/").display().to_string();
    assert!(error.to_string().contains(&folder), "{error}");
}

#[test]
fn a_folder_that_is_emptied_before_it_is_listed_is_not_taken_for_the_whole() {
    let store = Store::new();
    let path = store.add("tree", |path| {
        wide_tree(path);
        fs::create_dir(path.join("z")).unwrap();
        fs::write(path.join("z/file"), "x").unwrap();
    });
    let last = store.files(&path).join("z/file");
    let error = break_off(&store.open(), &path, || remove(&last));
    assert!(matches!(error, LocalStoreError::Size { .. }), "{error}");
}

#[test]
fn a_shrinking_file_is_an_error_in_the_middle() {
    let store = Store::new();
    let path = store.add("large", |path| {
        fs::write(path, vec![1; 10 * CHUNK]).unwrap();
    });
    let file = store.files(&path);
    let error = break_off(&store.open(), &path, || {
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        fs::write(&file, vec![1; 2 * CHUNK + 1]).unwrap();
    });
    let message = error.to_string();
    assert!(matches!(error, LocalStoreError::Shrank { .. }), "{message}");
    let sizes = format!("expected {} bytes, got {}", 10 * CHUNK, 2 * CHUNK + 1);
    assert!(message.contains(&sizes), "{message}");
}

#[test]
fn a_growing_file_keeps_its_announced_length() {
    let store = Store::new();
    let path = store.add("large", |path| {
        fs::write(path, vec![1; 3 * CHUNK + 1]).unwrap();
    });
    let (mut nar, mut rest) = (Vec::new(), Vec::new());
    let mut dump = Dump::open(&store.open(), &path).unwrap();
    assert!(dump.next_chunk(&mut nar).unwrap());
    let file = store.files(&path);
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    fs::write(&file, vec![1; 9 * CHUNK]).unwrap();
    pull(&mut dump, &mut rest).unwrap();
    nar.extend(rest);
    assert!(is_well_formed(&nar));
    assert_eq!(nar.len() as u64, dump.nar_size());
}

#[test]
fn other_kinds_of_files_are_named() {
    let store = Store::new();
    let path = store.add("tree", wide_tree);
    let folder = store.files(&path).join("d");
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    let ours = store.open();
    let fifo = folder.join("z");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    let message = break_off(&ours, &path, || ()).to_string();
    assert!(message.contains("got a fifo"), "{message}");
    assert!(message.contains(fifo.to_str().unwrap()), "{message}");
    remove(&fifo);
    let socket = std::os::unix::net::UnixListener::bind(&fifo).unwrap();
    let message = break_off(&ours, &path, || ()).to_string();
    assert!(message.contains("got a socket"), "{message}");
    drop(socket);
}

/// Files whose names differ in case, and such as they have where that is not allowed.
fn hacked_tree(path: &Path) {
    fs::create_dir_all(path.join("a/Sub")).unwrap();
    fs::create_dir_all(path.join("a/sub~nix~case~hack~1/deep")).unwrap();
    for name in ["Foo", "foo~nix~case~hack~1", "fop", "FOO~nix~case~hack~2"] {
        fs::write(path.join(name), name).unwrap();
        fs::write(path.join("a/sub~nix~case~hack~1/deep").join(name), name).unwrap();
    }
    symlink("Foo", path.join("a/x~nix~case~hack~12~nix~case~hack~3")).unwrap();
}

#[test]
fn the_case_hack_is_undone_where_only_that_gives_the_size() {
    let store = Store::new();
    let source = store.dir().join("hacked");
    hacked_tree(&source);
    let source = source.to_str().unwrap();
    let hack = ["--option", "use-case-hack", "true"];
    let hacked = store.nix("nix-store", &[&hack[..], &["--add", source]].concat());
    let hacked = StorePath::parse(&hacked).unwrap();
    assert!(store.files(&hacked).join("foo~nix~case~hack~2").exists());
    // The same files in a store that has nothing to do with it.
    let plain = store.add("hacked-really", hacked_tree);
    let ours = store.open();
    let files = store.files(&hacked);
    let dump_of_nix = [&hack[..], &["--dump", files.to_str().unwrap()]].concat();
    let by_nix = store.nix_output("nix-store", &dump_of_nix).stdout;
    let nar = dump(&ours, &hacked).unwrap();
    assert!(nar == by_nix && is_well_formed(&nar));
    assert!(dump(&ours, &plain).unwrap() == store.dump_by_nix(&store.files(&plain)));
    // Neither of the two gives this size, or names would come twice.
    let db = rusqlite::Connection::open(store.db()).unwrap();
    let set_size = |size: usize| {
        let query = format!("update ValidPaths set narSize = {size} where path = ?1");
        db.execute(&query, [hacked.as_str()]).unwrap();
    };
    set_size(nar.len() + 8);
    assert!(dump(&ours, &hacked).is_err());
    // With what an entry of an empty file takes of a NAR, by the length of its name.
    for (name, size) in [("Foo~nix~case~hack~7", 184), ("~nix~case~hack~7", 176)] {
        set_size(nar.len() + size);
        make_writable(&files);
        fs::write(files.join(name), "").unwrap();
        let error = dump(&ours, &hacked).unwrap_err();
        fs::remove_file(files.join(name)).unwrap();
        assert!(matches!(error, LocalStoreError::Size { .. }), "{error}");
    }
}

#[test]
fn sixty_four_nodes_within_each_other_are_the_limit() {
    let store = Store::new();
    let nested = |depth: usize| {
        let name = format!("depth{depth}");
        store.add(&name, |path| {
            let folders = path.join(vec!["d"; depth - 1].iter().collect::<PathBuf>());
            fs::create_dir_all(folders).unwrap();
        })
    };
    let inside = |folders: usize| {
        let name = format!("inside{folders}");
        store.add(&name, |path| {
            let innermost = path.join(vec!["d"; folders - 1].iter().collect::<PathBuf>());
            fs::create_dir_all(&innermost).unwrap();
            fs::write(innermost.join("file"), "x").unwrap();
        })
    };
    let ours = store.open();
    for most in [nested(64), inside(63)] {
        assert!(is_well_formed(&dump(&ours, &most).unwrap()));
    }
    for too_many in [nested(65), inside(64)] {
        let message = dump(&ours, &too_many).unwrap_err().to_string();
        assert!(message.contains("at most 64 nodes"), "{message}");
    }
}

#[test]
fn deleting_while_dumping_never_breaks_the_grammar() {
    let store = Store::new();
    let ours = store.open();
    for round in 0..4u64 {
        let path = store.add("tree", wide_tree);
        let files = store.files(&path);
        let mut nar = Vec::new();
        let mut dump = Dump::open(&ours, &path).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(std::time::Duration::from_micros(round * 600));
                remove(&files);
            });
            let outcome = pull(&mut dump, &mut nar);
            assert_eq!(outcome.is_ok(), nar.len() as u64 == dump.nar_size());
            complete(&mut dump, &mut nar);
            assert!(is_well_formed(&nar), "{outcome:?}");
        });
        store.nix(
            "nix-store",
            &["--delete", "--ignore-liveness", path.as_str()],
        );
    }
}
