//! Others use the store at the same time: writers, collectors, users without any rights.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use ssh_substituter::local_store::{Dump, LocalStore, LocalStoreError};
use ssh_substituter::model::StorePath;

use crate::store::{Store, is_well_formed};

/// Asks everything once. Only clean answers are fine; tells how many paths were valid.
fn ask(store: &LocalStore, paths: &[StorePath]) -> Result<usize, LocalStoreError> {
    let valid = store.query_valid_paths(paths)?;
    store.query_path_infos(paths)?;
    match store.query_closure(paths, true) {
        Ok(_) | Err(LocalStoreError::NotValid { .. }) => {}
        Err(error) => return Err(error),
    }
    for path in paths {
        let mut dump = match Dump::open(store, path) {
            Ok(dump) => dump,
            Err(LocalStoreError::NotValid { .. }) => continue,
            Err(error) => return Err(error),
        };
        let mut nar = Vec::new();
        match dump.next_chunk(&mut nar) {
            Ok(_) => assert!(is_well_formed(&nar)),
            // Collected between the question and the dump.
            Err(LocalStoreError::Io { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(valid.len())
}

fn write_small(path: &Path) {
    fs::write(path, path.to_str().unwrap()).unwrap();
}

/// Adds and collects with the real Nix.
fn churn(store: &Store, rounds: usize) {
    for round in 0..rounds {
        let one = store.add("one", write_small);
        store.add("two", write_small);
        if round % 2 == 0 {
            store.nix("nix-store", &["--delete", one.as_str()]);
        }
        store.nix("nix-store", &["--gc"]);
    }
}

#[test]
fn collecting_garbage_disturbs_nobody() {
    let store = Store::new();
    let paths = [store.add("one", write_small), store.add("two", write_small)];
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = [store.open(), store.open()].map(|ours| {
            let (paths, over) = (&paths, &over);
            scope.spawn(move || {
                let (mut rounds, mut seen) = (0, [false; 3]);
                while !over.load(Ordering::Relaxed) {
                    seen[ask(&ours, paths).unwrap()] = true;
                    rounds += 1;
                }
                (rounds, seen)
            })
        });
        let churned = catch_unwind(AssertUnwindSafe(|| churn(&store, 6)));
        // Also after a failure: the threads wait for it, and the test for them.
        over.store(true, Ordering::Relaxed);
        churned.unwrap_or_else(|panic| resume_unwind(panic));
        for thread in asking {
            let (rounds, seen) = thread.join().unwrap();
            assert!(rounds > 20, "{rounds}");
            assert!(seen[0] && seen[2], "both states were met: {seen:?}");
        }
    });
}

#[test]
fn a_locked_database_is_waited_for() {
    let store = Store::new();
    let path = store.add("one", write_small);
    for setup in [
        "pragma journal_mode = truncate; begin exclusive",
        "pragma journal_mode = wal; pragma locking_mode = exclusive; begin exclusive",
    ] {
        let locker = Connection::open(store.db()).unwrap();
        locker.execute_batch(setup).unwrap();
        let started = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(Duration::from_secs(1));
                drop(locker);
            });
            let valid = store.open().query_valid_paths(std::slice::from_ref(&path));
            assert_eq!(valid.unwrap().len(), 1, "{setup}");
        });
        assert!(started.elapsed() >= Duration::from_secs(1), "{setup}");
        assert!(started.elapsed() < Duration::from_secs(30), "{setup}");
    }
}

/// Runs [`as_another_user`] as somebody who may write nothing.
fn run_as_another_user(store: &Store, path: &StorePath, millis: u64) -> Child {
    let folder = store.db().parent().unwrap().to_owned();
    let exe = store.dir().join("tests");
    if !exe.exists() {
        // By another process: whatever another test starts meanwhile would inherit a file that is open for writing here, and
        // such a program cannot be started.
        let mut copy = Command::new("cp");
        copy.arg(std::env::current_exe().unwrap()).arg(&exe);
        assert!(copy.status().unwrap().success());
        fs::set_permissions(store.dir(), Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        command.args(nobody).arg(&exe);
        command
    } else {
        // Nobody else to be: take the right to write away instead.
        fs::set_permissions(&folder, Permissions::from_mode(0o555)).unwrap();
        Command::new(&exe)
    };
    command
        .args(["--exact", "sharing::as_another_user", "--ignored"])
        .env("TEST_STORE_ROOT", store.root())
        // Not the whole path: the collector takes what it finds in environments for roots.
        .env("TEST_STORE_BASE_NAME", path.base_name())
        .env("TEST_STORE_MILLIS", millis.to_string())
        .current_dir("/")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What it told: for each number of valid paths how often, or the error.
fn told(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| line.split_once("TOLD "));
    line.unwrap_or_else(|| panic!("{text}")).1.to_owned()
}

#[test]
#[ignore = "started by other tests, as another user"]
fn as_another_user() {
    let var = |name: &str| std::env::var(name).unwrap();
    let path = StorePath::parse(&format!("/nix/store/{}", var("TEST_STORE_BASE_NAME"))).unwrap();
    let time = Duration::from_millis(var("TEST_STORE_MILLIS").parse().unwrap());
    let started = Instant::now();
    let mut seen = [0; 2];
    let mut run = || -> Result<(), LocalStoreError> {
        let store = LocalStore::open(Path::new(&var("TEST_STORE_ROOT")))?;
        loop {
            seen[ask(&store, std::slice::from_ref(&path))?] += 1;
            // Both states, where that is waited for.
            let is_enough = time.is_zero() || seen.iter().all(|times| *times >= 10);
            if is_enough || started.elapsed() >= time {
                return Ok(());
            }
        }
    };
    let outcome = match run() {
        Ok(()) => format!("{seen:?}"),
        Err(error) => format!("{error}"),
    };
    // The macros would be captured.
    writeln!(std::io::stdout(), "TOLD {outcome}").unwrap();
}

#[test]
fn a_user_without_rights_reads_a_store_at_rest() {
    let store = Store::new();
    let path = store.add("one", write_small);
    let wal = store.db().with_extension("sqlite-wal");
    assert!(!wal.exists());
    assert_eq!(told(run_as_another_user(&store, &path, 0)), "[0, 1]");
    // An empty log, as a reader leaves it, changes nothing.
    let folder = wal.parent().unwrap();
    fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    fs::write(&wal, "").unwrap();
    assert_eq!(told(run_as_another_user(&store, &path, 0)), "[0, 1]");
    assert!(!store.db().with_extension("sqlite-shm").exists());
}

#[test]
fn a_user_without_rights_sees_what_a_writer_just_wrote() {
    let store = Store::new();
    let path = store.add("one", write_small);
    let writer = Connection::open(store.db()).unwrap();
    writer.execute("delete from ValidPaths", []).unwrap();
    let wal = store.db().with_extension("sqlite-wal");
    assert!(wal.metadata().unwrap().len() > 0);
    assert_eq!(told(run_as_another_user(&store, &path, 0)), "[1, 0]");
}

#[test]
fn a_log_that_cannot_be_shared_is_never_overlooked() {
    let store = Store::new();
    let path = store.add("one", write_small);
    let writer = Connection::open(store.db()).unwrap();
    writer.execute("delete from ValidPaths", []).unwrap();
    // As after a crash: the log is there, the shared memory isn't.
    let log = fs::read(store.db().with_extension("sqlite-wal")).unwrap();
    let db = fs::read(store.db()).unwrap();
    drop(writer);
    fs::write(store.db(), db).unwrap();
    fs::write(store.db().with_extension("sqlite-wal"), &log).unwrap();
    let message = told(run_as_another_user(&store, &path, 0));
    let want = format!("write-ahead log holds {} bytes", log.len());
    assert!(message.contains(&want), "{message}");
    assert!(message.contains(store.db().to_str().unwrap()), "{message}");
}

#[test]
fn a_user_without_rights_reads_while_others_write() {
    if !rustix::process::geteuid().is_root() {
        // Without a second user those who write would be locked out too.
        return;
    }
    let store = Store::new();
    let path = store.add("one", write_small);
    let mut child = run_as_another_user(&store, &path, 60_000);
    while child.try_wait().unwrap().is_none() {
        churn(&store, 1);
        store.add("one", write_small);
    }
    let seen = told(child);
    assert!(
        seen.starts_with('[') && !seen.contains("[0") && !seen.contains(" 0]"),
        "{seen}"
    );
}
