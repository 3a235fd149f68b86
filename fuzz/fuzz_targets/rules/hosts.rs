//! Rules of host specs, of which the input has one a line.
//!
//! 1. What is a host holds nothing that ssh or a shell could take for something else.
//! 2. A host that is shown can be read again: the same user, name and port; with its parameters spelled out,
//!    the same host in everything.
//! 3. Two hosts are the same exactly when user, name and port are, however spelled.
//! 4. Why something is no host can be shown on a terminal.

use ssh_substituter::config::{Host, HostError};

use super::{assert_plain, memory};

/// How many of the lines are compared with each other.
const COMPARED: usize = 8;

/// All rules, for any bytes.
pub fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut hosts = Vec::new();
    for spec in text.split('\n') {
        match memory::within(spec.len(), || Host::parse(spec)) {
            Ok(host) => hosts.push(host),
            Err(error) => refused(&error),
        }
    }
    for host in &hosts {
        is_harmless(host);
        is_read_again(host);
    }
    hosts.truncate(COMPARED);
    for one in &hosts {
        for other in &hosts {
            let key = |host: &Host| {
                let port = host.port.unwrap_or(22);
                (host.user.clone(), host.name.to_ascii_lowercase(), port)
            };
            assert_eq!(one.same_as(other), key(one) == key(other));
            // What is the same in all that matters for reaching it is reached in the same way.
            if one.identity() == other.identity() {
                assert_eq!(key(one), key(other));
                assert_eq!(one.remote_program.join(" "), other.remote_program.join(" "));
                assert_eq!(one.remote_store, other.remote_store);
            }
        }
    }
}

fn refused(error: &HostError) {
    assert_plain(&error.to_string());
}

/// Rule 1.
pub fn is_harmless(host: &Host) {
    let word = |text: &str, more: &str| {
        let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c) || more.contains(c);
        assert!(!text.is_empty() && text.len() <= 600, "{text:?}");
        assert!(text.chars().all(fine) && !text.starts_with('-'), "{text:?}");
    };
    let v6 = host.name.contains(':');
    word(&host.name, if v6 { ":%" } else { "" });
    if v6 {
        let address = host.name.split('%').next().unwrap_or_default();
        assert!(address.parse::<std::net::Ipv6Addr>().is_ok(), "{address:?}");
    }
    if let Some(user) = &host.user {
        word(user, "+@:%#=,~^/\\");
        assert!(!user.ends_with('\\'), "{user:?}");
    }
    assert_ne!(host.port, Some(0));
    // In single quotes these are themselves in every shell.
    let quotable = |word: &str| {
        let fine = |b: u8| b.is_ascii_graphic() && !b"'\\!`".contains(&b);
        assert!(word.bytes().all(fine), "{word:?}");
    };
    assert!(!host.remote_program[0].starts_with('-'));
    assert!(!host.remote_program[0].is_empty());
    host.remote_program.iter().for_each(|word| quotable(word));
    if let Some(store) = &host.remote_store {
        quotable(store);
        assert!(!store.is_empty() && !store.starts_with('-'));
    }
    if let Some(key) = &host.ssh_key {
        let key = key.to_str().expect("it was parsed from a string");
        assert!(!key.contains(char::is_control) && !key.starts_with('-') && !key.is_empty());
    }
    if let Some(key) = &host.public_host_key {
        // A line of known_hosts is made of it.
        assert_eq!(key.split(' ').count(), 2);
        assert!(
            key.bytes().all(|b| b == b' ' || b.is_ascii_graphic()),
            "{key:?}"
        );
    }
    assert!((1..=64).contains(&host.max_connections));
}

fn is_read_again(host: &Host) {
    let shown = host.to_string();
    assert_plain(&shown);
    let bare = Host::parse(&shown).expect("what is shown is a host");
    assert_eq!(
        (&bare.user, &bare.name, bare.port),
        (&host.user, &host.name, host.port)
    );
    assert!(bare.same_as(host) && !bare.brings_privileged_params());
    assert_eq!(bare.to_string(), shown);

    let spec = format!("ssh://{shown}/?{}", parameters(host));
    // Spelled out, it may be too long to be one.
    if spec.len() <= 4096 {
        assert_eq!(Host::parse(&spec).as_ref(), Ok(host), "{spec}");
    }
    let privileged = host.trusted
        || host.ssh_key.is_some()
        || host.public_host_key.is_some()
        || host.remote_store.is_some()
        || host.remote_program != ["nix-store"];
    assert_eq!(host.brings_privileged_params(), privileged);
}

/// All parameters, percent-encoded.
fn parameters(host: &Host) -> String {
    let encoded = |text: &str| -> String { text.bytes().map(|b| format!("%{b:02x}")).collect() };
    let key = host.ssh_key.as_ref().and_then(|path| path.to_str());
    let public_key = host.public_host_key.as_deref().unwrap_or("");
    let mut out = vec![
        format!("ssh-key={}", encoded(key.unwrap_or(""))),
        format!(
            "base64-ssh-public-host-key={}",
            encoded(&data_encoding::BASE64.encode(public_key.as_bytes()))
        ),
        format!("compress={}", host.compress),
        format!("remote-program={}", encoded(&host.remote_program.join(" "))),
        format!(
            "remote-store={}",
            encoded(host.remote_store.as_deref().unwrap_or(""))
        ),
        format!("trusted={}", host.trusted),
        format!("max-connections={}", host.max_connections),
    ];
    out.extend(host.priority.map(|priority| format!("priority={priority}")));
    out.join("&")
}
