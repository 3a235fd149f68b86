//! Stores as they are, with what other versions of Nix or other systems have put into them: a real Nix as caller, a real
//! sshd and a real `nix-store --serve` (or `serve-local`) at the other end.

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bytes::BytesMut;
use sha2::{Digest, Sha256};
use ssh_substituter::model::{PathInfo, StorePath};
use ssh_substituter::wire::put_u64;
use ssh_substituter::wire::serve::{
    CLIENT_MAGIC, InfosDecoder, InfosStep, Request, ServerHello, Version,
};
use support::{Host, Nix, NixEnv, SHORT, Store, program, run, run_with_input};

/// Adds a file of this name.
fn add_file(store: &Store, name: &str) -> String {
    let folder = store.env().folder().join("sources");
    fs::create_dir_all(&folder).expect("make a folder");
    let source = folder.join(name);
    fs::write(&source, name).expect("write a file");
    store.add_dir(&source)
}

/// Which of these `--query` finds, sorted, and what is said.
fn have(env: &NixEnv, flags: &[&str], paths: &[&String]) -> (Vec<String>, String) {
    let mut command = env.program();
    command.args(flags).arg("--query");
    let words: Vec<&str> = paths.iter().map(|path| path.as_str()).collect();
    let line = format!("have {}\n", words.join(" "));
    let output = run_with_input(command, line.as_bytes(), SHORT);
    assert!(output.status.success(), "{output:?}");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let found = text(&output.stdout);
    let found = found.lines().filter(|line| !line.is_empty());
    (sorted(found), text(&output.stderr))
}

/// What `--serve` tells of a path.
fn info(env: &NixEnv, path: &str) -> Option<PathInfo> {
    let mut input = Vec::new();
    put_u64(&mut input, CLIENT_MAGIC);
    put_u64(&mut input, Version::NEWEST.number());
    let paths = vec![StorePath::parse(path).expect("a store path")];
    Request::QueryPathInfos { paths }.put(&mut input);
    let mut command = env.program();
    command.arg("--serve");
    let output = run_with_input(command, &input, SHORT);
    assert!(output.status.success(), "{output:?}");
    let mut reply = BytesMut::from(&output.stdout[..]);
    let hello = ServerHello::default().step(&mut reply);
    assert!(matches!(hello, Ok(Some(_))), "{output:?}");
    match InfosDecoder::new(Version::NEWEST).step(&mut reply) {
        Ok(Some(InfosStep::Info(info))) => Some(info),
        step => {
            assert_eq!(step, Ok(Some(InfosStep::End)));
            None
        }
    }
}

fn sorted<T: AsRef<str>>(paths: impl IntoIterator<Item = T>) -> Vec<String> {
    let mut paths: Vec<String> = paths
        .into_iter()
        .map(|path| path.as_ref().to_owned())
        .collect();
    paths.sort();
    paths
}

/// The host's URL, also with this program in the place of its nix-store.
fn both_programs(host: &Host) -> [String; 2] {
    let program = program().display();
    let local = format!("trusted=true&remote-program={program}%20serve-local");
    [host.trusted(), host.url(&local)]
}

#[test]
fn names_that_begin_with_a_dot_arrive() {
    let host = Host::new();
    let names = [".p10k.zsh", "..a", "...", ".drv-not"];
    let dotted: Vec<String> = names
        .iter()
        .map(|name| add_file(&host.store, name))
        .collect();
    assert!(dotted[0].ends_with("-.p10k.zsh"), "{}", dotted[0]);
    let references: Vec<&str> = dotted.iter().map(String::as_str).collect();
    let config = host.store.add_text("config", "text", &references);
    for url in both_programs(&host) {
        let nix = Nix::through(std::slice::from_ref(&url));
        let _masters = nix.store().env().masters();
        let stderr = nix.realise(&[&config]).ok().stderr();
        assert!(!stderr.contains("ssh-substituter:"), "{stderr}");
        for path in dotted.iter().chain([&config]) {
            assert!(nix.store().verify_path(path), "{path}");
        }
        // By hand and by the text protocol too.
        let env = NixEnv::new();
        let _more = env.masters();
        env.configure(&[url], "");
        let (found, stderr) = have(&env, &[], &dotted.iter().collect::<Vec<_>>());
        assert_eq!(found, sorted(&dotted), "{stderr}");
        let mut command = env.program();
        command.args(["get", "--to", "folder", &config]);
        let output = run_with_input(command, b"", SHORT);
        assert!(output.status.success(), "{output:?}");
        let file = env.folder().join("folder").join(&dotted[0][1..]);
        let read = fs::read_to_string(file);
        assert_eq!(read.expect("read a file"), ".p10k.zsh");
    }
}

/// Nix 2.8 takes names that newer ones refuse.
#[test]
fn what_cannot_be_read_costs_that_path_only() {
    let host = Host::new();
    let store = &host.store;
    let odd = add_file(store, "..-odd");
    let config = store.add_text("config", "text", &[&odd]);
    let also = store.add_text("also", "text", &[&odd]);
    let leaf = store.add_text("leaf", "text", &[]);
    let fine = store.add_text("fine", "text", &[&leaf]);
    let env = NixEnv::new();
    let _masters = env.masters();
    env.configure(&[host.trusted()], "");
    let (found, stderr) = have(&env, &[], &[&config, &fine, &also, &leaf]);
    assert_eq!(found, sorted([&fine, &leaf]), "{stderr}");
    // Told once, of one of the two, and nobody is blamed.
    let told = "cannot be read, so that this path is left out: reference: ";
    assert_eq!(stderr.matches(told).count(), 1, "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.contains(&odd) && !stderr.contains("hint"),
        "{stderr}"
    );
    assert!(
        stderr.contains(&config) || stderr.contains(&also),
        "{stderr}"
    );
    // The host is asked for other paths, by others too.
    let nix = Nix::through(&[host.trusted()]);
    let _more = nix.store().env().masters();
    let mut command = nix.command("nix-store");
    command.args(["--realise", "--keep-going", &config, &fine]);
    let ran = nix.run(command).failed();
    assert!(nix.store().verify_path(&fine), "{}", ran.stderr());
    assert!(!nix.store().is_valid(&config));
    assert_eq!(ran.stderr().matches(told).count(), 1, "{}", ran.stderr());
    let (found, stderr) = have(nix.store().env(), &[], &[&fine]);
    assert_eq!((found, &*stderr), (vec![fine], ""));
}

#[test]
fn serve_local_leaves_out_what_its_database_garbles() {
    let host = Host::new();
    let fine = host.store.add_text("fine", "text", &[]);
    let garbled = host.store.add_text("garbled", "text", &[]);
    host.store.set_claim(&garbled, "deriver", "no path");
    let [_, url] = both_programs(&host);
    let env = NixEnv::new();
    let _masters = env.masters();
    env.configure(&[url], "narinfo-cache-negative-ttl = 0");
    let (found, stderr) = have(&env, &[], &[&garbled, &fine]);
    assert_eq!((found, &*stderr), (vec![fine], ""));
    // Why stands on the stderr of the program there.
    let (found, stderr) = have(&env, &["-v"], &[&garbled]);
    assert!(found.is_empty(), "{stderr}");
    let why = format!("bad deriver of {garbled} in the store database");
    assert!(stderr.contains(&why), "{stderr}");
}

/// A program in the place of the host's nix-store, which says what goes wrong in other words.
fn saying(host: &Host, name: &str, words: &str) -> String {
    let script = host.store.env().folder().join(name);
    let text =
        format!("#!/bin/sh\n{{ nix-store \"$@\" 2>&1 >&3 3>&- | sed -E '{words}' >&2; }} 3>&1\n");
    fs::write(&script, text).expect("write a script");
    fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("change a mode");
    let script = script.display();
    host.url(&format!("trusted=true&remote-program={script}"))
}

#[test]
fn a_path_whose_files_are_gone_or_closed_costs_that_path_only() {
    let host = Host::new();
    let closed = host.store.add_text("closed", "text", &[]);
    let gone = host.store.add_text("gone", "text", &[]);
    let fine: Vec<String> = ["a", "b", "c", "d", "e"]
        .map(|name| host.store.add_text(name, name, &[]))
        .into();
    fs::remove_file(host.store.physical(&gone)).expect("remove a file");
    let lacks = format!("does not have {gone}, or has it with another NAR hash");
    let cannot = format!("cannot send {closed}; it said: error: ");
    let status = "getting status of .([^ ]*/nix/store/[^ ]*).: No such file or directory";
    let told = [
        (host.trusted(), &gone, &lacks),
        // As Nix 2.34.8 and 2.35 say it.
        (
            saying(
                &host,
                "slash",
                &format!("s|{status}|path \\x27\\1/\\x27 does not exist|"),
            ),
            &gone,
            &lacks,
        ),
        (
            saying(
                &host,
                "file",
                &format!("s|{status}|file \\x27\\1\\x27 does not exist|"),
            ),
            &gone,
            &lacks,
        ),
        (
            saying(
                &host,
                "valid",
                &format!("s|{status}|path \\x27\\1\\x27 is not a valid store path|"),
            ),
            &gone,
            &lacks,
        ),
        // What root does not meet in its own store.
        (
            saying(
                &host,
                "closed",
                "s|: No such file or directory|: Permission denied|",
            ),
            &closed,
            &cannot,
        ),
    ];
    fs::remove_file(host.store.physical(&closed)).expect("remove a file");
    for ((url, bad, words), fine) in told.into_iter().zip(&fine) {
        let nix = Nix::through(&[url]);
        let _masters = nix.store().env().masters();
        let mut command = nix.command("nix-store");
        command.args(["--realise", "--keep-going", bad, fine]);
        let stderr = nix.run(command).failed().stderr();
        assert!(nix.store().verify_path(fine), "{stderr}");
        assert!(stderr.contains(words), "no {words:?} in {stderr}");
        assert!(!stderr.contains("the connection ended"), "{stderr}");
        // Nor do later processes take the host for one that failed.
        let (found, stderr) = have(nix.store().env(), &[], &[fine]);
        assert_eq!((found, &*stderr), (vec![fine.clone()], ""));
    }
}

#[test]
fn a_store_with_the_case_hack_is_served_as_nix_serves_it() {
    let host = Host::new();
    let source = host.store.env().folder().join("source");
    fs::create_dir(&source).expect("make a folder");
    for name in ["Foo", "foo~nix~case~hack~1"] {
        fs::write(source.join(name), name).expect("write a file");
    }
    let mut command = host.store.command("nix-store");
    command.args(["--option", "use-case-hack", "true", "--add"]);
    command.arg(&source);
    let path = run(command, SHORT).trim().to_owned();
    let there = host.store.physical(&path).join("foo~nix~case~hack~1");
    assert!(there.exists());
    let [_, url] = both_programs(&host);
    let nix = Nix::through(&[url]);
    let _masters = nix.store().env().masters();
    let stderr = nix.realise(&[&path]).ok().stderr();
    assert!(!stderr.contains("ssh-substituter:"), "{stderr}");
    assert!(nix.store().verify_path(&path));
    let here = fs::read_to_string(nix.store().physical(&path).join("foo"));
    assert_eq!(here.expect("read a file"), "foo~nix~case~hack~1");
}

/// A path that refers to itself, with the content address that Nix 2.17 to 2.34 give such: of its NAR with its own hash part
/// zeroed, without the places where that stood.
fn addressed_without_places(store: &Store) -> String {
    let write = |folder: &Path, hash_part: &str| {
        fs::create_dir(folder).expect("make a folder");
        let text = format!("/nix/store/{hash_part}-itself and again {hash_part}");
        fs::write(folder.join("file"), text).expect("write a file");
    };
    let zeroed = store.env().folder().join("zeroed");
    write(&zeroed, &"\0".repeat(32));
    let mut command = store.env().command("nix-hash");
    command.args(["--type", "sha256"]).arg(&zeroed);
    let hash = run(command, SHORT).trim().to_owned();
    let fingerprint = format!("source:self:sha256:{hash}:/nix/store:itself");
    let mut folded = [0; 20];
    for (place, byte) in Sha256::digest(fingerprint).iter().enumerate() {
        folded[place % 20] ^= byte;
    }
    let hash_part = nix_base32::to_nix_base32(&folded);
    let path = format!("/nix/store/{hash_part}-itself");
    let path = store.add_made(path, |folder| write(folder, &hash_part));
    store.refer(&path, &path);
    store.set_claim(&path, "ca", &format!("fixed:r:sha256:{hash}"));
    path
}

#[test]
fn a_self_reference_as_newer_nix_addressed_it_needs_trust_and_blames_nobody() {
    let host = Host::new();
    let path = addressed_without_places(&host.store);
    let fine = host.store.add_text("fine", "text", &[]);
    let get = |url: String, lines: &str, paths: [&String; 2]| {
        let env = NixEnv::new();
        let masters = env.masters();
        env.configure(&[url], lines);
        let mut command = env.program();
        command.args(["get", "--to", "folder"]).args(paths);
        let output = run_with_input(command, b"", SHORT);
        let arrived = |path: &&String| env.folder().join("folder").join(&path[1..]).exists();
        let arrived = paths
            .into_iter()
            .filter(arrived)
            .cloned()
            .collect::<Vec<_>>();
        let (found, said) = have(&env, &[], &[&fine]);
        assert_eq!((found, &*said), (vec![fine.clone()], ""));
        drop(masters);
        (
            arrived,
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let both = [&path, &fine];
    let (arrived, stderr) = get(host.url(""), "", both);
    assert_eq!(arrived, [fine.as_str()], "{stderr}");
    let told = format!("has {path}, but its content address, as Nix 2.17 to 2.34 make it");
    assert!(stderr.contains(&told), "{stderr}");
    assert!(
        stderr.contains("add trusted=true to the host's URL"),
        "{stderr}"
    );
    for blame in ["wrong", "repair", "damaged"] {
        assert!(!stderr.contains(blame), "{stderr}");
    }
    let arrives = |url: String, lines: &str| {
        let (arrived, stderr) = get(url, lines, both);
        assert_eq!(arrived, [path.clone(), fine.clone()], "{stderr}");
        assert!(!stderr.contains("warning"), "{stderr}");
    };
    arrives(host.trusted(), "");
    arrives(host.url(""), "require-sigs = false");
    let key = host.store.sign("test-1", &[&path]);
    arrives(host.url(""), &format!("trusted-public-keys = {key}"));
}

/// The installed Nix cannot read all of them, so that it is `serve-local` that tells them.
#[test]
fn content_addresses_of_all_versions_are_passed_on_untouched() {
    let host = Host::new();
    let path = host.store.big("path", 100);
    let [_, url] = both_programs(&host);
    let env = NixEnv::new();
    let _masters = env.masters();
    env.configure(&[url], "narinfo-cache-positive-ttl = 0");
    let address_of = |address: &str| {
        host.store.set_claim(&path, "ca", address);
        info(&env, &path).expect("it is there").ca
    };
    let sha1 = "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709";
    let blake3 = "blake3:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
    for address in [
        format!("fixed:git:{sha1}"),
        format!("fixed:r:{blake3}"),
        format!("fixed:{blake3}"),
        format!("text:{sha1}"),
        format!("text:{blake3}"),
        format!("fixed:r:{sha1}"),
    ] {
        assert_eq!(address_of(&address), Some(address));
    }
    for address in ["no address", "fixed:git:sha1:xyz", "fixed:nar:sha1:xyz"] {
        assert_eq!(address_of(address), None, "{address}");
    }
}
