//! What it costs to look for bytes to spare where the line is fast, and what an interrupted command need not fetch again.

use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::generations::{Kind, generation};
use crate::lab::{Lab, Line, Link};
use crate::realise::Ours;
use crate::run::{Run, Runs, Tried, Watch, timed};
use crate::support::{NixEnv, kill_tree};
use crate::table::{Goal, Row, Table};

/// 1 Gbit/s, and how far away, in milliseconds there and back.
const GIGABIT: Line = Line {
    rtt: 1,
    rate: 125_000_000,
};

/// 20 Mbit/s, and how far away.
const SLOW: Line = Line {
    rtt: 20,
    rate: 2_500_000,
};

/// How much of a path has come when the command is interrupted.
const INTERRUPTED_AT: f64 = 0.9;

/// How long one run over the slow line may take.
const LIMIT: Duration = Duration::from_secs(400);

/// How much slower than the other one a run may seem that takes as long.
const NOISE: f64 = 1.05;

/// Ours, with and without ways that spare bytes: large paths, and a rebuild of what is here.
pub fn fast_lines(lab: &Lab, table: &mut Table) {
    for (name, line) in [("loopback", Line::default()), ("1 Gbit/s, 1 ms", GIGABIT)] {
        let title = format!("nothing spared, {name}");
        if !lab.wants(&title) {
            continue;
        }
        let host = lab.host();
        let count = lab.scaled(300) as usize;
        let old = generation(&host.store, count, 1, Kind::Rebuild);
        let rebuilt = [generation(&host.store, count, 2, Kind::Rebuild)];
        let large = lab.big()[20..].to_vec();
        for (what, old, wanted) in [
            ("1.15 GB", None, &large[..]),
            ("rebuild of what is here", Some(&old), &rebuilt),
        ] {
            let mut runs: [Runs; 2] = Default::default();
            for _ in 0..lab.options.runs {
                for (runs, params) in runs.iter_mut().zip(["", "&compression=none&delta=off"]) {
                    let url = [host.url(&format!("trusted=true{params}"))];
                    let ours = Ours::new(&url, Link::to(&host.sshd, line));
                    if let Some(old) = old {
                        ours.begin_with(&url, &host.store, &[old]);
                    }
                    runs.push(&format!("ours{params}"), ours.fetch(wanted));
                }
            }
            let [with, without] = &runs;
            table.add(Row {
                name: format!("{title}: {what}"),
                unit: "s",
                ours: with.seconds(),
                other: without.seconds(),
                beside: "compression=none, delta=off",
                goal: Some(Goal::Ratio(NOISE)),
                peak: with.peak(),
                trouble: [with.trouble(), without.trouble()].concat(),
            });
        }
    }
}

/// `get` of one large path, interrupted and run again: bytes on the line.
pub fn interrupted(lab: &Lab, table: &mut Table) {
    let title = "420 MB, 20 Mbit/s, interrupted at 90 %";
    if !lab.wants(title) {
        return;
    }
    let (host, path) = (lab.host(), &lab.big()[0]);
    let (env, link) = (NixEnv::new(), Link::to(&host.sshd, SLOW));
    let _masters = env.masters();
    env.configure(&[host.trusted()], "");
    let to = link.folder().path().join("out");
    let get = || {
        let mut command = env.program();
        command.args(["get", "--to"]).arg(&to).arg(path);
        command.env("NIX_SSHOPTS", link.options());
        command
    };
    let size = host.store.nar_size(path);
    let (mut first, mut second) = (Runs::default(), Runs::default());
    first.push("interrupted", interrupt(get(), &link, size));
    let before = link.wire();
    let tried = timed(get(), LIMIT, Watch::Ours).map(|run| Run {
        wire: link.wire() - before,
        ..run
    });
    second.push("again", tried);
    table.add(Row {
        name: format!("{title}: run again"),
        unit: "MB",
        ours: second.wire(),
        other: first.wire(),
        beside: "the first run",
        goal: Some(Goal::Ratio(0.15)),
        peak: second.peak(),
        trouble: [first.trouble(), second.trouble()].concat(),
    });
}

/// Has most of a path come, then interrupts the command as Ctrl-C does.
fn interrupt(mut command: std::process::Command, link: &Link, size: u64) -> Tried {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let start = Instant::now();
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let mut is_told = false;
    loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            if !is_told {
                return Err(format!("it ended before: {status}"));
            }
            return Ok(Run {
                seconds: start.elapsed().as_secs_f64(),
                wire: link.wire(),
                ..Run::default()
            });
        }
        if start.elapsed() > LIMIT {
            kill_tree(child.id());
            let _ = child.wait();
            return Err("it took too long".to_owned());
        }
        if !is_told && link.wire() as f64 >= INTERRUPTED_AT * size as f64 {
            is_told = true;
            let pid = pid.ok_or("a process id")?;
            kill_process(pid, Signal::INT).map_err(|error| error.to_string())?;
        }
        thread::sleep(Duration::from_millis(20));
    }
}
