//! What a push came to, in words and as JSON.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::commands::format::{counted, counted_of};
use crate::model::StorePath;
use crate::progress::text;
use crate::push::{CompressedBytes, HostReport, PushReport};
use crate::report;

/// How many failures are reported one by one.
const REPORTED_MAX: usize = 10;

/// Reports what failed, each cause once.
pub(super) fn report_faults(push: &PushReport) {
    let mut reported = HashSet::new();
    let mut more = 0;
    let mut consequences = 0;
    for failed in push.hosts.iter().flat_map(|host| &host.failed) {
        if failed.fault.is_consequence() {
            consequences += 1;
            log::debug!("{}", failed.fault);
        } else if reported.insert(report::line(&*failed.fault)) {
            match reported.len() <= REPORTED_MAX {
                true => report::error(&*failed.fault),
                false => more += 1,
            }
        }
    }
    if more > 0 {
        let were = if more == 1 { "was" } else { "were" };
        log::error!("{} {were} not sent", counted(more, "more path"));
    }
    if consequences > 0 {
        let (refer, were) = match consequences {
            1 => ("refers", "was"),
            _ => ("refer", "were"),
        };
        let paths = counted(consequences, "path");
        log::error!("{paths} that {refer} to these {were} not sent either");
    }
    for fault in push.hosts.iter().filter_map(|host| host.error.as_ref()) {
        report::error(fault);
    }
}

/// Logs a line for each host.
pub(super) fn log_hosts(push: &PushReport, seconds: f64) {
    for host in &push.hosts {
        let HostReport {
            name,
            sent,
            there,
            sent_bytes,
            wire_bytes,
            compressed,
            ..
        } = host;
        let there = match host.error {
            // It was never asked.
            Some(_) if *there + sent == 0 => continue,
            _ => format!("; {there} were there"),
        };
        log::info!(
            "sent {}, {} ({} on the wire{}), to {name} in {seconds:.1} s{there}",
            counted_of(*sent, host.missing.len()),
            text::size(*sent_bytes),
            text::size(*wire_bytes),
            compressed_text(compressed),
        );
    }
}

/// How much went compressed, if any did.
fn compressed_text(compressed: &CompressedBytes) -> String {
    let CompressedBytes { bytes, wire_bytes } = *compressed;
    match bytes {
        0 => String::new(),
        _ => format!(
            "; {} compressed to {}",
            text::size(bytes),
            text::size(wire_bytes)
        ),
    }
}

/// What would be sent where.
pub(super) fn preview(push: &PushReport) -> String {
    let mut lines = Vec::new();
    for host in push.hosts.iter().filter(|host| host.error.is_none()) {
        let HostReport { name, there, .. } = host;
        lines.extend(host.missing.iter().map(|path| format!("{path}\t{name}")));
        lines.push(format!(
            "total: {} to send to {name}, {}; {there} there already",
            counted(host.missing.len() as u64, "path"),
            text::size(host.missing_bytes),
        ));
    }
    lines.join("\n")
}

/// The roots that all hosts have, or with `any` that one of them has.
pub(super) fn roots_there<'a>(
    push: &'a PushReport,
    roots: &'a [StorePath],
    any: bool,
) -> impl Iterator<Item = &'a StorePath> {
    let lacking: Vec<HashSet<&StorePath>> = push
        .hosts
        .iter()
        .map(|host| host.missing.iter().collect())
        .collect();
    roots.iter().filter(move |path| {
        let mut has = lacking.iter().map(|lacking| !lacking.contains(path));
        match any {
            true => has.any(|has| has),
            false => has.all(|has| has),
        }
    })
}

/// All of it.
pub(super) fn json(push: &PushReport, seconds: f64) -> Value {
    let host = |host: &HostReport| {
        let failed = host.failed.iter().map(|failed| {
            let parts = report::parts(&*failed.fault);
            json!({ "path": failed.path.as_str(), "error": parts.message, "hint": parts.hint })
        });
        let error = host.error.as_ref().map(|error| report::parts(error));
        json!({
            "host": host.name,
            "complete": host.is_complete(),
            "there": host.there,
            "sent": host.sent,
            "narBytes": host.sent_bytes,
            "wireBytes": host.wire_bytes,
            "compressed": {
                "narBytes": host.compressed.bytes,
                "wireBytes": host.compressed.wire_bytes,
            },
            "missing": host.missing.iter().map(StorePath::as_str).collect::<Value>(),
            "missingNarBytes": host.missing_bytes,
            "failed": failed.collect::<Value>(),
            "error": error.as_ref().map(|parts| &parts.message),
            "hint": error.as_ref().and_then(|parts| parts.hint.as_ref()),
        })
    };
    json!({
        "paths": push.paths,
        "narBytes": push.nar_bytes,
        "seconds": seconds,
        "hosts": push.hosts.iter().map(host).collect::<Value>(),
    })
}
