//! Messages for whoever reads stderr: Nix's own form where Lix reads it, and each once for a command.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use ssh_substituter::model::StorePath;
use ssh_substituter::wire::put_u64;
use ssh_substituter::wire::serve::{CLIENT_MAGIC, Request, Version};

use crate::nix::nobody;
use crate::support::{NixEnv, run_with_timeout};

/// A valid path that nobody has.
const NOBODYS: &str = "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-nobodys";

/// What the reader of an answer waits for at most.
const LIMIT: Duration = Duration::from_secs(30);

/// Hello, and the question what a path is.
fn question() -> Vec<u8> {
    let mut input = Vec::new();
    put_u64(&mut input, CLIENT_MAGIC);
    put_u64(&mut input, Version::NEWEST.number());
    let paths = vec![StorePath::parse(NOBODYS).unwrap()];
    Request::QueryPathInfos { paths }.put(&mut input);
    input
}

/// Bytes of the reply: hello, and that there is no such path.
const REPLY: usize = 16 + 8;

/// `--serve` with one socket as standard input and output, as Lix starts it; the other end of the socket.
fn serve_on_a_socket(env: &NixEnv) -> (Child, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(LIMIT)).unwrap();
    let theirs = OwnedFd::from(theirs);
    let mut command = env.program();
    command.arg("--serve");
    command.stdin(theirs.try_clone().unwrap()).stdout(theirs);
    command.stderr(Stdio::piped());
    (command.spawn().unwrap(), ours)
}

/// Asks, and reads the answer.
fn ask(stream: &mut (impl Read + Write)) {
    stream.write_all(&question()).unwrap();
    let mut reply = [0; REPLY];
    stream.read_exact(&mut reply).unwrap();
}

/// What it has said, once its input has ended.
fn said(mut child: Child) -> String {
    let mut stderr = String::new();
    let pipe = child.stderr.as_mut().unwrap();
    pipe.read_to_string(&mut stderr).unwrap();
    assert!(child.wait().unwrap().success(), "{stderr}");
    stderr
}

#[test]
fn lix_gets_messages_in_the_form_of_nix() {
    for engine in [false, true] {
        let env = NixEnv::new();
        let host = nobody();
        let _engines = match engine {
            true => Some(env.configure_with_engine(std::slice::from_ref(&host), "")),
            false => {
                env.configure(std::slice::from_ref(&host), "");
                None
            }
        };
        let (child, mut socket) = serve_on_a_socket(&env);
        ask(&mut socket);
        drop(socket);
        let stderr = said(child);
        let messages: Vec<Value> = stderr
            .lines()
            .map(|line| {
                line.strip_prefix("@nix ")
                    .unwrap_or_else(|| panic!("{stderr}"))
            })
            .map(|json| serde_json::from_str(json).unwrap())
            .collect();
        assert_eq!(messages.len(), 1, "{stderr}");
        let message = &messages[0];
        assert_eq!(
            (&message["action"], &message["level"]),
            (&"msg".into(), &1.into())
        );
        let text = message["msg"].as_str().unwrap();
        assert!(
            text.starts_with("warning: nobody@127.0.0.1:")
                && text.contains("connection refused (hint: "),
            "{text}"
        );
    }
}

#[test]
fn others_get_plain_lines() {
    let env = NixEnv::new();
    env.configure(&[nobody()], "");
    let mut command = env.program();
    command.arg("--serve");
    let output = crate::support::run_with_input(command, &question(), LIMIT);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.starts_with("ssh-substituter: warning: nobody@"),
        "{stderr}"
    );
}

/// `--serve` as Nix starts it: with pipes.
fn serve(env: &NixEnv, arguments: &[&str]) -> Child {
    let mut command = env.program();
    command.args(arguments).arg("--serve");
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_warning_is_shown_once_for_all_processes_of_a_command() {
    for engine in [false, true] {
        let env = NixEnv::new();
        let hosts = [nobody(), nobody()];
        let _engines = match engine {
            true => Some(env.configure_with_engine(&hosts, "")),
            false => {
                env.configure(&hosts, "");
                None
            }
        };
        // As Nix does with max-connections=8: all at once, and they live as long as its command.
        let mut children: Vec<Child> = (0..8).map(|_| serve(&env, &[])).collect();
        for child in &mut children {
            child
                .stdin
                .as_mut()
                .unwrap()
                .write_all(&question())
                .unwrap();
        }
        for child in &mut children {
            let mut reply = [0; REPLY];
            child
                .stdout
                .as_mut()
                .unwrap()
                .read_exact(&mut reply)
                .unwrap();
        }
        for child in &mut children {
            drop(child.stdin.take());
        }
        let all: String = children.into_iter().map(said).collect();
        let count = |host: &str| {
            let name = host.trim_start_matches("ssh://").split('?').next().unwrap();
            all.lines()
                .filter(|line| line.contains(&format!(": {name}: ")))
                .count()
        };
        for host in &hosts {
            assert_eq!(count(host), 1, "engine {engine}: {all}");
        }
    }
}

#[test]
fn another_command_is_warned_again() {
    let env = NixEnv::new();
    env.configure(&[nobody()], "no-such-setting = 1\n");
    for _ in 0..2 {
        let mut child = serve(&env, &[]);
        drop(child.stdin.take());
        let stderr = said(child);
        assert!(
            stderr.contains("unknown setting \"no-such-setting\""),
            "{stderr}"
        );
    }
}

/// `--substitute`, which Nix 1.x starts once for each path.
fn substitute(env: &NixEnv, name: &str) -> Command {
    let mut command = env.program();
    command.arg("--substitute").arg(format!("{NOBODYS}{name}"));
    command.arg(env.folder().join(name));
    command
}

#[test]
fn a_warning_is_not_shown_for_each_path_of_nix_1() {
    let env = NixEnv::new();
    env.configure(&[nobody()], "no-such-setting = 1\n");
    let said: Vec<String> = ["a", "b", "c"]
        .iter()
        .map(|name| {
            let output = run_with_timeout(substitute(&env, name), LIMIT);
            String::from_utf8(output.stderr).unwrap()
        })
        .collect();
    let all = said.concat();
    for words in [
        "no-such-setting",
        "connection refused",
        "no host is asked for now",
    ] {
        assert_eq!(all.matches(words).count(), 1, "{words}: {all}");
    }
    // What has become of each path is said of each.
    assert_eq!(all.matches("error: ").count(), 3, "{all}");
}
