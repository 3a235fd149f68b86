//! The parameters of a host spec; their table stands in the parent module.

use data_encoding::{BASE64, BASE64_NOPAD};

use super::address::{PORT_EXPECTED, decode, parse_port};
use super::{Compression, CompressionMode, DeltaMode, Host, HostErrorKind};
use crate::config::value::{BOOLEAN, parse_bool, parse_bytes, printable};

/// Parameters that have a meaning here, in the order in which messages list them.
const KNOWN_PARAMS: [&str; 13] = [
    "ssh-key",
    "base64-ssh-public-host-key",
    "compress",
    "compression",
    "compression-level",
    "delta",
    "limit-rate",
    "remote-program",
    "remote-store",
    "priority",
    "trusted",
    "max-connections",
    "port",
];

/// [`KNOWN_PARAMS`], for messages.
const KNOWN_PARAMS_LIST: &str = "ssh-key, base64-ssh-public-host-key, compress, compression, \
     compression-level, delta, limit-rate, remote-program, remote-store, priority, trusted, max-connections, port";

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
        "limit-rate" => {
            let rate = parse_bytes(value).ok().filter(|rate| *rate > 0);
            host.limit_rate = Some(rate.ok_or("bytes a second, such as 500K or 2M")?);
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
mod tests;
