//! `config show`: the settings in force, each with where it comes from.
//!
//! The text can be used as a configuration file again: all that is not a setting is in comments.

use std::fs;
use std::path::PathBuf;

use serde_json::{Map, Value as Json, json};

use super::format::shorten;
use super::output::{print_json, require_config};
use super::{Loaded, Status, print};
use crate::config::{Config, Host, Key, Origin, Setting, Sources, Value};
use crate::model::PublicKey;

/// How many characters of a comment are shown.
const MAX_COMMENT_CHARS: usize = 1000;

/// Prints the settings in force, as lines of a configuration file or as JSON.
///
/// # Errors
/// When there is no configuration, or standard output cannot take it.
pub async fn show_config(json: bool, loaded: Loaded) -> Status {
    let (config, warnings) = match require_config(loaded, json).await {
        Ok(loaded) => loaded,
        Err(ends) => return ends,
    };
    let files = files();
    if json {
        print_json(&as_json(&config, &files, &warnings)).await?;
    } else {
        print(&text(&config, &files, &warnings)).await?;
    }
    Ok(0)
}

/// The path of a configuration file, and whether it could be read.
struct ConfigFile {
    path: PathBuf,
    found: &'static str,
}

fn files() -> Vec<ConfigFile> {
    let files = Sources::from_process().files().into_iter();
    let found = files.map(|path| {
        let found = match fs::File::open(&path) {
            Ok(_) => "read",
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                "there, but may not be read"
            }
            Err(_) => "not there",
        };
        ConfigFile { path, found }
    });
    found.collect()
}

/// A value as it may be shown: a word that is not a public key may be a secret key.
fn shown(key: Key, value: &Value) -> String {
    if key != Key::TrustedPublicKeys {
        return value.text.trim().to_owned();
    }
    let words = value.text.split_ascii_whitespace();
    let keys = words.filter(|word| word.parse::<PublicKey>().is_ok());
    keys.collect::<Vec<_>>().join(" ")
}

fn line(name: &str, key: Key, value: &Value) -> String {
    let text = shown(key, value);
    let origin = shorten(&value.origin.to_string(), MAX_COMMENT_CHARS);
    // A configuration file cannot hold this value: `#` begins a comment, and nothing escapes a line break.
    let is_unrepresentable = text.contains(|c: char| c == '#' || c.is_control());
    let hash = if is_unrepresentable { "# " } else { "" };
    let left_out =
        value.text.split_ascii_whitespace().count() - text.split_ascii_whitespace().count();
    let left_out = match (key, left_out) {
        (Key::TrustedPublicKeys, 1..) => {
            format!("; {left_out} of its words left out: no public key")
        }
        _ => String::new(),
    };
    let text = shorten(&text, usize::MAX);
    let blank = if text.is_empty() { "" } else { " " };
    format!("{hash}{name} ={blank}{text}  # {origin}{left_out}\n")
}

fn setting(setting: &Setting) -> String {
    let name = setting.key.name();
    let mut text = line(name, setting.key, &setting.value);
    for extra in &setting.extra {
        text.push_str(&line(&format!("extra-{name}"), setting.key, extra));
    }
    text
}

fn text(config: &Config, files: &[ConfigFile], warnings: &[String]) -> String {
    let mut text = "# Files, lowest first:\n".to_owned();
    let comment = |line: &str| {
        let blanks = line.len() - line.trim_start().len();
        format!("# {:blanks$}{}\n", "", shorten(line, MAX_COMMENT_CHARS))
    };
    for ConfigFile { path, found } in files {
        text.push_str(&comment(&format!("  {}: {found}", path.display())));
    }
    text.push('\n');
    text.extend(config.settings.iter().map(setting));
    text.push('\n');
    text.push_str(&comment(&format!("Store directory: {}", config.store_dir)));
    let options = shell_words::join(&config.ssh_options);
    text.push_str(&comment(&match &*options {
        "" => "NIX_SSHOPTS: none".to_owned(),
        options => format!("NIX_SSHOPTS: {options}"),
    }));
    if config.is_untrusted_choice {
        text.push_str("# Hosts or agent are the choice of an unprivileged user.\n");
    }
    text.push_str(match config.hosts.len() {
        0 => "# Hosts: none\n",
        _ => "# Hosts, in the order in which they are asked:\n",
    });
    for host in &config.hosts {
        text.push_str(&comment(&format!("  {host}: {}", traits(host))));
    }
    for warning in warnings {
        text.push_str(&comment(&format!("warning: {warning}")));
    }
    text
}

/// The properties of a host, without defaults that say nothing.
fn traits(host: &Host) -> String {
    let mut all = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        all.extend(value.map(|value| format!("{name} {value}")));
    };
    let none_is = |value: Option<String>, otherwise: &str| Some(value.unwrap_or(otherwise.into()));
    add("user", none_is(host.user.clone(), "as ssh says"));
    add(
        "port",
        none_is(host.port.map(|p| p.to_string()), "as ssh says"),
    );
    add(
        "key",
        host.ssh_key.as_ref().map(|k| k.display().to_string()),
    );
    add(
        "host key",
        none_is(host.public_host_key.clone(), "as in known_hosts"),
    );
    add("program", Some(host.remote_program.join(" ")));
    add("store", host.remote_store.clone());
    add("priority", host.priority.map(|p| p.to_string()));
    add(
        "at most",
        Some(format!("{} channels", host.max_connections)),
    );
    if host.compress {
        all.push("compressed".to_owned());
    }
    all.push(match host.trusted {
        true => "trusted".to_owned(),
        false => "needs signatures".to_owned(),
    });
    all.join(", ")
}

fn as_json(config: &Config, files: &[ConfigFile], warnings: &[String]) -> Json {
    let value = |key: Key, value: &Value| {
        json!({
            "value": shown(key, value),
            "origin": value.origin.to_string(),
        })
    };
    let mut settings = Map::new();
    for setting in config.settings.iter() {
        let mut one = value(setting.key, &setting.value);
        let extra = setting.extra.iter().map(|extra| value(setting.key, extra));
        one["extra"] = extra.collect();
        one["isDefault"] = (setting.value.origin == Origin::BuiltIn).into();
        settings.insert(setting.key.name().to_owned(), one);
    }
    let hosts = config.hosts.iter().map(|host| {
        json!({
            "host": host.to_string(),
            "name": host.name,
            "user": host.user,
            "port": host.port,
            "sshKey": host.ssh_key.as_ref().map(|key| key.to_string_lossy()),
            "publicHostKey": host.public_host_key,
            "compress": host.compress,
            "remoteProgram": host.remote_program,
            "remoteStore": host.remote_store,
            "priority": host.priority,
            "trusted": host.trusted,
            "maxConnections": host.max_connections,
        })
    });
    let files = files.iter().map(
        |ConfigFile { path, found }| json!({ "path": path.to_string_lossy(), "found": found }),
    );
    json!({
        "settings": settings,
        "hosts": hosts.collect::<Json>(),
        "storeDir": config.store_dir,
        "sshOptions": config.ssh_options,
        "isUntrustedChoice": config.is_untrusted_choice,
        "files": files.collect::<Json>(),
        "warnings": warnings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        Value {
            text: text.to_owned(),
            origin: Origin::Flag("--option"),
        }
    }

    #[test]
    fn what_may_be_a_secret_key_is_not_shown() {
        let key = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
        let secret = "s-1:q2PQEOpFmxbKtsErAXbEShxbGphUjFv7IZBy7XXYsZUdJ5j8HTtwFvTIXOqKw5nq4l5UVYaQsHtkEqhgjOoCzw==";
        let shown = line(
            "trusted-public-keys",
            Key::TrustedPublicKeys,
            &value(&format!("{key} {secret}")),
        );
        assert_eq!(
            shown,
            format!(
                "trusted-public-keys = {key}  # --option; 1 of its words left out: no public key\n"
            )
        );
    }

    #[test]
    fn what_no_file_can_say_is_a_comment() {
        let shown = line(
            "ssh-auth-sock",
            Key::SshAuthSock,
            &value("/a#\nengine = off"),
        );
        assert_eq!(shown, "# ssh-auth-sock = /a#\\nengine = off  # --option\n");
    }
}
