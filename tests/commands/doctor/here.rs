//! What can be wrong on this machine: files, folders, Nix.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};

use crate::machine::{Machine, name};
use crate::support::{Host, is_root, program};

#[test]
fn a_line_that_is_no_setting() {
    let machine = Machine::new(&[]);
    machine.write_conf("engine = off\nssh-substituter-hosts ssh://a\n");
    let ill = machine.doctor(&[]).ill(1, 0);
    let place = format!(
        "{}/ssh-substituter.conf:2",
        machine.env.conf_dir().display()
    );
    let text = format!("{place}: illegal line \"ssh-substituter-hosts ssh://a\"");
    ill.fixed_by("error", &text, &["NAME = VALUE", &place]);
    ill.has("note", "no host is asked here");
}

#[test]
fn a_line_that_stops_nix_itself() {
    let machine = Machine::new(&[]);
    machine.env.add_conf("no setting");
    let ill = machine.doctor(&[]).ill(1, 1);
    ill.fixed_by("error", "illegal line \"no setting\"", &["NAME = VALUE"]);
    let words = ["nix-store --version' work for this user"];
    ill.fixed_by("warning", "does not tell its version: error: ", &words);
}

#[test]
fn values_and_hosts_that_are_none() {
    let machine = Machine::new(&[]);
    machine.write_conf("connect-timeout = soon\n");
    let ill = machine.doctor(&[]).ill(1, 0);
    let words = [
        "write a number of seconds at ",
        "ssh-substituter.conf:1",
        "remove it",
    ];
    ill.fixed_by("error", "connect-timeout is \"soon\"", &words);
    machine.write_conf("ssh-substituter-hosts = http://a\n");
    let ill = machine.doctor(&[]).ill(1, 0);
    let words = ["a host is NAME, USER@NAME or ssh://USER@NAME"];
    ill.fixed_by("error", "has the scheme \"http\"", &words);
}

#[test]
fn slips_of_the_pen() {
    let host = Host::new();
    let machine = Machine::new(&[]);
    let (url, name) = (host.trusted(), name(&host.sshd));
    machine.write_conf(&format!(
        "engine = off\nssh-substituter-host = a\nssh-substituter-hosts = {url} {name}\nextra-trusted-public-keys = k:x\nuse-ssh-substituter = false\n"
    ));
    machine.env.add_conf("readahead-memory = 64M");
    let ill = machine.doctor(&[]).ill(0, 5);
    let words = ["correct its name", "config show"];
    ill.fixed_by(
        "warning",
        "unknown setting \"ssh-substituter-host\" ignored",
        &words,
    );
    let twice = format!("host {name} is listed twice with different parameters");
    ill.fixed_by("warning", &twice, &["leave one of the two"]);
    ill.fixed_by("warning", "the key \"k\" is ignored", &["whole public key"]);
    ill.fixed_by(
        "warning",
        "use-ssh-substituter is false",
        &["use-ssh-substituter = true"],
    );
    let text = "Nix does not know readahead-memory, and says so each time";
    ill.fixed_by("warning", text, &["move the line to ssh-substituter.conf"]);
}

#[test]
fn nobody_to_ask() {
    let machine = Machine::new(&[]);
    let ill = machine.doctor(&[]).ill(1, 0);
    let file = machine.env.conf_dir().join("ssh-substituter.conf");
    let into = format!("into {}", file.display());
    let words = ["ssh-substituter-hosts = ssh://USER@HOST", &into];
    ill.fixed_by("error", "no hosts are configured", &words);
}

#[test]
fn a_nix_that_knows_nothing_of_us() {
    let host = Host::new();
    let machine = Machine::without_nix(&[host.trusted()]);
    let ill = machine.doctor(&[]).ill(0, 1);
    let line = format!(
        "extra-substituters = ssh://localhost?remote-program={}&trusted=true",
        program().display()
    );
    let into = format!("into {}/nix.conf", machine.env.conf_dir().display());
    ill.fixed_by(
        "warning",
        "no substituter of Nix leads to this program",
        &[&line, &into],
    );
    // What it says is the fix.
    machine.env.add_conf(&line);
    machine.doctor(&[]).healthy();
}

#[test]
fn a_nix_that_is_led_astray() {
    let host = Host::new();
    let cases = [
        (
            "ssh://localhost?remote-program=/no/ssh-substituter&trusted=true",
            "error",
            "/no/ssh-substituter is not there",
            "let remote-program be ",
        ),
        (
            "ssh://127.0.0.1?remote-program=ssh-substituter&trusted=true",
            "error",
            "the host is 127.0.0.1: Nix goes there by ssh",
            "ssh://localhost?remote-program=",
        ),
    ];
    for (url, level, text, fix) in cases {
        let machine = Machine::without_nix(&[host.trusted()]);
        machine.env.add_conf(&format!("extra-substituters = {url}"));
        let ill = machine.doctor(&[]).ill(1, 0);
        ill.fixed_by(level, text, &[fix]);
    }
    let machine = Machine::without_nix(&[host.trusted()]);
    let url = format!("ssh://localhost?remote-program={}", program().display());
    machine
        .env
        .add_conf(&format!("extra-substituters = {url}\nsubstitute = false"));
    let ill = machine.doctor(&[]).ill(0, 2);
    let text = format!(
        "so that trusted=true of {} brings nothing that has none",
        name(&host.sshd)
    );
    ill.fixed_by(
        "warning",
        &text,
        &["add &trusted=true to the URL at ", "sign the paths"],
    );
    ill.fixed_by("warning", "substitute is false", &["remove that line"]);
}

#[test]
fn another_program_of_our_name() {
    let host = Host::new();
    let machine = Machine::without_nix(&[host.trusted()]);
    let other = machine.env.folder().join("ssh-substituter");
    fs::write(&other, "#!/bin/sh\necho ssh-substituter 0.0.1\n").expect("write a script");
    fs::set_permissions(&other, Permissions::from_mode(0o755)).expect("make it executable");
    let other = other.display();
    machine.env.add_conf(&format!(
        "extra-substituters = ssh://localhost?remote-program={other}&trusted=true"
    ));
    let ill = machine.doctor(&[]).ill(0, 1);
    let text = format!("{other} is another program than this one, ssh-substituter ");
    ill.fixed_by("warning", &text, &["update it", "let remote-program be "]);
}

#[test]
fn a_cache_that_others_can_write() {
    let host = Host::new();
    let machine = Machine::new(&[host.trusted()]);
    let cache = machine.env.folder().join("cache");
    fs::create_dir(&cache).expect("make a folder");
    fs::set_permissions(&cache, Permissions::from_mode(0o777)).expect("open it");
    let path = cache.to_str().expect("UTF-8 path").to_owned();
    let machine = machine.var("SSH_SUBSTITUTER_CACHE_DIR", &path);
    let ill = machine.doctor(&[]).ill(0, 1);
    let text = format!(
        "no cache, so that nothing is remembered: the folder {path} is refused: it is open to other users"
    );
    let fix = format!("&& chmod 700 {path}'");
    ill.fixed_by("warning", &text, &[&fix, "SSH_SUBSTITUTER_CACHE_DIR"]);
    fs::set_permissions(&cache, Permissions::from_mode(0o700)).expect("close it");
    machine.doctor(&[]).healthy();
    if is_root() {
        chown(&cache, Some(65534), None).expect("give it away");
        let ill = machine.doctor(&[]).ill(0, 1);
        let fix = format!("'chown 0 {path} && chmod 700 {path}'");
        ill.fixed_by("warning", "it is owned by another user", &[&fix]);
    }
}

#[test]
fn a_damaged_cache_repairs_itself() {
    let host = Host::new();
    let machine = Machine::new(&[host.trusted()]);
    machine.run(&["cache", "path"]).ends(0);
    let file = machine.cache_dir().join("cache.sqlite");
    fs::write(&file, "no database at all\n".repeat(999)).expect("write a file");
    let first = machine.run(&["doctor", "--json"]).ends(0).json();
    let findings = first["findings"].as_array().expect("findings");
    let damaged = findings.iter().find(|finding| {
        finding["text"]
            .as_str()
            .is_some_and(|text| text.contains("the file is damaged"))
    });
    let damaged = damaged.unwrap_or_else(|| panic!("{first}"));
    assert_eq!(damaged["level"], "note");
    assert!(
        damaged["fix"]
            .as_str()
            .expect("a fix")
            .contains("moves it aside")
    );
    // Asking the hosts has moved it aside.
    machine
        .doctor(&[])
        .healthy()
        .has("ok", "cache.sqlite: can be read and written");
}

#[test]
fn a_runtime_folder_that_is_no_folder() {
    let host = Host::new();
    let machine = Machine::new(&[host.trusted()]);
    let file = machine.env.folder().join("file");
    fs::write(&file, "").expect("write a file");
    let machine = machine.var(
        "SSH_SUBSTITUTER_RUNTIME_DIR",
        file.to_str().expect("UTF-8 path"),
    );
    let ill = machine.doctor(&[]).ill(2, 0);
    let text = format!(
        "no place for connections: the folder {} is refused: it is not a folder",
        file.display()
    );
    ill.fixed_by(
        "error",
        &text,
        &["SSH_SUBSTITUTER_RUNTIME_DIR", "only you can write"],
    );
    // The host cannot be asked for the same reason, and that is not ssh's fault.
    let finding = ill.has("error", "no usable runtime folder");
    assert_eq!(finding["about"], name(&host.sshd));
    assert_eq!(finding["command"], serde_json::Value::Null);
}

#[test]
fn no_ssh_and_no_nix() {
    let host = Host::new();
    let machine = Machine::new(&[host.trusted()]).var("PATH", "/nowhere");
    let ill = machine.doctor(&[]).ill(2, 0);
    ill.fixed_by(
        "error",
        "ssh is not in the PATH",
        &["install OpenSSH's client"],
    );
    ill.fixed_by("error", "cannot run 'ssh'", &["install OpenSSH's client"]);
    ill.has(
        "note",
        "nix-store is not in the PATH: only 'ssh-substituter get --to' is of use here",
    );
}
