//! `cache`: the answers of hosts that are kept on disk.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::format::{counted, long_time, shorten, table};
use super::output::{print_json, print_json_error, require_config};
use super::{Loaded, Status, engines, print};
use crate::cache::Disk;
use crate::cache::disk::{Cleared, Contents, unix_seconds};
use crate::cli::CacheAction;
use crate::config::{Config, Host};
use crate::engine::shared_disk;
use crate::hint::{Hint, without_hint};
use crate::progress::text::size;
use crate::report;

/// How many characters of a host's name are shown.
const MAX_NAME_CHARS: usize = 200;

/// A host that is neither configured nor known to the cache.
#[derive(Debug, thiserror::Error)]
#[error("no host {host:?} is configured or in the cache: known are {}", list(.known))]
struct UnknownHost {
    host: String,
    known: Vec<String>,
}

without_hint!(UnknownHost);

fn list(known: &[String]) -> String {
    match known {
        [] => "none".to_owned(),
        known => known.join(", "),
    }
}

/// Shows the answers on disk, or forgets them.
///
/// # Errors
/// When there is no configuration, the cache cannot be used, or a host is not known.
pub async fn cache(action: &CacheAction, loaded: Loaded) -> Status {
    let disk = shared_disk();
    match action {
        CacheAction::Path => {
            let path = spawn_blocking(move || disk.path()).await??;
            print(&path.to_string_lossy()).await?;
        }
        CacheAction::Stats { json } => {
            let (config, _) = match require_config(loaded, *json).await {
                Ok(loaded) => loaded,
                Err(ends) => return ends,
            };
            let contents = match spawn_blocking(move || disk.contents()).await? {
                Ok(contents) => contents,
                Err(error) if *json => return print_json_error(report::line(&error)).await,
                Err(error) => return Err(error.into()),
            };
            if *json {
                print_json(&stats_json(&contents, &config)).await?;
            } else {
                print(&stats(&contents, &config, unix_seconds())).await?;
            }
        }
        CacheAction::Clear { host } => {
            let cleared = clear(disk, host.as_deref(), loaded).await?;
            // After the disk, from which engines might read again what they have just forgotten.
            let unreached = engines::forget(host.as_deref()).await;
            print(&cleared_text(host.as_deref(), cleared)).await?;
            for reason in unreached {
                log::warn!(
                    "{reason}; it goes on with what it has in memory: 'ssh-substituter engine stop' ends it"
                );
            }
        }
    }
    Ok(0)
}

async fn clear(
    disk: Arc<Disk>,
    host: Option<&str>,
    loaded: Loaded,
) -> Result<Cleared, Box<dyn Hint>> {
    let Some(word) = host else {
        return Ok(spawn_blocking(move || disk.clear(|_| true)).await??);
    };
    let inspected = disk.clone();
    let contents = spawn_blocking(move || inspected.contents()).await??;
    // Without a configuration, hosts in the cache can still be named.
    let configured = loaded.map_or(Vec::new(), |(config, _)| all_hosts(&config));
    let unknown = |contents: &Contents| {
        let mut known: Vec<String> = configured.iter().map(Host::to_string).collect();
        known.extend(names(contents));
        known.sort();
        known.dedup();
        UnknownHost {
            host: word.chars().take(MAX_NAME_CHARS).collect(),
            known,
        }
    };
    let Ok(meant) = Host::parse(word) else {
        return Err(unknown(&contents).into());
    };
    let is_known = configured.iter().any(|host| host.same_as(&meant));
    if !is_known && !keys(&contents).any(|key| is_of(key, &meant)) {
        return Err(unknown(&contents).into());
    }
    let cleared = spawn_blocking(move || disk.clear(|key| is_of(key, &meant))).await??;
    Ok(cleared)
}

fn cleared_text(host: Option<&str>, cleared: Cleared) -> String {
    let of = host.map_or(String::new(), |host| {
        format!(" of {}", shorten(host, MAX_NAME_CHARS))
    });
    let answers = counted(cleared.answers, "answer");
    match cleared.notes {
        0 => format!("forgot {answers}{of}"),
        notes => format!(
            "forgot {answers}{of}, and {} about failures and shells",
            counted(notes, "note")
        ),
    }
}

/// Those that are configured or may be chosen.
fn all_hosts(config: &Config) -> Vec<Host> {
    let hosts = config.hosts.iter().chain(&config.trusted_hosts);
    hosts.cloned().collect()
}

/// How messages name the host of a key.
fn name(key: &str) -> &str {
    key.lines().next().unwrap_or_default()
}

fn is_of(key: &str, host: &Host) -> bool {
    Host::parse(name(key)).is_ok_and(|other| other.same_as(host))
}

fn keys(contents: &Contents) -> impl Iterator<Item = &str> {
    let answers = contents.answers.iter().map(|host| &*host.key);
    let failures = contents.failures.iter().map(|(key, _)| &**key);
    let shells = contents.shells.iter().map(|(key, _)| &**key);
    let extensions = contents.extensions.iter().map(|key| &**key);
    answers.chain(failures).chain(shells).chain(extensions)
}

fn names(contents: &Contents) -> impl Iterator<Item = String> {
    keys(contents).map(|key| shorten(name(key), MAX_NAME_CHARS))
}

/// Whether commands use these answers as things are configured now. With other parameters or options
/// to ssh the same host is another one.
fn is_used(key: &str, config: &Config) -> bool {
    let key_of = |host| crate::engine::store_identity(host, &config.ssh_options);
    all_hosts(config).iter().any(|host| key_of(host) == key)
}

fn stats(contents: &Contents, config: &Config, now: u64) -> String {
    let path = shorten(&contents.path.to_string_lossy(), 4096);
    let Some(bytes) = contents.size else {
        return format!("{path}: not there yet");
    };
    let mut text = format!("{path}: {}, schema {}\n", size(bytes), contents.schema);
    if contents.answers.is_empty() {
        text.push_str("no answers\n");
    } else {
        let titles = ["HOST", "HAS", "LACKS", "OLDEST", ""];
        let mut rows = vec![titles.map(str::to_owned).to_vec()];
        for host in &contents.answers {
            let used = match is_used(&host.key, config) {
                true => "",
                false => "(not as it is configured now)",
            };
            rows.push(vec![
                shorten(name(&host.key), MAX_NAME_CHARS),
                host.has.to_string(),
                host.lacks.to_string(),
                format!("{} ago", long_time(now.saturating_sub(host.oldest))),
                used.to_owned(),
            ]);
        }
        text.push_str(&table(&rows));
    }
    let failing = contents.failures.iter();
    for (key, health) in failing.filter(|(_, health)| health.failures > 0) {
        let left = match (health.rest_until / 1000).saturating_sub(now) {
            0 => "tried again by the next command".to_owned(),
            left => format!("left alone for another {}", long_time(left)),
        };
        text.push_str(&format!(
            "{}: {} in a row, the last one {} ago; {left}\n",
            shorten(name(key), MAX_NAME_CHARS),
            counted(u64::from(health.failures), "failure"),
            long_time(now.saturating_sub(health.last_failure / 1000)),
        ));
    }
    for (key, has) in &contents.shells {
        let has = if *has { "a" } else { "no" };
        text.push_str(&format!(
            "{}: has {has} shell for large paths\n",
            shorten(name(key), MAX_NAME_CHARS)
        ));
    }
    for key in &contents.extensions {
        text.push_str(&format!(
            "{}: runs this program, and needs no shell for large paths\n",
            shorten(name(key), MAX_NAME_CHARS)
        ));
    }
    text
}

fn stats_json(contents: &Contents, config: &Config) -> Value {
    let answers = contents.answers.iter().map(|host| {
        json!({
            "host": name(&host.key),
            "storeDir": host.store_dir,
            "has": host.has,
            "lacks": host.lacks,
            "oldest": host.oldest,
            "configured": is_used(&host.key, config),
        })
    });
    let failures = contents.failures.iter().map(|(key, health)| {
        json!({
            "host": name(key),
            "failures": health.failures,
            "last": health.last_failure / 1000,
            "leftAloneUntil": health.rest_until / 1000,
        })
    });
    let shells = contents.shells.iter();
    let shells = shells.map(|(key, has)| json!({ "host": name(key), "shell": has }));
    let extensions = contents.extensions.iter().map(|key| name(key));
    json!({
        "path": contents.path.to_string_lossy(),
        "bytes": contents.size,
        "schema": contents.schema,
        "answers": answers.collect::<Value>(),
        "failures": failures.collect::<Value>(),
        "shells": shells.collect::<Value>(),
        "extensions": extensions.collect::<Value>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_found_however_it_is_spelled() {
        let key = "u@h:22\n/key\n\nnix-store\n\n-F\nnone";
        for spec in ["u@h", "ssh://u@H:22?trusted=true", "u@h:22"] {
            assert!(is_of(key, &Host::parse(spec).unwrap()), "{spec}");
        }
        for spec in ["h", "u@h:23", "u@i"] {
            assert!(!is_of(key, &Host::parse(spec).unwrap()), "{spec}");
        }
        assert!(!is_of("", &Host::parse("h").unwrap()));
    }

    #[test]
    fn what_was_forgotten_is_counted() {
        let cleared = |answers, notes| Cleared { answers, notes };
        assert_eq!(cleared_text(None, cleared(0, 0)), "forgot 0 answers");
        assert_eq!(
            cleared_text(Some("h"), cleared(1, 2)),
            "forgot 1 answer of h, and 2 notes about failures and shells"
        );
    }
}
