//! What can be wrong with a host.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::machine::{Diagnosis, Machine, name, script, scripted};
use crate::support::{
    Host, NixEnv, SHORT, Sshd, Store, closed_port, percent_encode, run, run_with_timeout, tool,
};

/// What a person sees who runs the command that `doctor` gives.
fn by_hand(diagnosis: &Diagnosis, text: &str, env: &NixEnv) -> String {
    let finding = diagnosis.has("error", text);
    let line = finding["command"].as_str().expect("a command");
    assert!(
        diagnosis
            .text
            .contains(&format!("see for yourself: {line}\n"))
    );
    let mut command = env.command("sh");
    command.args(["-c", line]);
    let output = run_with_timeout(command, SHORT);
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        stderr.contains("debug1: "),
        "it tells what it does: {stderr}"
    );
    stderr
}

#[test]
fn a_key_that_is_not_let_in() {
    let (host, machine) = (Host::new(), Machine::new(&[]));
    let key = machine.env.folder().join("key");
    let mut command = Command::new(tool("ssh-keygen"));
    command
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key);
    run(command, SHORT);
    let (key, sshd) = (key.display(), &host.sshd);
    let host_key = percent_encode(&sshd.base64_public_host_key());
    machine.env.configure(
        &[format!(
            "ssh://{}?ssh-key={key}&base64-ssh-public-host-key={host_key}",
            name(sshd)
        )],
        "",
    );
    let ill = machine.doctor(&[]).ill(1, 0);
    let text = format!("permission denied (tried: key {key}; the host accepts: publickey)");
    let copy = format!(
        "'ssh-copy-id -i {key} -p {} {}@127.0.0.1'",
        sshd.port(),
        sshd.user()
    );
    let finding = ill.fixed_by("error", &text, &[&copy]);
    assert_eq!(finding["about"], name(sshd));
    let seen = by_hand(&ill, "permission denied", &machine.env);
    assert!(seen.contains("Permission denied (publickey)"), "{seen}");
}

#[test]
fn an_unknown_host_key() {
    let (sshd, machine) = (Sshd::start(), Machine::new(&[]));
    let options = "-F none -o UserKnownHostsFile=/dev/null -o GlobalKnownHostsFile=/dev/null";
    let machine = machine.var("NIX_SSHOPTS", options);
    machine.env.configure(&[name(&sshd)], "");
    let ill = machine.doctor(&[]).ill(1, 0);
    let log_in = format!("'ssh -p {} {}@127.0.0.1 true'", sshd.port(), sshd.user());
    let words = [
        &*log_in,
        "root for the daemon",
        "base64-ssh-public-host-key",
    ];
    ill.fixed_by("error", "its host key is not known", &words);
    let seen = by_hand(&ill, "its host key is not known", &machine.env);
    assert!(seen.contains("Host key verification failed"), "{seen}");
}

#[test]
fn a_changed_host_key() {
    let (host, other) = (Host::new(), Sshd::start());
    let key = percent_encode(&other.base64_public_host_key());
    let url = format!(
        "ssh://{}?base64-ssh-public-host-key={key}",
        name(&host.sshd)
    );
    let machine = Machine::new(&[url]);
    let ill = machine.doctor(&[]).ill(1, 0);
    let scan = format!("'ssh-keyscan -p {} 127.0.0.1'", host.sshd.port());
    let text = "its host key is not the known one";
    let finding = ill.fixed_by("error", text, &[&scan, "find out why"]);
    let said = finding["said"].as_array().expect("what was said");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].as_str().expect("a line").starts_with("SHA256:"),
        "{said:?}"
    );
    let seen = by_hand(&ill, text, &machine.env);
    assert!(
        seen.contains("REMOTE HOST IDENTIFICATION HAS CHANGED"),
        "{seen}"
    );
}

#[test]
fn a_host_that_is_down() {
    let host = format!("u@127.0.0.1:{}", closed_port());
    let machine = Machine::new(std::slice::from_ref(&host));
    let ill = machine.doctor(&[]).ill(1, 0);
    let finding = ill.fixed_by(
        "error",
        "connection refused",
        &["check that sshd runs there"],
    );
    assert_eq!(finding["about"], *host);
    // The first look, for JSON, has left its mark for the second.
    assert!(
        ill.text.contains("had failed before (1 failure in a row)"),
        "{}",
        ill.text
    );
    let seen = by_hand(&ill, "connection refused", &machine.env);
    assert!(seen.contains("Connection refused"), "{seen}");
}

#[test]
fn a_host_that_lets_us_in_and_says_nothing() {
    let host = Host::new();
    let machine = Machine::new(&[scripted(&host, "exec sleep 50")]);
    let ill = machine
        .doctor(&["--option", "connect-timeout", "3"])
        .ill(1, 0);
    let words = ["the login worked", "raise connect-timeout"];
    ill.fixed_by("error", "no handshake from ", &words);
}

#[test]
fn a_program_that_is_not_there() {
    let host = Host::new();
    let machine = Machine::new(&[host.url("trusted=true&remote-program=/no/nix-store")]);
    let ill = machine.doctor(&[]).ill(1, 0);
    let nix_store = tool("nix-store");
    let there = format!(
        "{p} is there: name it with remote-program={p} in",
        p = nix_store.display()
    );
    ill.fixed_by(
        "error",
        "\"/no/nix-store\" ended before the handshake",
        &[&there],
    );
}

#[test]
fn a_program_that_is_nowhere() {
    let host = Host::new();
    let empty = host.store.env().folder().join("bin");
    fs::create_dir(&empty).expect("make a folder");
    symlink(tool("sh"), empty.join("sh")).expect("make a link");
    let sshd = Sshd::builder()
        .env("PATH", empty.to_str().expect("UTF-8 path"))
        .start();
    let machine = Machine::new(&[sshd.store_url("trusted=true")]);
    let ill = machine.doctor(&[]).ill(1, 0);
    let env = format!("'ssh -p {} {}@127.0.0.1 env'", sshd.port(), sshd.user());
    let words = [
        "install Nix there",
        "remote-program=/path/to/nix-store",
        &env,
    ];
    ill.fixed_by("error", "\"nix-store\" ended before the handshake", &words);
}

#[test]
fn a_program_in_a_usual_place_only() {
    let host = Host::new();
    let bin = host.store.env().folder().join("bin");
    fs::create_dir(&bin).expect("make a folder");
    for name in ["sh", "dd", "head", "cat", "find"] {
        symlink(tool(name), bin.join(name)).expect("make a link");
    }
    let sshd = Sshd::builder()
        .env("PATH", bin.to_str().expect("UTF-8 path"))
        .start();
    let profile = sshd.home().join(".nix-profile/bin");
    fs::create_dir_all(&profile).expect("make a folder");
    symlink(tool("nix-store"), profile.join("nix-store")).expect("make a link");
    let store = host.store.remote_store_param();
    let machine = Machine::new(&[sshd.store_url(&format!("trusted=true&remote-store={store}"))]);
    let well = machine.doctor(&[]).healthy();
    let text = format!("{}/nix-store is nix-store (Nix) 2.8.0", profile.display());
    let finding = well.fixed_by("note", &text, &["remote-program=/path/to/nix-store"]);
    let text = finding["text"].as_str().expect("a text");
    assert!(text.contains("found in the usual places of Nix"), "{text}");
}

/// The URL of an account whose store is moved by its environment.
fn moved(sshd: &Sshd) -> String {
    sshd.store_url("trusted=true")
}

#[test]
fn a_store_that_the_environment_moves() {
    let host = Host::new();
    host.store.add_text("text", "text", &[]);
    let root = host.store.root().display().to_string();
    let sshd = Sshd::builder().env("NIX_REMOTE", &root).start();
    let well = Machine::new(&[moved(&sshd)]).doctor(&[]).healthy();
    let text = format!("large paths come in chunks, from the files in {root}/nix/store");
    well.has("ok", &text);
    assert!(!well.text.contains("HostId"), "{}", well.text);
}

#[test]
fn a_store_whose_files_are_nowhere_to_be_found() {
    let (host, other) = (Host::new(), Store::new());
    host.store.add_text("text", "text", &[]);
    // The program knows another store than the account says.
    let here = script(
        &host,
        &format!("NIX_REMOTE='{}' exec nix-store \"$@\"", host.store.uri()),
    );
    let program = percent_encode(&here);
    let root = other.root().display().to_string();
    let sshd = Sshd::builder().env("NIX_REMOTE", &root).start();
    let url = format!("{}&remote-program={program}", moved(&sshd));
    let machine = Machine::new(&[url]);
    let well = machine.doctor(&[]).healthy();
    // Or in that of this machine, where the account looks as well.
    let words = match fs::read_dir("/nix/store").is_ok_and(|store| store.count() > 1) {
        true => "has a shell, but nothing that it serves is in ",
        false => "has a shell, and no store path is in ",
    };
    let finding = well.has("note", words);
    assert!(
        finding["fix"]
            .as_str()
            .expect("a fix")
            .contains("remote-store")
    );
    other.add_text("other", "text", &[]);
    let well = machine.doctor(&[]).healthy();
    let text = "its account has a shell, but nothing that it serves is in ";
    let finding = well.has("note", text);
    let looked = format!("{root}/nix/store");
    assert!(finding["text"].as_str().expect("a text").contains(&looked));
}

/// A server whose account is forced to run a script.
fn forced(host: &Host, text: &str) -> Sshd {
    let script = script(host, &format!("{text} --store '{}'", host.store.uri()));
    Sshd::builder()
        .line(format!("ForceCommand {script}"))
        .start()
}

#[test]
fn an_account_that_can_only_serve() {
    let host = Host::new();
    let sshd = forced(&host, "exec nix-store --serve");
    let machine = Machine::new(&[sshd.store_url("trusted=true")]);
    let well = machine.doctor(&[]).healthy();
    let text = "large paths come whole, each over one channel and from one host: its account has no shell (exit status 1)";
    well.has("note", text);
    well.has("ok", "nix-store, serve protocol 2.7");
}

#[test]
fn an_account_that_allows_only_what_nix_asks_for() {
    let host = Host::new();
    let gate = "test \"$SSH_ORIGINAL_COMMAND\" = 'nix-store --serve --write' || exit 1; exec nix-store --serve --write";
    let sshd = forced(&host, gate);
    let machine = Machine::new(&[sshd.store_url("trusted=true")]);
    let well = machine.doctor(&[]).healthy();
    well.has(
        "note",
        "its account allows 'nix-store --serve --write' only, which is asked for since",
    );
}

#[test]
fn an_account_that_can_only_serve_and_prints_text() {
    let host = Host::new();
    let sshd = forced(
        &host,
        "printf 'Welcome\\033[1m!\\n'; exec nix-store --serve",
    );
    let machine = Machine::new(&[sshd.store_url("trusted=true")]);
    let ill = machine.doctor(&[]).ill(0, 1);
    let text = "skipped text that was printed before the handshake: \"Welcome\\u{1b}[1m!\"";
    ill.fixed_by(
        "warning",
        text,
        &[
            "ForceCommand",
            "must print nothing before nix-store --serve",
        ],
    );
}

#[test]
fn a_shell_that_greets() {
    let host = Host::new();
    let machine = Machine::new(&[scripted(&host, "echo Welcome; exec nix-store \"$@\"")]);
    let ill = machine.doctor(&[]).ill(0, 1);
    let ssh = format!(
        "'ssh -p {} {}@127.0.0.1 true'",
        host.sshd.port(),
        host.sshd.user()
    );
    ill.fixed_by("warning", "skipped text", &[&ssh, "start-up files"]);
}

#[test]
fn a_store_in_another_folder() {
    let host = Host::new();
    let script = "NIX_STORE_DIR=/elsewhere/store exec nix-store \"$@\"";
    let machine = Machine::new(&[scripted(&host, script)]);
    let ill = machine.doctor(&[]).ill(1, 0);
    let words = ["in another folder", "NIX_STORE_DIR", "remote-store"];
    ill.fixed_by("error", "is not in the Nix store", &words);

    let sshd = Sshd::builder()
        .env("NIX_STORE_DIR", "/elsewhere/store")
        .start();
    let store = host.store.remote_store_param();
    let machine = Machine::new(&[sshd.store_url(&format!("trusted=true&remote-store={store}"))]);
    let ill = machine.doctor(&[]).ill(1, 0);
    let words = ["NIX_STORE_DIR is /elsewhere/store there and /nix/store here"];
    ill.fixed_by("error", "is not in the Nix store", &words);
}

#[test]
fn one_of_two_hosts_is_broken() {
    let host = Host::new();
    let down = format!("u@127.0.0.1:{}", closed_port());
    let machine = Machine::new(&[down.clone(), host.trusted()]);
    let ill = machine.doctor(&[]).ill(1, 0);
    assert_eq!(ill.has("error", "connection refused")["about"], *down);
    let fine = ill.has("ok", "answers about paths in /nix/store");
    assert_eq!(fine["about"], name(&host.sshd));
    assert!(ill.text.ends_with("\n1 error.\n"), "{}", ill.text);
}
