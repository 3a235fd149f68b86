//! `cache`.

use std::fs;

use ssh_substituter::cache::Disk;
use ssh_substituter::cache::disk::Environment;
use ssh_substituter::model::HealthRecord;

use super::machine::{ABSENT_PATH, Machine, name};
use super::support::{Host, closed_port};

#[test]
fn answers_are_counted_and_forgotten_by_host() {
    let (one, other) = (Host::new(), Host::new());
    let path = one.store.add_text("text", "text", &[]);
    let down = format!("u@127.0.0.1:{}", closed_port());
    let machine = Machine::new(&[one.trusted(), other.trusted(), down.clone()]);
    let file = machine.cache_dir().join("cache.sqlite");
    let shown = machine.run(&["cache", "path"]).ends(0).stdout();
    assert_eq!(shown, format!("{}\n", file.display()));
    let stats = machine.run(&["cache", "stats"]).ends(0).stdout();
    assert_eq!(stats, format!("{}: not there yet\n", file.display()));
    assert!(!file.exists(), "looking made it");

    machine.ask_for(&[&path, ABSENT_PATH]);
    let stats = |machine: &Machine| machine.run(&["cache", "stats", "--json"]).ends(0).json();
    let of = |stats: &serde_json::Value, host: &str| {
        let all = stats["answers"].as_array().expect("answers").clone();
        all.into_iter().find(|one| one["host"] == host)
    };
    let before = stats(&machine);
    let (first, second) = (name(&one.sshd), name(&other.sshd));
    let said = of(&before, &first).expect("it said something");
    assert_eq!(
        (&said["has"], &said["lacks"]),
        (&1.into(), &1.into()),
        "{before}"
    );
    assert_eq!(
        (&said["configured"], &said["storeDir"]),
        (&true.into(), &"/nix/store".into())
    );
    let said = of(&before, &second).expect("it said something");
    assert_eq!(
        (&said["has"], &said["lacks"]),
        (&0.into(), &2.into()),
        "{before}"
    );
    assert_eq!(before["failures"][0]["host"], *down);
    assert_eq!(
        before["bytes"].as_u64().map(|bytes| bytes > 10_000),
        Some(true)
    );
    let text = machine.run(&["cache", "stats"]).ends(0).stdout();
    assert!(
        text.contains(&format!("{down}: 1 failure in a row, the last one ")),
        "{text}"
    );

    // Another spelling of the same host.
    let spelled = format!("ssh://{first}?priority=3");
    let told = machine.run(&["cache", "clear", &spelled]).ends(0).stdout();
    assert_eq!(told, format!("forgot 2 answers of {spelled}\n"));
    let after = stats(&machine);
    assert_eq!(of(&after, &first), None, "{after}");
    assert_eq!(of(&after, &second), of(&before, &second));
    assert_eq!(after["failures"], before["failures"]);

    let told = machine.run(&["cache", "clear"]).ends(0).stdout();
    assert_eq!(
        told,
        "forgot 2 answers, and 1 note about failures and shells\n"
    );
    let after = stats(&machine);
    assert_eq!(after["answers"], serde_json::json!([]));
    assert_eq!(after["failures"], serde_json::json!([]));
}

#[test]
fn an_unknown_host_is_an_error_that_names_the_known_ones() {
    let host = Host::new();
    let machine = Machine::new(&[host.trusted()]);
    machine.ask_for(&[ABSENT_PATH]);
    for word in ["v@elsewhere", "not a host!"] {
        let run = machine.run(&["cache", "clear", word]).ends(1);
        assert_eq!(run.stdout(), "");
        let known = format!("known are {}\n", name(&host.sshd));
        assert!(
            run.stderr()
                .contains(&format!("no host {word:?} is configured")),
            "{}",
            run.stderr()
        );
        assert!(run.stderr().ends_with(&known), "{}", run.stderr());
    }
    // Not configured any more, but still in the cache.
    machine.write_conf("engine = off\nssh-substituter-hosts = somebody\n");
    let told = machine
        .run(&["cache", "clear", &name(&host.sshd)])
        .ends(0)
        .stdout();
    assert!(told.starts_with("forgot 1 answer of "), "{told}");
}

#[test]
fn others_go_on_with_the_same_file() {
    let host = Host::new();
    let machine = Machine::new(&[host.trusted()]);
    machine.ask_for(&[ABSENT_PATH]);
    let disk = Disk::new(Environment {
        explicit: Some(machine.cache_dir()),
        uid: rustix::process::geteuid().as_raw(),
        ..Environment::default()
    });
    let health = HealthRecord {
        failures: 3,
        ..HealthRecord::default()
    };
    disk.set_host_health("key", &health);
    machine.run(&["cache", "clear"]).ends(0);
    assert_eq!(disk.host_health("key"), None, "it is the same file");
    disk.set_host_health("key", &health);
    machine.ask_for(&[ABSENT_PATH]);
    let stats = machine.run(&["cache", "stats", "--json"]).ends(0).json();
    assert_eq!(stats["failures"][0]["failures"], 3, "{stats}");
    assert_eq!(stats["answers"][0]["lacks"], 1, "{stats}");
}

#[test]
fn a_damaged_file_is_reported_and_left_for_others_to_replace() {
    let machine = Machine::new(&["a".to_owned()]);
    let file = machine.cache_dir().join("cache.sqlite");
    machine.run(&["cache", "path"]).ends(0);
    fs::write(
        &file,
        "this is no database, and long enough to be told from an empty one".repeat(99),
    )
    .expect("write");
    let run = machine.run(&["cache", "stats"]).ends(1);
    assert!(
        run.stderr().contains("cache.sqlite: the file is damaged"),
        "{}",
        run.stderr()
    );
    let run = machine.run(&["cache", "stats", "--json"]).ends(1);
    assert!(
        run.json()["error"]
            .as_str()
            .expect("an error")
            .ends_with("the file is damaged")
    );
    assert!(file.exists());
}
