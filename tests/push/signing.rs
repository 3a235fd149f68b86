//! Signatures: made here, wanted there.

use std::fs;

use super::support::{Daemon, DagOptions, Host, Sshd, Store, TempUser, run, wait_until};
use super::{LIMIT, Site, verified};

/// Makes a key pair; the file of the secret key, and the public key.
fn key_pair(site: &Site, name: &str) -> (String, String) {
    let [secret, public] = ["secret", "public"].map(|kind| site.file(&format!("{name}.{kind}")));
    let mut command = site.env.command("nix-store");
    command.args(["--generate-binary-cache-key", name]);
    command.args([&secret, &public]);
    run(command, LIMIT);
    let public = fs::read_to_string(public).unwrap();
    (
        secret.to_str().unwrap().to_owned(),
        public.trim().to_owned(),
    )
}

/// A host where an untrusted account reaches the store through a daemon that wants signatures of `key`.
fn untrusting(key: &str) -> (Host, Daemon, TempUser) {
    let store = Store::new();
    store
        .env()
        .add_conf(&format!("trusted-public-keys = {key}"));
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
    let user = TempUser::new("sh");
    let sshd = Sshd::builder()
        .user(&user)
        .env("NIX_REMOTE", &format!("unix://{}", socket.display()))
        .start();
    user.give(&sshd.client_key());
    (Host { store, sshd }, daemon, user)
}

#[test]
fn an_untrusted_account_needs_signatures_and_gets_them() {
    let keys = Site::new(0);
    let (secret, public) = key_pair(&keys, "push-1");
    let (other, _) = key_pair(&keys, "other-1");
    let (host, _daemon, _user) = untrusting(&public);
    let mut site = Site::of(Vec::new());
    // The daemon has the store, so that the URL names none.
    site.env.configure(
        &[],
        &format!("ssh-substituter-push-hosts = {}", host.sshd.store_url("")),
    );
    site.hosts.push(host);
    let dag = site.store.dag(30, DagOptions::default());
    let text = site
        .store
        .add_text("text", "needs none: its name is made of its content", &[]);
    for args in [&[&*dag.root, &text][..], &["--sign", &other, &dag.root]] {
        let got = site
            .push(args)
            .status(4)
            .says(&["does not take", "signature", "--sign FILE"]);
        assert!(got.stderr().lines().count() < 20, "{}", got.stderr());
    }
    assert_eq!(verified(site.there()), [&*text]);
    let got = site.push(&["--sign", &secret, &dag.root]).status(0);
    assert_eq!(got.stdout(), format!("{}\n", dag.root));
    for path in &dag.paths {
        assert!(site.there().verify_path(path));
    }
    let mut command = site.there().command("nix");
    command.args([
        "store",
        "verify",
        "--no-contents",
        "--sigs-needed",
        "1",
        "--trusted-public-keys",
        &public,
        &dag.root,
    ]);
    run(command, LIMIT);
}

#[test]
fn the_signature_is_the_one_that_nix_makes() {
    let site = Site::new(1);
    let (secret, public) = key_pair(&site, "push-1");
    let low = site.store.big("low", 1000);
    site.configure(&format!("push-signing-key = {secret}"));
    site.push(&[&low]).status(0);
    let sigs = |store: &Store| {
        let mut command = store.command("nix");
        command.args(["path-info", "--json", &low]);
        let infos: serde_json::Value = serde_json::from_str(&run(command, LIMIT)).unwrap();
        infos[0]["signatures"].clone()
    };
    assert_eq!(
        sigs(&site.store),
        serde_json::Value::Null,
        "nothing is written here"
    );
    let mut command = site.store.command("nix");
    command.args(["store", "sign", "--key-file", &secret, &low]);
    run(command, LIMIT);
    assert_eq!(sigs(site.there()), sigs(&site.store));
    let mut command = site.there().command("nix");
    command.args([
        "store",
        "verify",
        "--sigs-needed",
        "1",
        "--trusted-public-keys",
        &public,
        &low,
    ]);
    run(command, LIMIT);
}

#[test]
fn a_key_that_cannot_be_read_is_told_before_anything_is_sent() {
    let site = Site::new(1);
    let path = site.store.big("path", 1000);
    let (secret, public) = key_pair(&site, "push-1");
    site.push(&["--sign", "/nowhere", &path]).status(1).says(&[
        "cannot read the secret key in /nowhere",
        "No such file",
        "(hint: ",
    ]);
    let file = site.file("public");
    fs::write(&file, public).unwrap();
    let got = site
        .push(&["--sign", file.to_str().unwrap(), &path])
        .status(1);
    got.says(&["no secret key in", "it has 32 bytes, as a public key has"]);
    fs::write(&file, &fs::read(&secret).unwrap()[..40]).unwrap();
    let got = site
        .push(&["--sign", file.to_str().unwrap(), &path])
        .status(1);
    let said = got.says(&["no secret key in"]).stderr();
    let text = fs::read_to_string(&secret).unwrap();
    assert!(!said.contains(&text[7..30]), "{said}");
    assert_eq!(site.hosts[0].sshd.logins(), 0);
    assert!(site.there().all_paths().is_empty());
}
