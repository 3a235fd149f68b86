//! Closures go to an empty store on a host: by `push`, and by Nix's own `nix copy --to ssh://`.

use std::time::Duration;

use crate::lab::{Lab, Line, Link};
use crate::run::{Run, Runs, Tried, Watch, timed};
use crate::support::{Host, Masters, NixEnv, Store};
use crate::table::{Goal, Row, Table};

/// How long one run may take.
const LIMIT: Duration = Duration::from_secs(400);
/// How much our process may hold, in MiB.
const MEMORY: f64 = 128.0;

/// A host with an empty store, and a user who has never connected to it.
struct Site {
    // Dropped in this order: connections end before what leads to them goes.
    _masters: Masters,
    link: Link,
    env: NixEnv,
    host: Host,
}

impl Site {
    fn new(line: Line) -> Self {
        let (env, host) = (NixEnv::new(), Host::new());
        let hosts = format!("ssh-substituter-push-hosts = {}", host.url(""));
        env.configure(&[], &hosts);
        Self {
            _masters: env.masters(),
            link: Link::to(&host.sshd, line),
            env,
            host,
        }
    }

    fn ours(&self, from: &Store, paths: &[impl AsRef<str>]) -> Tried {
        let mut command = self.env.program();
        command.env("NIX_SSHOPTS", self.link.options());
        command.arg("push").arg("--store").arg(from.root());
        command.args(paths.iter().map(AsRef::as_ref));
        self.judge(timed(command, LIMIT, Watch::Ours)?, paths)
    }

    fn theirs(&self, from: &Store, paths: &[impl AsRef<str>]) -> Tried {
        let store = self.host.store.remote_store_param();
        let url = self
            .host
            .sshd
            .nix_store_url(&format!("remote-store={store}"));
        let mut command = from.command("nix");
        command.env("NIX_SSHOPTS", self.link.options());
        command.args(["copy", "--no-check-sigs", "--to", &url]);
        command.args(paths.iter().map(AsRef::as_ref));
        self.judge(timed(command, LIMIT, Watch::Nothing)?, paths)
    }

    fn judge(&self, run: Run, paths: &[impl AsRef<str>]) -> Tried {
        let missing = paths
            .iter()
            .find(|path| !self.host.store.is_valid(path.as_ref()));
        match missing {
            Some(path) => Err(format!("{} is not there afterwards", path.as_ref())),
            None => Ok(run),
        }
    }
}

/// Sends a closure, then once more, when all of it is there.
fn row(
    lab: &Lab,
    table: &mut Table,
    (title, rtt, goal): (&str, u64, f64),
    paths: &[impl AsRef<str>],
) {
    let from = &lab.host().store;
    let mut runs: [Runs; 3] = Default::default();
    for run in 0..lab.options.runs {
        let site = Site::new(Line::rtt(rtt));
        runs[0].push("ours, cold", site.ours(from, paths));
        runs[1].push("ours, nothing to do", site.ours(from, paths));
        if run < lab.their_runs(rtt) {
            let site = Site::new(Line::rtt(rtt));
            runs[2].push("nix copy", site.theirs(from, paths));
        }
    }
    table.add(Row {
        name: format!("{title}: push, cold"),
        unit: "s",
        ours: runs[0].seconds(),
        other: runs[2].seconds(),
        beside: "nix copy --to ssh://",
        goal: Some(Goal::Ratio(goal)),
        peak: runs[0].peak(),
        trouble: [runs[0].trouble(), runs[2].trouble()].concat(),
    });
    table.add(Row {
        name: format!("{title}: push, nothing to do"),
        unit: "s",
        ours: runs[1].seconds(),
        peak: runs[1].peak(),
        trouble: runs[1].trouble(),
        ..Row::default()
    });
}

/// Many small paths.
pub fn small(lab: &Lab, table: &mut Table, rtt: u64, goal: f64) {
    let title = format!("push dag{}, {rtt} ms", lab.dag_count());
    if lab.wants(&title) {
        row(lab, table, (&title, rtt, goal), &[lab.dag()]);
    }
}

/// 20 large paths.
pub fn large(lab: &Lab, table: &mut Table, rtt: u64, goal: f64) {
    let title = format!("push 1.15 GB, {rtt} ms");
    if lab.wants(&title) {
        row(lab, table, (&title, rtt, goal), &lab.big()[20..]);
    }
}

/// Ten times as many small paths, and the memory that takes.
pub fn many(lab: &Lab, table: &mut Table) {
    let title = "push dag5000, 0 ms";
    if !lab.wants(title) {
        return;
    }
    let options = crate::support::DagOptions {
        seed: 3,
        ..Default::default()
    };
    let store = Store::new();
    let root = store.dag(lab.scaled(5000) as usize, options).root;
    let (mut ours, mut theirs) = (Runs::default(), Runs::default());
    for _ in 0..lab.options.runs {
        ours.push("ours, cold", Site::new(Line::rtt(0)).ours(&store, &[&root]));
        theirs.push("nix copy", Site::new(Line::rtt(0)).theirs(&store, &[&root]));
    }
    table.add(Row {
        name: format!("{title}: push, cold"),
        unit: "s",
        ours: ours.seconds(),
        other: theirs.seconds(),
        beside: "nix copy --to ssh://",
        goal: Some(Goal::Ratio(1.0)),
        peak: ours.peak(),
        trouble: [ours.trouble(), theirs.trouble()].concat(),
    });
    table.add(Row {
        name: format!("{title}: memory"),
        unit: "MiB",
        ours: Some(ours.peak() as f64 / f64::from(1 << 20)),
        goal: Some(Goal::Most(MEMORY)),
        ..Row::default()
    });
}
