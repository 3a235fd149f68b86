//! The program ends at once when it is told to or when nobody listens, even while a host owes it an answer, and leaves
//! nothing behind that harms the next run.

mod support;

use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::{Host, NixEnv, descendants, run_with_input, wait_until};

/// `--query`, after its first line, waiting for the answer of a host that stands still.
fn waiting(env: &NixEnv, host: &Host, path: &str) -> Child {
    let mut command = env.program();
    command
        .arg("--query")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = [0];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut line)
        .unwrap();
    // Connected, with nothing owed.
    writeln!(child.stdin.as_mut().unwrap(), "have {path}").unwrap();
    let mut answer = vec![0; path.len() + 2];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut answer)
        .unwrap();
    host.sshd.freeze();
    writeln!(
        child.stdin.as_mut().unwrap(),
        "have /nix/store/{:032}-absent",
        0
    )
    .unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none(), "it waits");
    child
}

fn ends(mut child: Child, host: &Host, env: &NixEnv, path: &str) -> Option<i32> {
    let start = Instant::now();
    let own = descendants(child.id());
    wait_until("its end", || child.try_wait().unwrap().is_some());
    // One that waits for the host does so for 60 s and more.
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
    wait_until("what it has started ends too", || {
        own.iter()
            .all(|pid| !std::fs::exists(format!("/proc/{pid}")).unwrap())
    });
    host.sshd.thaw();
    // The next run finds all in order, the connection included.
    let mut next = env.program();
    next.arg("--query");
    let output = run_with_input(next, format!("have {path}\n").as_bytes(), support::SHORT);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("\n{path}\n\n")
    );
    child.wait().unwrap().code()
}

#[test]
fn signals_and_a_closed_stdout_end_it_at_once() {
    support::default_signals();
    let host = Host::new();
    let path = host.store.add_text("text", "text", &[]);
    let env = NixEnv::new();
    let _masters = env.masters();
    env.configure(&[host.trusted()], "");
    for (signal, status) in [(Signal::TERM, 128 + 15), (Signal::INT, 128 + 2)] {
        let child = waiting(&env, &host, &path);
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(ends(child, &host, &env, &path), Some(status));
    }
    let mut child = waiting(&env, &host, &path);
    drop(child.stdout.take());
    assert_eq!(ends(child, &host, &env, &path), Some(0));
    // What Nix does at its end.
    let mut child = waiting(&env, &host, &path);
    child.kill().unwrap();
    assert_eq!(ends(child, &host, &env, &path), None);
    assert_eq!(host.sshd.logins(), 1);
}

#[test]
fn the_end_of_its_input_ends_it() {
    let host = Host::new();
    let env = NixEnv::new();
    let _masters = env.masters();
    env.configure(&[host.trusted()], "");
    for front_end in [&["--query"][..], &["--serve", "--write"]] {
        let mut command = env.program();
        command.args(front_end);
        let output = run_with_input(command, b"", support::SHORT);
        assert!(output.status.success(), "{front_end:?}");
    }
}
