//! What `docs/push.md` says of pushing while Nix builds, on machines.

use super::pages::Page;
use super::stage::{INSTALL, Stage};

const HOST: &str = "builder.example.org";
const LAPTOP: &str = "laptop";

/// Two packages, one of which refers to the other.
const PACKAGES: &str =
    "let make = name: script: derivation { inherit name; system = builtins.currentSystem;
    builder = \"/bin/sh\"; args = [ \"-c\" script ]; };
    in make \"above\" \"echo ${make \"below\" \"echo x >$out\"} >$out\"";

#[test]
fn what_is_built_goes_to_the_host_by_itself() {
    let page = Page::open("docs/push.md");
    let stage = Stage::new(&[HOST, LAPTOP]);
    stage.host(HOST);
    let key = "mkdir -p -m 700 .ssh; ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519";
    stage.run(LAPTOP, "root", key);
    stage.let_in((LAPTOP, "/root/.ssh/id_ed25519.pub"), (HOST, "root"));
    stage.write(LAPTOP, "/root/.ssh/known_hosts", &stage.known_host(HOST));
    stage.run(LAPTOP, "root", INSTALL);
    let hook = include_str!("../../packaging/hooks/post-build-hook");
    stage.write(LAPTOP, "/root/packaging/hooks/post-build-hook", hook);
    stage.run(LAPTOP, "root", page.block("install-hook"));
    let conf = format!("ssh-substituter-push-hosts = ssh://root@{HOST}\n");
    stage.write(LAPTOP, "/etc/nix/ssh-substituter.conf", &conf);
    stage.nix_daemon(LAPTOP);
    stage.write(LAPTOP, "/srv/default.nix", PACKAGES);
    let built = stage.run(LAPTOP, "alice", "nix-build --no-out-link /srv 2>/dev/null");
    assert!(built.ends_with("-above"), "{built}");
    stage.run(LAPTOP, "root", page.block("push-wait"));
    assert!(stage.has(HOST, &built));

    // The host is down: the build is not held up, and what it built waits.
    stage.run(HOST, "root", "kill $(cat /run/sshd.pid)");
    // Connections that are open yet are not found any more.
    let forget = "ssh-substituter engine stop; rm -rf /run/ssh-substituter/*";
    stage.run(LAPTOP, "root", forget);
    let another = PACKAGES.replace("above", "another");
    stage.write(LAPTOP, "/srv/default.nix", &another);
    let built = stage.run(LAPTOP, "alice", "nix-build --no-out-link /srv 2>/dev/null");
    let waited = "ssh-substituter push --wait --timeout 1 || echo status $?";
    let waited = stage.run(LAPTOP, "root", waited);
    assert!(
        waited.ends_with("status 4") && waited.contains(&built),
        "{waited}"
    );
    let status = stage.run(LAPTOP, "root", "ssh-substituter status");
    assert!(
        status.contains("to push to root@builder.example.org: "),
        "{status}"
    );
    stage.sshd(HOST);
    stage.run(LAPTOP, "root", page.block("push-wait"));
    assert!(stage.has(HOST, &built));
}
