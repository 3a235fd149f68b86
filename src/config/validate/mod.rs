//! Turns what the sources hold into a [`Config`].

mod public_keys;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::ConfigError;
use super::host::{CompressionMode, Host};
use super::origin::Origin;
use super::settings::{Key, Settings, Value};
use super::sources::{RawConfig, Sources};
use super::untrusted;
use super::value::{BOOLEAN, parse_bool, parse_bytes, printable};
use super::{Config, ProgressMode};
use public_keys::public_keys;

const DEFAULT_STORE_DIR: &str = "/nix/store";

/// Shortest `dead-link-timeout`, in seconds: ssh counts three unanswered keepalives, and sends at most
/// one a second.
const MIN_DEAD_LINK_SECONDS: u64 = 3;

/// Longest time, 136 years; longer ones are cut to it, so that adding it to a time cannot overflow.
const MAX_SECONDS: u64 = u32::MAX as u64;

pub(super) fn validate(
    raw: RawConfig,
    sources: &Sources,
) -> Result<(Config, Vec<String>), ConfigError> {
    let RawConfig {
        settings,
        untrusted,
        mut warnings,
    } = raw;
    let configured = hosts(&settings, Key::Hosts)?;
    let configured = without_duplicates(configured, &mut warnings);
    let trusted_hosts = hosts(&settings, Key::TrustedHosts)?;
    let trusted_hosts = without_duplicates(trusted_hosts, &mut warnings);
    let push_hosts = hosts(&settings, Key::PushHosts)?;
    let push_hosts = without_duplicates(push_hosts, &mut warnings);
    let is_untrusted_choice_of_hosts = untrusted.has_hosts_of_client();
    let hosts = untrusted.choose(configured, &trusted_hosts)?;
    let mut hosts = without_duplicates(hosts, &mut warnings);
    hosts.sort_by_key(|host| host.priority.unwrap_or(0));

    let mut enabled = parsed(&settings, Key::UseSshSubstituter, boolean)?;
    for (name, value) in &untrusted.use_ssh_substituter {
        // An unprivileged client may switch it off for itself, but not on.
        enabled &= parsed_value(name, value, boolean)?;
    }
    let is_client_agent = untrusted.has_agent();
    let chosen = untrusted.ssh_auth_sock.as_ref();
    let chosen = chosen.map(|value| parsed_value(untrusted::SSH_AUTH_SOCK, value, socket));
    // A client without an agent sends an empty choice, which is none.
    let chosen = chosen.transpose()?.flatten();
    let own_auth_sock = parsed(&settings, Key::SshAuthSock, socket)?;
    let ssh_auth_sock = chosen.or_else(|| own_auth_sock.clone());
    let config = Config {
        hosts,
        trusted_hosts,
        push_hosts,
        push_signing_key: parsed(&settings, Key::PushSigningKey, file)?,
        enabled,
        ssh_auth_sock,
        is_client_agent,
        own_auth_sock,
        ssh_environment: ssh_environment(&settings)?,
        connect_timeout: timeout(&settings, Key::ConnectTimeout)?,
        stall_timeout: timeout(&settings, Key::StalledDownloadTimeout)?,
        dead_link_timeout: dead_link(&settings)?,
        require_sigs: parsed(&settings, Key::RequireSigs, boolean)?,
        trusted_public_keys: public_keys(&settings, &mut warnings),
        positive_ttl: parsed(&settings, Key::PositiveTtl, seconds)?,
        negative_ttl: parsed(&settings, Key::NegativeTtl, seconds)?,
        readahead_memory: parsed(&settings, Key::ReadaheadMemory, parse_bytes)?,
        readahead_disk: parsed(&settings, Key::ReadaheadDisk, parse_bytes)?,
        partial_downloads: parsed(&settings, Key::PartialDownloads, parse_bytes)?,
        download_speed: parsed(&settings, Key::DownloadSpeed, kibibytes)?,
        delta_bases: delta_bases(&settings)?,
        engine: parsed(&settings, Key::Engine, engine)?,
        engine_idle_timeout: timeout(&settings, Key::EngineIdleTimeout)?,
        progress: parsed(&settings, Key::Progress, progress)?,
        http_listen: http_listen(&settings)?,
        http_signing_key: parsed(&settings, Key::HttpSigningKey, file)?,
        http_password_file: parsed(&settings, Key::HttpPasswordFile, file)?,
        http_compression: parsed(&settings, Key::HttpCompression, CompressionMode::parse)?,
        is_untrusted_choice: is_client_agent || is_untrusted_choice_of_hosts,
        is_untrusted_choice_of_hosts,
        store_dir: store_dir(sources)?,
        ssh_options: ssh_options(sources)?,
        settings,
    };
    Ok((config, warnings))
}

fn hosts(settings: &Settings, key: Key) -> Result<Vec<Host>, ConfigError> {
    let parse = |(spec, origin): (&str, &Origin)| {
        Host::parse(spec).map_err(|source| ConfigError::Host {
            origin: origin.clone(),
            setting: key.name(),
            source,
        })
    };
    settings.get(key).words().map(parse).collect()
}

/// Drops later mentions of a host, with a warning where their parameters differ.
fn without_duplicates(hosts: Vec<Host>, warnings: &mut Vec<String>) -> Vec<Host> {
    let mut kept: Vec<Host> = Vec::new();
    for host in hosts {
        let Some(first) = kept.iter().find(|first| first.same_as(&host)) else {
            kept.push(host);
            continue;
        };
        let respelled = Host {
            name: first.name.clone(),
            port: first.port,
            ..host
        };
        if respelled != *first {
            warnings.push(format!(
                "host {first} is listed twice with different parameters: the first are used"
            ));
        }
    }
    kept
}

/// What `parse` makes of a setting. Its error is what would be valid.
fn parsed<T>(
    settings: &Settings,
    key: Key,
    parse: impl FnOnce(&str) -> Result<T, &'static str>,
) -> Result<T, ConfigError> {
    parsed_value(key.name(), &settings.get(key).value, parse)
}

fn parsed_value<T>(
    setting: &'static str,
    value: &Value,
    parse: impl FnOnce(&str) -> Result<T, &'static str>,
) -> Result<T, ConfigError> {
    let text = value.text.trim();
    parse(text).map_err(|expected| invalid_value(setting, text, &value.origin, expected))
}

fn boolean(text: &str) -> Result<bool, &'static str> {
    parse_bool(text).ok_or(BOOLEAN)
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err("a number of seconds");
    }
    // Only a number beyond 64 bits fails here.
    let seconds: u64 = text.parse().unwrap_or(MAX_SECONDS);
    Ok(Duration::from_secs(seconds.min(MAX_SECONDS)))
}

fn engine(text: &str) -> Result<bool, &'static str> {
    match text {
        "auto" => Ok(true),
        "off" => Ok(false),
        _ => Err("auto or off"),
    }
}

fn progress(text: &str) -> Result<ProgressMode, &'static str> {
    match text {
        "auto" => Ok(ProgressMode::Auto),
        "never" => Ok(ProgressMode::Never),
        "plain" => Ok(ProgressMode::Plain),
        _ => Err("auto, never or plain"),
    }
}

/// A number of KiB, as Nix counts its download speed; in bytes.
fn kibibytes(text: &str) -> Result<u64, &'static str> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err("a number of KiB per second, 0 for no limit");
    }
    let number: u64 = text.parse().unwrap_or(u64::MAX);
    Ok(number.saturating_mul(1024))
}

/// An agent's socket; the empty string means none.
fn socket(text: &str) -> Result<Option<PathBuf>, &'static str> {
    let unfit = |c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER;
    match text.starts_with('/') && !text.contains(unfit) {
        true => Ok(Some(PathBuf::from(text))),
        false if text.is_empty() => Ok(None),
        false => Err("an absolute path without control characters"),
    }
}

/// A file; the empty string means none.
fn file(text: &str) -> Result<Option<PathBuf>, &'static str> {
    match text {
        "" => Ok(None),
        text if text.starts_with('/') && !text.contains(char::is_control) => Ok(Some(text.into())),
        _ => Err("an absolute path without control characters"),
    }
}

/// A duration whose 0 means the built-in value.
fn timeout(settings: &Settings, key: Key) -> Result<Duration, ConfigError> {
    let given = parsed(settings, key, seconds)?;
    if given.is_zero() {
        return parsed(&Settings::built_in(), key, seconds);
    }
    Ok(given)
}

fn dead_link(settings: &Settings) -> Result<Duration, ConfigError> {
    let key = Key::DeadLinkTimeout;
    let time = timeout(settings, key)?;
    parsed(settings, key, |_| match time.as_secs() {
        ..MIN_DEAD_LINK_SECONDS => Err("at least 3 seconds, or 0 for the default"),
        _ => Ok(time),
    })
}

fn delta_bases(settings: &Settings) -> Result<Vec<PathBuf>, ConfigError> {
    let key = Key::DeltaBase;
    let words = settings.get(key).words();
    let folder = |(word, origin): (&str, &Origin)| match Path::new(word).is_absolute() {
        true => Ok(PathBuf::from(word)),
        false => Err(invalid_value(key.name(), word, origin, "absolute paths")),
    };
    words.map(folder).collect()
}

fn http_listen(settings: &Settings) -> Result<Vec<SocketAddr>, ConfigError> {
    let key = Key::HttpListen;
    let words = settings.get(key).words();
    let address = |(word, origin): (&str, &Origin)| {
        let expected = "addresses and ports, as 127.0.0.1:5001 or [::1]:5001";
        let address = word.parse();
        address.map_err(|_| invalid_value(key.name(), word, origin, expected))
    };
    words.map(address).collect()
}

fn ssh_environment(settings: &Settings) -> Result<Vec<String>, ConfigError> {
    let key = Key::SshEnvironment;
    let name = |(word, origin): (&str, &Origin)| {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if word.starts_with(|c: char| c.is_ascii_digit()) || !word.chars().all(fits) {
            let expected = "names of environment variables";
            return Err(invalid_value(key.name(), word, origin, expected));
        }
        Ok(word.to_owned())
    };
    settings.get(key).words().map(name).collect()
}

/// Nix looks at `NIX_STORE_DIR`, then at `NIX_STORE` (`libstore/globals.cc`).
fn store_dir(sources: &Sources) -> Result<String, ConfigError> {
    for name in ["NIX_STORE_DIR", "NIX_STORE"] {
        let Some(value) = sources.var(name) else {
            continue;
        };
        let text = value.to_string_lossy();
        let dir = text.trim_end_matches('/');
        let fine = dir.starts_with('/')
            && value.to_str().is_some()
            && !dir.contains(char::is_control)
            && dir[1..]
                .split('/')
                .all(|part| !part.is_empty() && part != "." && part != "..");
        if !fine {
            let origin = Origin::Env { name, line: None };
            let expected = "an absolute path without . and .. and empty parts";
            return Err(invalid_value(name, &text, &origin, expected));
        }
        return Ok(dir.to_owned());
    }
    Ok(DEFAULT_STORE_DIR.to_owned())
}

fn ssh_options(sources: &Sources) -> Result<Vec<String>, ConfigError> {
    let name = "NIX_SSHOPTS";
    let Some(value) = sources.var(name) else {
        return Ok(Vec::new());
    };
    let origin = Origin::Env { name, line: None };
    let Some(text) = value.to_str() else {
        return Err(invalid_value(
            name,
            &value.to_string_lossy(),
            &origin,
            "UTF-8",
        ));
    };
    shell_words::split(text).map_err(|source| ConfigError::SshOptions {
        origin,
        value: printable(text),
        source,
    })
}

fn invalid_value(
    setting: &'static str,
    value: &str,
    origin: &Origin,
    expected: &'static str,
) -> ConfigError {
    ConfigError::Value {
        origin: origin.clone(),
        setting,
        value: printable(value),
        expected,
    }
}
