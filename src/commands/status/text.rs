//! The status as text: a table of hosts, then a line for each engine and for the cache.

use serde_json::Value;

use super::StatusReport;
use crate::commands::format::{counted, long_time, short_time, shorten, table, ways};
use crate::commands::probe::{Probed, Shell, StoreFiles, nix_of};
use crate::progress::text::size;
use crate::report;
use crate::transfer::{HostTraffic, WayTraffic};

/// How many characters of a reason are shown.
const MAX_REASON_CHARS: usize = 300;

impl StatusReport {
    /// `now` is in seconds of Unix time.
    pub(super) fn text(&self, now: u64) -> String {
        let mut text = String::new();
        if self.hosts.is_empty() {
            text.push_str("no hosts: see ssh-substituter-hosts\n");
        } else {
            let titles = [
                "HOST",
                "STATE",
                "LATENCY",
                "PROTOCOL",
                "CONNECTIONS",
                "RATE",
                "IN PARTS",
            ];
            let mut rows = vec![titles.map(str::to_owned).to_vec()];
            rows.extend(self.hosts.iter().map(|host| self.row(host)));
            text.push_str(&table(&rows));
        }
        for probed in &self.hosts {
            let received = self.received(&probed.host.to_string());
            for line in notes(probed, now).into_iter().chain(received) {
                text.push_str(&format!("{}: {line}\n", probed.host));
            }
        }
        text.push('\n');
        for engine in &self.engines {
            text.push_str(&engine_line(engine));
            text.push('\n');
        }
        if self.engines.is_empty() {
            text.push_str("no engine runs\n");
        }
        text.push_str(&self.queue.text());
        text.push_str(&self.cache_line());
        text.push('\n');
        text
    }

    fn row(&self, probed: &Probed) -> Vec<String> {
        let none = || "-".to_owned();
        let name = probed.host.to_string();
        let channels = self.of_engines(&name, "connections").unwrap_or_default();
        let connections = match (probed.masters, channels) {
            (0, _) => none(),
            (masters, channels) => {
                let channels = counted(channels as u64, "channel");
                format!("{masters} ssh, {channels}")
            }
        };
        let rate = self.of_engines(&name, "bytesPerSecond");
        let rate = rate.map_or_else(none, |rate| format!("{}/s", size(rate as u64)));
        let (state, latency, protocol, parts) = match &probed.reached {
            Ok(reached) => (
                if reached.infos.is_ok() {
                    "ok"
                } else {
                    "failing"
                },
                reached.latency.map_or_else(none, short_time),
                format!("{} ({})", reached.version, nix_of(reached.version)),
                match &reached.shell {
                    Shell::Yes { files, .. } => match files {
                        StoreFiles::In(_) => "yes",
                        StoreFiles::Nowhere { is_empty: true, .. } => "?",
                        StoreFiles::Nowhere { .. } => "no",
                    },
                    Shell::NotNeeded => "yes",
                    Shell::No(_) => "no",
                    Shell::Failed(_) => "?",
                },
            ),
            Err(_) => ("down", none(), none(), "-"),
        };
        vec![
            name,
            state.to_owned(),
            latency,
            protocol,
            connections,
            rate,
            parts.to_owned(),
        ]
    }

    /// What has come from a host, and in which way, unless all of it came as it is.
    fn received(&self, host: &str) -> Option<String> {
        let bytes = |way: &str, field: &str| {
            let bytes = self.of_engines(host, &format!("received/{way}/{field}"));
            bytes.unwrap_or_default() as u64
        };
        let way = |way: &str| WayTraffic {
            nar_bytes: bytes(way, "narBytes"),
            wire_bytes: bytes(way, "wireBytes"),
        };
        let came = ways(&HostTraffic {
            raw: way("raw"),
            compressed: way("compressed"),
            differences: way("differences"),
        })?;
        Some(format!("paths came: {came}"))
    }

    fn cache_line(&self) -> String {
        match &self.cache {
            Ok(contents) => {
                let answers = contents.answers.iter().map(|host| host.has + host.lacks);
                let path = shorten(&contents.path.to_string_lossy(), 4096);
                match contents.size {
                    Some(bytes) => format!(
                        "cache {path}: {}, {}",
                        size(bytes),
                        counted(answers.sum(), "answer")
                    ),
                    None => format!("cache {path}: not there yet"),
                }
            }
            Err(error) => format!("cache: {}", shorten(&report::line(error), MAX_REASON_CHARS)),
        }
    }
}

fn notes(probed: &Probed, now: u64) -> Vec<String> {
    let mut lines = Vec::new();
    let error = match &probed.reached {
        Err(error) => Some(error),
        Ok(reached) => reached.infos.as_ref().err(),
    };
    if let Some(error) = error {
        let line = report::line(&**error);
        let name = format!("{}: ", probed.host);
        // The line begins with the host as a rule.
        lines.push(shorten(
            line.strip_prefix(&name).unwrap_or(&line),
            4 * MAX_REASON_CHARS,
        ));
    }
    if let Some(health) = probed.failures_before {
        let failures = counted(u64::from(health.failures), "failure");
        let until = (health.rest_until / 1000).saturating_sub(now);
        lines.push(match (until, &probed.reached) {
            (0, Err(_)) => format!("{failures} in a row before this"),
            (_, Err(_)) => format!(
                "{failures} in a row before this; commands left it alone for another {}",
                long_time(until)
            ),
            (_, Ok(_)) => format!("is back after {failures} in a row"),
        });
    }
    lines
}

fn engine_line(engine: &Value) -> String {
    if let (Some(error), Some(socket)) = (engine["error"].as_str(), engine["socket"].as_str()) {
        return format!("engine at {}: {error}", shorten(socket, 4096));
    }
    let field = |name: &str| engine[name].as_u64().unwrap_or_default();
    let clients = counted(field("clients"), "client");
    let (used, limit) = (field("readaheadBytes"), field("readaheadLimit"));
    let delivered = &engine["delivered"];
    let paths = counted(delivered["paths"].as_u64().unwrap_or_default(), "path");
    let bytes = size(delivered["bytes"].as_u64().unwrap_or_default());
    let transfers = engine["transfers"].as_array().map_or(0, Vec::len);
    let failed = match delivered["failed"].as_u64() {
        None | Some(0) => String::new(),
        Some(failed) => format!(", {failed} failed"),
    };
    let on_disk = match field("readaheadDiskBytes") {
        0 => String::new(),
        bytes => format!(", {} more on disk", size(bytes)),
    };
    let kept = match field("partialBytes") {
        0 => String::new(),
        bytes => format!(", {} of interrupted downloads", size(bytes)),
    };
    format!(
        "engine {}: up {}, {clients}, {}, {} of {} read ahead{on_disk}{kept}, {paths} delivered ({bytes}{failed}){}",
        field("pid"),
        long_time(field("upSeconds")),
        counted(transfers as u64, "transfer"),
        size(used),
        size(limit),
        hits(&engine["answers"]),
    )
}

/// Where its answers came from, in percent.
fn hits(answers: &Value) -> String {
    let count = |name: &str| answers[name].as_u64().unwrap_or_default();
    let all = ["fromMemory", "fromDisk", "askedAhead", "fromHosts"].map(count);
    let [memory, disk, ahead, hosts] = all;
    let sum: u64 = all.iter().sum();
    if sum == 0 {
        return String::new();
    }
    let percent = |count: u64| (count * 100 + sum / 2) / sum;
    format!(
        ", {}: {} % from memory, {} % from disk, {} % asked ahead, {} % by asking",
        counted(sum, "answer"),
        percent(memory),
        percent(disk),
        percent(ahead),
        percent(hosts),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hit_rates_are_shares_of_all_answers() {
        let answers = json!({"fromMemory": 6, "fromDisk": 2, "askedAhead": 1, "fromHosts": 1});
        let text =
            ", 10 answers: 60 % from memory, 20 % from disk, 10 % asked ahead, 10 % by asking";
        assert_eq!(hits(&answers), text);
        assert_eq!(hits(&Value::Null), "", "an engine of another version");
    }
}
