//! Doors of processes that live shortly, with a warm engine behind them.

use std::thread;
use std::time::Duration;

use super::{LIMIT, Shared};
use crate::lab::{Lab, Line, Link};
use crate::run::{Runs, Tried};
use crate::serve;
use crate::support::NixEnv;
use crate::table::{Goal, Row, Table};
use crate::text_protocol::fetch;

/// Milliseconds there and back where there is latency.
const RTT: u64 = 100;
/// What Nix 1.11 took with its own agent for 500 paths without latency, in seconds, on another machine.
const AGENT: f64 = 146.0;
/// How many first answers are taken at least: one takes about a round trip.
const ANSWERS: usize = 9;
/// What is asked ahead after an answer should be over when the next process starts.
const PAUSE: Duration = Duration::from_millis(5 * RTT);

/// A closure as Nix 1.11 drives it, without and with latency.
pub fn text_protocol(lab: &Lab, table: &mut Table) {
    let title = "engine text protocol";
    if !lab.wants(title) {
        return;
    }
    let (root, paths) = (lab.dag(), lab.dag_count() as u64);
    let lines = [0, RTT];
    let shared = lines.map(|rtt| Shared::new(lab.host(), Line::rtt(rtt)));
    let mut runs: [[Runs; 2]; 2] = Default::default();
    // The first run of all finds no engine, the others find it warm.
    for run in 0..=lab.options.runs {
        for ((shared, rtt), runs) in shared.iter().zip(lines).zip(&mut runs) {
            if runs.iter().all(|runs| !runs.failed()) {
                let tried = shared.counted(paths, || fetch(&shared.env, &shared.link, root));
                let warm = usize::from(run > 0);
                let who = ["cold", "warm"][warm];
                runs[warm].push(&format!("ours, {who}, {rtt} ms"), tried);
            }
        }
    }
    let [at_once, far] = &runs;
    let row = |name: &str, rtt: u64, runs: &Runs| Row {
        name: format!("{title}, {paths} paths, {rtt} ms: {name}"),
        unit: "s",
        ours: runs.seconds(),
        peak: runs.peak(),
        trouble: runs.trouble(),
        ..Row::default()
    };
    for ((name, at_once), far) in ["cold, one run", "warm"].into_iter().zip(at_once).zip(far) {
        let warm = name == "warm";
        table.add(Row {
            beside: "(absolute: 1/12 of Nix 1.11 elsewhere)",
            goal: warm.then_some(Goal::Most(AGENT / 12.0)),
            ..row(name, 0, at_once)
        });
        table.add(Row {
            other: at_once.seconds(),
            beside: "ours at 0 ms",
            goal: warm.then_some(Goal::Ratio(1.3)),
            ..row(name, RTT, far)
        });
    }
}

/// How long a new process takes for its first answer, the engine and its connections warm.
pub fn first_answer(lab: &Lab, table: &mut Table) {
    let title = "engine first answer";
    if !lab.wants(title) {
        return;
    }
    let (host, line) = (lab.host(), Line::rtt(RTT));
    let count = lab.options.runs.max(ANSWERS);
    let paths: Vec<String> = (0..=count)
        .map(|number| format!("first-{number}"))
        .map(|name| host.store.add_text(&name, &name, &[]))
        .collect();

    let shared = Shared::new(host, line);
    let lone = NixEnv::new();
    let _masters = lone.masters();
    lone.configure(&[host.trusted()], "");
    let link = Link::to(&host.sshd, line);

    let mut runs: [Runs; 4] = Default::default();
    let [new, known, alone, alone_known] = &mut runs;
    for (number, path) in paths.iter().enumerate() {
        let ask = |env: &NixEnv, link: &Link| -> Tried {
            let answer = serve::first_answer(env, link, path, LIMIT);
            thread::sleep(PAUSE);
            answer
        };
        let tried = [
            ask(&shared.env, &shared.link),
            ask(&shared.env, &shared.link),
            ask(&lone, &link),
            ask(&lone, &link),
        ];
        // The first one finds no connection.
        if number > 0 {
            let [first, second, third, fourth] = tried;
            new.push("new path", first);
            known.push("known path", second);
            alone.push("new path, without an engine", third);
            alone_known.push("known path, without an engine", fourth);
        }
    }
    let attached = shared.status().err();
    let millis = |runs: &Runs| runs.seconds().map(|seconds| seconds * 1000.0);
    let row = |name: &str, mine: &Runs, other: &Runs| Row {
        name: format!("{title}, {RTT} ms: {name}"),
        unit: "ms",
        ours: millis(mine),
        other: millis(other),
        beside: "without an engine, masters up",
        trouble: [mine.trouble(), other.trouble()].concat(),
        ..Row::default()
    };
    let mut first = Row {
        goal: Some(Goal::Most(RTT as f64 + 10.0)),
        ..row("a path nobody asked for before", new, alone)
    };
    first.trouble.extend(attached);
    table.add(first);
    table.add(row("a path the engine knows", known, alone_known));
}
