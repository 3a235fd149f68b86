use super::*;
use crate::wire::nar::{
    directory_end, directory_start, entry_end, entry_start, file_end, file_start, magic, symlink,
};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink as link};

/// A directory to restore into, watched for what is left in it.
struct Yard(tempfile::TempDir);

impl Yard {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn dest(&self) -> PathBuf {
        self.0.path().join("dest")
    }

    fn unpacker(&self) -> Unpacker {
        Unpacker::new(&self.dest(), 1 << 20).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// The tree that grows, while there is one.
    fn growing(&self) -> PathBuf {
        let top = format!("ssh-substituter-{}", std::process::id());
        self.0.path().join("dest.chroot").join(top)
    }
}

fn nar(build: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    magic(&mut out);
    build(&mut out);
    out
}

fn file(out: &mut Vec<u8>, executable: bool, contents: &[u8]) {
    file_start(out, executable, contents.len() as u64);
    out.extend_from_slice(contents);
    file_end(out, contents.len() as u64);
}

fn entry(out: &mut Vec<u8>, name: &[u8], node: impl FnOnce(&mut Vec<u8>)) {
    entry_start(out, name);
    node(out);
    entry_end(out);
}

/// A directory with one of each.
fn sample() -> Vec<u8> {
    nar(|out| {
        directory_start(out);
        entry(out, b"d", |out| {
            directory_start(out);
            entry(out, b"x", |out| file(out, true, b"#!"));
            directory_end(out);
        });
        entry(out, b"f", |out| file(out, false, &[7; 5000]));
        entry(out, b"l", |out| symlink(out, b"d/x"));
        directory_end(out);
    })
}

fn check_sample(dest: &Path) {
    let meta = |name: &str| dest.join(name).symlink_metadata().unwrap();
    for (name, mode) in [("", 0o555), ("d", 0o555), ("d/x", 0o555), ("f", 0o444)] {
        assert_eq!(meta(name).permissions().mode() & 0o7777, mode, "{name}");
    }
    for name in ["", "d", "d/x", "f", "l"] {
        assert_eq!(
            (meta(name).mtime(), meta(name).mtime_nsec()),
            (1, 0),
            "{name}"
        );
    }
    assert_eq!(fs::read(dest.join("f")).unwrap(), [7; 5000]);
    assert_eq!(fs::read(dest.join("l")).unwrap(), b"#!");
}

fn error_text(error: &UnpackError) -> String {
    let source = std::error::Error::source(error).map(|s| format!(": {s}"));
    format!("{error}{}", source.unwrap_or_default())
}

#[test]
fn every_split_gives_the_same_tree() {
    for piece in [1, 2, 7, 8, 100, 4096, 5100, 1 << 20] {
        let yard = Yard::new();
        let mut unpacker = yard.unpacker();
        for piece in sample().chunks(piece) {
            assert!(!unpacker.is_complete());
            unpacker.write(piece).unwrap();
        }
        assert!(unpacker.is_complete());
        unpacker.write(b"").unwrap();
        assert!(!yard.dest().exists(), "not before the commit");
        unpacker.commit().unwrap();
        check_sample(&yard.dest());
        assert_eq!(yard.names(), ["dest"]);
    }
}

#[test]
fn a_file_or_a_symlink_alone_is_a_tree_too() {
    for tree in [
        nar(|out| file(out, true, b"")),
        nar(|out| symlink(out, b"../nowhere")),
    ] {
        let yard = Yard::new();
        let mut unpacker = yard.unpacker();
        unpacker.write(&tree).unwrap();
        unpacker.commit().unwrap();
        assert_eq!(yard.names(), ["dest"]);
        let meta = yard.dest().symlink_metadata().unwrap();
        assert_eq!(meta.mtime(), 1);
        assert!(meta.is_symlink() || meta.permissions().mode() & 0o7777 == 0o555);
    }
}

#[test]
fn an_archive_that_breaks_off_anywhere_leaves_nothing() {
    let input = sample();
    // Closely around the nodes, which lie at both ends; widely within the long contents.
    let near = |end: &usize| {
        let step = if (900..5500).contains(end) { 499 } else { 13 };
        end.is_multiple_of(step)
    };
    for end in (0..input.len()).filter(near) {
        let yard = Yard::new();
        let mut unpacker = yard.unpacker();
        unpacker.write(&input[..end]).unwrap();
        assert!(!unpacker.is_complete());
        if end % 2 == 0 {
            let error = unpacker.commit().unwrap_err();
            assert!(matches!(error, UnpackError::Incomplete(..)));
        } else {
            drop(unpacker);
        }
        assert!(yard.names().is_empty(), "{:?} at {end}", yard.names());
    }
}

#[test]
fn malformed_and_trailing_bytes_are_errors_that_stay() {
    let too_much = [sample(), b"next".to_vec()].concat();
    let mut broken = sample();
    let at = broken.len() - 16;
    broken[at] = 99;
    for (input, part) in [(too_much, "more bytes follow"), (broken, "malformed NAR")] {
        for piece in [1, 50, 1 << 20] {
            let yard = Yard::new();
            let mut unpacker = yard.unpacker();
            let error = input
                .chunks(piece)
                .find_map(|piece| unpacker.write(piece).err())
                .unwrap();
            assert!(error_text(&error).contains(part), "{}", error_text(&error));
            assert!(!unpacker.is_complete());
            assert!(matches!(unpacker.write(b""), Err(UnpackError::Failed(..))));
            unpacker.commit().unwrap_err();
            assert!(yard.names().is_empty());
        }
    }
}

#[test]
fn a_size_above_the_limit_is_refused() {
    let yard = Yard::new();
    let mut unpacker = Unpacker::new(&yard.dest(), 4000).unwrap();
    let error = unpacker.write(&sample()).unwrap_err();
    assert!(error_text(&error).contains("at most 4000 bytes"));
    drop(unpacker);
    assert!(yard.names().is_empty());
}

#[test]
fn what_is_at_the_destination_stays() {
    for make in [
        (|dest| fs::write(dest, "old").unwrap()) as fn(&Path),
        |dest| fs::create_dir(dest).unwrap(),
        |dest| link("/nonexistent", dest).unwrap(),
    ] {
        // Before the beginning.
        let yard = Yard::new();
        make(&yard.dest());
        let before = yard.dest().symlink_metadata().unwrap();
        let error = Unpacker::new(&yard.dest(), 1000).unwrap_err();
        assert!(matches!(error, UnpackError::Exists(..)));

        // Meanwhile.
        for tree in [sample(), nar(|out| symlink(out, b"x"))] {
            fs::rename(yard.dest(), yard.0.path().join("aside")).unwrap();
            let mut unpacker = yard.unpacker();
            fs::rename(yard.0.path().join("aside"), yard.dest()).unwrap();
            unpacker.write(&tree).unwrap();
            let error = unpacker.commit().unwrap_err();
            assert!(matches!(error, UnpackError::Exists(..)), "{error}");
            assert_eq!(yard.names(), ["dest"]);
        }
        let after = yard.dest().symlink_metadata().unwrap();
        assert_eq!(
            (before.ino(), before.mtime_nsec()),
            (after.ino(), after.mtime_nsec())
        );
    }
}

#[test]
fn destinations_without_a_name_or_a_directory_are_refused() {
    let yard = Yard::new();
    for dest in ["/", "", "..", "a/..", "a/", "a/."] {
        let error = Unpacker::new(dest.as_ref(), 1000).unwrap_err();
        assert!(matches!(error, UnpackError::NoName(..)), "{dest}");
    }
    let error = Unpacker::new(&yard.0.path().join("absent/dest"), 1000).unwrap_err();
    assert!(matches!(error, UnpackError::Prepare(..)));
    fs::write(yard.0.path().join("file"), "").unwrap();
    let error = Unpacker::new(&yard.0.path().join("file/dest"), 1000).unwrap_err();
    assert!(matches!(error, UnpackError::Prepare(..)));
}

#[test]
fn a_name_that_is_taken_is_passed_over() {
    let yard = Yard::new();
    let mut unpacker = yard.unpacker();
    link("/nonexistent", yard.0.path().join("dest.chroot")).unwrap();
    unpacker.write(&sample()).unwrap();
    unpacker.commit().unwrap();
    check_sample(&yard.dest());
    assert_eq!(yard.names(), ["dest", "dest.chroot"]);
}

#[test]
fn nix_gets_its_trees_where_its_collector_spares_them() {
    let yard = Yard::new();
    let store = yard.0.path().to_str().unwrap().to_owned();
    let at = |name: &str| yard.0.path().join(name);
    let hash = "7rjj86a15146cq1d3qy068lml7n7ykzm";
    for (base, dest, grows) in [
        ("x", "x", "x.chroot"),
        ("x", "x.tmp", "x.chroot"),
        ("x.tmp", "x.tmp", "x.tmp.chroot"),
        ("x.drv", "x.drv", "x.drv.chroot"),
        // Where a build of it may be at work.
        ("x.drv", "x.drv.tmp", "x.drv.tmp.chroot"),
        ("x", "other", "other.chroot"),
    ] {
        let path = StorePath::parse(&format!("{store}/{hash}-{base}")).unwrap();
        let named = |name: &str| match name {
            "other" | "other.chroot" => at(name),
            name => at(&format!("{hash}-{name}")),
        };
        // Left over from a build, which only Nix's own lock makes ours.
        let grows = named(grows);
        fs::create_dir_all(grows.join("etc")).unwrap();
        let mut unpacker = Unpacker::for_nix(&path, &named(dest), 1 << 20).unwrap();
        unpacker.write(&sample()).unwrap();
        let taken_over = dest != "other";
        assert_eq!(grows.join("etc").exists(), !taken_over, "{base} {dest}");
        unpacker.commit().unwrap();
        check_sample(&named(dest));
        assert_eq!(grows.exists(), !taken_over, "{base} {dest}");
        remove(&named(dest)).unwrap();
    }
    // By hand, in another folder, it is nobody's but its maker's.
    let path = StorePath::parse(&format!("/nix/store/{hash}-x")).unwrap();
    let left = at(&format!("{hash}-x.chroot")).join("etc");
    fs::create_dir_all(&left).unwrap();
    let dest = at(&format!("{hash}-x"));
    let mut unpacker = Unpacker::for_nix(&path, &dest, 1 << 20).unwrap();
    unpacker.write(&sample()).unwrap();
    unpacker.commit().unwrap();
    assert!(left.exists() && dest.exists());
}

#[test]
fn a_symlink_cannot_become_a_directory() {
    let outside = tempfile::tempdir().unwrap();
    let yard = Yard::new();
    let input = nar(|out| {
        directory_start(out);
        let target = outside.path().as_os_str().as_encoded_bytes();
        entry(out, b"a", |out| symlink(out, target));
        entry(out, b"a", |out| {
            directory_start(out);
            entry(out, b"evil", |out| file(out, false, b"x"));
            directory_end(out);
        });
        directory_end(out);
    });
    let mut unpacker = yard.unpacker();
    let error = unpacker.write(&input).unwrap_err();
    assert!(error_text(&error).contains("sorts behind"));
    drop(unpacker);
    assert!(yard.names().is_empty());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn symlinks_of_a_neighbour_are_never_followed() {
    let (head, rest) = {
        let whole = sample();
        let at = nar(directory_start).len();
        (whole[..at].to_vec(), whole[at..].to_vec())
    };
    for name in ["d", "f", "l"] {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("keep"), "kept").unwrap();
        fs::set_permissions(outside.path(), PermissionsExt::from_mode(0o750)).unwrap();
        let yard = Yard::new();
        let mut unpacker = yard.unpacker();
        unpacker.write(&head).unwrap();
        link(outside.path(), yard.growing().join(name)).unwrap();
        let error = unpacker.write(&rest).unwrap_err();
        assert!(matches!(&error, UnpackError::Clash { path, other: None }
            if path.starts_with(&format!("\"{name}\" of "))));
        // Cleaning up goes around symlinks as well, and removes what the neighbour left.
        drop(unpacker);
        assert!(yard.names().is_empty());
        assert_eq!(fs::read(outside.path().join("keep")).unwrap(), b"kept");
        let mode = outside.path().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o750);
    }
}

#[test]
fn names_that_fold_together_are_reported_both() {
    // Stands for a file system that ignores case: the second name is taken by the time it comes.
    let yard = Yard::new();
    let mut unpacker = yard.unpacker();
    let (mut first, mut second) = (nar(directory_start), Vec::new());
    entry(&mut first, b"README", |out| file(out, false, b""));
    entry(&mut second, b"Readme", |out| file(out, false, b""));
    unpacker.write(&first).unwrap();
    fs::write(yard.growing().join("Readme"), "").unwrap();
    let error = unpacker.write(&second).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("\"Readme\"") && message.contains("same as \"README\""),
        "{message}"
    );
}

#[test]
fn a_full_disk_is_reported_with_the_path() {
    // /dev/full stands for it: the file that is open is replaced by one that cannot be written.
    let yard = Yard::new();
    let mut unpacker = yard.unpacker();
    let mut input = nar(directory_start);
    entry_start(&mut input, b"big\x1b");
    file_start(&mut input, false, 100_000);
    unpacker.write(&input).unwrap();
    unpacker
        .tree
        .replace_file(fs::File::options().write(true).open("/dev/full").unwrap());
    let error = unpacker.write(&[1; 80_000]).unwrap_err();
    let UnpackError::Io { source, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(source.kind(), io::ErrorKind::StorageFull);
    let message = error.to_string();
    assert!(
        message.starts_with(r#"cannot write file "big\x1b" of "#),
        "{message}"
    );
    drop(unpacker);
    assert!(yard.names().is_empty());
}

#[test]
fn many_at_a_time_for_one_destination_give_one_winner() {
    let yard = Yard::new();
    let won: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let Ok(mut unpacker) = Unpacker::new(&yard.dest(), 1 << 20) else {
                        return 0;
                    };
                    unpacker.write(&sample()).unwrap();
                    usize::from(unpacker.commit().is_ok())
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!(won, 1);
    assert_eq!(yard.names(), ["dest"]);
    check_sample(&yard.dest());
}
