//! `docs/restricted-host.md`: each way to let an account serve the store and nothing else does just that.

use super::pages::Page;
use super::stage::{INSTALL, Stage};

const HOST: &str = "builder.example.org";

/// A host with the account, and a laptop whose key is to be let in.
struct Site {
    page: Page,
    stage: Stage,
    hello: String,
    /// The public half of the laptop's key, without what stands before and after it.
    blob: String,
}

impl Site {
    fn new() -> Self {
        let page = Page::open("docs/restricted-host.md");
        let stage = Stage::new(&[HOST, "laptop"]);
        let hello = stage.host(HOST);
        stage.run(HOST, "root", page.block("restricted-account"));
        stage.run("laptop", "root", INSTALL);
        let key = "mkdir -p -m 700 .ssh; ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519; cat .ssh/id_ed25519.pub";
        let public = stage.run("laptop", "root", key);
        let blob = public.split(' ').nth(1).expect("a key").to_owned();
        stage.write("laptop", "/root/.ssh/known_hosts", &stage.known_host(HOST));
        Self {
            page,
            stage,
            hello,
            blob,
        }
    }

    /// The blocks of authorized_keys on the page, in order, with the real key.
    fn lines(&self) -> Vec<String> {
        let blocks = self
            .page
            .blocks
            .iter()
            .filter(|block| block.label == "authorized_keys");
        blocks
            .map(|block| block.text.replace("AAAA…", &self.blob))
            .collect()
    }

    fn authorize(&self, lines: &str) {
        self.stage.authorize(HOST, "nix-serve", lines);
    }

    /// The store is served, and nothing else is.
    fn serves_only_the_store(&self) {
        let host = format!("ssh://nix-serve@{HOST}?trusted=true");
        let fetch = format!(
            "rm -rf hello; ssh-substituter --option engine off --host '{host}' --substitute {} hello; cat hello",
            self.hello
        );
        let fetched = self.stage.run("laptop", "root", &fetch);
        assert!(fetched.contains("hello from /nix/store/"), "{fetched}");
        let tried = self
            .stage
            .try_run("laptop", "root", self.page.block("restricted-try"));
        let nothing = ["", "error: unexpected end-of-file"];
        assert!(nothing.contains(&tried.text.as_str()), "{}", tried.text);
        assert!(self.page.text.contains(nothing[1]));
        for harm in [
            "echo owned > owned".to_owned(),
            "nix-store --serve --write".to_owned(),
            format!("cat {}", self.hello),
        ] {
            let script = format!("ssh nix-serve@{HOST} '{harm}' </dev/null");
            let ran = self.stage.try_run("laptop", "root", &script);
            assert!(nothing.contains(&ran.text.as_str()), "{harm}: {}", ran.text);
        }
        assert!(!self.stage.root(HOST).join("home/nix-serve/owned").exists());
        let terminal = format!("ssh -tt nix-serve@{HOST} </dev/null");
        let ran = self.stage.try_run("laptop", "root", &terminal);
        assert!(
            ran.text.contains("PTY allocation request failed"),
            "{}",
            ran.text
        );
    }
}

#[test]
fn an_account_without_bounds_is_distinguished_from_one_with() {
    let site = Site::new();
    site.authorize(&format!("ssh-ed25519 {}", site.blob));
    let script = format!("ssh nix-serve@{HOST} 'echo owned' </dev/null");
    assert_eq!(site.stage.run("laptop", "root", &script), "owned");
}

#[test]
fn by_a_line_in_authorized_keys() {
    let site = Site::new();
    site.authorize(&site.lines()[0]);
    site.serves_only_the_store();
}

#[test]
fn by_the_configuration_of_sshd() {
    let site = Site::new();
    site.authorize(&format!("ssh-ed25519 {}", site.blob));
    let config = site.stage.read(HOST, "/etc/ssh/sshd_config");
    let config = config + site.page.block("sshd_config");
    site.stage.write(HOST, "/etc/ssh/sshd_config", &config);
    site.stage
        .run(HOST, "root", site.page.block("restricted-check"));
    site.stage
        .run(HOST, "root", "kill -HUP $(cat /run/sshd.pid); sleep 0.5");
    site.serves_only_the_store();
}

/// What NixOS makes of its option is a `Match` block like the one above; that the option is there is for its manual to say.
#[test]
fn by_this_program_where_nix_cannot_serve() {
    let site = Site::new();
    site.authorize(&site.lines()[1]);
    site.stage.run(HOST, "root", INSTALL);
    site.serves_only_the_store();
}

#[test]
fn by_this_program_where_the_url_asks_for_it() {
    let site = Site::new();
    // On a connection that was made under a forced command, that command would run.
    site.authorize(&format!("ssh-ed25519 {}", site.blob));
    site.stage.run(HOST, "root", INSTALL);
    let config = site
        .page
        .block("ssh-substituter.conf")
        .replace("nix@", "nix-serve@");
    site.stage
        .write("laptop", "/etc/nix/ssh-substituter.conf", &config);
    let fetch = format!(
        "ssh-substituter --option engine off --substitute {} there; cat there",
        site.hello
    );
    let fetched = site.stage.run("laptop", "root", &fetch);
    assert!(fetched.contains("hello from /nix/store/"), "{fetched}");
}
