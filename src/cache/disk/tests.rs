use crate::model::HealthRecord;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use super::*;

const FAILING: HealthRecord = HealthRecord {
    failures: 3,
    last_failure: 1_800_000_000_000,
    rest_until: 1_800_000_020_000,
};

fn disk(folder: &Path) -> Disk {
    Disk::new(Environment {
        explicit: Some(folder.to_owned()),
        uid: rustix::process::geteuid().as_raw(),
        ..Environment::default()
    })
}

/// Whether what one process writes another reads.
fn works(folder: &Path) -> bool {
    disk(folder).set_host_health("h", &FAILING);
    disk(folder).host_health("h") == Some(FAILING)
}

#[test]
fn what_one_process_writes_another_reads() {
    let temp = tempfile::tempdir().unwrap();
    let (first, second) = (disk(temp.path()), disk(temp.path()));
    assert_eq!(second.host_health("a"), None);
    first.set_host_health("a", &FAILING);
    let worse = HealthRecord {
        failures: u32::MAX,
        last_failure: u64::MAX,
        rest_until: u64::MAX,
    };
    first.set_host_health("b", &worse);
    assert_eq!(second.host_health("a"), Some(FAILING));
    let kept = second.host_health("b").unwrap();
    assert_eq!(kept.failures, u32::MAX);
    assert_eq!(kept.rest_until, u64::MAX / 2, "cut, not negative");
    second.set_host_health("a", &HealthRecord::default());
    assert_eq!(first.host_health("a"), None);
    let mode: String = Connection::open(temp.path().join(DATABASE_FILE))
        .unwrap()
        .pragma_query_value(None, "journal_mode", |row| row.get(0))
        .unwrap();
    assert_eq!(mode, "wal");
}

#[test]
fn what_is_of_no_use_is_moved_aside() {
    let foreign = |db: &Connection| db.execute_batch("CREATE TABLE t (a)").unwrap();
    let theirs = |db: &Connection| db.pragma_update(None, "application_id", 7).unwrap();
    let newer = |db: &Connection| {
        db.pragma_update(None, "application_id", APPLICATION_ID)
            .unwrap();
        db.pragma_update(None, "user_version", SCHEMA_VERSION + 1)
            .unwrap();
    };
    type Make = fn(&Connection);
    let cases: [(&str, Make); 3] = [("foreign", foreign), ("foreign", theirs), ("newer", newer)];
    for (suffix, make) in cases {
        let temp = tempfile::tempdir().unwrap();
        make(&Connection::open(temp.path().join(DATABASE_FILE)).unwrap());
        assert!(works(temp.path()), "{suffix}");
        assert!(
            temp.path()
                .join(format!("{DATABASE_FILE}.{suffix}"))
                .exists()
        );
    }
    let temp = tempfile::tempdir().unwrap();
    fs::write(
        temp.path().join(DATABASE_FILE),
        "no database at all ".repeat(1000),
    )
    .unwrap();
    assert!(works(temp.path()), "damaged");
    assert!(temp.path().join("cache.sqlite.damaged").exists());
}

#[test]
fn damage_that_shows_late_is_moved_aside_too() {
    let temp = tempfile::tempdir().unwrap();
    assert!(works(temp.path()));
    let path = temp.path().join(DATABASE_FILE);
    // The first page, with the schema, stays; the table's own is overwritten.
    let mut bytes = fs::read(&path).unwrap();
    assert!(bytes.len() > 4096, "the log was written back");
    bytes[4096..].fill(0xee);
    fs::write(&path, bytes).unwrap();
    let disk = disk(temp.path());
    assert_eq!(disk.host_health("h"), None);
    disk.set_host_health("h", &FAILING);
    assert_eq!(disk.host_health("h"), Some(FAILING));
    assert!(temp.path().join("cache.sqlite.damaged").exists());
}

#[test]
fn a_lock_that_is_held_for_long_costs_little() {
    let temp = tempfile::tempdir().unwrap();
    assert!(works(temp.path()));
    let other = Connection::open(temp.path().join(DATABASE_FILE)).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let disk = disk(temp.path());
    let started = Instant::now();
    disk.set_host_health("h", &HealthRecord::default());
    disk.set_host_health("h", &HealthRecord::default());
    let took = started.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    other.execute_batch("ROLLBACK").unwrap();
    assert!(!temp.path().join("cache.sqlite.damaged").exists());
    assert_eq!(self::disk(temp.path()).host_health("h"), Some(FAILING));
}

#[test]
fn a_lock_that_is_held_shortly_is_waited_for() {
    let temp = tempfile::tempdir().unwrap();
    assert!(works(temp.path()));
    let disk = disk(temp.path());
    assert!(disk.host_health("h").is_some());
    let other = Connection::open(temp.path().join(DATABASE_FILE)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    thread::scope(|scope| {
        scope.spawn(|| disk.set_host_health("h", &HealthRecord::default()));
        thread::sleep(Duration::from_millis(50));
        other.execute_batch("ROLLBACK").unwrap();
    });
    assert_eq!(disk.host_health("h"), None);
}

#[test]
fn many_at_once_make_it_and_use_it() {
    for content in ["", "no database at all, and many notice at once"] {
        let temp = tempfile::tempdir().unwrap();
        if !content.is_empty() {
            fs::write(temp.path().join(DATABASE_FILE), content.repeat(100)).unwrap();
        }
        let barrier = Barrier::new(4);
        thread::scope(|scope| {
            for number in 0..4 {
                let (barrier, folder) = (&barrier, temp.path());
                scope.spawn(move || {
                    let disk = disk(folder);
                    barrier.wait();
                    disk.set_host_health(&number.to_string(), &FAILING);
                });
            }
        });
        let disk = disk(temp.path());
        let kept = (0..4).filter(|n| disk.host_health(&n.to_string()).is_some());
        assert_eq!(kept.count(), 4, "{content:?}");
    }
}

/// Set in the second run of the next test, as a user who is no root.
const AS_NOBODY: &str = "SSH_SUBSTITUTER_TEST_FOLDER";

#[test]
fn a_folder_that_cannot_be_written_means_working_without() {
    if let Some(folder) = std::env::var_os(AS_NOBODY) {
        let folder = PathBuf::from(folder);
        assert_eq!(disk(&folder.join("missing")).host_health("h"), None);
        assert!(!works(&folder));
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "cache::disk::tests::a_folder_that_cannot_be_written_means_working_without",
    ]);
    command.env(AS_NOBODY, temp.path());
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(temp.path(), Some(65_534), Some(65_534)).unwrap();
        command.uid(65_534).gid(65_534).current_dir("/");
    }
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let output = command.output().unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}
