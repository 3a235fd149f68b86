//! `docs/daemon.md`, followed to the letter: a Nix daemon whose root fetches for everybody.

use super::pages::{Page, SHOWN};
use super::stage::{INSTALL, Stage};

const HOST: &str = "builder.example.org";

/// A page's configuration files, put where it says.
fn configure(stage: &Stage, page: &Page, machine: &str) {
    stage.write(
        machine,
        "/etc/nix/ssh-substituter.conf",
        page.block("ssh-substituter.conf"),
    );
    let nix_conf = stage.read(machine, "/etc/nix/nix.conf");
    stage.write(
        machine,
        "/etc/nix/nix.conf",
        &(nix_conf + page.block("nix.conf")),
    );
}

#[test]
fn root_fetches_for_everybody() {
    let page = Page::open("docs/daemon.md");
    let stage = Stage::new(&[HOST, "laptop"]);
    let hello = stage.host(HOST);
    stage.run("laptop", "root", INSTALL);

    let key = stage.run("laptop", "root", page.block("daemon-key"));
    assert!(key.ends_with(" substituter"), "{key}");
    stage.authorize(HOST, "nix", &key);

    stage.run("laptop", "root", page.block("daemon-scan"));
    let seen = stage.run("laptop", "root", "ssh-keygen -lf builder.key");
    let there = stage.run(HOST, "root", page.block("daemon-fingerprint"));
    assert_eq!(
        seen.split(' ').nth(1),
        there.split(' ').nth(1),
        "{seen} {there}"
    );
    configure(&stage, &page, "laptop");
    stage.nix_daemon("laptop");

    // Without the step in between, the message says which one is missing.
    let use_it = page.block("daemon-use").replace(SHOWN, &hello);
    let refused = stage.try_run("laptop", "alice", &use_it);
    let log = stage.read("laptop", "/var/log/nix-daemon");
    assert!(
        !refused.ok && log.contains("its host key is not known"),
        "{log}"
    );

    stage.run("laptop", "root", page.block("daemon-known"));
    stage.run(
        "laptop",
        "root",
        "rm -rf ~/.cache/ssh-substituter; ssh-substituter engine stop",
    );
    stage.run(
        "laptop",
        "root",
        &page.block("daemon-check").replace(SHOWN, &hello),
    );
    stage.run("laptop", "alice", &use_it);
    assert!(stage.has("laptop", &hello));
    assert!(
        stage
            .run("laptop", "alice", &format!("cat {hello}"))
            .starts_with("hello from")
    );
}

#[test]
fn a_key_in_the_url_needs_no_known_hosts() {
    let page = Page::open("docs/daemon.md");
    let stage = Stage::new(&[HOST, "laptop"]);
    let hello = stage.host(HOST);
    stage.run("laptop", "root", INSTALL);
    let key = stage.run("laptop", "root", page.block("daemon-key"));
    stage.authorize(HOST, "nix", &key);
    configure(&stage, &page, "laptop");
    let pin = stage.run(HOST, "root", page.block("daemon-pin"));
    let conf = stage.read("laptop", "/etc/nix/ssh-substituter.conf");
    let conf = format!("{}&base64-ssh-public-host-key={pin}\n", conf.trim_end());
    stage.write("laptop", "/etc/nix/ssh-substituter.conf", &conf);
    stage.nix_daemon("laptop");
    stage.run(
        "laptop",
        "alice",
        &page.block("daemon-use").replace(SHOWN, &hello),
    );
    assert!(stage.has("laptop", &hello));
    assert!(!stage.root("laptop").join("root/.ssh/known_hosts").exists());
}
