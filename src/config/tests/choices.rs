//! Which hosts are used, and what unprivileged users can choose.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::{Machine, hosts, names};
use crate::config::Sources;

#[test]
fn hosts_are_sorted_by_priority_and_listed_once() {
    let list = "ssh://a?priority=10 b ssh://c?priority=-1 d ssh://e?priority=0 B:22 ssh://d:22";
    assert_eq!(hosts(&Machine::new().host(list)), ["c", "b", "d", "e", "a"]);

    let twice = Machine::new().host("ssh://a?compress=true").host("A");
    let (config, warnings) = twice.load().unwrap();
    assert!(config.hosts.len() == 1 && config.hosts[0].compress);
    assert_eq!(
        warnings,
        ["host a is listed twice with different parameters: the first are used"]
    );
}

#[test]
fn the_agent_comes_from_the_environment_unless_set() {
    let socket = |machine: &Machine| machine.config().ssh_auth_sock;
    let machine = Machine::new().env("SSH_AUTH_SOCK", "/env");
    assert_eq!(socket(&machine), Some("/env".into()));
    let machine = machine.file("system/nix.conf", "ssh-auth-sock = /file");
    assert_eq!(socket(&machine), Some("/file".into()));
    let machine = machine.env("_NIX_OPTIONS", "untrusted-ssh-auth-sock=/client's own");
    assert_eq!(socket(&machine), Some("/client's own".into()));
    let machine = machine.env("_NIX_OPTIONS", "untrusted-ssh-auth-sock=");
    assert_eq!(socket(&machine), Some("/file".into()));
    let machine = machine.env("_NIX_OPTIONS", "ssh-auth-sock=");
    assert_eq!(socket(&machine), Some("/file".into()));
    let machine = machine.env("_NIX_OPTIONS", "ssh-auth-sock=/trusted");
    assert_eq!(socket(&machine), Some("/trusted".into()));
    let machine = machine.env("_NIX_OPTIONS", "");
    let none = machine.file("system/ssh-substituter.conf", "ssh-auth-sock =");
    assert_eq!(socket(&none), None);
    let machine = none;
    let machine = machine.env("_NIX_OPTIONS", "untrusted-ssh-auth-sock=x");
    assert!(machine.error().contains("untrusted-ssh-auth-sock is \"x\""));

    let machine = Machine::new().env("SSH_AUTH_SOCK", "relative");
    assert!(machine.warnings()[0].contains("$SSH_AUTH_SOCK is \"relative\""));
}

#[test]
fn store_dir_and_ssh_options_come_from_the_environment() {
    let dir = |value: &str| Machine::new().env("NIX_STORE_DIR", value).load();
    assert_eq!(
        dir("/my//store").unwrap_err().to_string(),
        "$NIX_STORE_DIR: NIX_STORE_DIR is \
        \"/my//store\": expected an absolute path without . and .. and empty parts"
    );
    for bad in ["store", "/", "/a/../b", "/./a", "/a\nb"] {
        assert!(dir(bad).is_err(), "{bad:?}");
    }
    assert!(
        Machine::new()
            .env("NIX_STORE", OsString::from_vec(vec![b'/', 0xff]))
            .load()
            .is_err()
    );
    let machine = Machine::new().env("NIX_STORE", "/b");
    assert_eq!(machine.config().store_dir, "/b");
    assert_eq!(machine.env("NIX_STORE_DIR", "/a/").config().store_dir, "/a");

    let with = |value: &str| Machine::new().env("NIX_SSHOPTS", value);
    let options = with("-p 22 -o 'ProxyCommand=a b' \"-F x\"")
        .config()
        .ssh_options;
    assert_eq!(options, ["-p", "22", "-o", "ProxyCommand=a b", "-F x"]);
    assert!(
        with("-o 'x")
            .error()
            .contains("$NIX_SSHOPTS: \"-o 'x\" cannot be split")
    );
}

const CHOICE: &str = "ssh-substituter-hosts = a ssh://b?priority=1\ntrusted-ssh-substituter-hosts = ssh://t?compress=true";

#[test]
fn untrusted_choices_are_weighed() {
    let with = |options: &str| {
        let machine = Machine::new().file("system/nix.conf", CHOICE);
        machine.env("_NIX_OPTIONS", options)
    };
    let machine = with("untrusted-ssh-substituter-hosts=b ssh://t?trusted=true t");
    let config = machine.config();
    assert_eq!(names(&config.hosts), ["t", "b"]);
    assert!(config.hosts[0].compress && !config.hosts[0].trusted);
    let error = with("x=1\nuntrusted-ssh-substituter-hosts=evil").error();
    assert!(
        error.starts_with(
            "$_NIX_OPTIONS:2: untrusted-ssh-substituter-hosts: host evil may not be chosen"
        ),
        "{error}"
    );
    let machine = with("untrusted-extra-ssh-substituter-hosts=evil t");
    assert_eq!(hosts(&machine), ["a", "t", "b"]);
}

#[test]
fn untrusted_choices_count_only_where_nix_puts_them() {
    let line = "untrusted-ssh-substituter-hosts = b";
    let machine = Machine::new().file("system/nix.conf", format!("{CHOICE}\n{line}"));
    assert_eq!(hosts(&machine.env("NIX_CONFIG", line)), ["a", "b"]);
}

#[test]
fn an_untrusted_user_may_not_widen_or_switch_on() {
    let with = |system: &str, options: &str| {
        let machine = Machine::new().file("system/nix.conf", format!("{CHOICE}\n{system}"));
        machine.env("_NIX_OPTIONS", options).config()
    };
    let config = with(
        "",
        "untrusted-require-sigs=false\nuntrusted-trusted-public-keys=k:v\nuntrusted-trusted-ssh-substituter-hosts=evil\nuntrusted-use-ssh-substituter=true",
    );
    assert!(config.require_sigs && config.enabled);
    assert_eq!(names(&config.trusted_hosts), ["t"]);
    assert_eq!(config.trusted_public_keys[0].name(), "cache.nixos.org-1");
    assert!(!with("", "untrusted-use-ssh-substituter=false").enabled);
    assert!(!with("", "use-ssh-substituter=false").enabled);
    assert!(
        !with(
            "use-ssh-substituter = no",
            "untrusted-use-ssh-substituter=true"
        )
        .enabled
    );
}

#[test]
fn nobody_switches_it_on_where_nix_does_not_say_who_it_is() {
    // Nix 1.x's daemon takes this name from everybody, and hands it on without a prefix.
    let with = |system: &str, option: &str| {
        let machine = Machine::new().file("system/ssh-substituter.conf", system);
        machine.env("_NIX_OPTIONS", format!("use-ssh-substituter={option}\n"))
    };
    let (on, off) = ("use-ssh-substituter = true", "use-ssh-substituter = false");
    assert!(with(on, "true").config().enabled);
    assert!(with("", "true").config().enabled);
    assert!(!with(on, "false").config().enabled);
    assert!(!with(off, "true").config().enabled);
    let error = with(on, "maybe").error();
    assert!(
        error.starts_with("$_NIX_OPTIONS:1: use-ssh-substituter is \"maybe\""),
        "{error}"
    );
}

#[test]
fn what_a_trusted_client_said_counts_as_it_stands_whatever_comes_first() {
    let machine = Machine::new().file("system/nix.conf", format!("{CHOICE}\ntrusted-users = root"));
    // Sorted, as Nix 1.x writes it.
    let machine = machine.env(
        "_NIX_OPTIONS",
        "extra-ssh-substituter-hosts=x\nrequire-sigs=false\nssh-substituter-hosts=ssh://y?trusted=true\n",
    );
    let config = machine.config();
    assert_eq!(names(&config.hosts), ["y", "x"]);
    assert!(config.hosts[0].trusted && !config.require_sigs);
    assert!(!config.is_untrusted_choice);
}

#[test]
fn trusted_users_are_for_the_daemon_to_weigh() {
    // It found this client to be none of them, whatever the list seems to say.
    let machine = Machine::new().file("system/nix.conf", format!("{CHOICE}\ntrusted-users = *"));
    let machine = machine.env(
        "_NIX_OPTIONS",
        "trusted-users=*\nuntrusted-ssh-substituter-hosts=evil\nuntrusted-trusted-users=*\n",
    );
    assert!(machine.error().contains("host evil may not be chosen"));
}

#[test]
fn an_untrusted_choice_brings_nothing_with_it() {
    let with = |options: &str| {
        let machine = Machine::new().file("system/nix.conf", CHOICE);
        machine.env("_NIX_OPTIONS", options)
    };
    let plain = with("").config();
    let spec = "ssh://t:22?trusted=true&ssh-key=/k&remote-program=/evil&remote-store=/s&compress=false&max-connections=64&priority=-5";
    let config = with(&format!("untrusted-ssh-substituter-hosts={spec}")).config();
    assert_eq!(config.hosts, plain.trusted_hosts);
    let config = with(&format!("untrusted-extra-ssh-substituter-hosts={spec}")).config();
    assert_eq!(
        config.hosts.iter().find(|host| host.name == "t"),
        plain.trusted_hosts.first()
    );
    // Nor by another name.
    let config = with(
        "untrusted-NIX_SSHOPTS=-F /evil\nNIX_SSHOPTS=-F /evil\nuntrusted-ssh-environment=LD_PRELOAD\nuntrusted-connect-timeout=1\nuntrusted-readahead-memory=1T\nuntrusted-engine=off\nuntrusted-trusted-users=*",
    )
    .config();
    assert_eq!(config.identity(), plain.identity());
}

#[test]
fn ssh_gets_further_variables_by_name() {
    let with = |value: &str| {
        let line = format!("ssh-environment = {value}\nextra-ssh-environment = B_2");
        Machine::new().file("system/ssh-substituter.conf", line)
    };
    assert_eq!(
        with("AWS_PROFILE _x").config().ssh_environment,
        ["AWS_PROFILE", "_x", "B_2"]
    );
    for wrong in ["A=b", "2A", "A-B", "\u{e4}"] {
        let error = with(wrong).error();
        assert!(
            error.contains("expected names of environment variables"),
            "{error}"
        );
    }
}

#[test]
fn the_store_flag_chooses_and_the_host_flag_decides() {
    let machine = || {
        let machine = Machine::new().file("system/nix.conf", CHOICE);
        machine.env(
            "_NIX_OPTIONS",
            "untrusted-ssh-substituter-hosts=b\nuntrusted-extra-ssh-substituter-hosts=t",
        )
    };
    assert_eq!(hosts(&machine()), ["t", "b"]);
    assert_eq!(hosts(&machine().store("t")), ["t"]);
    assert_eq!(hosts(&machine().store("a,b")), ["a", "b"]);
    let error = machine().store("a evil").error();
    assert!(
        error.starts_with("--store: host evil may not be chosen"),
        "{error}"
    );
    assert_eq!(hosts(&machine().host("ssh://x?trusted=true")), ["x"]);
    assert!(machine().host("ssh://x?trusted=true").config().hosts[0].trusted);
    assert_eq!(hosts(&machine().host("x y").store("y")), ["y"]);
    assert_eq!(hosts(&machine().host("x").store("t")), ["t"]);
}

#[test]
fn sources_of_the_process_are_real() {
    let sources = Sources::from_process();
    assert!((sources.env)("PATH").is_some());
    assert_eq!(sources.uid, rustix::process::geteuid().as_raw());
    assert!(sources.hosts.is_empty() && sources.store.is_none() && sources.options.is_empty());
}

#[test]
fn a_push_goes_where_the_configuration_says_and_no_client_of_the_daemon_chooses() {
    let machine = Machine::new()
        .file(
            "system/nix.conf",
            "ssh-substituter-push-hosts = a ssh://b?priority=-1\npush-signing-key = /k",
        )
        .env(
            "_NIX_OPTIONS",
            "untrusted-ssh-substituter-push-hosts=evil\nuntrusted-push-signing-key=/evil",
        );
    let config = machine.config();
    let hosts: Vec<_> = config.push_hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["a", "b"], "as listed: all get it");
    assert_eq!(config.push_signing_key, Some("/k".into()));
    let error = Machine::new()
        .option("push-signing-key", "k")
        .load()
        .unwrap_err();
    assert!(error.to_string().contains("an absolute path"), "{error}");
}
