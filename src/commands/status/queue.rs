//! What is queued to be pushed, and what was given up.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::commands::format::{counted, long_time, shorten};
use crate::commands::push::{queue_environment, queued_host as shown};
use crate::push_queue::{Entry, GivenUp, PushQueue, QueueError};
use crate::report;

/// How many paths that were given up are listed.
const LISTED_MAX: usize = 10;

/// How many characters of a reason are shown.
const MAX_REASON_CHARS: usize = 300;

/// What waits for one host.
#[derive(Debug, Default)]
struct Waiting {
    paths: u64,
    oldest: Duration,
    next_try: Option<Duration>,
    /// Why something failed last, and how often that was tried.
    reason: Option<(u32, String)>,
}

/// The queue as `status` shows it.
#[derive(Debug)]
pub(super) struct QueueReport(Result<(BTreeMap<String, Waiting>, Vec<GivenUp>), QueueError>);

impl QueueReport {
    /// Reads the queue. Blocks.
    pub(super) fn read() -> Self {
        let read = || {
            let environment = queue_environment();
            let Some(queue) = PushQueue::open_existing(&environment)? else {
                return Ok((BTreeMap::new(), Vec::new()));
            };
            let waiting = by_host(queue.entries()?, SystemTime::now());
            Ok((waiting, queue.given_up()?))
        };
        Self(read())
    }

    /// Lines, each with its end; none when nothing is queued.
    pub(super) fn text(&self) -> String {
        let (hosts, given_up) = match &self.0 {
            Ok(read) => read,
            Err(error) => return format!("{}\n", shorten(&report::line(error), 4096)),
        };
        let mut text = String::new();
        for (host, waiting) in hosts {
            let count = counted(waiting.paths, "path");
            let since = long_time(waiting.oldest.as_secs());
            text.push_str(&format!("to push to {host}: {count}, for up to {since}"));
            if let Some((tries, reason)) = &waiting.reason {
                let next = match waiting.next_try {
                    Some(next) => format!("next try in {}", long_time(next.as_secs().max(1))),
                    None => "next try now".to_owned(),
                };
                let reason = shorten(reason, MAX_REASON_CHARS);
                let tries = counted(u64::from(*tries), "try");
                text.push_str(&format!("; {tries} in vain, {next}: {reason}"));
            }
            text.push('\n');
        }
        for one in given_up.iter().take(LISTED_MAX) {
            let (path, host) = (shorten(&one.path, 300), shown(&one.host));
            let reason = shorten(&one.reason, MAX_REASON_CHARS);
            text.push_str(&format!("not pushed to {host}: {path}: {reason}\n"));
        }
        if given_up.len() > LISTED_MAX {
            let more = counted((given_up.len() - LISTED_MAX) as u64, "path");
            text.push_str(&format!(
                "not pushed: {more} more; 'push --wait' lists them\n"
            ));
        }
        text
    }

    pub(super) fn json(&self) -> Value {
        let (hosts, given_up) = match &self.0 {
            Ok(read) => read,
            Err(error) => return json!({ "error": report::line(error) }),
        };
        let host = |(host, waiting): (&String, &Waiting)| {
            json!({
                "host": host,
                "paths": waiting.paths,
                "oldestSeconds": waiting.oldest.as_secs(),
                "nextTrySeconds": waiting.next_try.map_or(0, |next| next.as_secs()),
                "tries": waiting.reason.as_ref().map_or(0, |(tries, _)| *tries),
                "reason": waiting.reason.as_ref().map(|(_, reason)| reason),
            })
        };
        let one = |one: &GivenUp| json!({ "path": one.path, "host": shown(&one.host), "reason": one.reason });
        json!({
            "hosts": hosts.iter().map(host).collect::<Value>(),
            "givenUp": given_up.iter().map(one).collect::<Value>(),
        })
    }
}

fn by_host(entries: Vec<Entry>, now: SystemTime) -> BTreeMap<String, Waiting> {
    let mut hosts: BTreeMap<String, Waiting> = BTreeMap::new();
    for entry in entries {
        let waiting = hosts.entry(shown(&entry.host)).or_default();
        let age = now.duration_since(entry.queued_at).unwrap_or_default();
        let due = entry.due_at.duration_since(now).ok();
        waiting.next_try = match waiting.paths {
            0 => due,
            _ => waiting.next_try.min(due),
        };
        waiting.paths += 1;
        waiting.oldest = waiting.oldest.max(age);
        if let Some(reason) = entry.reason
            && waiting
                .reason
                .as_ref()
                .is_none_or(|(tries, _)| entry.tries >= *tries)
        {
            waiting.reason = Some((entry.tries, reason));
        }
    }
    hosts
}
