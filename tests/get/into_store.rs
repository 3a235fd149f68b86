//! Into the store of this machine's Nix: a store of the test's own, directly and through a daemon.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use super::support::{Daemon, DagOptions, Store, TempUser, run_with_timeout, wait_until};
use super::{Got, LIMIT, Site};

impl Site {
    /// `get --into-store` into `store`.
    fn get_into(&self, store: &Store, paths: &[&str]) -> Got {
        let mut command = self.command(&["--into-store"]);
        command.args(paths).env("NIX_REMOTE", store.uri());
        Got(run_with_timeout(command, LIMIT))
    }
}

#[test]
fn nix_takes_the_closure_with_all_that_is_known_of_it() {
    let site = Site::new(1);
    let dag = site.store().dag(40, DagOptions::default());
    let [big, many] = [
        site.store().big("big", 9 << 20),
        site.store().many_files(300),
    ];
    let text = site.store().add_text("text", "some text", &[]);
    site.store().sign("cache.example.org-1", &[&big]);
    let own = Store::new();
    // What is there already is not fetched again.
    own.copy_from(site.store(), &[&dag.paths[12]]);
    let there = own.all_paths().len();
    assert!(there > 1);
    let got = site
        .get_into(&own, &[&dag.root, &big, &many, &text])
        .status(0);
    assert_eq!(
        got.stdout(),
        format!("{}\n{big}\n{many}\n{text}\n", dag.root)
    );
    got.says(&[&format!("fetched {} paths", 43 - there)]);
    own.verify();
    assert_eq!(own.all_paths(), site.store().all_paths());
    for path in &dag.paths {
        assert_eq!(own.references(path), site.store().references(path));
    }
    let json = |store: &Store| {
        let mut command = store.command("nix");
        command.args(["path-info", "--json", &dag.root, &big, &text]);
        let text = super::support::run(command, LIMIT);
        let mut all: serde_json::Value = serde_json::from_str(&text).unwrap();
        for info in all.as_array_mut().unwrap() {
            let fields = info.as_object_mut().unwrap();
            fields.remove("registrationTime");
            fields.remove("ultimate");
        }
        all
    };
    assert_eq!(json(&own), json(site.store()));

    site.hosts[0].sshd.freeze();
    let got = site.get_into(&own, &[&dag.root]).status(0);
    assert_eq!(got.stdout(), format!("{}\n", dag.root));
    site.hosts[0].sshd.thaw();
}

#[test]
fn what_nix_says_is_shown() {
    let site = Site::new(1);
    let path = site.store().add_text("text", "text", &[]);
    // Without the closure Nix refuses what refers to something that is not there.
    let upper = site.store().add_text("upper", "text", &[&path]);
    let own = Store::new();
    let mut command = site.command(&["--into-store", "--no-closure", &upper]);
    command.env("NIX_REMOTE", own.uri());
    let got = Got(run_with_timeout(command, LIMIT)).status(1);
    let got = got.says(&[
        "the local nix-store ended during the addition of",
        "is not valid",
    ]);
    assert_eq!(got.stdout(), "");
    assert!(!own.is_valid(&upper));

    let mut command = site.command(&["--into-store", &path]);
    command.env("NIX_REMOTE", "unix:///nowhere/socket");
    let got = Got(run_with_timeout(command, LIMIT)).status(1);
    got.says(&[
        "the local nix-store ended during the question which",
        "cannot connect to socket",
    ]);
    let mut command = site.command(&["--into-store", &path]);
    command.env("PATH", "/nowhere");
    let got = Got(run_with_timeout(command, LIMIT)).status(1);
    got.says(&[
        "cannot find nix-store in PATH or in the usual places",
        "(hint: ",
    ]);
}

/// A daemon in front of `store`, and its socket. It trusts root alone.
fn daemon(store: &Store) -> (Daemon, PathBuf) {
    let folder = store.env().folder();
    let socket = folder.join("socket");
    let script = format!(
        "NIX_CONF_DIR='{}' NIX_REMOTE='{}' NIX_DAEMON_SOCKET_PATH='{}' exec nix-daemon",
        store.env().conf_dir().display(),
        store.uri(),
        socket.display(),
    );
    let daemon = Daemon::start("sh", ["-c", &script], &folder.join("daemon.log"));
    wait_until("the daemon's socket", || socket.exists());
    (daemon, socket)
}

#[test]
fn a_daemon_takes_what_is_signed_from_users_that_it_does_not_trust() {
    let site = Site::new(1);
    let dag = site.store().dag(20, DagOptions::default());
    let unsigned = site.store().big("unsigned", 100);
    let key = site.store().sign("cache.example.org-1", &dag.paths);
    let own = Store::new();
    own.env().add_conf(&format!("trusted-public-keys = {key}"));
    let (_daemon, socket) = daemon(&own);
    let user = TempUser::new("sh");
    user.give(&site.hosts[0].sshd.client_key());
    user.give(site.env.folder());
    let id = |flag: &str| {
        let mut command = std::process::Command::new("id");
        command.args([flag, user.name()]);
        super::support::run(command, LIMIT).parse::<u32>().unwrap()
    };
    let (uid, gid) = (id("-u"), id("-g"));
    let get = |path: &str| {
        let mut command = site.command(&["--into-store", path]);
        command
            .env("NIX_REMOTE", format!("unix://{}", socket.display()))
            .env("XDG_CONFIG_HOME", site.env.folder().join("none"))
            .uid(uid)
            .gid(gid);
        Got(run_with_timeout(command, LIMIT))
    };
    let got = get(&dag.root).status(0);
    assert_eq!(got.stdout(), format!("{}\n", dag.root));
    assert!(dag.paths.iter().all(|path| own.verify_path(path)));
    let got = get(&unsigned).status(1);
    let got = got.says(&["the addition of", "signature", "(hint: ", "trusted-users"]);
    assert_eq!(got.stdout(), "");
    assert!(!own.is_valid(&unsigned));
    let log = fs::read_to_string(own.env().folder().join("daemon.log")).unwrap();
    assert!(log.contains("accepted connection"), "{log}");
}
