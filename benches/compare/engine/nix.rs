//! A real Nix with eight connections at once: through the engine, through eight plain relays, and without any ssh.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use super::{LIMIT, Shared};
use crate::lab::{Lab, Line, Link};
use crate::run::{Run, Runs, Tried, Watch, timed};
use crate::support::{Host, NixEnv, Scratch, substituter, tool};
use crate::table::{Goal, Row, Table};

/// Connections that Nix may have at once.
const CONNECTIONS: &str = "&max-connections=8";
/// Milliseconds there and back.
const RTT: u64 = 100;

/// Nix as a caller in some environment, each time with a new store.
pub(super) struct Caller<'a> {
    program: PathBuf,
    env: &'a NixEnv,
}

impl<'a> Caller<'a> {
    pub(super) fn new(lab: &Lab, env: &'a NixEnv) -> Self {
        let given = lab.options.nix.clone();
        let program = given.unwrap_or_else(|| tool("nix"));
        Self { program, env }
    }

    /// Fetches a path, with all that it refers to, from substituters.
    pub(super) fn realise(&self, substituters: &str, ssh_options: &str, root: &str) -> Tried {
        let dest = Scratch::new();
        let mut command = self.command();
        command
            .args(["build", "--no-link", "--store", &uri(&dest)])
            .args(["--option", "substituters", substituters])
            // Nix switches that off by itself where it sees no network but loopback.
            .args(["--option", "substitute", "true"])
            .args(["--option", "max-jobs", "8"])
            // Unknown to Nix before 2.14, which only says so.
            .args(["--option", "max-substitution-jobs", "16"])
            .arg(root)
            .env("NIX_SSHOPTS", ssh_options);
        self.run(command, &dest, root)
    }

    /// Copies the closure of a path from the store of a host, which lies on this machine.
    fn copy(&self, host: &Host, root: &str) -> Tried {
        let dest = Scratch::new();
        let mut command = self.command();
        command.args(["copy", "--no-check-sigs", "--from", &host.store.uri()]);
        command.args(["--to", &uri(&dest), root]);
        self.run(command, &dest, root)
    }

    fn command(&self) -> Command {
        self.env.command(&self.program)
    }

    fn run(&self, command: Command, dest: &Scratch, root: &str) -> Tried {
        let run = timed(command, LIMIT, Watch::Nothing)?;
        let mut check = self.env.command("nix-store");
        check.args(["--store", &uri(dest), "--check-validity", root]);
        timed(check, LIMIT, Watch::Nothing)
            .map_err(|why| format!("{root} is not there afterwards: {why}"))?;
        Ok(run)
    }
}

fn uri(dest: &Scratch) -> String {
    format!("local?root={}", dest.path().join("root").display())
}

/// A closure through the engine.
pub(super) fn through(shared: &Shared, lab: &Lab, root: &str, paths: u64) -> Tried {
    let before = shared.link.trips();
    let run = shared.counted(paths, || {
        let caller = Caller::new(lab, &shared.env);
        caller.realise(&substituter(CONNECTIONS), &shared.link.options(), root)
    })?;
    Ok(Run {
        trips: shared.link.trips() - before,
        ..run
    })
}

/// The same through plain relays: `ssh HOST nix-store --serve`, once for each connection, each with a login of its own.
fn relayed(lab: &Lab, root: &str) -> Tried {
    let host = lab.host();
    let link = Link::to(&host.sshd, Line::rtt(RTT));
    let text = format!(
        "#!/bin/sh\nexec '{}' -F '{}' 127.0.0.1 \"nix-store --serve --store '{}'\"\n",
        tool("ssh").display(),
        link.config().display(),
        host.store.uri()
    );
    let relay = link.folder().write("relay", text);
    fs::set_permissions(&relay, fs::Permissions::from_mode(0o755))
        .map_err(|error| error.to_string())?;
    let url = format!(
        "ssh://localhost?remote-program={}&trusted=true{CONNECTIONS}",
        relay.display()
    );
    let env = NixEnv::new();
    let run = Caller::new(lab, &env).realise(&url, "", root)?;
    Ok(Run {
        trips: link.trips(),
        ..run
    })
}

/// A closure from the host's own store, without ssh: by the command that copies, and by a substituter.
fn local(lab: &Lab, root: &str) -> (Tried, Tried) {
    let (host, env) = (lab.host(), NixEnv::new());
    let caller = Caller::new(lab, &env);
    let url = format!("{}&trusted=true", host.store.uri());
    (caller.copy(host, root), caller.realise(&url, "", root))
}

/// A closure of many small paths, by a Nix with eight connections.
pub fn dag(lab: &Lab, table: &mut Table) {
    let count = lab.dag_count();
    let title = format!("engine dag{count} {RTT} ms");
    if !lab.wants(&title) {
        return;
    }
    let (root, paths) = (lab.dag(), count as u64);
    let mut runs: [Runs; 5] = Default::default();
    let [cold, warm, relays, copies, realised] = &mut runs;
    for _ in 0..lab.options.runs {
        let shared = Shared::new(lab.host(), Line::rtt(RTT));
        cold.push("ours, cold", through(&shared, lab, root, paths));
        if !cold.failed() {
            warm.push("ours, warm", through(&shared, lab, root, paths));
        }
        drop(shared);
        if !lab.options.ours && !relays.failed() {
            relays.push("8 plain relays", relayed(lab, root));
        }
        let (copied, substituted) = local(lab, root);
        copies.push("local nix copy", copied);
        realised.push("local realise", substituted);
        if cold.failed() || warm.failed() {
            break;
        }
    }
    let row = |name: &str, mine: &Runs, other: &Runs| Row {
        name: format!("{title}: {name}"),
        unit: "s",
        ours: mine.seconds(),
        other: other.seconds(),
        peak: mine.peak(),
        trouble: [mine.trouble(), other.trouble()].concat(),
        ..Row::default()
    };
    table.add(Row {
        beside: "8 plain relays",
        goal: Some(Goal::Ratio(1.0 / 8.0)),
        ..row("8 at once, cold", cold, relays)
    });
    table.add(Row {
        beside: "nix copy, local",
        goal: Some(Goal::Ratio(1.5)),
        ..row("8 at once, warm", warm, copies)
    });
    table.add(Row {
        beside: "realise, local",
        ..row("8 at once, warm", warm, realised)
    });
    let trips = |name: &str, mine: &Runs| Row {
        unit: "trips",
        ours: mine.trips(),
        other: relays.trips(),
        beside: "8 plain relays",
        trouble: Vec::new(),
        peak: 0,
        ..row(name, mine, relays)
    };
    table.add(trips("round trips, cold, logins included", cold));
    table.add(trips("round trips, warm", warm));
}
