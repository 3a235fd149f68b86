//! Which content is accepted: a real Nix as caller that trusts the program (`trusted=true`), so that only the program checks;
//! a real sshd and a real `nix-store --serve` at the other end.

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rusqlite::Connection;
use support::{DagOptions, Host, Nix, SHORT, Store, run, run_with_input, substituter};

/// Changes what a store says of a path.
fn set(store: &Store, path: &str, column: &str, value: &str) {
    let db = Connection::open(store.root().join("nix/var/nix/db/db.sqlite")).expect("open a store");
    let change = format!("UPDATE ValidPaths SET {column} = ?1 WHERE path = ?2");
    let changed = db.execute(&change, (value, path)).expect("change a store");
    assert_eq!(changed, 1, "{path}");
}

/// What a store says of a path.
fn get(store: &Store, path: &str, column: &str) -> String {
    let db = Connection::open(store.root().join("nix/var/nix/db/db.sqlite")).expect("open a store");
    let query = format!("SELECT {column} FROM ValidPaths WHERE path = ?1");
    db.query_row(&query, [path], |row| row.get(0))
        .expect("read a store")
}

/// Writes other contents into a file of a store and tells the store that this is right: only the content address remains.
fn falsify(store: &Store, path: &str, file: &str, text: &str) {
    let file = store.physical(path).join(file);
    let file = std::path::PathBuf::from(file.to_str().unwrap().trim_end_matches('/'));
    fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("make it writable");
    fs::write(&file, text).expect("write a file");
    fs::set_permissions(&file, Permissions::from_mode(0o444)).expect("make it read-only");
    let mut command = store.env().command("nix-hash");
    command.args(["--type", "sha256"]).arg(store.physical(path));
    set(
        store,
        path,
        "hash",
        &format!("sha256:{}", run(command, SHORT)),
    );
    set(store, path, "narSize", &store.nar(path).len().to_string());
}

/// One path of each kind of content address.
struct Addressed {
    text: String,
    text_with_reference: String,
    flat: String,
    recursive: String,
    itself: String,
}

impl Addressed {
    fn make(store: &Store) -> Self {
        let source = store.env().folder().join("source");
        fs::create_dir(&source).expect("make a folder");
        fs::write(source.join("file"), "file\n").expect("write a file");
        fs::write(source.join("other"), "other\n").expect("write a file");
        let text = store.add_text("text", "text", &[]);
        Self {
            text_with_reference: store.add_text("with-reference", "text", &[&text]),
            flat: store.add_flat(&source.join("file")),
            recursive: store.add_dir(&source),
            itself: addressed_itself(store),
            text,
        }
    }

    fn all(&self) -> [&String; 5] {
        let Self {
            text,
            text_with_reference,
            flat,
            recursive,
            itself,
        } = self;
        [text, text_with_reference, flat, recursive, itself]
    }
}

/// A recursively addressed path that refers to itself.
fn addressed_itself(store: &Store) -> String {
    // The third of them does.
    let dag = store.dag(3, DagOptions::default());
    let mut command = store.command("nix");
    command.args(["store", "make-content-addressed", "--json", &dag.root]);
    let text = run(command, SHORT);
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let path = json["rewrites"][&dag.root].as_str().expect("a path");
    assert!(store.references(path).contains(&path.to_owned()));
    path.to_owned()
}

/// Nix through the program, which trusts this key and the host no further than that.
fn nix(host: &Host, key: &str) -> Nix {
    let nix = Nix::through(&[]);
    let lines = format!("trusted-public-keys = {key}");
    nix.store()
        .env()
        .configure(&[host.url("max-connections=1")], &lines);
    nix
}

/// Asks for all of these at once; stderr, and which have arrived.
fn realise<'a>(nix: &Nix, paths: &[&'a String]) -> (String, Vec<&'a str>) {
    let mut command = nix.command("nix-store");
    command.args(["--realise", "--keep-going"]).args(paths);
    let stderr = nix.run(command).stderr();
    let arrived = paths.iter().map(|path| path.as_str());
    let arrived = arrived.filter(|path| nix.store().is_valid(path)).collect();
    (stderr, arrived)
}

#[track_caller]
fn says_once(stderr: &str, words: &str) {
    assert_eq!(stderr.matches(words).count(), 1, "{words}\n{stderr}");
}

#[test]
fn what_is_signed_by_a_trusted_key_arrives_and_nothing_else() {
    let host = Host::new();
    let paths: Vec<String> = (0..9)
        .map(|number| host.store.big(&format!("path-{number}"), 100 + number))
        .collect();
    let [
        unsigned,
        also_unsigned,
        right,
        several,
        unknown,
        wrong,
        also_wrong,
        malformed,
        sha1,
    ] = &paths[..]
    else {
        unreachable!("as many as were made")
    };
    let key = host.store.sign("test-1", &[right, several]);
    host.store.sign("test-2", &[several, unknown]);
    let signature = get(&host.store, right, "sigs");
    set(&host.store, wrong, "sigs", &signature);
    set(&host.store, also_wrong, "sigs", &signature);
    set(&host.store, malformed, "sigs", "test-1:AAAA test-1");
    let sha1_address = "fixed:r:sha1:js884r7lm5pv20x1h6a1p42mmwi9q5sc";
    set(&host.store, sha1, "ca", sha1_address);
    let nix = nix(&host, &key);
    let _masters = nix.store().env().masters();
    let (stderr, arrived) = realise(&nix, &paths.iter().collect::<Vec<_>>());
    assert_eq!(arrived, [right, several], "{stderr}");
    assert!(
        !stderr.contains(&format!("has {also_unsigned}")),
        "{stderr}"
    );
    for (path, why) in [
        (unsigned, "it is not signed: "),
        (unknown, "it is signed by \"test-2\" only"),
        (wrong, "its signature by \"test-1\" is wrong"),
        (malformed, "its signature cannot be read"),
        (
            sha1,
            "it is not signed, and its content address is not one of",
        ),
    ] {
        let says = format!("has {path}, but {why}");
        assert!(stderr.contains(&says), "{says}\n{stderr}");
        says_once(&stderr, why);
    }
    for way in [
        "trusted-public-keys as NAME:BASE64",
        &format!("nix store sign --key-file FILE --recursive {unsigned}'"),
    ] {
        says_once(&stderr, way);
    }
    assert_eq!(
        stderr.matches("add trusted=true to the host's URL").count(),
        5
    );
    nix.store().verify();
}

#[test]
fn what_is_content_addressed_arrives_unsigned() {
    let host = Host::new();
    let addressed = Addressed::make(&host.store);
    let nix = nix(&host, "");
    let _masters = nix.store().env().masters();
    let (stderr, arrived) = realise(&nix, &addressed.all());
    assert_eq!(arrived, addressed.all(), "{stderr}");
    assert!(!stderr.contains("ssh-substituter:"), "{stderr}");
    nix.store().verify();
}

#[test]
fn an_address_that_leads_elsewhere_proves_nothing() {
    let host = Host::new();
    let (real, other) = (
        host.store.add_text("real", "text", &[]),
        host.store.big("other", 100),
    );
    set(&host.store, &other, "ca", &get(&host.store, &real, "ca"));
    let nix = nix(&host, "");
    let _masters = nix.store().env().masters();
    let (stderr, arrived) = realise(&nix, &[&other, &real]);
    assert_eq!(arrived, [&real], "{stderr}");
    says_once(&stderr, "and its content address gives another name");
}

#[test]
fn signatures_and_addresses_reach_nix_untouched() {
    let host = Host::new();
    let addressed = Addressed::make(&host.store);
    let signed = host.store.big("signed", 100);
    let key = host.store.sign("test-1", &[&signed, &addressed.flat]);
    let more = format!("{} k:AAAA nonsense", get(&host.store, &signed, "sigs"));
    set(&host.store, &signed, "sigs", &more);
    let nix = nix(&host, &key)
        .substituters(&substituter("").replace("&trusted=true", ""))
        .trust(&key);
    let _masters = nix.store().env().masters();
    let mut paths = addressed.all().to_vec();
    paths.push(&signed);
    let (stderr, arrived) = realise(&nix, &paths);
    // Nix has checked again.
    assert_eq!(arrived, paths, "{stderr}");
    for path in paths {
        for column in ["sigs", "ca", "hash", "narSize"] {
            let read = |store: &Store| {
                let column = format!("ifnull({column}, '') || ''");
                let mut words: Vec<String> = get(store, path, &column)
                    .split(' ')
                    .map(str::to_owned)
                    .collect();
                words.sort();
                words
            };
            assert_eq!(read(nix.store()), read(&host.store), "{column} of {path}");
        }
    }
}

#[test]
fn content_that_belies_its_address_does_not_arrive() {
    let host = Host::new();
    let addressed = Addressed::make(&host.store);
    let Addressed {
        text,
        text_with_reference,
        flat,
        recursive,
        itself,
    } = &addressed;
    falsify(&host.store, text_with_reference, "", "evil");
    falsify(&host.store, flat, "", "evil\n");
    falsify(&host.store, recursive, "file", "evil\n");
    falsify(&host.store, itself, "bin/program", "evil\n");
    let nix = nix(&host, "");
    let _masters = nix.store().env().masters();
    let (stderr, arrived) = realise(&nix, &addressed.all());
    assert_eq!(arrived, [text], "{stderr}");
    // This one is known before it comes.
    says_once(&stderr, "and its content address contradicts its NAR hash");
    for path in [text_with_reference, flat, itself] {
        let words = format!("sent {path} with the wrong content: expected content with ");
        says_once(&stderr, &words);
    }
}

#[test]
fn the_classic_door_has_the_same_rule() {
    let host = Host::new();
    let addressed = Addressed::make(&host.store);
    let (unsigned, signed) = (
        host.store.big("unsigned", 100),
        host.store.big("signed", 100),
    );
    let key = host.store.sign("test-1", &[&signed]);
    falsify(&host.store, &addressed.flat, "", "evil\n");
    let env = support::NixEnv::new();
    let _masters = env.masters();
    env.configure(&[host.url("")], &format!("trusted-public-keys = {key}"));
    let ask = |args: &[&str], input: &str| {
        let mut command: Command = env.program();
        command.args(args);
        run_with_input(command, input.as_bytes(), SHORT)
    };
    let paths = [&unsigned, &signed, &addressed.recursive];
    let question = format!("\nhave {unsigned} {signed} {}\n", addressed.recursive);
    let output = ask(&["--query"], &question);
    let have = String::from_utf8(output.stdout).expect("UTF-8");
    let have: Vec<&str> = have.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(have, [signed.as_str(), addressed.recursive.as_str()]);
    let all = paths
        .into_iter()
        .chain([&addressed.flat, &addressed.itself]);
    for (number, path) in all.enumerate() {
        let destination = env.folder().join(format!("restored-{number}"));
        let output = ask(&["--substitute", path, destination.to_str().unwrap()], "");
        let expected = *path != unsigned && *path != addressed.flat;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), expected, "{path}\n{stderr}");
        assert_eq!(destination.exists(), expected, "{path}");
    }
}

#[test]
fn a_malformed_key_is_told_and_the_others_count() {
    let host = Host::new();
    let signed = host.store.big("signed", 100);
    let key = host.store.sign("test-1", &[&signed]);
    let nix = nix(&host, &format!("typo:AAAA {key}"));
    let _masters = nix.store().env().masters();
    let (stderr, arrived) = realise(&nix, &[&signed]);
    assert_eq!(arrived, [&signed], "{stderr}");
    says_once(
        &stderr,
        "the key \"typo\" is ignored: it has 3 bytes instead of 32",
    );
}
