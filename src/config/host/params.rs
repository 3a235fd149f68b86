//! The parameters of a host spec; their table stands in the parent module.

use data_encoding::{BASE64, BASE64_NOPAD};

use super::address::{PORT_EXPECTED, decode, parse_port};
use super::{Compression, CompressionMode, DeltaMode, Host, HostErrorKind};
use crate::config::value::{BOOLEAN, parse_bool, printable};

/// Parameters that have a meaning here, in the order in which messages list them.
const KNOWN_PARAMS: [&str; 12] = [
    "ssh-key",
    "base64-ssh-public-host-key",
    "compress",
    "compression",
    "compression-level",
    "delta",
    "remote-program",
    "remote-store",
    "priority",
    "trusted",
    "max-connections",
    "port",
];

/// [`KNOWN_PARAMS`], for messages.
const KNOWN_PARAMS_LIST: &str = "ssh-key, base64-ssh-public-host-key, compress, compression, \
     compression-level, delta, remote-program, remote-store, priority, trusted, max-connections, port";

/// Parameters of Nix's ssh stores and the stores behind them (Nix manual, "Store Types") that mean nothing
/// here.
const IGNORED_PARAMS: [&str; 10] = [
    "path-info-cache-size",
    "want-mass-query",
    "system-features",
    "store",
    "log-fd",
    "max-connection-age",
    "real",
    "root",
    "state",
    "log",
];

/// Key types of OpenSSH (sshd(8), "AUTHORIZED_KEYS FILE FORMAT"), without certificates.
const KEY_TYPES: [&str; 7] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// Most connections to one host.
const MAX_CONNECTIONS: u32 = 64;

const PLAIN_WORD_EXPECTED: &str = "printable ASCII without ' \\ ! and `, not starting with -";

/// Reads `name=value&…` into the host.
pub(super) fn apply(host: &mut Host, query: &str) -> Result<(), HostErrorKind> {
    let mut seen = Vec::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, raw) = part.split_once('=').unwrap_or((part, ""));
        let mut ours = KNOWN_PARAMS.iter().chain(&IGNORED_PARAMS);
        let Some(&name) = ours.find(|ours| **ours == name) else {
            return Err(HostErrorKind::UnknownParameter {
                parameter: printable(name),
                known: KNOWN_PARAMS_LIST,
            });
        };
        let refused = |value: &str, expected: &'static str| HostErrorKind::Parameter {
            parameter: name,
            value: printable(value),
            expected,
        };
        if !part.contains('=') {
            return Err(refused("", "a value after ="));
        }
        // Which of two counts differs between versions of Nix.
        if seen.contains(&name) {
            return Err(refused(raw, "each parameter once"));
        }
        seen.push(name);
        let value = decode(raw)
            .ok_or_else(|| refused(raw, "UTF-8, percent-encoded as %25 where it holds a %"))?;
        if name == "port" {
            if host.port.is_some() {
                return Err(HostErrorKind::part("port", &value, PORT_EXPECTED));
            }
            host.port = Some(parse_port(&value)?);
        } else {
            set(host, name, &value).map_err(|expected| refused(&value, expected))?;
        }
    }
    Ok(())
}

/// Sets one parameter. The error is what a valid value would be.
fn set(host: &mut Host, name: &str, value: &str) -> Result<(), &'static str> {
    match name {
        "ssh-key" => host.ssh_key = optional(value, ssh_key)?.map(Into::into),
        "base64-ssh-public-host-key" => host.public_host_key = optional(value, public_host_key)?,
        "compress" => host.compress = parse_bool(value).ok_or(BOOLEAN)?,
        "compression" => host.compression.mode = CompressionMode::parse(value)?,
        "compression-level" => {
            host.compression.level = value
                .parse()
                .ok()
                .filter(|level| (1..=Compression::MAX_LEVEL).contains(level))
                .ok_or("a number from 1 to 19")?;
        }
        "delta" => host.delta = DeltaMode::parse(value)?,
        "remote-program" => host.remote_program = remote_program(value)?,
        "remote-store" => host.remote_store = optional(value, plain_word)?,
        "priority" => host.priority = Some(value.parse().map_err(|_| "a whole number")?),
        "trusted" => host.trusted = parse_bool(value).ok_or(BOOLEAN)?,
        "max-connections" => {
            host.max_connections = value
                .parse()
                .ok()
                .filter(|n| (1..=MAX_CONNECTIONS).contains(n))
                .ok_or("a number from 1 to 64")?;
        }
        _ => {}
    }
    Ok(())
}

/// The empty string is Nix's default for these, and means none.
fn optional<T>(
    value: &str,
    parse: impl FnOnce(&str) -> Result<T, &'static str>,
) -> Result<Option<T>, &'static str> {
    if value.is_empty() {
        return Ok(None);
    }
    parse(value).map(Some)
}

fn ssh_key(value: &str) -> Result<String, &'static str> {
    if value.starts_with('-') || value.contains(char::is_control) {
        return Err("a file name without control characters, not starting with -");
    }
    Ok(value.to_owned())
}

/// A word that every shell which may sit at the other end (sh, fish, csh) leaves alone between
/// single quotes, and that ssh does not take for an option of its own.
fn plain_word(value: &str) -> Result<String, &'static str> {
    if value.starts_with('-') || !is_quotable(value) {
        return Err(PLAIN_WORD_EXPECTED);
    }
    Ok(value.to_owned())
}

fn is_quotable(word: &str) -> bool {
    word.bytes()
        .all(|b| b.is_ascii_graphic() && !b"'\\!`".contains(&b))
}

fn remote_program(value: &str) -> Result<Vec<String>, &'static str> {
    // Only the first word can be taken for an option: ssh goes on looking for its own options
    // until it has seen the first word of the command.
    let words: Vec<String> = value
        .split([' ', '\t'])
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect();
    match words.first() {
        None => Err("a program"),
        Some(first) if first.starts_with('-') => Err(PLAIN_WORD_EXPECTED),
        Some(_) if words.iter().all(|word| is_quotable(word)) => Ok(words),
        Some(_) => Err("words of printable ASCII without ' \\ ! and `"),
    }
}

/// Decodes what `base64 -w0 ssh_host_ed25519_key.pub` gives, which is what Nix wants here: one
/// line, `TYPE BLOB [COMMENT]`. The comment is dropped.
fn public_host_key(value: &str) -> Result<String, &'static str> {
    const EXPECTED: &str = "base64 of one line such as ssh-ed25519 AAAA…";
    let unpadded = value.trim_end_matches('=');
    let bytes = BASE64_NOPAD
        .decode(unpadded.as_bytes())
        .map_err(|_| EXPECTED)?;
    let text = String::from_utf8(bytes).map_err(|_| EXPECTED)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.contains(char::is_control) {
        return Err(EXPECTED);
    }
    let mut words = line.split_ascii_whitespace();
    let (Some(kind), Some(blob)) = (words.next(), words.next()) else {
        return Err(EXPECTED);
    };
    if !KEY_TYPES.contains(&kind) || line.starts_with(' ') {
        return Err("base64 of one line that starts with a key type, such as ssh-ed25519 AAAA…");
    }
    // A blob begins with the length and name of its own type (RFC 4253, section 6.6).
    // Padding amid it would be taken here, and by nobody else.
    if blob.trim_end_matches('=').contains('=') {
        return Err(EXPECTED);
    }
    let decoded = BASE64.decode(blob.as_bytes()).map_err(|_| EXPECTED)?;
    let own = decoded
        .split_first_chunk::<4>()
        .and_then(|(len, rest)| rest.get(..u32::from_be_bytes(*len) as usize));
    if own != Some(kind.as_bytes()) {
        return Err("base64 of one line whose key is of the type that it begins with");
    }
    Ok(format!("{kind} {blob}"))
}

#[cfg(test)]
mod tests {
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
             compression=zstd&compression-level=19&delta=off&\
             remote-program=sudo%20nix-store&remote-store=/mnt/x?a%3db&priority=-3&trusted=1&\
             max-connections=64&port=2222"
        ));
        assert_eq!(host.ssh_key, Some(PathBuf::from("/etc/nix/a b")));
        assert_eq!(host.public_host_key.as_deref(), Some(KEY));
        assert!(host.compress);
        assert_eq!(host.compression.mode, CompressionMode::Zstd);
        assert_eq!(host.compression.level, 19);
        assert_eq!(host.delta, DeltaMode::Off);
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
}
