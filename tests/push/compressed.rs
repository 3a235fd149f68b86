//! What is sent goes compressed: real shells, a real `zstd` and such that fail.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::process::Signal;

use super::faults::{kill, start};
use super::support::{
    DagOptions, Got, Host, Relay, Scratch, Sshd, Store, descendants, tool, wait_until,
};
use super::{Site, parts, verified};

const MIB: usize = 1 << 20;

/// Has what is sent compressed from the beginning.
fn compressing(host: Host) -> Site {
    with_params(host, "compression=zstd")
}

fn with_params(host: Host, params: &str) -> Site {
    let site = Site::of(vec![host]);
    let hosts = site.hosts[0].url(params);
    let lines = format!("ssh-substituter-push-hosts = {hosts}");
    site.env.configure(&[], &lines);
    site
}

/// Bytes on the wire, those that were compressed, and what they came to.
fn sizes(got: &Got) -> [u64; 3] {
    let json = got.json();
    let host = &json["hosts"][0];
    let compressed = &host["compressed"];
    [
        &host["wireBytes"],
        &compressed["narBytes"],
        &compressed["wireBytes"],
    ]
    .map(|number| number.as_u64().unwrap())
}

/// Nothing but progress was told.
fn is_silent(got: &Got) {
    let said = got.stderr();
    assert!(!said.contains("ssh-substituter: "), "{said}");
}

#[test]
fn words_go_compressed_and_what_does_not_get_smaller_as_it_is() {
    let site = compressing(Host::new());
    let dag = site.store.dag(60, DagOptions::default());
    let words = site.store.words("words", 20 * MIB);
    let random = site.store.big("random", 12 << 20);
    let got = site.push(&["--json", &dag.root, &words, &random]).status(0);
    is_silent(&got);
    assert_eq!(verified(site.there()), site.store.all_paths());
    let [wire, nars, compressed] = sizes(&got);
    let (least, most) = (20 << 20, 26 << 20);
    assert!((least..most).contains(&nars), "{nars}");
    assert!(compressed < nars / 2, "{compressed} of {nars}");
    assert!(wire < compressed + (14 << 20), "{wire}");

    let got = site.push(&["--json", &words, &random]).status(0);
    assert_eq!(sizes(&got), [0, 0, 0]);
    let more = site.store.words("more", 3 * MIB);
    let got = site.push(&[&more]).status(0);
    got.says(&[
        "sent 1 path, 3.0 MiB (",
        " on the wire; 3.0 MiB compressed to ",
    ]);
}

#[test]
fn the_url_and_the_link_decide() {
    // Nothing that is fast.
    let site = with_params(Host::new(), "");
    let words = site.store.words("words", 12 * MIB);
    let got = site.push(&["--json", &words]).status(0);
    assert_eq!(sizes(&got)[1..], [0, 0]);
    // A slow link is found slow on the way; not so where the URL says that nothing is compressed.
    for (params, compressed) in [("", true), ("compression=none", false)] {
        let site = Site::new(1);
        let port = site.hosts[0].sshd.port();
        let relay = Relay::upwards(port, 4_000_000);
        let url = relay.url(port, &site.hosts[0].url(params));
        let hosts = format!("ssh-substituter-push-hosts = {url}");
        site.env.configure(&[], &hosts);
        let small = site.store.dag(40, DagOptions::default());
        let words = site.store.words("words", 60 * MIB);
        let got = site.push(&["--json", &small.root, &words]).status(0);
        is_silent(&got);
        assert_eq!(verified(site.there()), site.store.all_paths());
        let came = relay.came();
        assert_eq!(sizes(&got)[1] > 0, compressed, "{params}: {}", got.stdout());
        assert_eq!(came < 45 << 20, compressed, "{params}: {came}");
    }
}

#[test]
fn what_does_not_get_smaller_is_not_begun_anew_when_the_link_is_found_slow() {
    let site = Site::new(1);
    let port = site.hosts[0].sshd.port();
    let relay = Relay::upwards(port, 6_000_000);
    let url = relay.url(port, &site.hosts[0].url(""));
    let hosts = format!("ssh-substituter-push-hosts = {url}");
    site.env.configure(&[], &hosts);
    let words = site.store.words("words", 60 * MIB);
    let random: [_; 2] = ["one", "two"].map(|name| site.store.big(name, 30 << 20));
    let got = site
        .push(&["-vv", &words, &random[0], &random[1]])
        .status(0);
    let said = got.stderr();
    assert!(
        said.contains("so they are compressed from now on"),
        "{said}"
    );
    for path in &random {
        let read = format!("{path} is read from 0");
        assert_eq!(said.matches(&read).count(), 1, "{said}");
    }
    assert_eq!(verified(site.there()), site.store.all_paths());
}

/// A folder with a program: this script, which gets the real one as `$real`.
fn fake(name: &str, script: &str) -> Scratch {
    let folder = Scratch::new();
    let real = tool(name).display().to_string();
    let text = format!("#!/bin/sh\nreal={real}\n{script}\n");
    let file = folder.path().join(name);
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
    folder
}

/// A host whose shell finds the programs in that folder first.
fn host_with(folder: &Path) -> Host {
    let path = format!(
        "{}:{}",
        folder.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    Host {
        store: Store::new(),
        sshd: Sshd::builder().env("PATH", &path).start(),
    }
}

#[test]
fn a_zstd_that_fails_costs_no_path() {
    for (name, script) in [
        ("fails", "exit 1"),
        ("is killed", "kill -9 $$"),
        ("passes on what it gets", "exec cat"),
        ("ends early", "\"$real\" -dcq | head -c 5000"),
        (
            "loses the end",
            "\"$real\" -dcq | head -c 500000; cat >/dev/null",
        ),
        (
            "changes a word",
            "\"$real\" -dcq | sed 's/the/THE/;s/\\([a-z]\\)e/\\1E/'",
        ),
        (
            "is killed now and then",
            "\"$real\" -dcq; [ $(($$ % 3)) = 0 ] && kill -9 $$",
        ),
        ("takes nothing", "sleep 1000 & exec <&-; wait"),
    ] {
        let folder = fake("zstd", script);
        let site = compressing(host_with(folder.path()));
        let hosts = site.hosts[0].url("compression=zstd");
        let lines = format!("stalled-download-timeout = 3\nssh-substituter-push-hosts = {hosts}");
        site.env.configure(&[], &lines);
        let dag = site.store.dag(30, DagOptions::default());
        let words = site.store.words("words", 6 * MIB);
        let got = site.push(&["-v", &dag.root, &words]).status(0);
        assert_eq!(
            verified(site.there()),
            site.store.all_paths(),
            "{name}: {}",
            got.stderr()
        );
        let said = got.stderr();
        let told = said.matches("everything is sent as it is").count();
        assert!(told <= 1, "{name}: {said}");
        if name != "is killed now and then" {
            assert_eq!(told, 1, "{name}: {said}");
        }
    }
}

#[test]
fn an_account_that_cannot_gets_all_as_it_is_silently() {
    let store = Store::new();
    let line = format!(
        "ForceCommand nix-store --store '{}' --serve --write",
        store.uri()
    );
    let forced = Host {
        store,
        sshd: Sshd::builder().line(line).start(),
    };
    let greedy = fake("head", "exec \"$real\" -c 6");
    for host in [forced, host_with(greedy.path())] {
        let site = compressing(host);
        let dag = site.store.dag(30, DagOptions::default());
        let words = site.store.words("words", 6 * MIB);
        let got = site.push(&["--json", &dag.root, &words]).status(0);
        is_silent(&got);
        assert_eq!(sizes(&got)[1..], [0, 0]);
        assert_eq!(verified(site.there()), site.store.all_paths());
        let more = site.store.words("more", MIB);
        let got = site.push(&["-v", &more]).status(0);
        let told = got.stderr().matches("everything is sent as it is").count();
        assert_eq!(told, 1, "{}", got.stderr());
    }
}

#[test]
fn what_only_the_shell_says_is_there_is_sent_again() {
    // Behind the shell another store answers.
    let other = Store::new();
    let script = format!(
        "[ \"$LC_ALL\" != C ]||exec \"$real\" --serve --write --store '{}'\nexec \"$real\" \"$@\"",
        other.uri()
    );
    let folder = fake("nix-store", &script);
    let site = compressing(host_with(folder.path()));
    let dag = site.store.dag(30, DagOptions::default());
    let words = site.store.words("words", 6 * MIB);
    let got = site.push(&["-v", &dag.root, &words]).status(0);
    assert_eq!(verified(site.there()), site.store.all_paths());
    got.says(&["what it took by a shell is not there", "sent 31 paths"]);
    assert_eq!(verified(&other), site.store.all_paths());
}

#[test]
fn a_path_that_is_refused_or_changes_costs_itself() {
    let site = compressing(Host::new());
    let low = site.store.add_text("low", "low", &[]);
    let top = site.store.add_text("top", "top", &[&low]);
    let over = site.store.add_text("over", "over", &[&top]);
    let fine: Vec<_> = (0..30)
        .map(|number| site.store.add_text(&format!("fine-{number}"), "fine", &[]))
        .collect();
    let words = site.store.words("words", 5 * MIB);
    let mut args = vec!["--no-closure", &*top, &over, &words];
    args.extend(fine.iter().map(String::as_str));
    let got = site.push(&args).status(4);
    got.says(&[
        "does not take",
        &top,
        "is not valid",
        "1 path that refers to these was not sent either",
    ]);
    assert_eq!(verified(site.there()).len(), 31);
    // Files that have changed.
    let [small, large] = [
        site.store.big("small", 1000),
        site.store.words("large", 6 * MIB),
    ];
    site.store.corrupt(&small);
    site.store.corrupt(&large);
    let last = site.store.words("last", 2 * MIB);
    let got = site.push(&[&small, &large, &last]).status(4).says(&[
        &format!("{small} is not sent: its content has changed here"),
        &format!("{large} is not sent: its content has changed here"),
    ]);
    assert_eq!(got.stdout(), format!("{last}\n"));
    assert_eq!(verified(site.there()).len(), 32);
}

#[test]
fn a_stream_that_is_cut_leaves_nothing_half_and_nothing_running() {
    let site = Site::new(1);
    let port = site.hosts[0].sshd.port();
    let relay = Relay::upwards(port, 5_000_000);
    let url = relay.url(port, &site.hosts[0].url("compression=zstd"));
    site.env
        .configure(&[], &format!("ssh-substituter-push-hosts = {url}"));
    let dag = parts(&site.store, 40, 600_000);
    let sessions = |site: &Site| {
        descendants(site.hosts[0].sshd.pid())
            .into_iter()
            .filter(|pid| {
                let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                !line.starts_with("sshd")
            })
            .collect::<Vec<_>>()
    };
    let is_program = |pid: &u32, name: &str| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(name)
    };
    let log = site.file("log");
    // What serves is killed, then what is in front of it.
    for (name, roots) in [("nix-store", &dag.paths[..20]), ("head", &dag.paths[20..])] {
        let args: Vec<&str> = roots.iter().map(String::as_str).collect();
        let mut child = start(site.command(&args), &log);
        wait_until("something that is sent", || {
            sessions(&site).iter().any(|pid| is_program(pid, "head"))
        });
        for pid in sessions(&site) {
            if is_program(&pid, name) {
                kill(pid, Signal::KILL);
            }
        }
        wait_until("its end", || child.try_wait().unwrap().is_some());
        let said = fs::read_to_string(&log).unwrap();
        assert!(child.wait().unwrap().success(), "{said}");
    }
    assert_eq!(verified(site.there()), site.store.all_paths());
    wait_until("the end of the other side", || sessions(&site).is_empty());

    // We are killed.
    let dag = parts(&site.store, 41, 600_001);
    let mut child = start(site.command(&[&dag.root]), &log);
    wait_until("something that is sent", || {
        sessions(&site).iter().any(|pid| is_program(pid, "head"))
    });
    kill(child.id(), Signal::KILL);
    child.wait().unwrap();
    wait_until("the end of the other side", || sessions(&site).is_empty());
    verified(site.there());
    site.push(&[&dag.root]).status(0);
    assert_eq!(verified(site.there()), site.store.all_paths());
}
