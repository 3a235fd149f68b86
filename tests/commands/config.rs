//! `config show`.

use super::machine::Machine;

#[test]
fn what_is_shown_can_be_used_again_and_names_origins() {
    let machine = Machine::new(&["ssh://u@a:22?trusted=true".to_owned()]);
    machine.env.add_conf("connect-timeout = 7");
    let machine = machine.var(
        "NIX_CONFIG",
        "extra-ssh-substituter-hosts = b\nrequire-sigs = no",
    );
    let shown = machine
        .run(&["config", "show", "--option", "engine", "auto"])
        .ends(0);
    let text = shown.stdout();
    let conf = machine.env.conf_dir();
    let own = conf.join("ssh-substituter.conf");
    for line in [
        format!(
            "ssh-substituter-hosts = ssh://u@a:22?trusted=true  # {}:2",
            own.display()
        ),
        "extra-ssh-substituter-hosts = b  # $NIX_CONFIG:1".to_owned(),
        "require-sigs = no  # $NIX_CONFIG:2".to_owned(),
        // The higher file wins.
        format!("connect-timeout = 10  # {}:3", own.display()),
        "engine = auto  # --option".to_owned(),
        "dead-link-timeout = 45  # the built-in default".to_owned(),
        format!("#   {}: read", own.display()),
        "# Store directory: /nix/store".to_owned(),
        "# NIX_SSHOPTS: -F none".to_owned(),
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
    }
    assert!(
        text.contains("#   u@a:22: user u, port 22, host key as in known_hosts"),
        "{text}"
    );

    let again = Machine::new(&[]);
    again.write_conf(&text);
    let (was, is) = (
        machine.run(&["config", "show", "--option", "engine", "auto", "--json"]),
        again.run(&["config", "show", "--json"]),
    );
    let (was, is) = (was.ends(0).json(), is.ends(0).json());
    for (name, setting) in was["settings"].as_object().expect("settings") {
        assert_eq!(setting["value"], is["settings"][name]["value"], "{name}");
    }
    assert_eq!(was["hosts"], is["hosts"]);
    assert_eq!(was["hosts"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        is["settings"]["ssh-substituter-hosts"]["extra"][0]["value"],
        "b"
    );
    assert_eq!(is["warnings"], serde_json::json!([]));
    assert_eq!(was["settings"]["dead-link-timeout"]["isDefault"], true);
    assert_eq!(was["settings"]["engine"]["isDefault"], false);
}

#[test]
fn a_secret_key_is_not_shown_and_a_missing_file_is_reported() {
    let secret = "s-1:q2PQEOpFmxbKtsErAXbEShxbGphUjFv7IZBy7XXYsZUdJ5j8HTtwFvTIXOqKw5nq4l5UVYaQsHtkEqhgjOoCzw==";
    let machine = Machine::new(&["a".to_owned()]).var(
        "NIX_CONFIG",
        &format!("extra-trusted-public-keys = {secret}"),
    );
    std::fs::remove_file(machine.env.conf_dir().join("nix.conf")).expect("remove a file");
    for words in [
        &["config", "show"][..],
        &["config", "show", "--json"],
        &["doctor", "--json"],
        &["doctor"],
    ] {
        let run = machine.run(words);
        assert!(!run.stdout().contains("q2PQE"), "{}", run.stdout());
        assert!(!run.stderr().contains("q2PQE"), "{}", run.stderr());
        assert!(run.stdout().contains("$NIX_CONFIG:1"), "{}", run.stdout());
    }
    let text = machine.run(&["config", "show"]).stdout();
    assert!(text.contains("nix.conf: not there"), "{text}");
    assert!(
        text.contains("# warning: $NIX_CONFIG:1: trusted-public-keys: the key \"s-1\" is ignored"),
        "{text}"
    );
}

#[test]
fn json_is_json_also_when_there_is_no_configuration() {
    let machine = Machine::new(&[]);
    machine.write_conf("connect-timeout = soon\n");
    for words in [
        &["config", "show", "--json"][..],
        &["status", "--json"],
        &["cache", "stats", "--json"],
    ] {
        let run = machine.run(words).ends(1);
        let error = run.json()["error"].as_str().expect("an error").to_owned();
        assert!(
            error.contains("ssh-substituter.conf:1: connect-timeout is \"soon\""),
            "{error}"
        );
    }
    let run = machine.run(&["config", "show"]).ends(1);
    assert_eq!(run.stdout(), "");
    assert!(
        run.stderr().starts_with("ssh-substituter: error: "),
        "{}",
        run.stderr()
    );
}
