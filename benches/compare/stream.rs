//! Bytes alone: one large path to nowhere beside `ssh cat`, restoring beside Nix's own, two hosts with a limit each.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::lab::{Lab, Line, Link};
use crate::realise::MEMORY;
use crate::run::{Runs, Tried, Watch, timed};
use crate::serve;
use crate::support::{Host, NixEnv, Scratch, Sshd, program, tool};
use crate::table::{Goal, Row, Table};

/// How long one run may take.
const LIMIT: Duration = Duration::from_secs(150);
/// What each of two hosts may send, in bytes per second.
const RATE: u64 = 20_000_000;
/// How far those two are away, in milliseconds there and back.
const RTT: u64 = 20;

/// `ssh`, through this link.
fn ssh(link: &Link) -> Command {
    let mut command = Command::new(tool("ssh"));
    command.arg("-F").arg(link.config());
    command
}

/// A running master of plain ssh; it ends with this.
struct Master<'a> {
    link: &'a Link,
}

impl<'a> Master<'a> {
    fn start(link: &'a Link) -> Result<Self, String> {
        let master = Self { link };
        let mut command = ssh(link);
        command.args(["-M", "-N", "-f", "-o", "ControlPersist=60"]);
        command.args(["-E", "/dev/null"]);
        command.arg("-S").arg(master.socket()).arg("127.0.0.1");
        timed(command, LIMIT, Watch::Nothing)?;
        Ok(master)
    }

    fn socket(&self) -> std::path::PathBuf {
        self.link.folder().path().join("master")
    }
}

impl Drop for Master<'_> {
    fn drop(&mut self) {
        let mut command = ssh(self.link);
        command.args(["-O", "exit", "-S"]).arg(self.socket());
        command.arg("127.0.0.1");
        let _ = timed(command, LIMIT, Watch::Nothing);
    }
}

/// `ssh HOST cat FILE`: with a login of its own, then over a running master.
fn cat(host: &Host, line: Line, file: &Path) -> (Tried, Tried) {
    let link = Link::to(&host.sshd, line);
    let mut command = ssh(&link);
    command.args(["127.0.0.1", "cat"]).arg(file);
    let cold = timed(command, LIMIT, Watch::Nothing);
    let warm = Master::start(&link).and_then(|master| {
        let mut command = ssh(&link);
        command.arg("-S").arg(master.socket());
        command.args(["127.0.0.1", "cat"]).arg(file);
        timed(command, LIMIT, Watch::Nothing)
    });
    (cold, warm)
}

/// The program's `--serve` brings these paths: a first process, then a second one that finds its connections.
fn ours(hosts: &[String], link: &Link, paths: &[String]) -> (Tried, Tried) {
    let env = NixEnv::new();
    let _masters = env.masters();
    env.configure(hosts, "");
    let cold = serve::fetch(&env, link, paths, LIMIT);
    let warm = if cold.is_ok() {
        serve::fetch(&env, link, paths, LIMIT)
    } else {
        Err("the first one failed".to_owned())
    };
    (cold, warm)
}

/// One large path through `--serve` to nowhere.
pub fn large(lab: &Lab, table: &mut Table, rtt: u64, goal: Option<f64>) {
    let title = format!("420 MB to nowhere, {rtt} ms");
    if !lab.wants(&title) {
        return;
    }
    let (host, line) = (lab.host(), Line::rtt(rtt));
    let path = lab.big()[0].clone();
    let file = host.store.physical(&path).join("data");
    let mut runs: [Runs; 4] = Default::default();
    for run in 0..lab.options.runs {
        let (cold, warm) = ours(
            &[host.trusted()],
            &Link::to(&host.sshd, line),
            std::slice::from_ref(&path),
        );
        runs[0].push("ours, cold", cold);
        runs[1].push("ours, running masters", warm);
        if run < lab.their_runs(rtt) {
            let (cold, warm) = cat(host, line, &file);
            runs[2].push("ssh cat, cold", cold);
            runs[3].push("ssh cat, running master", warm);
        }
    }
    for (mine, name) in ["cold", "running masters"].into_iter().enumerate() {
        let other = &runs[mine + 2];
        table.add(Row {
            name: format!("{title}: --serve, {name}"),
            unit: "s",
            ours: runs[mine].seconds(),
            other: other.seconds(),
            beside: "ssh cat",
            goal: goal.map(Goal::Ratio),
            peak: runs[mine].peak(),
            trouble: [runs[mine].trouble(), other.trouble()].concat(),
        });
    }
    memory(table, &title, runs[0].peak().max(runs[1].peak()));
}

/// The same path from an account that may run our program and nothing else, beside an account with a shell.
pub fn restricted(lab: &Lab, table: &mut Table, rtt: u64, goal: f64) {
    let title = format!("420 MB to nowhere, account restricted to our program, {rtt} ms");
    if !lab.wants(&title) {
        return;
    }
    let (host, line) = (lab.host(), Line::rtt(rtt));
    let path = &lab.big()[..1];
    let (ours_there, root) = (program().display(), host.store.root().display());
    let forced = Sshd::builder()
        .line(format!(
            "ForceCommand {ours_there} serve-local --store {root}"
        ))
        .start();
    let urls = [forced.store_url("trusted=true"), host.trusted()];
    let links = [&forced, &host.sshd];
    let mut runs: [[Runs; 2]; 2] = Default::default();
    for _ in 0..lab.options.runs {
        for (at, name) in ["our program", "shell"].into_iter().enumerate() {
            let (cold, warm) = ours(&urls[at..=at], &Link::to(links[at], line), path);
            runs[at][0].push(name, cold);
            runs[at][1].push(name, warm);
        }
    }
    let [mine, others] = &runs;
    for (at, name) in ["cold", "running masters"].into_iter().enumerate() {
        table.add(Row {
            name: format!("{title}: --serve, {name}"),
            unit: "s",
            ours: mine[at].seconds(),
            other: others[at].seconds(),
            beside: "ours, from an account with a shell",
            goal: Some(Goal::Ratio(goal)),
            peak: mine[at].peak(),
            trouble: [mine[at].trouble(), others[at].trouble()].concat(),
        });
    }
}

fn memory(table: &mut Table, title: &str, peak: u64) {
    if peak > 0 {
        table.add(Row {
            name: format!("{title}: peak memory"),
            unit: "MiB",
            ours: Some(peak as f64 / f64::from(1 << 20)),
            goal: Some(Goal::Most(MEMORY)),
            peak,
            ..Row::default()
        });
    }
}

/// One path restored by `--substitute`, beside a local `nix-store --dump | nix-store --restore`.
pub fn restore(
    lab: &Lab,
    table: &mut Table,
    what: &str,
    path: impl Fn(&Lab) -> &str,
    goal: Option<f64>,
) {
    let title = format!("{what}, 0 ms");
    if !lab.wants(&title) {
        return;
    }
    let (host, path) = (lab.host(), path(lab));
    let (mut mine, mut other) = (Runs::default(), Runs::default());
    for _ in 0..lab.options.runs {
        let env = NixEnv::new();
        let _masters = env.masters();
        env.configure(&[host.trusted()], "");
        let link = Link::to(&host.sshd, Line::default());
        let dest = Scratch::new();
        let mut command = env.program();
        command
            .env("NIX_SSHOPTS", link.options())
            .args(["--substitute", path])
            .arg(dest.path().join("x"));
        mine.push("ours", timed(command, LIMIT, Watch::Ours));

        let dest = Scratch::new();
        let script = format!(
            "'{nix}' --dump '{}' | '{nix}' --restore '{}'",
            host.store.physical(path).display(),
            dest.path().join("x").display(),
            nix = tool("nix-store").display(),
        );
        let mut command = env.command("sh");
        command.args(["-c", &script]);
        other.push("dump | restore", timed(command, LIMIT, Watch::Nothing));
    }
    table.add(Row {
        name: format!("{title}: --substitute, cold"),
        unit: "s",
        ours: mine.seconds(),
        other: other.seconds(),
        beside: "local dump | restore",
        goal: goal.map(Goal::Ratio),
        peak: mine.peak(),
        trouble: [mine.trouble(), other.trouble()].concat(),
    });
}

/// 300 MB from two hosts that may send so much each: their rate together, in units of one host's limit.
pub fn two_hosts(lab: &Lab, table: &mut Table, count: usize) {
    let paths = if count == 1 { "one path" } else { "12 paths" };
    let title = format!("two hosts of 20 MB/s, {RTT} ms, 300 MB in {paths}");
    if !lab.wants(&title) {
        return;
    }
    let total = lab.scaled(300_000_000);
    let hosts = [lab.host(), lab.second_host()];
    let made = hosts.map(|host| {
        (0..count)
            .map(|number| format!("shared-{count}-{number}"))
            .map(|name| host.store.big(&name, total / count as u64))
            .collect::<Vec<String>>()
    });
    let line = Line {
        rtt: RTT,
        rate: RATE,
    };
    let urls = hosts.map(Host::trusted);
    let mut runs: [Runs; 4] = Default::default();
    for run in 0..lab.options.runs {
        let (cold, warm) = ours(&urls, &Link::to_any(line), &made[0]);
        runs[0].push("two hosts, cold", cold);
        runs[1].push("two hosts, running masters", warm);
        if run == 0 {
            let (cold, warm) = ours(&urls[..1], &Link::to_any(line), &made[0]);
            runs[2].push("one host, cold", cold);
            runs[3].push("one host, running masters", warm);
        }
    }
    let limits = |runs: &Runs| Some(total as f64 / runs.seconds()? / RATE as f64);
    for (mine, name) in ["cold", "running masters"].into_iter().enumerate() {
        let other = &runs[mine + 2];
        table.add(Row {
            name: format!("{title}: {name}"),
            unit: "B",
            ours: limits(&runs[mine]),
            other: limits(other),
            beside: "ours with one host",
            goal: (mine == 1).then_some(Goal::Least(1.9)),
            peak: runs[mine].peak(),
            trouble: [runs[mine].trouble(), other.trouble()].concat(),
        });
    }
}
