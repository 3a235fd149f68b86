//! `docs/http.md`: a server of one user in front of a Nix daemon whose root has no ssh key, and of another machine.

use super::pages::Page;
use super::stage::{INSTALL, Stage};

const HOST: &str = "builder.example.org";
const CONF: &str = "/home/alice/.config/nix/ssh-substituter.conf";

/// Starts the server as a user does, in the background.
fn start(stage: &Stage, command: &str) {
    let script = format!(
        "setsid {command} >http.log 2>&1 </dev/null &
        tries=0
        until grep -q 'serves on' http.log; do
            tries=$((tries + 1)); [ $tries -lt 1000 ]; sleep 0.02
        done"
    );
    stage.run("laptop", "alice", &script);
}

#[test]
fn the_daemon_needs_no_ssh_and_other_machines_need_nothing() {
    let page = Page::open("docs/http.md");
    let stage = Stage::new(&[HOST, "laptop", "desktop"]);
    let hello = stage.host(HOST);
    stage.run("laptop", "root", INSTALL);
    let key = "mkdir -p -m 700 .ssh; ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519";
    stage.run("laptop", "alice", key);
    stage.let_in(("laptop", "/home/alice/.ssh/id_ed25519.pub"), (HOST, "nix"));
    stage.write(
        "laptop",
        "/home/alice/.ssh/known_hosts",
        &stage.known_host(HOST),
    );
    let public = stage.run("laptop", "alice", page.block("http-key"));
    let hosts = format!("ssh-substituter-hosts = ssh://nix@{HOST}?trusted=true\n");
    stage.write(
        "laptop",
        CONF,
        &(hosts + page.block("ssh-substituter.conf")),
    );
    stage.run("laptop", "root", "chown -R alice: /home/alice");
    // Whatever blocks stand there: the address of this machine and the key.
    for (machine, address) in [("laptop", "127.0.0.1"), ("desktop", "10.0.0.1")] {
        let conf = stage.read(machine, "/etc/nix/nix.conf");
        let line = format!("extra-substituters = http://{address}:5001");
        assert!(page.text.contains(&line), "{line}");
        let keys = format!(
            "extra-trusted-public-keys = {}",
            public.lines().last().unwrap()
        );
        stage.write(
            machine,
            "/etc/nix/nix.conf",
            &format!("{conf}\n{line}\n{keys}\n"),
        );
        stage.nix_daemon(machine);
    }
    let realise = format!("nix-store --realise {hello}");
    start(&stage, "ssh-substituter http");
    assert!(!stage.root("laptop").join("root/.ssh").exists());
    stage.run("laptop", "alice", &realise);
    assert!(stage.has("laptop", &hello));

    stage.run("laptop", "root", "ip address add 10.0.0.1/32 dev lo");
    start(&stage, page.block("http-lan").trim());
    let said = stage.read("laptop", "/home/alice/http.log");
    assert!(
        said.contains("10.0.0.1:5001 is not of this machine alone"),
        "{said}"
    );
    stage.run("desktop", "alice", &realise);
    assert!(stage.has("desktop", &hello));
}
