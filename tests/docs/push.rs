//! `docs/push.md` and the README's words about it, on machines.

use super::pages::Page;
use super::stage::{INSTALL, Stage};

const HOST: &str = "builder.example.org";

/// A laptop with something built, whose user can log in to a host with a store.
fn site() -> Stage {
    let stage = Stage::new(&[HOST, "laptop"]);
    stage.host(HOST);
    let key = "mkdir -p -m 700 .ssh; ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519";
    stage.run("laptop", "root", key);
    stage.let_in(("laptop", "/root/.ssh/id_ed25519.pub"), (HOST, "root"));
    stage.write("laptop", "/root/.ssh/known_hosts", &stage.known_host(HOST));
    stage.run("laptop", "root", INSTALL);
    stage
}

/// Makes `./result`; the path that it leads to.
fn build(stage: &Stage, text: &str) -> String {
    let script =
        format!("echo {text} > built; ln -sfn $(nix-store --add built) result; readlink result");
    stage.run("laptop", "root", &script)
}

#[test]
fn what_was_built_goes_to_the_host() {
    let stage = site();
    for page in ["README.md", "docs/push.md"] {
        let built = build(&stage, page);
        if page != "README.md" {
            let text = stage.run("laptop", "root", Page::open(page).block("push-dry-run"));
            assert!(
                text.contains(&built) && text.contains("1 path to send"),
                "{text}"
            );
            assert!(!stage.has(HOST, &built));
        }
        let text = stage.run("laptop", "root", Page::open(page).block("push"));
        assert!(text.ends_with(&built), "{text}");
        assert!(stage.has(HOST, &built));
    }
}

#[test]
fn it_is_signed_and_the_account_allows_nothing_else() {
    let stage = site();
    let page = Page::open("docs/push.md");
    let key = stage.read("laptop", "/root/.ssh/id_ed25519.pub");
    let line = page
        .block("authorized_keys")
        .replace("ssh-ed25519 AAAA… ci", &key);
    stage.write(HOST, "/root/.ssh/authorized_keys", &line);
    let built = build(&stage, "signed");
    stage.run("laptop", "root", page.block("push-key"));
    let public = stage.read("laptop", "/root/push-key.public");
    let script = format!(
        "nix --extra-experimental-features nix-command store verify --sigs-needed 1 --trusted-public-keys {} {built}",
        public.trim()
    );
    stage.run(HOST, "root", &script);
}
