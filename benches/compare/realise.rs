//! A real Nix fetches closures: through the program, and by its own ssh stores.

use std::time::Duration;

use crate::lab::{Lab, Line, Link};
use crate::run::{Run, Runs, Tried, Watch, timed};
use crate::support::{Masters, Nix, Sshd, Store};
use crate::table::{Goal, Row, Table};

/// How long one run may take.
pub const LIMIT: Duration = Duration::from_secs(400);
/// Where ssh-ng works it takes seconds; where not, it hangs.
const NG_LIMIT: Duration = Duration::from_secs(90);
/// How much our process may hold: 64 MiB and the budget for reading ahead.
pub const MEMORY: f64 = 320.0;

/// Nix that uses the program under test, with an empty store, nothing cached and no connection yet.
pub struct Ours {
    // Dropped in this order: connections end before what leads to them goes.
    _masters: Masters,
    link: Link,
    nix: Nix,
}

impl Ours {
    pub fn new(hosts: &[String], link: Link) -> Self {
        let nix = Nix::through(hosts).env("NIX_SSHOPTS", &link.options());
        Self {
            _masters: nix.store().env().masters(),
            link,
            nix,
        }
    }

    /// Has paths of another store here from the beginning, of which others may be newer versions.
    pub fn begin_with(&self, hosts: &[String], store: &Store, paths: &[&String]) {
        let mine = self.nix.store();
        mine.copy_from(store, paths);
        let base = format!("delta-base = {}", mine.root().display());
        mine.env().configure(hosts, &base);
    }

    /// Fetches these paths with all that they refer to.
    pub fn fetch(&self, paths: &[impl AsRef<str>]) -> Tried {
        realise(&self.nix, &self.link, paths, Watch::Ours, LIMIT)
    }

    /// Empties the local store; what the program knows and has open stays.
    pub fn empty(&self) {
        let store = self.nix.store();
        store.delete(&store.all_paths());
    }
}

pub fn realise(
    nix: &Nix,
    link: &Link,
    paths: &[impl AsRef<str>],
    watch: Watch,
    limit: Duration,
) -> Tried {
    let mut command = nix.command("nix-store");
    command
        .arg("--realise")
        .args(paths.iter().map(AsRef::as_ref));
    let (before, wire) = (link.trips(), link.wire());
    let run = timed(command, limit, watch)?;
    if let Some(missing) = paths
        .iter()
        .find(|path| !nix.store().is_valid(path.as_ref()))
    {
        return Err(format!("{} is not there afterwards", missing.as_ref()));
    }
    Ok(Run {
        trips: link.trips() - before,
        wire: link.wire() - wire,
        ..run
    })
}

/// Nix with one of its own ssh stores (`ssh` or `ssh-ng`).
pub fn theirs(
    scheme: &str,
    sshd: &Sshd,
    store: &Store,
    line: Line,
    paths: &[impl AsRef<str>],
) -> Tried {
    theirs_with(scheme, "", (sshd, store), line, paths)
}

/// The same with further parameters of the URL, each with a `&` before it.
pub fn theirs_with(
    scheme: &str,
    params: &str,
    (sshd, store): (&Sshd, &Store),
    line: Line,
    paths: &[impl AsRef<str>],
) -> Tried {
    let link = Link::to(sshd, line);
    let store = store.remote_store_param();
    let url = sshd
        .nix_store_url(&format!("trusted=true&remote-store={store}{params}"))
        .replacen("ssh:", &format!("{scheme}:"), 1);
    let nix = Nix::new()
        .env("NIX_SSHOPTS", &link.options())
        .substituters(&url);
    let limit = if scheme == "ssh" { LIMIT } else { NG_LIMIT };
    realise(&nix, &link, paths, Watch::Nothing, limit)
}

/// What a closure cost.
#[derive(Default)]
struct Measured {
    cold: Runs,
    warm: Runs,
    theirs: Runs,
}

fn measure(lab: &Lab, rtt: u64, paths: &[impl AsRef<str>]) -> Measured {
    let line = Line::rtt(rtt);
    let host = lab.host();
    let mut measured = Measured::default();
    for run in 0..lab.options.runs {
        if !measured.cold.failed() {
            let ours = Ours::new(&[host.trusted()], Link::to(&host.sshd, line));
            measured.cold.push("ours, cold", ours.fetch(paths));
            if !measured.cold.failed() && !measured.warm.failed() {
                ours.empty();
                measured.warm.push("ours, warm", ours.fetch(paths));
            }
        }
        if run < lab.their_runs(rtt) && !measured.theirs.failed() {
            let tried = theirs("ssh", &host.sshd, &host.store, line, paths);
            measured.theirs.push("ssh://", tried);
        }
    }
    measured
}

/// A closure of many small paths.
pub fn dag(lab: &Lab, table: &mut Table, rtt: u64, goal: f64) {
    let title = format!("dag{}, {rtt} ms", lab.dag_count());
    if !lab.wants(&title) {
        return;
    }
    let paths = [lab.dag()];
    let measured = measure(lab, rtt, &paths);
    let row = |name: &str| Row {
        name: format!("{title}: {name}"),
        unit: "s",
        other: measured.theirs.seconds(),
        beside: "ssh://",
        ..Row::default()
    };
    table.add(Row {
        ours: measured.cold.seconds(),
        goal: Some(Goal::Ratio(goal)),
        peak: measured.cold.peak(),
        trouble: [measured.cold.trouble(), measured.theirs.trouble()].concat(),
        ..row("realise, cold")
    });
    table.add(Row {
        ours: measured.warm.seconds(),
        peak: measured.warm.peak(),
        trouble: measured.warm.trouble(),
        ..row("realise, warm")
    });
    if rtt > 0 {
        let of = |name: &str, runs: &Runs| Row {
            unit: "trips",
            ours: runs.trips(),
            other: measured.theirs.trips(),
            ..row(name)
        };
        table.add(of("round trips, cold, logins included", &measured.cold));
        table.add(of("round trips, warm", &measured.warm));
    }
}

/// The same beside Nix's newer ssh store, once.
pub fn dag_ng(lab: &Lab, table: &mut Table, rtt: u64) {
    let title = format!("dag{} beside ssh-ng, {rtt} ms", lab.dag_count());
    if !lab.wants(&title) {
        return;
    }
    let (host, line) = (lab.host(), Line::rtt(rtt));
    let paths = [lab.dag()];
    let (mut mine, mut other) = (Runs::default(), Runs::default());
    let ours = Ours::new(&[host.trusted()], Link::to(&host.sshd, line));
    mine.push("ours, cold", ours.fetch(&paths));
    if lab.their_runs(rtt) > 0 {
        other.push(
            "ssh-ng://",
            theirs("ssh-ng", &host.sshd, &host.store, line, &paths),
        );
    }
    table.add(Row {
        name: format!("{title}: realise, cold"),
        unit: "s",
        ours: mine.seconds(),
        other: other.seconds(),
        beside: "ssh-ng://",
        peak: mine.peak(),
        trouble: [mine.trouble(), other.trouble()].concat(),
        ..Row::default()
    });
}

/// A closure of large paths.
pub fn big(lab: &Lab, table: &mut Table, rtt: u64, goal: Option<f64>) {
    let title = format!("big1g, {rtt} ms");
    if !lab.wants(&title) {
        return;
    }
    let measured = measure(lab, rtt, &lab.big()[20..]);
    let ours = measured.cold.seconds();
    let row = |name: &str| Row {
        name: format!("{title}: {name}"),
        unit: "s",
        ours,
        other: measured.theirs.seconds(),
        beside: "ssh://",
        ..Row::default()
    };
    table.add(Row {
        goal: goal.map(Goal::Ratio),
        peak: measured.cold.peak(),
        trouble: [measured.cold.trouble(), measured.theirs.trouble()].concat(),
        ..row("realise, cold")
    });
    table.add(Row {
        ours: measured.warm.seconds(),
        peak: measured.warm.peak(),
        trouble: measured.warm.trouble(),
        ..row("realise, warm")
    });
    if rtt == 0 {
        lab.big_at_once.set(ours);
    }
    if rtt == 100 {
        let at_once = lab.big_at_once.get();
        let missing = "the rows at 0 ms were not measured".to_owned();
        table.add(Row {
            other: at_once,
            beside: "ours at 0 ms",
            goal: Some(Goal::Ratio(1.3)),
            trouble: at_once.is_none().then_some(missing).into_iter().collect(),
            ..row("realise, cold, latency alone")
        });
    }
    let peak = measured.cold.peak().max(measured.warm.peak());
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
