//! Which hosts are used: unprivileged choices, in an environment as the daemon of Nix 1.x makes it (`_NIX_OPTIONS`, both
//! commands of the text protocol) and by `--store` of today's serve protocol. Real servers, one that is allowed and one that is not;
//! and what nobody may talk to is a listener that sees whoever comes.

mod agent;
mod site;
#[path = "../support/mod.rs"]
mod support;

use site::{EXTRA, HOSTS, Site, lines, name, stderr, valid_paths};
use support::{SHORT, run_with_input};

#[test]
fn a_host_that_may_be_chosen_is_used_and_no_other() {
    let site = Site::new();
    let chosen = name(&site.choosable);
    let choice = [(HOSTS, chosen.as_str())];
    let output = site.query(&choice, &[]);
    assert_eq!(
        lines(&output),
        ["", &site.paths[1], ""],
        "{}",
        stderr(&output)
    );
    assert_eq!(stderr(&output), "");
    let output = site.substitute(&choice, &site.paths[1]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(
        lines(&output),
        ["", &site.choosable.store.nar_hash(&site.paths[1])]
    );
    let (have, stderr) = site.serve(&chosen, &[]);
    assert_eq!((have, stderr.as_str()), (vec![site.paths[1].clone()], ""));
    assert_eq!(site.connections(), [0, 1]);
    // Without a choice it is the configured one that is asked.
    assert_eq!(lines(&site.query(&[], &[])), ["", &site.paths[0], ""]);
    assert_eq!(site.connections(), [1, 1]);
}

#[test]
fn a_host_that_may_not_be_chosen_is_refused_by_name_and_never_connected_to() {
    let site = Site::new();
    let forbidden = site.forbidden();
    // One that is allowed beside it does not help.
    let both = format!("{} {forbidden}", name(&site.configured));
    let why = format!(
        "host {forbidden} may not be chosen: neither ssh-substituter-hosts nor trusted-ssh-substituter-hosts lists it \
         (hint: ask the administrator to add it to trusted-ssh-substituter-hosts)\n"
    );
    for chosen in [&forbidden, &both] {
        let choice = [(HOSTS, chosen.as_str())];
        let expected = format!("error: $_NIX_OPTIONS:9: {HOSTS}: {why}");
        let output = site.query(&choice, &[]);
        // "Disabled", to Nix 1.x: it goes on without.
        assert_eq!((output.status.code(), lines(&output).len()), (Some(0), 0));
        // Nix puts the program's name before it.
        assert_eq!(stderr(&output), expected);
        let expected = format!("ssh-substituter: {expected}");
        let output = site.substitute(&choice, &site.paths[0]);
        assert_eq!(
            (output.status.code(), lines(&output)),
            (Some(1), vec![String::new()])
        );
        assert!(
            stderr(&output).starts_with(&expected),
            "{}",
            stderr(&output)
        );
        let (have, stderr) = site.serve(chosen, &[]);
        assert!(have.is_empty(), "{have:?}");
        assert_eq!(stderr, format!("ssh-substituter: error: --store: {why}"));
    }
    site.assert_nobody_knocked();
    assert_eq!(site.connections(), [0, 0]);
}

#[test]
fn one_that_may_not_be_added_is_left_out_with_a_word_for_who_looks() {
    let site = Site::new();
    let forbidden = site.forbidden();
    let added = format!("{forbidden} {} -oProxyCommand=x", name(&site.choosable));
    let output = site.query(&[(EXTRA, &added)], &[]);
    let both: Vec<&str> = lines(&output)
        .iter()
        .filter(|line| !line.is_empty())
        .map(|_| "")
        .collect();
    assert_eq!(both.len(), 2, "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    let output = site.query(&[(EXTRA, &forbidden)], &["-v"]);
    let word = format!(
        "left out an untrusted host: $_NIX_OPTIONS:8: {EXTRA}: host {forbidden} may not be chosen"
    );
    assert!(stderr(&output).contains(&word), "{}", stderr(&output));
    site.assert_nobody_knocked();
}

#[test]
fn hosts_are_compared_and_not_their_spellings() {
    let site = Site::new();
    let (user, port) = (site.choosable.sshd.user(), site.choosable.sshd.port());
    for spelling in [
        format!("ssh://{user}@127.0.0.1:{port}"),
        format!("ssh://{user}@127.0.0.1:{port}/?priority=7"),
        format!("ssh://{user}@127.0.0.1?port={port}"),
        format!("  {user}@127.0.0.1:{port}  {user}@127.0.0.1:{port} "),
    ] {
        let output = site.query(&[(HOSTS, &spelling)], &[]);
        assert_eq!(
            lines(&output),
            ["", &site.paths[1], ""],
            "{spelling}: {}",
            stderr(&output)
        );
    }
    let connections = site.connections();
    for other in [
        format!("127.0.0.1:{port}"),
        format!("x{user}@127.0.0.1:{port}"),
        format!("{user}@127.0.0.1"),
        format!("{user}@localhost:{port}"),
        format!("{user}@127.0.0.1.:{port}"),
        format!("{user}@127.1:{port}"),
        format!("{user}@[::ffff:127.0.0.1]:{port}"),
        format!("{user}@[::1]:{port}"),
        site.configured.sshd.port().to_string(),
        "-oProxyCommand=x".to_owned(),
        "ssh://".to_owned(),
        "\u{1b}[31mx".to_owned(),
    ] {
        for output in [
            site.query(&[(HOSTS, &other)], &[]),
            site.substitute(&[(HOSTS, &other)], &site.paths[1]),
        ] {
            let text = stderr(&output);
            assert!(
                text.contains("may not be chosen") || text.contains("names no host"),
                "{other}: {text}"
            );
            assert!(!text.contains('\u{1b}'), "{text:?}");
        }
    }
    assert_eq!(site.connections(), connections);
}

#[test]
fn a_choice_brings_nothing_but_a_name() {
    let site = Site::new();
    // Here it is not trusted.
    let plain = format!("trusted-ssh-substituter-hosts = {}", site.choosable.url(""));
    site.env.configure(&[site.configured.trusted()], &plain);
    let mark = site.env.folder().join("mark");
    let evil = format!(
        "ssh://{}?trusted=true&remote-program=touch%20{}&ssh-key=/nowhere&remote-store=/nowhere&\
         base64-ssh-public-host-key={}",
        name(&site.choosable),
        mark.display(),
        support::percent_encode(&site.configured.sshd.base64_public_host_key())
    );
    let choices = [
        (HOSTS, evil.as_str()),
        ("untrusted-NIX_SSHOPTS", "-o ProxyCommand=false"),
        ("untrusted-require-sigs", "false"),
        ("untrusted-trusted-ssh-substituter-hosts", &evil),
        ("untrusted-trusted-users", "*"),
    ];
    let output = site.query(&choices, &[]);
    // It was reached with its own key, program and store, and what it has is not signed.
    assert_eq!(lines(&output), ["", ""], "{}", stderr(&output));
    let why = format!("has {}, but it is not signed", site.paths[1]);
    assert!(stderr(&output).contains(&why), "{}", stderr(&output));
    let output = site.substitute(&choices, &site.paths[1]);
    assert_eq!(output.status.code(), Some(1));
    let (have, _) = site.serve(&evil, &[]);
    assert!(have.is_empty(), "{have:?}");
    assert!(site.choosable.sshd.logins() > 0 && !mark.exists());
    // Signed, or trusted by the configuration, it is.
    let trusted = format!(
        "trusted-ssh-substituter-hosts = {}",
        site.choosable.trusted()
    );
    site.env.configure(&[site.configured.trusted()], &trusted);
    assert_eq!(lines(&site.query(&choices, &[])), ["", &site.paths[1], ""]);
    assert!(!mark.exists());
}

#[test]
fn what_a_trusted_user_chose_counts_as_it_stands() {
    // Nix 1.x's daemon gives no prefix to it: such a user may do what root may.
    let site = Site::new();
    site.env.configure(&[site.configured.trusted()], "");
    let url = site.choosable.trusted();
    let output = site.query(&[("ssh-substituter-hosts", &url)], &[]);
    assert_eq!(
        lines(&output),
        ["", &site.paths[1], ""],
        "{}",
        stderr(&output)
    );
    // Sorted, what is added stands before what it is added to.
    let configured = site.configured.trusted();
    let choices = [
        ("extra-ssh-substituter-hosts", url.as_str()),
        ("ssh-substituter-hosts", configured.as_str()),
    ];
    let output = site.query(&choices, &[]);
    assert_eq!(lines(&output).len(), 4, "{}", stderr(&output));
}

#[test]
fn what_is_no_host_ends_nothing_but_itself() {
    let site = Site::new();
    for store in ["a\nb", ",", " ", "x@y@z", "[::1", "local?root=/", "daemon"] {
        let (have, _) = site.serve(store, &[]);
        assert!(have.is_empty(), "{store:?}: {have:?}");
    }
    // What looks like an option is none.
    for words in [&["--store", "--host=x"][..], &["--store", "-v"]] {
        let mut command = site.env.program();
        command.arg("--serve").args(words);
        let output = run_with_input(command, &valid_paths(&site.paths), SHORT);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    }
    assert_eq!(site.connections(), [0, 0]);
}
