//! Which content is accepted: a real Nix as caller that trusts the program (`trusted=true`), so that only the program checks;
//! a real sshd and a real `nix-store --serve` at the other end.

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use support::{DagOptions, Host, Nix, NixEnv, SHORT, Store, run, run_with_input, substituter};

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

/// Runs the program itself.
fn ask(env: &NixEnv, args: &[&str], input: &str) -> Output {
    let mut command = env.program();
    command.args(args);
    run_with_input(command, input.as_bytes(), SHORT)
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
    let signature = host.store.claim(right, "sigs");
    host.store.set_claim(wrong, "sigs", &signature);
    host.store.set_claim(also_wrong, "sigs", &signature);
    host.store
        .set_claim(malformed, "sigs", "test-1:AAAA test-1");
    let sha1_address = "fixed:r:sha1:js884r7lm5pv20x1h6a1p42mmwi9q5sc";
    host.store.set_claim(sha1, "ca", sha1_address);
    let nix = nix(&host, &key);
    let _masters = nix.store().env().masters();
    let (stderr, arrived) = realise(&nix, &paths.iter().collect::<Vec<_>>());
    assert_eq!(arrived, [right, several], "{stderr}");
    for (paths, why) in [
        (&[unsigned, also_unsigned][..], "it is not signed: "),
        (&[unknown], "it is signed by \"test-2\" only"),
        (&[wrong, also_wrong], "its signature by \"test-1\" is wrong"),
        (&[malformed], "its signature cannot be read"),
        (
            &[sha1],
            "it is not signed, and its content address is not one of",
        ),
    ] {
        says_once(&stderr, why);
        // The first that Nix asks for.
        let says = |path: &&&String| stderr.contains(&format!("has {path}, but {why}"));
        let told: Vec<_> = paths.iter().filter(says).collect();
        let [told] = told[..] else {
            panic!("{why}\n{stderr}")
        };
        // How to sign it there.
        let command = format!("nix store sign --key-file FILE --recursive {told}'");
        says_once(&stderr, &command);
    }
    says_once(
        &stderr,
        "if you trust that key, add it to trusted-public-keys",
    );
    let trusted = "add trusted=true to the host's URL";
    assert_eq!(stderr.matches(trusted).count(), 5, "{stderr}");
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
    host.store
        .set_claim(&other, "ca", &host.store.claim(&real, "ca"));
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
    // Of nobody who is known; and two that Nix could not read, which are left out.
    let unknown = format!("k:{}==", "A".repeat(86));
    let unreadable = ["k:AAAA", "nonsense"];
    let sigs = host.store.claim(&signed, "sigs");
    let more = format!("{sigs} {unknown} {}", unreadable.join(" "));
    host.store.set_claim(&signed, "sigs", &more);
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
                let mut words: Vec<String> = store
                    .claim(path, column)
                    .split(' ')
                    .map(str::to_owned)
                    .collect();
                words.sort();
                words
            };
            let mut told = read(&host.store);
            told.retain(|word| !unreadable.contains(&word.as_str()));
            assert_eq!(read(nix.store()), told, "{column} of {path}");
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
    host.store.falsify(text_with_reference, None, "evil");
    host.store.falsify(flat, None, "evil\n");
    host.store.falsify(recursive, Some("file"), "evil\n");
    host.store.falsify(itself, Some("bin/program"), "evil\n");
    let nix = nix(&host, "");
    let _masters = nix.store().env().masters();
    let (stderr, arrived) = realise(&nix, &addressed.all());
    assert_eq!(arrived, [text], "{stderr}");
    // This one is known before it comes.
    says_once(&stderr, "and its content address contradicts its NAR hash");
    for path in [text_with_reference, flat, itself] {
        let words = format!("sent {path} with the wrong content: expected a ");
        let warnings = stderr.lines().filter(|line| line.contains(": warning: "));
        let told = warnings.filter(|line| line.contains(&words)).count();
        assert_eq!(told, 1, "{words}\n{stderr}");
    }
}

/// Lets both sides agree on version 2.3, which knows no NAR hashes: the words that tell versions are changed on their way.
const OLD: &str = r#"#!/bin/sh
change() {
    exec perl -e '
        for ($n = 0; $n < 16; $n += $r) { ($r = sysread(STDIN, $b, 16 - $n, $n)) > 0 or exit }
        substr($b, 8, 2) = "\x03\x02";
        syswrite(STDOUT, $b);
        while (sysread(STDIN, $b, 65536)) { syswrite(STDOUT, $b) }'
}
change | nix-store "$@" | change
"#;

#[test]
fn a_remote_too_old_to_send_a_hash_needs_trust() {
    let host = Host::new();
    let addressed = Addressed::make(&host.store);
    let signed = host.store.big("signed", 100);
    let key = host.store.sign("test-1", &[&signed]);
    let old = host.store.env().folder().join("old-nix-store");
    fs::write(&old, OLD).expect("write a script");
    fs::set_permissions(&old, Permissions::from_mode(0o755)).expect("make it executable");
    let program = format!("remote-program={}", old.display());
    let paths = [&signed, &addressed.text];
    for more in ["", "require-sigs = false"] {
        let nix = Nix::through(&[]);
        let lines = format!("trusted-public-keys = {key}\n{more}");
        nix.store().env().configure(&[host.url(&program)], &lines);
        let _masters = nix.store().env().masters();
        let (stderr, arrived) = realise(&nix, &paths);
        assert_eq!(arrived, [""; 0], "{stderr}");
        says_once(&stderr, "is too old to tell its NAR hash");
        says_once(&stderr, "update Nix there; with Nix 1.x as the caller");
    }
    // Today's Nix wants a hash from whoever answers; the text protocol does without.
    let env = NixEnv::new();
    let _masters = env.masters();
    env.configure(&[host.url(&format!("{program}&trusted=true"))], "");
    let destination = env.folder().join("restored");
    let args = ["--substitute", &signed, destination.to_str().unwrap()];
    let output = ask(&env, &args, "");
    assert!(output.status.success(), "{output:?}");
    assert!(destination.join("data").is_file());
}

#[test]
fn a_trusted_host_is_believed_but_not_what_belies_its_name() {
    let host = Host::new();
    let unsigned = host.store.big("unsigned", 100);
    let flat = Addressed::make(&host.store).flat;
    host.store.falsify(&flat, None, "evil\n");
    let nix = Nix::through(&[host.trusted()]);
    let _masters = nix.store().env().masters();
    let (stderr, arrived) = realise(&nix, &[&unsigned, &flat]);
    assert_eq!(arrived, [&unsigned], "{stderr}");
    assert!(
        stderr.contains(&format!("sent {flat} with the wrong content")),
        "{stderr}"
    );
}

#[test]
fn the_text_protocol_has_the_same_rule() {
    let host = Host::new();
    let addressed = Addressed::make(&host.store);
    let (unsigned, signed) = (
        host.store.big("unsigned", 100),
        host.store.big("signed", 100),
    );
    let key = host.store.sign("test-1", &[&signed]);
    host.store.falsify(&addressed.flat, None, "evil\n");
    let env = NixEnv::new();
    let _masters = env.masters();
    env.configure(&[host.url("")], &format!("trusted-public-keys = {key}"));
    let paths = [&unsigned, &signed, &addressed.recursive];
    let question = format!("\nhave {unsigned} {signed} {}\n", addressed.recursive);
    let output = ask(&env, &["--query"], &question);
    let have = String::from_utf8(output.stdout).expect("UTF-8");
    let have: Vec<&str> = have.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(have, [signed.as_str(), addressed.recursive.as_str()]);
    let all = paths
        .into_iter()
        .chain([&addressed.flat, &addressed.itself]);
    for (number, path) in all.enumerate() {
        let destination = env.folder().join(format!("restored-{number}"));
        let output = ask(
            &env,
            &["--substitute", path, destination.to_str().unwrap()],
            "",
        );
        let expected = *path != unsigned && *path != addressed.flat;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), expected, "{path}\n{stderr}");
        assert_eq!(destination.exists(), expected, "{path}");
    }
}

#[test]
fn an_engine_warns_each_command_anew_and_sees_what_was_signed_since() {
    let host = Host::new();
    let path = host.store.big("signed-later", 100);
    let key = host.store.sign("test-1", &[&path]);
    let signature = host.store.claim(&path, "sigs");
    host.store.set_claim(&path, "sigs", "");
    let nix = Nix::new().substituters(&substituter(""));
    let lines = format!("trusted-public-keys = {key}");
    let env = nix.store().env();
    let engines = env.configure_with_engine(&[host.url("max-connections=4")], &lines);
    for _ in 0..2 {
        let (stderr, arrived) = realise(&nix, &[&path]);
        assert_eq!(arrived, [""; 0], "{stderr}");
        says_once(&stderr, "it is not signed: ");
    }
    host.store.set_claim(&path, "sigs", &signature);
    let (stderr, arrived) = realise(&nix, &[&path]);
    assert_eq!(arrived, [&path], "{stderr}");
    assert_eq!(
        engines.status().len(),
        1,
        "all three were served by the same one"
    );
}

#[test]
fn a_malformed_key_is_reported_and_the_others_count() {
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
