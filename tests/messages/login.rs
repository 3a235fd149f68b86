//! Hosts that are reached and let nobody in.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::caller::{Caller, NOBODYS, name, ssh};
use super::support::{Daemon, SHORT, Scratch, Sshd, percent_encode, run, tool, wait_until};

/// A key that opens nothing.
fn other_key(scratch: &Scratch) -> PathBuf {
    let key = scratch.path().join("other");
    let mut command = Command::new(tool("ssh-keygen"));
    command
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key);
    run(command, SHORT);
    key
}

fn host(sshd: &Sshd, parameters: &str) -> String {
    format!("ssh://{}?{parameters}", name(sshd))
}

fn encoded(path: &Path) -> String {
    percent_encode(path.to_str().expect("UTF-8 path"))
}

#[test]
fn an_unknown_host_key() {
    let sshd = Sshd::start();
    let run = Caller::of(&host(&sshd, ""))
        .ssh_options("-o UserKnownHostsFile=/dev/null -o GlobalKnownHostsFile=/dev/null")
        .substitute(NOBODYS);
    run.fails_with(
        &name(&sshd),
        "its host key is not known (hint",
        &[
            &format!("'{}true'", ssh(&sshd)),
            "base64-ssh-public-host-key",
            "root for the daemon",
        ],
    );
}

#[test]
fn a_changed_host_key() {
    let (sshd, other) = (Sshd::start(), Sshd::start());
    let scratch = Scratch::new();
    let line = format!("[127.0.0.1]:{} {}\n", sshd.port(), other.host_key());
    let known = scratch.write("known_hosts", line);
    let options = format!(
        "-o UserKnownHostsFile={} -o GlobalKnownHostsFile=/dev/null",
        known.display()
    );
    let run = Caller::of(&host(&sshd, ""))
        .ssh_options(&options)
        .substitute(NOBODYS);
    run.fails_with(
        &name(&sshd),
        "its host key is not the known one (hint",
        &[
            "ssh-keygen -f \"",
            &known.display().to_string(),
            &format!("-R \"[127.0.0.1]:{}\"'", sshd.port()),
        ],
    );
}

#[test]
fn another_host_key_than_the_one_in_the_url() {
    let (sshd, other) = (Sshd::start(), Sshd::start());
    let key = percent_encode(&other.base64_public_host_key());
    let url = host(&sshd, &format!("base64-ssh-public-host-key={key}"));
    Caller::of(&url).substitute(NOBODYS).fails_with(
        &name(&sshd),
        "its host key is not the known one (hint",
        &[
            &format!("'ssh-keyscan -p {} 127.0.0.1'", sshd.port()),
            "base64-ssh-public-host-key",
        ],
    );
}

fn pinned(sshd: &Sshd) -> String {
    let key = percent_encode(&sshd.base64_public_host_key());
    format!("base64-ssh-public-host-key={key}")
}

#[test]
fn a_key_that_is_not_let_in() {
    let (sshd, scratch) = (Sshd::start(), Scratch::new());
    let key = other_key(&scratch);
    let url = host(
        &sshd,
        &format!("{}&ssh-key={}", pinned(&sshd), encoded(&key)),
    );
    let run = Caller::of(&url).substitute(NOBODYS);
    let key = key.display();
    let port = sshd.port();
    run.fails_with(
        &name(&sshd),
        &format!("permission denied (tried: key {key}; the host accepts: publickey) (hint"),
        &[&format!(
            "'ssh-copy-id -i {key} -p {port} {}@127.0.0.1'",
            sshd.user()
        )],
    );
}

#[test]
fn a_key_that_is_not_there() {
    let (sshd, scratch) = (Sshd::start(), Scratch::new());
    let key = scratch.path().join("none");
    let url = host(
        &sshd,
        &format!("{}&ssh-key={}", pinned(&sshd), encoded(&key)),
    );
    let run = Caller::of(&url).substitute(NOBODYS);
    run.fails_with(
        &name(&sshd),
        "permission denied (",
        &[&format!("Identity file {} not accessible", key.display())],
    );
}

#[test]
fn an_agent_that_holds_no_key_for_it() {
    let (sshd, scratch) = (Sshd::start(), Scratch::new());
    let socket = scratch.path().join("agent");
    let args = [Path::new("-D"), Path::new("-a"), &socket];
    let _agent = Daemon::start(tool("ssh-agent"), args, &scratch.path().join("log"));
    wait_until("the agent listens", || socket.exists());
    let run = Caller::of(&host(&sshd, &pinned(&sshd)))
        .option("ssh-auth-sock", socket.to_str().expect("UTF-8 path"))
        .substitute(NOBODYS);
    let warning = run.fails_with(
        &name(&sshd),
        "permission denied (tried: ",
        &["ssh-key=/path", "ssh-auth-sock", "'ssh-copy-id -p"],
    );
    let agent = format!("agent {}; the host accepts: publickey)", socket.display());
    assert!(warning.contains(&agent), "{warning}");
}

#[test]
fn an_agent_that_is_not_there() {
    let (sshd, scratch) = (Sshd::start(), Scratch::new());
    let socket = scratch.path().join("agent");
    let run = Caller::of(&host(&sshd, &pinned(&sshd)))
        .option("ssh-auth-sock", socket.to_str().expect("UTF-8 path"))
        .substitute(NOBODYS);
    let socket = socket.display();
    run.fails_with(
        &name(&sshd),
        &format!("permission denied, and the ssh agent at {socket} cannot be asked: No such file"),
        &[
            &format!("'SSH_AUTH_SOCK={socket} ssh-add -l'"),
            "ssh-auth-sock",
            "root for the daemon",
        ],
    );
}
