//! One transfer from several hosts, and one that goes on elsewhere: each is told of as what it is.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::nix::slow;
use crate::support::{Host, NixEnv, kill_tree, percent_encode, run_with_timeout, tool, wait_until};

const LIMIT: Duration = Duration::from_secs(120);

const MIB: u64 = 1 << 20;

/// Both hosts. The first one answers a moment after the other one, so that both have when the answer counts.
fn both(hosts: &[Host; 2], env: &NixEnv) -> [String; 2] {
    let program = env.folder().join("later-nix-store");
    let text = format!(
        "#!/bin/sh\nsleep 0.1\nexec {} \"$@\"\n",
        tool("nix-store").display()
    );
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let program = percent_encode(program.to_str().unwrap());
    let later = format!("trusted=true&remote-program={program}");
    [hosts[0].url(&later), hosts[1].trusted()]
}

/// Two hosts with the same large path.
fn twins(size: u64) -> ([Host; 2], String) {
    let hosts = [Host::new(), Host::new()];
    let [path, other] = [0, 1].map(|at| hosts[at].store.big("large", size));
    assert_eq!(path, other);
    (hosts, path)
}

/// Asks until it is known that both hosts have it: the first one that says so is enough for an answer.
fn both_are_known(env: &NixEnv, path: &str) {
    let known = || {
        let mut clear = env.program();
        clear.args(["cache", "clear"]);
        run_with_timeout(clear, LIMIT);
        let mut look = env.program();
        look.args(["get", "--dry-run", path]);
        run_with_timeout(look, LIMIT);
        let mut stats = env.program();
        stats.args(["cache", "stats", "--json"]);
        let output = run_with_timeout(stats, LIMIT);
        let stats: Value = serde_json::from_slice(&output.stdout).unwrap();
        let answers = stats["answers"].as_array().unwrap();
        answers.iter().filter(|host| host["has"] == 1).count() == 2
    };
    wait_until("both have told", known);
}

/// How messages name a host.
fn name(host: &Host) -> String {
    format!("{}@127.0.0.1:{}", host.sshd.user(), host.sshd.port())
}

/// What is told on stderr.
fn said(command: Command) -> String {
    let output = run_with_timeout(command, LIMIT);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    stderr
}

/// MiB by host, in `from A (12.3 MiB), B (45.6 MiB)` at the end of a text.
fn by_host(text: &str) -> Vec<(String, f64)> {
    let (_, list) = text
        .rsplit_once(" from ")
        .unwrap_or_else(|| panic!("{text}"));
    // What was compressed on its way is told behind the hosts, in brackets of its own.
    let list = list.split_once(") (").map_or(list, |(hosts, _)| hosts);
    let one = |item: &str| {
        let (host, size) = item.split_once(" (")?;
        let size = size.trim_end_matches(')').strip_suffix(" MiB")?;
        Some((host.to_owned(), size.parse().ok()?))
    };
    let all = list.split(", ").map(one).collect::<Option<_>>();
    all.unwrap_or_else(|| panic!("no bytes by host: {text}"))
}

/// All hosts are named, and what they sent is all that came.
#[track_caller]
fn assert_shares(text: &str, hosts: &[Host; 2], mib: f64) {
    let shares = by_host(text);
    for host in hosts {
        let own = shares.iter().find(|(other, _)| *other == name(host));
        assert!(own.is_some_and(|(_, mib)| *mib > 1.0), "{text}");
    }
    let sum: f64 = shares.iter().map(|(_, mib)| mib).sum();
    assert!((sum - mib).abs() < 0.3, "{sum}: {text}");
}

fn get(env: &NixEnv, arguments: &[&str], path: &str, to: &Path) -> Command {
    let mut command = env.program();
    command
        .args(arguments)
        .args(["get", "--to"])
        .arg(to)
        .arg(path);
    command
}

#[test]
fn get_shows_how_much_came_from_each_host() {
    let (hosts, path) = twins(100 * MIB);
    let env = NixEnv::new();
    let _masters = env.masters();
    env.configure(&both(&hosts, &env), "");
    both_are_known(&env, &path);
    let stderr = said(get(&env, &["-v"], &path, &env.folder().join("out")));
    let summary = stderr.lines().find(|line| line.contains("fetched 1 path,"));
    let summary = summary.unwrap_or_else(|| panic!("{stderr}"));
    let (summary, _) = summary.split_once("; 0 were there").unwrap();
    assert_shares(summary, &hosts, 100.0);
    let line = stderr.lines().find(|line| line.contains("large: done, "));
    assert_shares(line.unwrap_or_else(|| panic!("{stderr}")), &hosts, 100.0);

    let json = ["--log-format", "internal-json"];
    let mut urls = hosts.each_ref().map(|host| format!("ssh://{}", name(host)));
    urls.sort();
    let names_both = |event: &Value| {
        let from = event["fields"][1].as_str().unwrap_or_default();
        let mut from: Vec<_> = from.split(", ").collect();
        from.sort_unstable();
        event["type"] == 100 && from == urls
    };
    // On a loaded machine one host may be so slow that it has no part in it: then it is tried again.
    let (stderr, events) = (0..5)
        .map(|number| {
            let out = env.folder().join(format!("again-{number}"));
            let stderr = said(get(&env, &json, &path, &out));
            let event = |line: &str| {
                let json = line.strip_prefix("@nix ").unwrap();
                serde_json::from_str::<Value>(json).unwrap()
            };
            let events: Vec<Value> = stderr.lines().map(event).collect();
            (stderr, events)
        })
        .find(|(_, events)| events.iter().any(names_both))
        .expect("an event that names both hosts");
    let messages = events.iter().filter_map(|event| event["msg"].as_str());
    let summary = messages
        .filter_map(|text| text.split_once("; 0 were there"))
        .next();
    assert_shares(
        summary.unwrap_or_else(|| panic!("{stderr}")).0,
        &hosts,
        100.0,
    );
}

#[test]
fn an_engine_shows_it_too() {
    let (hosts, path) = twins(100 * MIB);
    let env = NixEnv::new();
    let _engines = env.configure_with_engine(&both(&hosts, &env), "");
    both_are_known(&env, &path);
    let mut command = env.program();
    command.args(["-v", "--substitute", &path]);
    command.arg(env.folder().join("out"));
    let stderr = said(command);
    assert!(!stderr.contains("without an engine"), "{stderr}");
    let line = stderr.lines().find(|line| line.contains("large: done, "));
    assert_shares(line.unwrap_or_else(|| panic!("{stderr}")), &hosts, 100.0);
}

#[test]
fn what_goes_on_without_its_engine_has_not_failed() {
    let host = Host::new();
    let env = NixEnv::new();
    let path = host.store.big("large", 7 * MIB);
    let engines = env.configure_with_engine(&[slow(&host, env.folder())], "");
    let (out, stderr) = (env.folder().join("out"), env.folder().join("stderr"));
    let mut command = env.program();
    command.args(["--substitute", &path]).arg(&out);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(fs::File::create(&stderr).unwrap());
    let mut child = command.spawn().unwrap();
    let said = || fs::read_to_string(&stderr).unwrap();
    wait_until("it is shown", || said().contains(" of 7.0 MiB ("));
    kill_tree(engines.pid());
    assert!(child.wait().unwrap().success(), "{}", said());
    let said = said();
    assert!(!said.contains("failed"), "{said}");
    assert_eq!(
        said.matches("large: done, 7.0 MiB in ").count(),
        1,
        "{said}"
    );
}
