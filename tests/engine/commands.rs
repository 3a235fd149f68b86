//! `engine`, `engine status` and `engine stop`, from the command line and by a service manager.

use std::fs::{self, DirBuilder};
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use super::site::{Running, Site};
use super::support::{Host, SHORT, run, run_with_timeout, wait_until};
use super::talk::FrontEnd;

/// Two front ends, each with an engine of its own.
fn two(site: &Site) -> [FrontEnd; 2] {
    ["/a/agent", "/b/agent"].map(|agent| {
        let mut command = site.command();
        command.env("SSH_AUTH_SOCK", agent);
        let mut front_end = FrontEnd::start(command);
        site.fetch(&mut front_end, 0);
        front_end
    })
}

#[test]
fn without_any_there_is_nothing_to_show_and_nothing_to_stop() {
    let site = Site::new("");
    assert!(site.engines.status().is_empty());
    assert_eq!(site.engines.stop(), "");
    // What is left of one that was killed is none.
    site.visit(0);
    site.kill();
    assert_eq!(site.sockets().len(), 1);
    assert!(site.engines.status().is_empty());
    assert_eq!(site.engines.stop(), "");
}

#[test]
fn status_shows_each_engine() {
    let site = Site::new("");
    let front_ends = two(&site);
    let status = site.engines.status();
    assert_eq!(status.len(), 2);
    let mut pids: Vec<u32> = Vec::new();
    for engine in &status {
        pids.push(engine["pid"].as_u64().expect("a pid") as u32);
        assert_eq!(engine["clients"], 1, "{engine}");
        assert_eq!(engine["callers"], 1, "{engine}");
        assert_eq!(engine["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(engine["delivered"]["paths"], 1, "{engine}");
        assert_eq!(engine["transfers"], serde_json::json!([]));
        let sshd = &site.host.sshd;
        let name = format!("{}@127.0.0.1:{}", sshd.user(), sshd.port());
        assert_eq!(engine["hosts"][0]["host"], name);
        assert_eq!(engine["hosts"][0]["well"], true);
        let socket = engine["socket"].as_str().expect("a path");
        assert!(site.sockets().iter().any(|path| path.as_os_str() == socket));
    }
    pids.sort_unstable();
    assert_eq!(pids, site.processes());
    for front_end in front_ends {
        front_end.end_quietly();
    }
}

#[test]
fn stop_ends_all_and_whoever_is_attached_goes_on() {
    let site = Site::new("");
    let big = site.host.store.big("big", 24 << 20);
    let mut front_ends = two(&site);
    let mut expected: Vec<_> = site.processes();
    let mut stopped = None;
    let mut pieces = 0;
    // One is in the middle of a NAR, one waits for its caller.
    let talk = &mut front_ends[0].talk;
    assert_eq!(talk.infos(&[&big]).len(), 1);
    let hash = talk.dump_slowly(&big, || {
        pieces += 1;
        if pieces == 20 {
            stopped = Some(site.engines.stop());
            assert!(site.processes().is_empty());
        }
    });
    assert_eq!(hash, site.host.store.nar_hash(&big));
    let stopped = stopped.expect("it came in many pieces");
    let mut lines: Vec<&str> = stopped.lines().collect();
    lines.sort_unstable_by_key(|line| line.len());
    expected.sort_by_key(u32::to_string);
    for pid in expected {
        let line = format!("engine {pid} ends");
        assert!(lines.contains(&&*line), "{stopped}");
    }
    assert_eq!(lines.len(), 2, "{stopped}");
    assert!(site.sockets().is_empty());
    for mut front_end in front_ends {
        site.fetch(&mut front_end, 1);
        site.fetch(&mut front_end, 2);
        // Whoever has begun without an engine goes on so.
        assert!(site.processes().is_empty());
        front_end.end_quietly();
    }
}

#[test]
fn a_second_engine_by_hand_says_that_there_is_one() {
    let site = Site::new("");
    let mut first = by_hand(&site, Stdio::null());
    wait_until("there is a socket", || !site.sockets().is_empty());
    let mut command = site.env.program();
    command.arg("engine");
    let output = run_with_timeout(command, SHORT);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let socket = site.sockets().remove(0);
    let expected = format!(
        "ssh-substituter: error: an engine runs already, on {}\n",
        socket.display()
    );
    assert_eq!(said, expected);
    // The first one has noticed nothing, and is the one that is used.
    let mut front_end = site.front_end();
    site.fetch(&mut front_end, 0);
    assert_eq!(site.clients(), [(first.0.id(), 1)]);
    site.engines.stop();
    assert!(first.0.wait().expect("wait for an engine").success());
    front_end.end_quietly();
}

fn by_hand(site: &Site, stdin: Stdio) -> Running {
    let mut command = site.env.program();
    command.args(["engine", "-v"]).stdin(stdin);
    command.stderr(Stdio::piped());
    let mut child = command.spawn().expect("start an engine");
    let mut line = String::new();
    let stderr = child.stderr.take().expect("stderr is piped");
    let mut lines = BufReader::new(stderr);
    while !line.contains(" serves on ") {
        line.clear();
        let len = lines.read_line(&mut line).expect("read stderr");
        assert!(len > 0, "the engine ended");
    }
    // It goes on to write there.
    std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
    Running(child)
}

/// The socket that a service manager would listen on.
fn managed(site: &Site) -> UnixListener {
    let folder = site.runtime();
    if !folder.exists() {
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.expect("make the runtime folder");
    }
    let path = folder.join("engine");
    UnixListener::bind(path).expect("listen as a service manager does")
}

fn handed(listener: &UnixListener) -> Stdio {
    let copy = listener.try_clone().expect("clone a socket");
    OwnedFd::from(copy).into()
}

#[test]
fn the_engine_of_a_service_manager_serves_its_own_configuration() {
    let site = Site::new("");
    let listener = managed(&site);
    let mut engine = by_hand(&site, handed(&listener));
    let mut front_end = site.front_end();
    site.fetch(&mut front_end, 0);
    assert_eq!(site.clients(), [(engine.0.id(), 1)]);
    assert!(site.sockets().is_empty());

    // Another configuration is not for it.
    let other = Host::new();
    let path = other.store.add_text("other", "only there", &[]);
    let _more = site.env.configure_with_engine(&[other.trusted()], "");
    let mut stranger = site.front_end();
    stranger.talk.fetch(&path, &other.store);
    assert_eq!(site.sockets().len(), 1);
    assert_eq!(site.processes().len(), 2);
    stranger.end_quietly();

    let mut stop: Command = site.env.program();
    stop.args(["engine", "stop"]);
    assert_eq!(run(stop, SHORT).lines().count(), 2);
    assert!(engine.0.wait().expect("wait for an engine").success());
    // The socket is the service manager's, who starts another one when somebody comes.
    assert!(site.runtime().join("engine").exists());
    site.fetch(&mut front_end, 1);
    front_end.end_quietly();
    drop(listener);
    fs::remove_file(site.runtime().join("engine")).expect("remove a socket");
}

#[test]
fn a_service_manager_that_starts_nothing_holds_nobody_up_for_ever() {
    let site = Site::new("");
    let listener = managed(&site);
    site.visit(0);
    assert_eq!(site.sockets().len(), 1);
    drop(listener);
    fs::remove_file(site.runtime().join("engine")).expect("remove a socket");
}
