//! The README's five minutes, on a machine that has never seen the program.

use super::pages::{Page, SHOWN};
use super::stage::Stage;

const HOST: &str = "builder.example.org";

/// Whoever begins can log in to the host, and has said yes to its key.
fn site(page: &Page) -> (Stage, String) {
    let stage = Stage::new(&[HOST, "office.example.org", "laptop"]);
    let hello = stage.host(HOST);
    let key = "mkdir -p -m 700 .ssh; ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519";
    stage.run("laptop", "root", key);
    stage.let_in(("laptop", "/root/.ssh/id_ed25519.pub"), (HOST, "root"));
    stage.write("laptop", "/root/.ssh/known_hosts", &stage.known_host(HOST));
    stage.run("laptop", "root", page.block("start-install"));
    stage.run("laptop", "root", page.block("start-login"));
    (stage, hello)
}

/// The line is there with a cache that no machine here reaches.
fn offline(conf: &str) -> String {
    let without = conf.replace(" https://cache.nixos.org", "");
    assert_ne!(without, conf);
    without
}

#[test]
fn five_minutes_are_enough() {
    let page = Page::open("README.md");
    let (stage, hello) = site(&page);
    let nix_conf = stage.read("laptop", "/etc/nix/nix.conf") + &offline(page.block("nix.conf"));
    stage.write("laptop", "/etc/nix/nix.conf", &nix_conf);
    stage.write(
        "laptop",
        "/etc/nix/ssh-substituter.conf",
        page.block("ssh-substituter.conf"),
    );
    let realise = page.block("start-realise").replace(SHOWN, &hello);
    // The second host of the file does not answer; the first one does.
    stage.run("laptop", "root", &realise);
    assert!(stage.has("laptop", &hello));
}

#[test]
fn one_path_comes_by_hand() {
    let page = Page::open("README.md");
    let (stage, hello) = site(&page);
    let by_hand = page.block("by-hand").replace(SHOWN, &hello);
    let text = stage.run("laptop", "root", &by_hand);
    let hash = stage.run(HOST, "root", &format!("nix-store -q --hash {hello}"));
    assert!(text.lines().any(|line| line == hash), "{text}");
    assert!(
        stage
            .run("laptop", "root", "cat hello")
            .starts_with("hello from /nix/store/")
    );
}

#[test]
fn a_closure_comes_by_hand_into_each_place() {
    let page = Page::open("README.md");
    let (stage, hello) = site(&page);
    let fetch = page.block("start-fetch").replace(SHOWN, &hello);
    stage.run("laptop", "root", &fetch);
    let fetched = |script: &str| stage.run("laptop", "root", script);
    let text = fetched(&format!("cat fetched{hello}; rm -r fetched"));
    let lib = text
        .strip_prefix("hello from ")
        .expect("the package")
        .to_owned();

    // As the configuration says, with a second host that does not answer.
    stage.write(
        "laptop",
        "/etc/nix/ssh-substituter.conf",
        page.block("ssh-substituter.conf"),
    );
    stage.run("laptop", "root", &page.block("get").replace(SHOWN, &hello));
    for path in [&hello, &lib] {
        assert!(stage.has("laptop", path), "--into-store");
        fetched(&format!("cat fetched{path}"));
    }
    let other = "nix-store --store /tmp/other --option require-sigs false --option substituters file:///srv/cache";
    fetched(&format!(
        "{other} --realise {hello} && cat /tmp/other{hello} /tmp/other{lib}"
    ));
}

#[test]
fn what_there_is_to_see_can_be_seen() {
    let page = Page::open("README.md");
    let (stage, _) = site(&page);
    let one = page
        .block("ssh-substituter.conf")
        .split(" ssh://nix@office")
        .next()
        .expect("one host")
        .to_owned();
    stage.write("laptop", "/etc/nix/ssh-substituter.conf", &one);
    let nix_conf = stage.read("laptop", "/etc/nix/nix.conf") + &offline(page.block("nix.conf"));
    stage.write("laptop", "/etc/nix/nix.conf", &nix_conf);
    let text = stage.run("laptop", "root", page.block("look"));
    for word in [
        HOST,
        "ssh-substituter-hosts",
        "/etc/nix/ssh-substituter.conf:1",
        "cache.sqlite",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
}
