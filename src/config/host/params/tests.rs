use std::path::PathBuf;

use data_encoding::BASE64;
use proptest::prelude::*;

use super::super::{Compression, CompressionMode, DeltaMode, Host};

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINQtCHxJHEg5pyjQyjzyUPZ1KKsA1Z57/flshGJVXk9Q";

fn host(query: &str) -> Host {
    Host::parse(&format!("ssh://u@a?{query}")).unwrap()
}

fn error(query: &str) -> String {
    match Host::parse(&format!("ssh://u@a?{query}")) {
        Ok(host) => panic!("{query:?} became {host:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn reads_every_parameter() {
    let key = BASE64.encode(KEY.as_bytes()).replace('=', "%3d");
    let host = host(&format!(
        "ssh-key=/etc/nix/a%20b&base64-ssh-public-host-key={key}&compress=yes&\
         compression=zstd&compression-level=19&delta=off&limit-rate=2M&\
         remote-program=sudo%20nix-store&remote-store=/mnt/x?a%3db&priority=-3&trusted=1&\
         max-connections=64&port=2222"
    ));
    assert_eq!(host.ssh_key, Some(PathBuf::from("/etc/nix/a b")));
    assert_eq!(host.public_host_key.as_deref(), Some(KEY));
    assert!(host.compress);
    assert_eq!(host.compression.mode, CompressionMode::Zstd);
    assert_eq!(host.compression.level, 19);
    assert_eq!(host.delta, DeltaMode::Off);
    assert_eq!(host.limit_rate, Some(2 << 20));
    assert_eq!(host.remote_program, ["sudo", "nix-store"]);
    assert_eq!(host.remote_store.as_deref(), Some("/mnt/x?a=b"));
    assert_eq!(host.priority, Some(-3));
    assert!(host.trusted);
    assert_eq!(host.max_connections, 64);
    assert_eq!(host.port, Some(2222));
}

#[test]
fn what_is_not_said_has_nix_defaults() {
    let host = host("");
    assert_eq!(host.remote_program, ["nix-store"]);
    assert_eq!((host.compress, host.trusted), (false, false));
    assert_eq!(host.compression, Compression::default());
    assert_eq!(host.delta, DeltaMode::Auto);
    assert_eq!((host.priority, host.max_connections), (None, 16));
    assert_eq!((&host.ssh_key, &host.remote_store), (&None, &None));
}

#[test]
fn ignores_what_only_nix_needs() {
    let plain = host("");
    for query in [
        "want-mass-query=true",
        "path-info-cache-size=1&system-features=kvm,nixos-test",
        "store=/nix/store&real=/x&root=/y&state=/z&log=/l&log-fd=3&max-connection-age=1",
        "&&",
    ] {
        assert_eq!(host(query), plain, "{query}");
    }
}

#[test]
fn refuses_unknown_parameters_by_name_and_lists_the_known() {
    for query in ["sshkey=/k", "compress=true&Trusted=true", "x"] {
        let error = error(query);
        assert!(error.contains("unknown parameter"), "{error}");
        assert!(error.ends_with(&super::KNOWN_PARAMS.join(", ")), "{error}");
    }
    assert!(error("sshkey=/k").contains("\"sshkey\""));
}

#[test]
fn refuses_bad_values() {
    for (query, why) in [
        ("compress=maybe", "compress = \"maybe\": expected true"),
        ("compress=True", "expected true"),
        ("compression=true", "expected auto, zstd or none"),
        ("compression-level=0", "1 to 19"),
        ("limit-rate=0", "bytes a second"),
        ("limit-rate=fast", "bytes a second"),
        ("delta=yes", "expected auto, always or off"),
        ("compression-level=20", "1 to 19"),
        ("trusted=", "expected true"),
        ("trusted", "a value after ="),
        ("trusted=false&trusted=true", "once"),
        ("priority=high", "whole number"),
        ("priority=", "whole number"),
        ("max-connections=0", "1 to 64"),
        ("max-connections=65", "1 to 64"),
        ("max-connections=-1", "1 to 64"),
        ("ssh-key=-oX", "file name"),
        ("ssh-key=/a%0ab", "file name"),
        ("ssh-key=/a%zz", "percent-encoded"),
        ("ssh-key=/a%f", "percent-encoded"),
        ("ssh-key=%ff", "UTF-8"),
        ("port=0", "port \"0\""),
        ("remote-program=", "a program"),
        ("remote-program=%20", "a program"),
        ("remote-program=-F%20x", "not starting with -"),
        ("remote-program=a%0ab", "printable"),
        ("remote-program=a%20b'c", "printable"),
        ("remote-program=a%5cb", "printable"),
        ("remote-program=a!", "printable"),
        ("remote-program=`a`", "printable"),
        ("remote-program=ä", "printable"),
        ("remote-store=a%20b", "printable"),
        ("remote-store=a'b", "printable"),
        ("remote-store=--x", "not starting with -"),
    ] {
        let error = error(query);
        assert!(error.contains(why), "{query}: {error}");
    }
    assert!(Host::parse("ssh://a:22?port=22").is_err());
}

#[test]
fn arguments_of_the_remote_program_may_be_options() {
    let host = host("remote-program=%20nix%20%09--x%20-y ");
    assert_eq!(host.remote_program, ["nix", "--x", "-y"]);
}

#[test]
fn reads_a_public_host_key_file() {
    for line in [
        KEY.to_owned(),
        format!("{KEY}\n"),
        format!("{KEY} root@a\r\n"),
        format!("{KEY} two words"),
    ] {
        let encoded = BASE64.encode(line.as_bytes());
        for query in [encoded.as_str(), encoded.trim_end_matches('=')] {
            let host = host(&format!("base64-ssh-public-host-key={query}"));
            assert_eq!(host.public_host_key.as_deref(), Some(KEY));
        }
    }
    assert_eq!(host("base64-ssh-public-host-key=").public_host_key, None);
}

#[test]
fn a_public_host_key_has_padding_at_its_end_alone() {
    let (kind, blob) = KEY.split_once(' ').unwrap();
    let blob = BASE64.decode(blob.as_bytes()).unwrap();
    let two = [&blob[..40], &blob[40..]].map(|part| BASE64.encode(part));
    let line = BASE64.encode(format!("{kind} {}", two.concat()).as_bytes());
    let error = error(&format!("base64-ssh-public-host-key={line}"));
    assert!(error.contains("base64 of one line"), "{error}");
}

#[test]
fn refuses_what_is_no_public_host_key() {
    let blob = &KEY["ssh-ed25519 ".len()..];
    for line in [
        blob.to_owned(),
        format!("ssh-rsa {blob}"),
        format!("* {KEY}"),
        format!("@cert-authority {KEY}"),
        format!(" {KEY}"),
        format!("{KEY}\n{KEY}\n"),
        format!("{KEY}\n\n"),
        format!("{KEY} \u{1b}[0m"),
        "ssh-ed25519".to_owned(),
        "ssh-ed25519 AAAA".to_owned(),
        "ssh-ed25519 !".to_owned(),
    ] {
        let error = error(&format!(
            "base64-ssh-public-host-key={}",
            BASE64.encode(line.as_bytes())
        ));
        assert!(error.contains("base64 of one line"), "{line:?}: {error}");
    }
    for value in ["!!", "ssh-ed25519", blob, "gIGC"] {
        let error = error(&format!("base64-ssh-public-host-key={value}"));
        assert!(error.contains("base64 of one line"), "{value}: {error}");
    }
}

proptest! {
    #[test]
    fn whatever_comes_the_remote_command_can_be_quoted(
        name in prop::sample::select(vec!["remote-program", "remote-store"]),
        value in "[ -~\\n\u{e4}]{0,12}",
    ) {
        let value: String = value.bytes().map(|b| format!("%{b:02x}")).collect();
        if let Ok(host) = Host::parse(&format!("ssh://a?{name}={value}")) {
            prop_assert!(!host.remote_program.is_empty());
            prop_assert!(!host.remote_program[0].starts_with('-'));
            for word in host.remote_program.iter().chain(&host.remote_store) {
                prop_assert!(!word.is_empty());
                let fine = |c: char| ('!'..='~').contains(&c) && !"'\\!`".contains(c);
                prop_assert!(word.chars().all(fine), "{word:?}");
            }
        }
    }
}
