use std::path::Path;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::cache::disk::Environment;
use crate::model::NarHash;

const NOW: u64 = 1_800_000_000;

fn disk(folder: &Path) -> Disk {
    Disk::new(Environment {
        explicit: Some(folder.to_owned()),
        uid: rustix::process::geteuid().as_raw(),
        ..Environment::default()
    })
}

fn path(number: usize) -> StorePath {
    // Digits are digits of Nix's base32 too.
    StorePath::parse(&format!("/nix/store/{number:032}-p{number}")).unwrap()
}

fn info(number: usize, references: &[usize]) -> PathInfo {
    PathInfo {
        path: path(number),
        deriver: Some(path(number + 100_000)),
        references: references.iter().map(|n| path(*n)).collect(),
        download_size: 7,
        nar_size: number as u64,
        nar_hash: Some(NarHash::new([number.to_le_bytes()[0]; 32])),
        ca: Some("text:sha256:x".to_owned()),
        sigs: vec!["k:one".to_owned(), "k:two".to_owned()],
    }
}

fn answer(number: usize, references: &[usize], checked_at: u64) -> CachedAnswer {
    CachedAnswer {
        path: path(number),
        info: Some(Arc::new(info(number, references))),
        checked_at,
    }
}

fn lacks(number: usize, checked_at: u64) -> CachedAnswer {
    CachedAnswer {
        path: path(number),
        info: None,
        checked_at,
    }
}

fn write_all(disk: &Disk, host: &str, all: &[CachedAnswer]) {
    let writes: Vec<_> = all
        .iter()
        .map(|answer| CacheWrite::Answer(host.into(), answer.clone()))
        .collect();
    disk.remember(&writes, Lifetimes::default(), NOW);
}

fn read_at(disk: &Disk, hosts: &[&str], numbers: &[usize], now: u64) -> Vec<(usize, CachedAnswer)> {
    let hosts: Vec<Arc<str>> = hosts.iter().map(|host| (*host).into()).collect();
    let paths: Vec<_> = numbers.iter().map(|n| path(*n)).collect();
    let lookup = Lookup {
        hosts: &hosts,
        paths: &paths,
        lifetimes: Lifetimes::default(),
        now,
        most: 1_000,
    };
    disk.path_infos(&lookup, |_| false)
}

#[test]
fn answers_are_kept_for_each_host() {
    let temp = tempfile::tempdir().unwrap();
    let (first, second) = (disk(temp.path()), disk(temp.path()));
    let (has, has_not) = (answer(1, &[], NOW), lacks(1, NOW));
    write_all(&first, "a", std::slice::from_ref(&has));
    write_all(&first, "b", std::slice::from_ref(&has_not));
    assert_eq!(
        read_at(&second, &["b", "c", "a"], &[1, 2], NOW),
        [(0, has_not), (2, has)]
    );
    // Another store directory is another store.
    let other = StorePath::parse(&path(1).as_str().replace("/nix/", "/other/")).unwrap();
    let lookup = Lookup {
        hosts: &["a".into()],
        paths: &[other],
        lifetimes: Lifetimes::default(),
        now: NOW,
        most: 9,
    };
    assert_eq!(second.path_infos(&lookup, |_| false), []);
    second.remember(
        &[CacheWrite::Removed("a".into(), path(1))],
        Lifetimes::default(),
        NOW,
    );
    assert_eq!(read_at(&first, &["a"], &[1], NOW), []);
}

#[test]
fn answers_are_believed_for_their_lifetime() {
    let temp = tempfile::tempdir().unwrap();
    let disk = disk(temp.path());
    write_all(&disk, "a", &[answer(1, &[], NOW), lacks(2, NOW)]);
    let count = |after| read_at(&disk, &["a"], &[1, 2], NOW + after).len();
    let (hour, day) = (3600, 24 * 3600);
    assert_eq!([count(hour - 1), count(hour)], [2, 1]);
    assert_eq!([count(30 * day - 1), count(30 * day)], [1, 0]);
    assert_eq!(
        read_at(&disk, &["a"], &[1], NOW - hour),
        [],
        "clock set back"
    );
    let none = Lifetimes {
        positive: Duration::ZERO,
        negative: Duration::ZERO,
    };
    assert!(!none.is_fresh(true, NOW, NOW) && !none.is_fresh(false, NOW, NOW));
}

#[test]
fn answers_count_as_checked_for_seconds_unless_the_user_says_otherwise() {
    let usual = Lifetimes::default();
    let set = Lifetimes {
        positive: Duration::from_secs(60),
        ..usual
    };
    for (at, checked) in [(NOW - 9, true), (NOW - 10, false), (NOW + 10, false)] {
        assert_eq!(usual.is_checked(true, at, NOW), checked);
        assert_eq!(usual.is_checked(false, at, NOW), checked);
        assert!(set.is_checked(true, at, NOW));
        assert_eq!(set.is_checked(false, at, NOW), checked);
    }
}

#[test]
fn that_a_host_still_has_a_path_is_written_for_what_is_known_of_it() {
    let temp = tempfile::tempdir().unwrap();
    let disk = disk(temp.path());
    write_all(&disk, "a", &[answer(1, &[], NOW - 99), lacks(2, NOW - 99)]);
    let has = |number| CacheWrite::Confirmed("a".into(), path(number), NOW);
    disk.remember(&[has(1), has(2), has(3)], Lifetimes::default(), NOW);
    assert_eq!(
        read_at(&disk, &["a"], &[1, 2, 3], NOW),
        [(0, answer(1, &[], NOW)), (0, lacks(2, NOW - 99))]
    );
}

#[test]
fn a_closure_is_read_in_one_go() {
    let temp = tempfile::tempdir().unwrap();
    let disk = disk(temp.path());
    let all: Vec<_> = (1..=50)
        .map(|n| answer(n, if n < 50 { &[0, 51] } else { &[] }, NOW))
        .collect();
    let mut all = all;
    for (place, answer) in all.iter_mut().enumerate() {
        let mut info = (**answer.info.as_ref().unwrap()).clone();
        info.references = vec![path(place + 2)];
        answer.info = Some(Arc::new(info));
    }
    write_all(&disk, "a", &all);
    assert_eq!(read_at(&disk, &["a"], &[1], NOW).len(), 50);
    let lookup = |most| Lookup {
        hosts: &[],
        paths: &[],
        lifetimes: Lifetimes::default(),
        now: NOW,
        most,
    };
    let (hosts, paths) = (["a".into()], [path(1)]);
    let few = Lookup {
        hosts: &hosts,
        paths: &paths,
        ..lookup(10)
    };
    assert_eq!(disk.path_infos(&few, |_| false).len(), 10);
    let all = Lookup {
        hosts: &hosts,
        paths: &paths,
        ..lookup(100)
    };
    assert_eq!(disk.path_infos(&all, |known| *known == path(5)).len(), 4);
}

#[test]
fn rows_that_make_no_sense_say_nothing() {
    let nonsense = [
        "refs = 'no path'",
        "refs = '00000000000000000000000000000003-p3 00000000000000000000000000000002-p2'",
        "deriver = '../../etc/passwd'",
        "nar_hash = x'0102'",
        "nar_size = -1",
        "download_size = NULL",
        "checked_at = -5",
        "refs = CAST(x'ff' AS TEXT)",
        "sigs = NULL",
    ];
    for change in nonsense {
        let temp = tempfile::tempdir().unwrap();
        let disk = disk(temp.path());
        write_all(&disk, "a", &[answer(1, &[2, 3], NOW), answer(9, &[], NOW)]);
        let sql = format!("UPDATE path_infos SET {change} WHERE path LIKE '%-p1'");
        assert_eq!(disk.ask(|db| db.execute(&sql, ())), Some(1));
        assert_eq!(read_at(&disk, &["a"], &[1, 9], NOW).len(), 1, "{change}");
        write_all(&disk, "a", &[answer(1, &[2, 3], NOW)]);
        assert_eq!(read_at(&disk, &["a"], &[1, 9], NOW).len(), 2, "mended");
    }
}

#[test]
fn what_cannot_be_kept_leaves_no_older_answer() {
    let temp = tempfile::tempdir().unwrap();
    let disk = disk(temp.path());
    write_all(&disk, "a", &[lacks(1, NOW)]);
    let mut odd = info(1, &[]);
    odd.sigs = vec!["two\nlines".to_owned()];
    let odd = CachedAnswer {
        info: Some(Arc::new(odd)),
        ..lacks(1, NOW)
    };
    write_all(&disk, "a", &[odd]);
    assert_eq!(read_at(&disk, &["a"], &[1], NOW), []);
}

#[test]
fn many_write_at_once() {
    let temp = tempfile::tempdir().unwrap();
    thread::scope(|scope| {
        for writer in 0..4 {
            let folder = temp.path();
            scope.spawn(move || {
                // A database connection each, as processes have.
                let disk = disk(folder);
                for number in 0..20 {
                    write_all(&disk, "a", &[answer(writer * 100 + number, &[], NOW)]);
                }
            });
        }
    });
    let numbers: Vec<_> = (0..400).collect();
    assert_eq!(read_at(&disk(temp.path()), &["a"], &numbers, NOW).len(), 80);
}

#[test]
fn old_rows_go_and_the_rest_is_bounded() {
    let temp = tempfile::tempdir().unwrap();
    let disk = disk(temp.path());
    let day = 24 * 3600;
    write_all(&disk, "old", &[answer(1, &[], NOW - 40 * day)]);
    write_all(&disk, "a", &[lacks(2, NOW - 7200), answer(2, &[], NOW)]);
    let all: Vec<_> = (10..30).map(|n| answer(n, &[], NOW - n as u64)).collect();
    write_all(&disk, "a", &all);
    let rows = |table: &str| {
        let sql = format!("SELECT count(*) FROM {table}");
        disk.ask(|db| db.query_row(&sql, (), |row| row.get::<_, i64>(0)))
    };
    let bounds = upkeep::Bounds {
        rows: 10,
        written: 1_000,
        interval: day,
    };
    let prune = |lifetimes, bounds| disk.ask(|db| upkeep::prune(db, lifetimes, NOW, bounds));
    // The first write of all pruned.
    prune(Lifetimes::default(), bounds);
    assert_eq!(rows("path_infos"), Some(21), "not due");
    let due = upkeep::Bounds {
        written: 1,
        ..bounds
    };
    let short = Lifetimes {
        positive: Duration::ZERO,
        negative: Duration::ZERO,
    };
    prune(short, due);
    assert_eq!(rows("path_infos"), Some(10));
    assert_eq!(rows("cached_hosts"), Some(1));
    let left = read_at(&disk, &["a"], &[2, 10, 18, 19], NOW);
    assert_eq!(left.len(), 3, "the newest");
}

#[test]
fn a_database_of_version_1_is_taken_over() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("cache.sqlite");
    let db = Connection::open(&file).unwrap();
    db.execute_batch(super::super::health::TABLE).unwrap();
    db.execute_batch("INSERT INTO host_health VALUES ('h', 3, 5, 6)")
        .unwrap();
    db.pragma_update(None, "application_id", super::super::APPLICATION)
        .unwrap();
    db.pragma_update(None, "user_version", 1).unwrap();
    drop(db);
    let disk = disk(temp.path());
    assert_eq!(disk.host_health("h").unwrap().failures, 3);
    disk.set_host_shell("h", true);
    assert_eq!(disk.host_shell("h"), Some(true));
    write_all(&disk, "a", &[lacks(1, NOW)]);
    assert_eq!(read_at(&disk, &["a"], &[1], NOW).len(), 1);
}

fn text() -> impl Strategy<Value = Option<String>> {
    prop::option::of("[ -~]{0,20}")
}

proptest! {
    #[test]
    fn whatever_a_host_says_comes_back_as_it_was_or_not_at_all(
        references in prop::collection::btree_set(0_usize..1000, 0..20),
        deriver in any::<bool>(),
        sizes in any::<(u64, u64)>(),
        hash in prop::option::of(any::<[u8; 32]>()),
        ca in text(),
        sigs in prop::collection::vec("[ -~\n]{0,9}", 0..4),
    ) {
        let mut info = info(5, &references.into_iter().collect::<Vec<_>>());
        if !deriver {
            info.deriver = None;
        }
        (info.nar_size, info.download_size) = sizes;
        (info.nar_hash, info.ca, info.sigs) = (hash.map(NarHash::new), ca, sigs);
        let answer = CachedAnswer { path: path(5), info: Some(Arc::new(info)), checked_at: NOW };
        if let Some(row) = Row::of(&answer) {
            prop_assert_eq!(row.into_answer(&path(5)), Some(answer));
        }
    }
}
