//! `docs/moving.md`: what worked with Nix's own `ssh://` works afterwards.

use super::pages::Page;
use super::stage::Stage;

const BUILDER: &str = "builder.example.org";
const OFFICE: &str = "office.example.org";

/// What a page says is in a file, without the substituters that no machine here reaches.
fn offline(conf: &str) -> String {
    let without = conf.replace(" https://cache.nixos.org", "");
    assert_ne!(without, conf, "the cache is in the line");
    without
}

#[test]
fn what_worked_before_works_afterwards() {
    let page = Page::open("docs/moving.md");
    let stage = Stage::new(&[BUILDER, OFFICE, "laptop"]);
    stage.host(BUILDER);
    stage.host(OFFICE);
    let [first, second] = ["first-1", "second-1"].map(|name| stage.build(OFFICE, name));
    let unsigned = stage.build(BUILDER, "unsigned-1");

    stage.run(
        "laptop",
        "root",
        "ssh-keygen -q -t ed25519 -N '' -f /etc/nix/key",
    );
    let known = [BUILDER, OFFICE].map(|host| stage.known_host(host));
    stage.write("laptop", "/root/.ssh/known_hosts", &known.join("\n"));
    for host in [BUILDER, OFFICE] {
        stage.let_in(("laptop", "/etc/nix/key.pub"), (host, "nix"));
    }
    let realise = |path: &str| {
        let script = format!("nix-store --realise {path} --option sandbox false");
        stage.try_run("laptop", "root", &script)
    };

    stage.write(
        "laptop",
        "/etc/nix/nix.conf",
        &offline(page.block("before")),
    );
    assert!(realise(&first).ok, "this is how it was before");
    assert!(!realise(&unsigned).ok, "the builder is not trusted");

    stage.run("laptop", "root", page.block("moving-install"));
    stage.write(
        "laptop",
        "/etc/nix/nix.conf",
        &offline(page.block("nix.conf")),
    );
    stage.write(
        "laptop",
        "/etc/nix/ssh-substituter.conf",
        page.block("ssh-substituter.conf"),
    );
    stage.run("laptop", "root", page.block("moving-check"));
    let ran = realise(&second);
    assert!(ran.ok, "{}", ran.text);
    assert!(stage.has("laptop", &second));
    let ran = realise(&unsigned);
    assert!(
        !ran.ok && ran.text.contains("it is not signed"),
        "{}",
        ran.text
    );
}

#[test]
fn the_hosts_are_those_of_the_line_before() {
    let page = Page::open("docs/moving.md");
    let words = |text: &str| -> Vec<String> {
        let (_, value) = text.split_once('=').expect("a setting");
        value.split_whitespace().map(str::to_owned).collect()
    };
    let mut before = words(page.block("before"));
    assert_eq!(before.pop().as_deref(), Some("https://cache.nixos.org"));
    assert_eq!(words(page.block("ssh-substituter.conf")), before);
}

#[test]
fn from_download_via_ssh_unsigned_paths_come_once_their_host_is_trusted() {
    let page = Page::open("docs/moving.md");
    let stage = Stage::new(&[BUILDER, "laptop"]);
    stage.host(BUILDER);
    let unsigned = stage.build(BUILDER, "unsigned-1");
    stage.run(
        "laptop",
        "root",
        "ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519",
    );
    stage.write(
        "laptop",
        "/root/.ssh/known_hosts",
        &stage.known_host(BUILDER),
    );
    stage.let_in(("laptop", "/root/.ssh/id_ed25519.pub"), (BUILDER, "nix"));
    stage.run("laptop", "root", page.block("moving-install"));
    let substitute = || {
        let script = format!("ssh-substituter --substitute {unsigned} /tmp/dest");
        stage.try_run("laptop", "root", &script)
    };

    stage.write("laptop", "/etc/nix/nix.conf", page.block("classic-before"));
    let ran = substitute();
    let said = "but it is not signed: such paths from there are not used";
    assert!(!ran.ok && ran.text.contains(said), "{}", ran.text);

    stage.write("laptop", "/etc/nix/nix.conf", page.block("classic-after"));
    let ran = substitute();
    assert!(ran.ok, "{}", ran.text);
    stage.run("laptop", "root", "test -e /tmp/dest");
}
