//! `docs/ci.md`: the jobs run as they stand there, on machines that are what a runner is.

use yaml_rust2::YamlLoader;

use super::blocks::collect_scripts;
use super::pages::{Page, SHOWN};
use super::stage::{INSTALL, Stage};

const HOST: &str = "builder.example.org";

/// A package that the job builds, unless somebody has it. The builder tells who did.
const PACKAGE: &str =
    "derivation { name = \"package\"; system = builtins.currentSystem; builder = \"/bin/sh\";
    args = [ \"-c\" \"read host </etc/hostname; echo built on $host >$out\" ]; }";

/// A build server that has built the package; what is secret and what is not.
struct Site {
    stage: Stage,
    page: Page,
    secret: String,
    host_key: String,
}

/// Makes a user one of the daemon's trusted users.
fn trust(stage: &Stage, machine: &str, user: &str) {
    let nix_conf = stage.read(machine, "/etc/nix/nix.conf");
    let nix_conf = format!("{nix_conf}trusted-users = root {user}\n");
    stage.write(machine, "/etc/nix/nix.conf", &nix_conf);
}

impl Site {
    fn new() -> Self {
        let page = Page::open("docs/ci.md");
        let stage = Stage::new(&[HOST, "runner"]);
        for machine in [HOST, "runner"] {
            stage.write(machine, "/etc/hostname", &format!("{machine}\n"));
            stage.write(machine, "/srv/default.nix", PACKAGE);
        }
        // For the jobs that fill its store.
        trust(&stage, HOST, "nix");
        stage.host(HOST);
        stage.run(HOST, "root", "NIX_REMOTE= nix-build --no-out-link /srv");
        stage.run("runner", "root", page.block("ci-key"));
        let public = stage.read("runner", "/root/ci_key.pub");
        let blob = public.split(' ').nth(1).expect("a key");
        stage.authorize(
            HOST,
            "nix",
            &page.block("authorized_keys").replace("AAAA…", blob),
        );
        Self {
            secret: stage.read("runner", "/root/ci_key").trim_end().to_owned(),
            host_key: stage.run("runner", "root", page.block("ci-host-key")),
            stage,
            page,
        }
    }

    /// As install-nix-action leaves the runner.
    fn install_nix(&self) {
        trust(&self.stage, "runner", "alice");
        self.stage.nix_daemon("runner");
    }

    /// The scripts of a job, in order.
    fn job(&self, label: &str) -> Vec<String> {
        let documents = YamlLoader::load_from_str(self.page.block(label)).expect("YAML");
        let mut scripts = Vec::new();
        collect_scripts(&documents[0], &mut scripts);
        scripts
    }

    /// Runs a step as the runner does: what one step leaves is in files alone.
    fn step(&self, user: &str, env: &[(&str, &str)], script: &str) -> String {
        let ran = self.stage.with_env("runner", user, env, script);
        assert!(ran.ok, "{script}\n{}", ran.text);
        ran.text
    }

    fn was_fetched(&self, built: &str) {
        let path = built.lines().last().expect("a path");
        let text = self.stage.run("runner", "root", &format!("cat {path}"));
        let log = self
            .stage
            .try_run("runner", "root", "cat /var/log/nix-daemon")
            .text;
        assert_eq!(text, format!("built on {HOST}"), "{built}\n{log}");
        assert!(self.stage.has("runner", path));
    }
}

#[test]
fn a_job_on_github_fetches_from_the_build_server() {
    let site = Site::new();
    let jobs = site.job("github");
    let [install, set_up, build] = &jobs[..] else {
        panic!("{jobs:?}");
    };
    // There is no Rust on the machine; what the step leaves is there.
    assert!(install.contains("cargo install"));
    site.install_nix();
    let env = [
        ("CACHE_SSH_KEY", site.secret.as_str()),
        ("CACHE_HOST_KEY", &site.host_key),
    ];
    // Only root may do what this step does by sudo.
    site.step("root", &env, set_up);
    let documents = YamlLoader::load_from_str(site.page.block("github")).expect("YAML");
    let config = documents[0]["jobs"]["build"]["env"]["NIX_CONFIG"].as_str();
    let env = [("NIX_CONFIG", config.expect("a variable").trim_end())];
    let built = site.step("alice", &env, &format!("cp /srv/default.nix .\n{build}"));
    site.was_fetched(&built);
    let mode = site
        .stage
        .run("runner", "root", "stat -c %a:%U /etc/nix/cache_key");
    assert_eq!(mode, "600:root");
}

#[test]
fn a_job_on_gitlab_fetches_from_the_build_server() {
    let site = Site::new();
    site.stage.run("runner", "root", INSTALL);
    let documents = YamlLoader::load_from_str(site.page.block("gitlab")).expect("YAML");
    let config = documents[0]["build"]["variables"]["NIX_CONFIG"]
        .as_str()
        .expect("a variable");
    site.stage
        .write("runner", "/builds/key", &format!("{}\n", site.secret));
    site.stage.run("runner", "root", "chmod 666 /builds/key");
    let env = [
        ("CACHE_SSH_KEY", "/builds/key"),
        ("CACHE_HOST_KEY", &site.host_key),
        ("NIX_CONFIG", config.trim_end()),
    ];
    // Both parts run in one shell there.
    let script = format!("cd /srv\n{}", site.job("gitlab").join("\n"));
    let built = site.step("root", &env, &script);
    site.was_fetched(&built);
}

/// The build server lets the job write, and the job builds something that nobody has.
fn lets_write(site: &Site) {
    let public = site.stage.read("runner", "/root/ci_key.pub");
    let blob = public.split(' ').nth(1).expect("a key");
    let line = site.page.block("authorized_keys-write");
    site.stage
        .authorize(HOST, "nix", &line.replace("AAAA…", blob));
    let another = PACKAGE.replace("\"package\"", "\"another\"");
    site.stage.write("runner", "/srv/default.nix", &another);
}

/// What the job has built is at the build server, and valid.
fn was_sent(site: &Site, built: &str) {
    let path = built
        .lines()
        .find(|line| line.starts_with("/nix/store/"))
        .unwrap_or_else(|| panic!("{built}"));
    let text = site.stage.run(HOST, "root", &format!("cat {path}"));
    assert_eq!(text, "built on runner");
    let verify = format!("NIX_REMOTE= nix-store --verify-path {path}");
    site.stage.run(HOST, "root", &verify);
}

#[test]
fn a_job_on_github_fills_the_cache() {
    let site = Site::new();
    lets_write(&site);
    site.install_nix();
    let env = [
        ("CACHE_SSH_KEY", site.secret.as_str()),
        ("CACHE_HOST_KEY", &site.host_key),
    ];
    site.step("root", &env, &site.job("github")[1]);
    let jobs = site.job("github-push");
    let [set_up, build, wait] = &jobs[..] else {
        panic!("{jobs:?}");
    };
    let hook = include_str!("../../packaging/hooks/post-build-hook");
    let checked_out = "/root/ssh-substituter/packaging/hooks/post-build-hook";
    site.stage.write("runner", checked_out, hook);
    site.step("root", &[], set_up);
    let steps = YamlLoader::load_from_str(site.page.block("github-push")).expect("YAML");
    let config = steps[0][1]["env"]["NIX_CONFIG"].as_str();
    let env = [("NIX_CONFIG", config.expect("a variable").trim_end())];
    let built = site.step("alice", &env, &format!("cp /srv/default.nix .\n{build}"));
    site.step("root", &[], wait);
    was_sent(&site, &built);
}

#[test]
fn a_job_on_gitlab_fills_the_cache() {
    let site = Site::new();
    lets_write(&site);
    site.stage.run("runner", "root", INSTALL);
    let hook = include_str!("../../packaging/hooks/post-build-hook");
    let installed = "/opt/ssh-substituter/post-build-hook";
    site.stage.write("runner", installed, hook);
    site.stage
        .run("runner", "root", &format!("chmod 755 {installed}"));
    let documents = YamlLoader::load_from_str(site.page.block("gitlab-push")).expect("YAML");
    let config = documents[0]["build"]["variables"]["NIX_CONFIG"]
        .as_str()
        .expect("a variable");
    // The machines share /usr/lib with this one.
    let config = config.replace("/usr/lib/", "/opt/");
    site.stage
        .write("runner", "/builds/key", &format!("{}\n", site.secret));
    let env = [
        ("CACHE_SSH_KEY", "/builds/key"),
        ("CACHE_HOST_KEY", &site.host_key),
        ("NIX_CONFIG", config.trim_end()),
    ];
    let script = format!("cd /srv\n{}", site.job("gitlab-push").join("\n"));
    let built = site.step("root", &env, &script);
    was_sent(&site, &built);
}

#[test]
fn a_job_goes_on_when_the_host_is_down() {
    let site = Site::new();
    site.stage.run("runner", "root", INSTALL);
    let env = [
        ("CACHE_SSH_KEY", site.secret.as_str()),
        ("CACHE_HOST_KEY", &site.host_key),
    ];
    site.step("root", &env, &site.job("github")[1]);
    site.stage.run(HOST, "root", "kill $(cat /run/sshd.pid)");
    let config = "extra-substituters = ssh://localhost?remote-program=ssh-substituter&trusted=true";
    let env = [("NIX_CONFIG", config)];
    let built = site.step("root", &env, "cd /srv; nix-build --no-out-link");
    assert!(built.contains("connection refused (hint: "), "{built}");
    let path = built.lines().last().expect("a path");
    assert_eq!(
        site.stage.run("runner", "root", &format!("cat {path}")),
        "built on runner"
    );
}

#[test]
fn a_job_without_nix_gets_what_it_wants() {
    let site = Site::new();
    let hello = site.stage.build(HOST, "hello-2.12");
    site.stage.run("runner", "root", INSTALL);
    let env = [
        ("CACHE_SSH_KEY", site.secret.as_str()),
        ("CACHE_HOST_KEY", &site.host_key),
    ];
    site.step("root", &env, &site.job("github")[1]);
    let [get, cache] =
        ["ci-get", "ci-get-cache"].map(|label| site.page.block(label).replace(SHOWN, &hello));
    site.step("root", &[], &get);
    let text = site.step("root", &[], &format!("cat root{hello}"));
    assert!(text.starts_with("hello from /nix/store/"), "{text}");
    site.step("root", &[], &cache);
    assert!(site.stage.has("runner", &hello));
    // The second job finds it there, with the host gone.
    site.stage.run(HOST, "root", "kill $(cat /run/sshd.pid)");
    site.step(
        "root",
        &[],
        &format!("nix-store --delete {hello} >/dev/null; {cache}"),
    );
    assert!(site.stage.has("runner", &hello));
}
