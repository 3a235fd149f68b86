//! `docs/laptop.md`: hosts behind aliases and a gateway, and what happens when they go out of reach.

use super::pages::Page;
use super::stage::{INSTALL, Stage};

const HOME: &str = "home.example.org";
const OFFICE: &str = "office.example.org";
const GATEWAY: &str = "gateway.example.org";

/// A laptop without a daemon, configured as the page says.
struct Site {
    stage: Stage,
    /// What both have, and what the office alone has.
    both: String,
    only_office: String,
}

impl Site {
    fn new() -> Self {
        let page = Page::open("docs/laptop.md");
        let stage = Stage::new(&[HOME, OFFICE, GATEWAY, "laptop"]);
        let both = stage.host(HOME);
        assert_eq!(stage.host(OFFICE), both);
        let only_office = stage.build(OFFICE, "tools-1");
        // The gateway passes on; nobody gets to the office past it.
        stage.sshd(GATEWAY);
        stage.run("laptop", "root", INSTALL);
        let key = "mkdir -p -m 700 .ssh; ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519";
        stage.run("laptop", "alice", key);
        for (host, user) in [(HOME, "nix"), (OFFICE, "nix"), (GATEWAY, "alice")] {
            stage.let_in(("laptop", "/home/alice/.ssh/id_ed25519.pub"), (host, user));
        }
        let known = [HOME, OFFICE, GATEWAY].map(|host| stage.known_host(host));
        stage.write("laptop", "/home/alice/.ssh/known_hosts", &known.join("\n"));
        let conf = "/home/alice/.config/nix";
        for (file, label) in [
            ("/home/alice/.ssh/config".to_owned(), "ssh_config"),
            (
                format!("{conf}/ssh-substituter.conf"),
                "ssh-substituter.conf",
            ),
            (format!("{conf}/nix.conf"), "nix.conf"),
        ] {
            stage.write("laptop", &file, page.block(label));
        }
        // It is the user's own store: there is no daemon.
        stage.run(
            "laptop",
            "root",
            "chown -R alice: /home/alice /nix; chmod 600 /home/alice/.ssh/*",
        );
        stage.run("laptop", "alice", page.block("laptop-try"));
        Self {
            stage,
            both,
            only_office,
        }
    }

    fn realise(&self, path: &str) -> String {
        self.stage.run(
            "laptop",
            "alice",
            &format!("nix-store --realise {path} --option build-users-group ''"),
        )
    }

    fn forget(&self, path: &str) {
        self.stage
            .run("laptop", "alice", &format!("nix-store --delete {path}"));
    }
}

#[test]
fn each_place_serves_when_it_can_be_reached() {
    let site = Site::new();
    site.realise(&site.both);
    site.realise(&site.only_office);
    assert!(site.stage.owner_has("laptop", "alice", &site.only_office));
    // The way to the office leads through the gateway.
    let passed = site.stage.read(GATEWAY, "/var/log/sshd");
    assert!(passed.contains("Accepted publickey for alice"), "{passed}");

    let page = Page::open("docs/laptop.md");
    let status = site
        .stage
        .run("laptop", "alice", page.block("laptop-status"));
    assert!(
        status.contains("home") && status.contains("office"),
        "{status}"
    );

    // At home without a network to anywhere else: the gateway is out of reach.
    site.forget(&site.both);
    site.stage
        .run("laptop", "alice", "ssh-substituter engine stop");
    site.stage.run(GATEWAY, "root", "kill $(cat /run/sshd.pid)");
    let said = site.realise(&site.both);
    assert!(!said.contains("error"), "{said}");
    assert!(site.stage.owner_has("laptop", "alice", &site.both));
}

#[test]
fn with_nobody_in_reach_nix_goes_on() {
    let site = Site::new();
    for host in [HOME, GATEWAY] {
        site.stage.run(host, "root", "kill $(cat /run/sshd.pid)");
    }
    let script = "nix-build --no-out-link --option build-users-group '' -E 'derivation { name = \"own\"; \
        system = builtins.currentSystem; builder = \"/bin/sh\"; args = [ \"-c\" \"echo own >$out\" ]; }'";
    let built = site.stage.run("laptop", "alice", script);
    let path = built.lines().last().expect("a path");
    assert!(site.stage.owner_has("laptop", "alice", path), "{built}");
    assert!(built.contains("connection refused"), "{built}");
}
