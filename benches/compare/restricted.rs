//! Accounts without a shell, which serve `nix-store --serve` and nothing else: a closure of large paths comes in whole NARs.

use crate::lab::{Lab, Line, Link};
use crate::realise::{Ours, theirs};
use crate::run::Runs;
use crate::support::{Host, Sshd};
use crate::table::{Goal, Row, Table};

/// What each of two hosts may send, in bytes per second.
const RATE: u64 = 12_000_000;
/// How far those two are away, in milliseconds there and back.
const RTT: u64 = 20;

/// A server whose accounts may do nothing but read this store.
fn serve_only(host: &Host) -> Sshd {
    let line = format!(
        "ForceCommand nix-store --serve --store '{}'",
        host.store.uri()
    );
    Sshd::builder().line(line).start()
}

/// A closure of 1.15 GB in 20 paths, of one size or as [`Lab::big`] has it, from one host, beside `ssh://`.
pub fn one_host(lab: &Lab, table: &mut Table, rtt: u64, even: bool) {
    let what = if even { "even1g" } else { "big1g" };
    let title = format!("no shell, {what}, {rtt} ms");
    if !lab.wants(&title) {
        return;
    }
    let sshd = serve_only(lab.host());
    let root = root(lab, even);
    let line = Line::rtt(rtt);
    let (mut mine, mut other) = (Runs::default(), Runs::default());
    for run in 0..lab.options.runs {
        let ours = Ours::new(&[sshd.store_url("trusted=true")], Link::to(&sshd, line));
        mine.push("ours, cold", ours.fetch(&root));
        if run < lab.their_runs(rtt) {
            other.push(
                "ssh://",
                theirs("ssh", &sshd, &lab.host().store, line, &root),
            );
        }
    }
    table.add(Row {
        name: format!("{title}: realise, cold"),
        unit: "s",
        ours: mine.seconds(),
        other: other.seconds(),
        beside: "ssh://",
        goal: Some(Goal::Ratio(1.0 / 3.0)),
        peak: mine.peak(),
        trouble: [mine.trouble(), other.trouble()].concat(),
    });
}

/// The same from two hosts that may send so much each: their rate together, in units of one host's limit.
pub fn two_hosts(lab: &Lab, table: &mut Table, even: bool) {
    let what = if even { "even1g" } else { "big1g" };
    let title = format!("no shell, {what}, two hosts of 12 MB/s, {RTT} ms");
    if !lab.wants(&title) {
        return;
    }
    let servers = [(); 2].map(|()| serve_only(lab.host()));
    let urls = servers
        .each_ref()
        .map(|sshd| sshd.store_url("trusted=true"));
    let root = root(lab, even);
    let line = Line {
        rtt: RTT,
        rate: RATE,
    };
    let (mut both, mut one) = (Runs::default(), Runs::default());
    for run in 0..lab.options.runs {
        let ours = Ours::new(&urls, Link::to_any(line));
        both.push("two hosts, cold", ours.fetch(&root));
        if run == 0 {
            let ours = Ours::new(&urls[..1], Link::to_any(line));
            one.push("one host, cold", ours.fetch(&root));
        }
    }
    let total = lab.scaled(420_000_000 + 19 * 38_400_000);
    let limits = |runs: &Runs| Some(total as f64 / runs.seconds()? / RATE as f64);
    table.add(Row {
        name: format!("{title}: realise, cold"),
        unit: "B",
        ours: limits(&both),
        other: limits(&one),
        beside: "ours with one host",
        goal: Some(Goal::Least(1.85)),
        peak: both.peak().max(one.peak()),
        trouble: [both.trouble(), one.trouble()].concat(),
    });
}

fn root(lab: &Lab, even: bool) -> Vec<String> {
    let paths = if even { lab.even() } else { lab.big() };
    paths[20..].to_vec()
}
