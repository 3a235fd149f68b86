//! The examples run, as `cargo run --example` runs them.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::pages::{self, Page, crate_root};
use super::stage::Stage;
use super::support::{Scratch, run, run_with_timeout};

/// How long it may take to build an example where `cargo test` has not done so already.
const BUILD: Duration = Duration::from_secs(500);

/// How long one may run.
const LIMIT: Duration = Duration::from_secs(120);

/// An example's program, built with the profile of this test.
fn example(name: &str) -> PathBuf {
    let test = env::current_exe().expect("this test's own path");
    // TARGET/PROFILE/deps/docs-…
    let folder = test.ancestors().nth(2).expect("the folder of the profile");
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(crate_root())
        .args(["build", "--quiet", "--locked", "--example", name])
        .arg("--target-dir")
        .arg(folder.parent().expect("the target folder"));
    if folder.ends_with("release") {
        command.arg("--release");
    }
    run(command, BUILD);
    folder.join("examples").join(name)
}

/// Runs one in a folder of its own; what it said.
fn said(mut command: Command) -> String {
    let scratch = Scratch::new();
    let output = run_with_timeout_in(&mut command, &scratch);
    String::from_utf8(output).expect("UTF-8 output")
}

fn run_with_timeout_in(command: &mut Command, scratch: &Scratch) -> Vec<u8> {
    let mut alone = Command::new(command.get_program());
    alone.args(command.get_args()).env("TMPDIR", scratch.path());
    let output = run_with_timeout(alone, LIMIT);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {text}");
    assert_eq!(output.stdout, b"", "stdout is for protocol");
    // What it made for itself is gone.
    let left: Vec<_> = std::fs::read_dir(scratch.path())
        .expect("read a folder")
        .collect();
    assert!(left.is_empty(), "{left:?}");
    output.stderr
}

#[test]
fn the_quick_start_restores_all() {
    let text = said(Command::new(example("quickstart")));
    assert!(text.contains("Done: 31 paths"), "{text}");
}

#[test]
fn the_closure_is_fetched_from_both_demo_stores() {
    let text = said(Command::new(example("closure")));
    assert!(text.starts_with("31 paths, "), "{text}");
    assert_eq!(
        text.lines()
            .filter(|line| line.starts_with("/nix/store/"))
            .count(),
        31,
        "{text}"
    );
    assert!(text.contains("all of it is in "), "{text}");
}

#[test]
fn the_closure_is_fetched_from_a_real_host() {
    let stage = Stage::new(&["builder.example.org", "laptop"]);
    let hello = stage.host("builder.example.org");
    let key = "mkdir -p -m 700 .ssh; ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519";
    stage.run("laptop", "alice", key);
    stage.let_in(
        ("laptop", "/home/alice/.ssh/id_ed25519.pub"),
        ("builder.example.org", "nix"),
    );
    stage.write(
        "laptop",
        "/home/alice/.ssh/known_hosts",
        &stage.known_host("builder.example.org"),
    );
    // By another process: a program that is open for writing anywhere cannot be started.
    let copied = std::process::Command::new("cp")
        .arg(example("closure"))
        .arg(stage.root("laptop").join("home/closure"))
        .status();
    assert!(copied.expect("start cp").success());
    let script = |host: &str| {
        let host = format!("ssh://nix@builder.example.org?{host}");
        format!("/home/closure fetched {hello} '{host}'; cat fetched{hello}")
    };
    let text = stage.run("laptop", "alice", &script("trusted=true"));
    assert!(
        text.starts_with("2 paths, ") && text.contains("hello from /nix/store/"),
        "{text}"
    );
    let refused = stage.try_run(
        "laptop",
        "alice",
        &format!("rm -r fetched; {}", script("trusted=false")),
    );
    assert!(
        !refused.ok && refused.text.contains("it is not signed"),
        "{}",
        refused.text
    );
}

#[test]
fn the_custom_transport_reaches_its_host() {
    let text = said(Command::new(example("custom_transport")));
    assert!(
        text.contains("warning: down: cannot connect to its socket"),
        "{text}"
    );
    assert_eq!(
        text.lines()
            .filter(|line| line.starts_with("sha256:"))
            .count(),
        3,
        "{text}"
    );
}

#[test]
fn every_example_is_documented_and_run() {
    let page = Page::open("examples/README.md");
    let runs = pages::read("tests/docs/examples.rs");
    for file in pages::files("examples", ".rs") {
        let inside = file.trim_start_matches("examples/");
        if inside.starts_with("demo/") {
            continue;
        }
        assert!(
            page.links.iter().any(|link| link == inside),
            "examples/README.md does not name {file}"
        );
        let name = inside.trim_end_matches("/main.rs").trim_end_matches(".rs");
        assert!(
            runs.contains(&format!("example({name:?})")),
            "no test runs {file}"
        );
    }
}
