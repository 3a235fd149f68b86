//! Each host: log-in, program, store, shell, trust.

mod remote_program;

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::cache::disk::unix_seconds;
use crate::commands::doctor::finding::{Finding, Level};
use crate::commands::format::{counted, long_time, short_time, shorten};
use crate::commands::probe::{Probed, Prober, Reached, Shell, StoreFiles, nix_of};
use crate::config::host::{CompressionMode, DeltaMode};
use crate::config::{Config, Host};
use crate::engine::ssh_settings;
use crate::pool::{Banner, RemoteError, RemoteErrorKind};
use crate::remote::NoShell;
use crate::report;
use crate::transport::{Program, TransportErrorKind, login_command};
use remote_program::RemoteProgram;

const AREA: &str = "Host";

/// How many characters of a banner are quoted.
const MAX_BANNER_CHARS: usize = 300;

pub(super) async fn check(prober: &Arc<Prober>, probed: &[Probed]) -> Vec<Finding> {
    let mut all = Vec::new();
    for (probed, follow_up) in probed.iter().zip(follow_up(prober, probed).await) {
        let mut found = Vec::new();
        found.extend(earlier_failures(probed));
        match (&probed.reached, follow_up) {
            (Ok(reached), FollowUp::Program(program)) => {
                found.extend(reached_host(
                    &prober.config,
                    &probed.host,
                    reached,
                    &program,
                ));
            }
            (_, FollowUp::Failure(failure)) => found.push(*failure),
            (Err(error), FollowUp::Program(_)) => found.push(broken(error)),
        }
        let name = probed.host.to_string();
        all.extend(found.into_iter().map(|finding| finding.about(&name)));
    }
    all
}

/// What is asked of a host after the probe.
enum FollowUp {
    Program(RemoteProgram),
    Failure(Box<Finding>),
}

/// Asks all hosts at the same time.
async fn follow_up(prober: &Arc<Prober>, probed: &[Probed]) -> Vec<FollowUp> {
    let mut asked = JoinSet::new();
    let mut all: Vec<FollowUp> = Vec::new();
    for (at, probed) in probed.iter().enumerate() {
        all.push(FollowUp::Program(RemoteProgram::default()));
        let (prober, host) = (prober.clone(), probed.host.clone());
        match &probed.reached {
            Ok(reached) if matches!(reached.shell, Shell::Yes { .. }) => {
                let in_usual_places = reached.program == Program::InUsualPlaces;
                let limit = prober.config.connect_timeout;
                asked.spawn(async move {
                    let program =
                        RemoteProgram::find(&*prober.transport, &host, in_usual_places, limit);
                    (at, FollowUp::Program(program.await))
                });
            }
            Ok(_) => {}
            Err(error) => {
                let error = error.clone();
                asked.spawn(async move {
                    let failure = failure(&prober, &host, &error).await;
                    (at, FollowUp::Failure(Box::new(failure)))
                });
            }
        }
    }
    for (at, follow_up) in asked.join_all().await {
        all[at] = follow_up;
    }
    all
}

/// Earlier failures of the host.
fn earlier_failures(probed: &Probed) -> Option<Finding> {
    let health = probed.failures_before?;
    let left = (health.rest_until / 1000).saturating_sub(unix_seconds());
    let failures = counted(u64::from(health.failures), "failure");
    let text = match (&probed.reached, left) {
        (Ok(_), _) => {
            format!("had failed before ({failures} in a row); commands ask it again from now on")
        }
        (Err(_), 0) => format!("had failed before ({failures} in a row)"),
        (Err(_), left) => format!(
            "had failed before ({failures} in a row), and was left alone by commands for another {}",
            long_time(left)
        ),
    };
    Some(Finding::note(AREA, text))
}

fn broken(error: &RemoteError) -> Finding {
    let mut parts = report::parts(error);
    if let RemoteErrorKind::Transport(error) = &error.kind
        && matches!(
            error.kind,
            TransportErrorKind::HostKeyChanged { pinned: true }
        )
    {
        // ssh's advice is about a file of ours. What helps is which key the host showed.
        parts
            .remote_output
            .retain(|line| line.starts_with("SHA256:"));
    }
    Finding::of(
        Level::Error,
        AREA,
        parts,
        "see what the host's own log says",
    )
}

async fn failure(prober: &Prober, host: &Host, error: &RemoteError) -> Finding {
    let config = &prober.config;
    let finding = broken(error);
    match &error.kind {
        RemoteErrorKind::Transport(error) if error.is_local() => finding,
        RemoteErrorKind::Transport(_) => {
            finding.see(login_command(host, &ssh_settings(config)).await)
        }
        RemoteErrorKind::NoServer { .. } => match find_usual_program(prober, host).await {
            Some(path) => finding.fix(format!(
                "{path} is there: name it with remote-program={path} in the host's URL"
            )),
            None => finding,
        },
        _ => finding,
    }
}

/// Where Nix's own program is on a host that does not start the one that is named.
async fn find_usual_program(prober: &Prober, host: &Host) -> Option<String> {
    let usual = Host {
        remote_program: vec![Host::DEFAULT_REMOTE_PROGRAM.to_owned()],
        ..host.clone()
    };
    let limit = prober.config.connect_timeout;
    let program = RemoteProgram::find(&*prober.transport, &usual, true, limit).await;
    // A path that would have to be quoted is no help.
    let is_plain = |path: &String| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._+-".contains(&b);
        path.starts_with('/') && path.bytes().all(plain)
    };
    // One that runs, but not as a server, is no help either.
    program
        .path
        .filter(|path| is_plain(path) && program.version.is_some())
}

fn reached_host(
    config: &Config,
    host: &Host,
    reached: &Reached,
    program: &RemoteProgram,
) -> Vec<Finding> {
    let ok = |text: String| Finding::ok(AREA, text);
    let mut all = vec![ok(match &host.public_host_key {
        Some(_) => "logs in; its host key is the one in the URL".to_owned(),
        None => "logs in; its host key is known to ssh".to_owned(),
    })];
    if !reached.banner.trim().is_empty() {
        let banner = Banner {
            host: host.to_string(),
            text: reached
                .banner
                .trim()
                .chars()
                .take(MAX_BANNER_CHARS)
                .collect(),
        };
        let finding = Finding::of(Level::Warning, AREA, report::parts(&banner), "");
        all.push(match reached.shell {
            Shell::No(_) | Shell::NotNeeded => finding.fix(
                "what the account is forced to run (ForceCommand, command= in authorized_keys) must print nothing before nix-store --serve does, nor may start-up files there",
            ),
            _ => finding,
        });
    }
    all.push(program_finding(host, reached, program));
    if !reached.version.has_hash() {
        all.push(Finding::warning(
            AREA,
            "its Nix is too old to tell hashes: only Nix 1.x gets anything from it, with trusted=true",
            "update Nix there, to 2.0 at least",
        ));
    }
    all.push(match &reached.infos {
        Ok(_) => {
            let latency = reached.latency.map(short_time).unwrap_or_default();
            ok(format!("answers about paths in {}, within {latency}", config.store_dir))
        }
        Err(error) => {
            let parts = report::parts(&**error);
            let finding = Finding::of(Level::Error, AREA, parts, "look at the program there");
            match &program.store_dir {
                Some(dir) if *dir != config.store_dir => finding.fix(format!(
                    "NIX_STORE_DIR is {dir} there and {} here: let both be the same, or name the right store with remote-store in the host's URL",
                    config.store_dir
                )),
                _ => finding,
            }
        }
    });
    all.push(in_parts(config, &reached.shell));
    all.extend(compressed(host, &reached.shell));
    all.push(trust(config, host));
    all
}

/// Whether large paths come compressed.
fn compressed(host: &Host, shell: &Shell) -> Option<Finding> {
    let has_zstd = match shell {
        Shell::Yes { has_zstd, .. } => *has_zstd,
        Shell::NotNeeded => true,
        Shell::No(_) | Shell::Failed(_) => return None,
    };
    let mode = host.compression.mode;
    let delta = match host.delta {
        DeltaMode::Auto => ", and as differences from versions that are here over a slow line",
        DeltaMode::Always => ", and as differences from versions that are here",
        DeltaMode::Off => "",
    };
    Some(match (has_zstd, mode) {
        (_, CompressionMode::None) => {
            Finding::ok(AREA, "compression=none: large paths come as they are")
        }
        (true, CompressionMode::Auto) => Finding::ok(
            AREA,
            format!("has zstd: large paths come compressed where that is faster{delta}"),
        ),
        (true, CompressionMode::Zstd) => Finding::ok(
            AREA,
            format!("compression=zstd: large paths come compressed{delta}"),
        ),
        (false, _) => Finding::note(
            AREA,
            "its shell has no zstd: large paths come as they are, also over a slow line",
        )
        .fix("install zstd there, where the PATH of a non-interactive shell finds it"),
    })
}

/// Whether large paths come in chunks.
fn in_parts(config: &Config, shell: &Shell) -> Finding {
    let files = match shell {
        Shell::NotNeeded => {
            return Finding::ok(
                AREA,
                "runs ssh-substituter: large paths come in chunks, without a shell",
            );
        }
        Shell::Yes { files, .. } => files,
        Shell::No(none) => {
            return Finding::note(AREA, no_shell(none)).fix(NO_SHELL_FIX);
        }
        Shell::Failed(error) => {
            let reason = report::parts(&**error).message;
            let text = format!(
                "it could not be found out whether it has a shell that reads its store: {reason}"
            );
            return Finding::note(AREA, text);
        }
    };
    match files {
        StoreFiles::In(dir) if *dir == config.store_dir => {
            Finding::ok(AREA, "has a shell: large paths come in chunks")
        }
        StoreFiles::In(dir) => Finding::ok(
            AREA,
            format!("has a shell: large paths come in chunks, from the files in {dir}"),
        ),
        StoreFiles::Nowhere { looked, is_empty } => {
            let looked = looked.join(", ");
            let text = match is_empty {
                true => format!(
                    "has a shell, and no store path is in {looked}: large paths come in chunks once there are some"
                ),
                false => format!(
                    "large paths come over one channel only: its account has a shell, but nothing that it serves is in {looked}"
                ),
            };
            let fix = "where its store is somewhere else, name that with remote-store in the host's URL (remote-store=local?root=/DIR, percent-encoded)";
            Finding::note(AREA, text).fix(fix)
        }
    }
}

/// What an account without a shell gains by this program.
const NO_SHELL_FIX: &str = "to get them in chunks and compressed without giving it a shell, let the account run 'ssh-substituter serve-local' in place of nix-store --serve (docs/restricted-host.md)";

fn no_shell(none: &NoShell) -> String {
    let reason = shorten(
        none.reason.trim_start_matches("no shell: "),
        MAX_BANNER_CHARS,
    );
    format!(
        "large paths come whole, each over one channel and from one host: its account has no shell ({reason})"
    )
}

fn program_finding(host: &Host, reached: &Reached, program: &RemoteProgram) -> Finding {
    let name = host.remote_program.join(" ");
    let mut text = program.path.clone().unwrap_or(name);
    if let Some(version) = &program.version {
        text = format!("{text} is {version}");
    }
    let version = reached.version;
    let nix = match reached.shell {
        Shell::NotNeeded => "ssh-substituter's own",
        _ => nix_of(version),
    };
    text = format!("{text}, serve protocol {version} ({nix})");
    if reached.program == Program::WithWrite {
        text = format!(
            "{text}; its account allows 'nix-store --serve --write' only, which is asked for since 'nix-store --serve' was refused"
        );
        let fix = "costs an attempt at each first log-in: let the account allow nix-store --serve too, since nothing is written";
        return Finding::note(AREA, text).fix(fix);
    }
    if reached.program == Program::InUsualPlaces {
        text = format!(
            "{text}; found in the usual places of Nix, since it is not in the PATH of a non-interactive shell there"
        );
        let fix = "costs an attempt at each first log-in: name it with remote-program=/path/to/nix-store in the host's URL";
        return Finding::note(AREA, text).fix(fix);
    }
    Finding::ok(AREA, text)
}

fn trust(config: &Config, host: &Host) -> Finding {
    if host.trusted {
        return Finding::ok(AREA, "trusted=true: all its paths are accepted");
    }
    if !config.require_sigs {
        return Finding::ok(AREA, "require-sigs is false: all its paths are accepted");
    }
    if config.trusted_public_keys.is_empty() {
        let text =
            "only content-addressed paths are accepted from it: no key is in trusted-public-keys";
        return Finding::note(AREA, text).fix("sign its paths and name the public key in trusted-public-keys, or add trusted=true to its URL");
    }
    Finding::ok(
        AREA,
        "paths are accepted that are content-addressed or signed by a key in trusted-public-keys; 'doctor PATH' tells of one",
    )
}
