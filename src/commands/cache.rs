//! `cache`: what hosts said, as it stands on disk.

use std::error::Error;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::shared::{columns, cut, failed, number, print_json, seconds, usable};
use super::{Loaded, Status, engines, print};
use crate::cache::Disk;
use crate::cache::disk::{Cleared, Contents, unix_seconds};
use crate::cli::CacheAction;
use crate::config::{Config, Host};
use crate::engine::shared_disk;
use crate::progress::text::size;
use crate::report;

/// How much of a host's key is shown, in characters.
const KEY: usize = 200;

/// A host that is neither configured nor known to the cache.
#[derive(Debug, thiserror::Error)]
#[error("no host {host:?} is configured or in the cache: known are {}", list(.known))]
struct UnknownHost {
    host: String,
    known: Vec<String>,
}

fn list(known: &[String]) -> String {
    match known {
        [] => "none".to_owned(),
        known => known.join(", "),
    }
}

/// Tells of the answers on disk, or has them forgotten.
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
            let (config, _) = match usable(loaded, *json).await {
                Ok(loaded) => loaded,
                Err(ends) => return ends,
            };
            let contents = match spawn_blocking(move || disk.contents()).await? {
                Ok(contents) => contents,
                Err(error) if *json => return failed(report::line(&error)).await,
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
            // After the disk: else they might read there what they have just forgotten.
            let unreached = engines::forget(host.as_deref()).await;
            print(&told(host.as_deref(), cleared)).await?;
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
) -> Result<Cleared, Box<dyn Error>> {
    let Some(word) = host else {
        return Ok(spawn_blocking(move || disk.clear(|_| true)).await??);
    };
    let looked_at = disk.clone();
    let contents = spawn_blocking(move || looked_at.contents()).await??;
    // Without a configuration, what stands in the cache can still be named.
    let configured = loaded.map_or(Vec::new(), |(config, _)| all_hosts(&config));
    let unknown = |contents: &Contents| {
        let mut known: Vec<String> = configured.iter().map(Host::to_string).collect();
        known.extend(names(contents));
        known.sort();
        known.dedup();
        UnknownHost {
            host: word.chars().take(KEY).collect(),
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

fn told(host: Option<&str>, cleared: Cleared) -> String {
    let of = host.map_or(String::new(), |host| format!(" of {}", cut(host, KEY)));
    let answers = number(cleared.answers, "answer");
    match cleared.notes {
        0 => format!("forgot {answers}{of}"),
        notes => format!(
            "forgot {answers}{of}, and {} about failures and shells",
            number(notes, "note")
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
    answers.chain(failures).chain(shells)
}

fn names(contents: &Contents) -> impl Iterator<Item = String> {
    keys(contents).map(|key| cut(name(key), KEY))
}

/// Whether commands use these answers as things are configured now. With other parameters or options
/// to ssh the same host is another one.
fn is_used(key: &str, config: &Config) -> bool {
    let key_of = |host| crate::engine::store_identity(host, &config.ssh_options);
    all_hosts(config).iter().any(|host| key_of(host) == key)
}

fn stats(contents: &Contents, config: &Config, now: u64) -> String {
    let path = cut(&contents.path.to_string_lossy(), 4096);
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
                cut(name(&host.key), KEY),
                host.has.to_string(),
                host.lacks.to_string(),
                format!("{} ago", seconds(now.saturating_sub(host.oldest))),
                used.to_owned(),
            ]);
        }
        text.push_str(&columns(&rows));
    }
    let failing = contents.failures.iter();
    for (key, health) in failing.filter(|(_, health)| health.failures > 0) {
        let left = match (health.rest_until / 1000).saturating_sub(now) {
            0 => "tried again by the next command".to_owned(),
            left => format!("left alone for another {}", seconds(left)),
        };
        text.push_str(&format!(
            "{}: {} in a row, the last one {} ago; {left}\n",
            cut(name(key), KEY),
            number(u64::from(health.failures), "failure"),
            seconds(now.saturating_sub(health.last_failure / 1000)),
        ));
    }
    for (key, has) in &contents.shells {
        let has = if *has { "a" } else { "no" };
        text.push_str(&format!(
            "{}: has {has} shell for large paths\n",
            cut(name(key), KEY)
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
    json!({
        "path": contents.path.to_string_lossy(),
        "bytes": contents.size,
        "schema": contents.schema,
        "answers": answers.collect::<Value>(),
        "failures": failures.collect::<Value>(),
        "shells": shells.collect::<Value>(),
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
        assert_eq!(told(None, cleared(0, 0)), "forgot 0 answers");
        assert_eq!(
            told(Some("h"), cleared(1, 2)),
            "forgot 1 answer of h, and 2 notes about failures and shells"
        );
    }
}
