//! The real program, the real ssh and a real Nix: what the hosts are asked, and what is answered without them.

mod query_support;
mod support;

use std::process::{Command, Output};
use std::thread;

use query_support::Recorder;
use support::{DagOptions, Host, Nix, NixEnv, SHORT, percent_encode, run_with_input, substituter};

const MISSING: &str = "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-missing";

/// Lifetimes that the user has set: answers are believed without asking for so long.
const SET: &str = "narinfo-cache-positive-ttl = 100000\nnarinfo-cache-negative-ttl = 100000";

fn spec(host: &Host, recorder: &Recorder) -> String {
    let program = recorder.program();
    let program = percent_encode(program.to_str().expect("UTF-8"));
    host.url(&format!("trusted=true&remote-program={program}"))
}

/// The text protocol, which is asked line by line and then ends at once.
fn query(mut command: Command, lines: &str) -> Output {
    command.arg("--query");
    let output = run_with_input(command, lines.as_bytes(), SHORT);
    assert!(output.status.success(), "{output:?}");
    output
}

fn have(env: &NixEnv, paths: &[String]) -> String {
    let lines: String = paths.iter().map(|path| format!("have {path}\n")).collect();
    let output = query(env.program(), &lines);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// A line for each path and an empty one after it, and the first line, which means nothing.
fn all(paths: &[String]) -> String {
    let lines: String = paths.iter().map(|path| format!("{path}\n\n")).collect();
    format!("\n{lines}")
}

#[test]
fn what_one_nix_command_learnt_the_next_one_knows() {
    let (host, recorder) = (Host::new(), Recorder::new());
    let dag = host.store.dag(50, DagOptions::default());
    let nix = Nix::new().substituters(&substituter(""));
    let env = nix.store().env();
    env.configure(&[spec(&host, &recorder)], SET);
    let _masters = env.masters();
    nix.realise(&[&dag.root]).ok();
    for path in &dag.paths {
        assert!(nix.store().verify_path(path), "{path}");
    }
    let sizes: Vec<_> = recorder.infos().iter().map(Vec::len).collect();
    assert!(sizes.len() <= 3, "{sizes:?}");
    assert_eq!(recorder.closures(), 1);
    assert_eq!(have(env, &[MISSING.to_owned()]), "\n\n");

    // Nobody is there any more, and nobody is missed.
    host.sshd.kill();
    let asked = recorder.requests().len();
    assert_eq!(have(env, &dag.paths), all(&dag.paths));
    assert_eq!(have(env, &[MISSING.to_owned()]), "\n\n");
    assert_eq!(recorder.requests().len(), asked);
}

#[test]
fn answers_of_short_processes_that_run_together_are_all_kept() {
    let (host, recorder) = (Host::new(), Recorder::new());
    let env = NixEnv::new();
    env.configure(&[spec(&host, &recorder)], SET);
    let _masters = env.masters();
    let paths: Vec<_> = (0..12)
        .map(|number| host.store.add_text(&format!("path-{number}"), "text", &[]))
        .collect();
    thread::scope(|scope| {
        for paths in paths.chunks(3) {
            let env = &env;
            scope.spawn(move || assert_eq!(have(env, paths), all(paths)));
        }
    });
    host.sshd.kill();
    assert_eq!(have(&env, &paths), all(&paths));
}

#[test]
fn another_login_or_program_is_another_host() {
    let (host, recorder) = (Host::new(), Recorder::new());
    let env = NixEnv::new();
    let path = vec![host.store.add_text("path", "text", &[])];
    let mine = spec(&host, &recorder);
    env.configure(std::slice::from_ref(&mine), SET);
    let _masters = env.masters();
    assert_eq!(have(&env, &path), all(&path));
    host.sshd.kill();
    for (from, to) in [
        ("remote-store=", "remote-store=local%3Froot%3D/elsewhere/"),
        ("nix-store", "nix-store-2"),
        ("ssh://", "ssh://somebody-else-"),
    ] {
        env.configure(&[mine.replace(from, to)], SET);
        let output = query(env.program(), &format!("have {}\n", path[0]));
        assert_eq!(output.stdout, b"\n\n", "{to}");
    }
    // Trust and order are no part of it.
    env.configure(&[format!("{mine}&max-connections=2&priority=7")], SET);
    assert_eq!(have(&env, &path), all(&path));
    let mut command = env.program();
    command.env("NIX_SSHOPTS", "-o HostName=localhost");
    let output = query(command, &format!("have {}\n", path[0]));
    assert_eq!(output.stdout, b"\n\n", "other options to ssh");
}

#[test]
fn a_cache_that_cannot_be_used_changes_no_answer() {
    let (host, recorder) = (Host::new(), Recorder::new());
    let dag = host.store.dag(20, DagOptions::default());
    let env = NixEnv::new();
    env.configure(&[spec(&host, &recorder)], "");
    let _masters = env.masters();
    let unusable = env.folder().join("a-file");
    std::fs::write(&unusable, "where the folder should be").expect("write a file");
    for _ in 0..2 {
        let mut command = env.program();
        command.env("SSH_SUBSTITUTER_CACHE_DIR", &unusable);
        let lines: String = dag
            .paths
            .iter()
            .map(|path| format!("have {path}\n"))
            .collect();
        let output = query(command, &lines);
        assert_eq!(String::from_utf8_lossy(&output.stdout), all(&dag.paths));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }
}
