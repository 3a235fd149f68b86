//! Bytes through the engine: what the extra hop costs, and what the engine holds.

use std::thread;
use std::time::Duration;

use super::nix::through;
use super::{LIMIT, Shared};
use crate::lab::{Lab, Line, Link};
use crate::realise::MEMORY;
use crate::run::Runs;
use crate::serve;
use crate::support::NixEnv;
use crate::table::{Goal, Row, Table};

/// How many streams are taken at least: the difference to be seen is small.
const STREAMS: usize = 7;
/// When an engine has settled after the last front end: it looks every two seconds what can be dropped.
const SETTLED: Duration = Duration::from_secs(5);
/// Bytes of a MiB.
const MIB: f64 = (1 << 20) as f64;

/// One large path to nowhere, with and without the engine in between, by turns.
pub fn stream(lab: &Lab, table: &mut Table) {
    let title = "engine stream";
    if !lab.wants(title) {
        return;
    }
    let host = lab.host();
    let paths = &lab.big()[..1];
    let shared = Shared::new(host, Line::default());
    let lone = NixEnv::new();
    let _masters = lone.masters();
    lone.configure(&[host.trusted()], "");
    let link = Link::to(&host.sshd, Line::default());

    let (mut mine, mut other) = (Runs::default(), Runs::default());
    // The first two runs find no connection.
    for run in 0..=lab.options.runs.max(STREAMS) {
        let with = || shared.counted(1, || serve::fetch(&shared.env, &shared.link, paths, LIMIT));
        let without = || serve::fetch(&lone, &link, paths, LIMIT);
        // Neither is always the first one.
        let (with, without) = if run % 2 == 0 {
            let with = with();
            (with, without())
        } else {
            let without = without();
            (with(), without)
        };
        if run > 0 || with.is_err() || without.is_err() {
            mine.push("with an engine", with);
            other.push("without", without);
        }
        if mine.failed() || other.failed() {
            break;
        }
    }
    table.add(Row {
        name: format!("{title}, 420 MB to nowhere, 0 ms: --serve, warm"),
        unit: "s",
        ours: mine.seconds(),
        other: other.seconds(),
        beside: "without an engine, masters up",
        goal: Some(Goal::Ratio(1.03)),
        peak: mine.peak(),
        trouble: [mine.trouble(), other.trouble()].concat(),
    });
}

/// What an engine holds while a large closure goes through it, and afterwards.
pub fn memory(lab: &Lab, table: &mut Table, rtt: u64) {
    let title = format!("engine memory, {rtt} ms");
    if !lab.wants(&title) {
        return;
    }
    let root = lab.big().last().expect("a path");
    let paths = lab.big().len() as u64;
    let shared = Shared::new(lab.host(), Line::rtt(rtt));
    let mut runs = Runs::default();
    runs.push("ours", through(&shared, lab, root, paths));
    let row = |name: &str, bytes: Option<f64>| Row {
        name: format!("{title}, big1g: {name}"),
        unit: "MiB",
        ours: bytes.map(|bytes| bytes / MIB),
        ..Row::default()
    };
    let peak = (runs.peak() > 0).then_some(runs.peak() as f64);
    table.add(Row {
        goal: Some(Goal::Most(MEMORY)),
        trouble: runs.trouble(),
        ..row("resident, peak", peak)
    });
    thread::sleep(SETTLED);
    let status = shared.status();
    let field = |name: &str| status.as_ref().ok()?[name].as_f64();
    let trouble: Vec<String> = status.as_ref().err().cloned().into_iter().collect();
    table.add(Row {
        trouble,
        ..row("resident afterwards", field("residentBytes"))
    });
    table.add(row("read ahead afterwards", field("readaheadBytes")));
}
