use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use tempfile::TempDir;

use super::*;

const MIB: u64 = 1 << 20;

fn nar(number: u8) -> NarHash {
    NarHash::new([number; 32])
}

fn made(limit: u64) -> (TempDir, PartialFolder) {
    let temp = tempfile::tempdir().unwrap();
    let folder = PartialFolder::in_destination(temp.path().to_owned(), limit);
    (temp, folder)
}

fn kept_in(temp: &TempDir) -> PathBuf {
    temp.path().join(IN_DESTINATION)
}

fn fill(folder: &PartialFolder, number: u8, bytes: u64) -> io::Result<Box<dyn PartialFile>> {
    let file = folder.create(nar(number))?;
    let piece = vec![number; MIB as usize];
    for at in (0..bytes).step_by(MIB as usize) {
        file.write_at(&piece, at, 0)?;
    }
    Ok(file)
}

fn age(temp: &TempDir, number: u8, age: Duration) {
    let path = kept_in(temp).join(nar(number).base16());
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

fn error_of<T>(result: io::Result<T>) -> String {
    result.err().expect("an error").to_string()
}

#[test]
fn a_file_is_of_one_transfer_and_stays_until_it_is_removed() {
    let (temp, folder) = made(64 * MIB);
    assert!(folder.open(nar(1)).unwrap().is_none());
    assert!(!kept_in(&temp).exists(), "nothing is made to look");
    let file = fill(&folder, 1, 2 * MIB).unwrap();
    for locked in [folder.open(nar(1)).err(), folder.create(nar(1)).err()] {
        assert_eq!(locked.unwrap().kind(), io::ErrorKind::WouldBlock);
    }
    drop(file);
    assert_eq!(folder.sweep().unwrap(), [(nar(1), 2 * MIB)]);
    let file = folder.open(nar(1)).unwrap().unwrap();
    assert_eq!(file.size().unwrap(), 2 * MIB);
    let mut read = [0; 3];
    file.read_at(&mut read, 2 * MIB - 3).unwrap();
    assert_eq!(read, [1; 3]);
    assert!(file.read_at(&mut read, 2 * MIB - 2).is_err());
    file.truncate(MIB).unwrap();
    assert_eq!(file.size().unwrap(), MIB);
    file.remove();
    assert!(!kept_in(&temp).exists());
    drop(file);
    assert!(folder.open(nar(1)).unwrap().is_none());
}

#[test]
fn what_is_old_goes_unless_it_is_in_use() {
    let (temp, folder) = made(64 * MIB);
    for number in [1, 2, 3, 4] {
        drop(fill(&folder, number, MIB).unwrap());
    }
    age(&temp, 1, MAX_AGE_IN_DESTINATION + Duration::from_secs(60));
    age(&temp, 2, MAX_AGE_IN_DESTINATION - Duration::from_secs(60));
    age(&temp, 3, MAX_AGE_IN_DESTINATION * 2);
    fs::write(kept_in(&temp).join("somebody's"), "").unwrap();
    let used = folder.open(nar(3)).unwrap();
    // The oldest first.
    assert_eq!(folder.sweep().unwrap(), [(nar(2), MIB), (nar(4), MIB)]);
    assert!(folder.open(nar(1)).unwrap().is_none());
    drop(used);
    assert!(folder.open(nar(3)).unwrap().is_some());
    assert!(kept_in(&temp).join("somebody's").exists());
}

#[test]
fn no_more_is_held_than_may_be() {
    let (temp, folder) = made(16 * MIB);
    drop(fill(&folder, 1, 6 * MIB).unwrap());
    age(&temp, 1, Duration::from_secs(60));
    drop(fill(&folder, 2, 6 * MIB).unwrap());
    // The oldest one has to go.
    let third = fill(&folder, 3, 6 * MIB).unwrap();
    assert!(folder.open(nar(1)).unwrap().is_none());
    assert!(folder.open(nar(2)).unwrap().is_some());
    // What is in use stays, and others get no room.
    let second = folder.open(nar(2)).unwrap().unwrap();
    assert!(error_of(fill(&folder, 4, 6 * MIB)).contains("as much is kept as may be"));
    drop((second, third));
    let large = folder.create(nar(5)).unwrap();
    let piece = vec![5; MIB as usize];
    let at = (0..).find(|at| large.write_at(&piece, at * MIB, 0).is_err());
    assert_eq!(at, Some(16));
    assert_eq!(large.size().unwrap(), 16 * MIB);
}

#[test]
fn the_disk_is_not_filled() {
    let (_temp, folder) = made(64 * MIB);
    let file = folder.create(nar(1)).unwrap();
    let full = file.write_at(&[1], 0, 1 << 60).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull, "{full}");
}

#[test]
fn what_is_not_ours_alone_is_refused() {
    let (temp, folder) = made(64 * MIB);
    drop(fill(&folder, 1, MIB).unwrap());
    let set = |path: &Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    let file = kept_in(&temp).join(nar(1).base16());
    // Files.
    set(&file, 0o644);
    assert!(error_of(folder.open(nar(1))).contains("no file of ours alone"));
    assert_eq!(folder.sweep().unwrap(), []);
    set(&file, 0o600);
    fs::hard_link(&file, temp.path().join("link")).unwrap();
    assert!(error_of(folder.create(nar(1))).contains("no file of ours alone"));
    fs::remove_file(temp.path().join("link")).unwrap();
    assert!(folder.open(nar(1)).unwrap().is_some());
    fs::rename(&file, temp.path().join("elsewhere")).unwrap();
    symlink(temp.path().join("elsewhere"), &file).unwrap();
    assert!(folder.open(nar(1)).is_err());
    assert!(folder.create(nar(1)).is_err());
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(folder.open(nar(1)).is_err());
    fs::remove_dir(&file).unwrap();
    // The folder.
    set(&kept_in(&temp), 0o755);
    assert!(error_of(folder.create(nar(1))).contains("is refused"));
    set(&kept_in(&temp), 0o700);
    if rustix::process::geteuid().is_root() {
        chown(kept_in(&temp), Some(65_534), None).unwrap();
        assert!(error_of(folder.create(nar(1))).contains("is refused"));
        chown(kept_in(&temp), Some(0), None).unwrap();
    }
    fs::rename(kept_in(&temp), temp.path().join("real")).unwrap();
    symlink("real", kept_in(&temp)).unwrap();
    assert!(folder.create(nar(1)).is_err());
    assert!(folder.sweep().is_err());
}
