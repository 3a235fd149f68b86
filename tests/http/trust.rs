//! Whose signatures clients need.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::server::{Server, narinfo};
use super::support::{DagOptions, Got, Host, Nix, NixEnv, SHORT, run_with_timeout};

/// Runs `key generate`.
fn generate(env: &NixEnv, name: &str) -> Got {
    let mut command = env.program();
    command.args(["key", "generate", name, "cache.secret"]);
    Got(run_with_timeout(command, SHORT))
}

#[test]
fn one_key_of_the_server_is_enough() {
    let host = Host::new();
    let dag = host.store.dag(30, DagOptions::default());
    let text = host.store.add_text("text", "some text", &[]);
    let env = NixEnv::new();
    let key = generate(&env, "cache.example.org-1").status(0).stdout();
    let key = key.trim();
    let secret = env.folder().join("cache.secret");
    env.configure(
        &[host.trusted()],
        &format!("http-signing-key = {}", secret.display()),
    );
    let server = Server::start(&env);
    for path in &dag.paths {
        let sigs = server.get(&narinfo(path)).status(200).fields("Sig");
        assert_eq!(sigs.len(), 1);
        assert!(sigs[0].starts_with("cache.example.org-1:"), "{sigs:?}");
    }
    // What its content address proves needs no signature.
    assert!(server.get(&narinfo(&text)).fields("Sig").is_empty());
    let nix = Nix::new().substituters(&server.url()).trust(key);
    nix.realise(&[&dag.root, &text]).ok();
    // Not by another key of the same name.
    let other = NixEnv::new();
    let wrong = generate(&other, "cache.example.org-1").stdout();
    let nix = Nix::new().substituters(&server.url()).trust(wrong.trim());
    nix.realise(&[&dag.root]).failed();
}

#[test]
fn what_this_program_does_not_accept_is_not_signed() {
    let host = Host::new();
    let dag = host.store.dag(5, DagOptions::default());
    let env = NixEnv::new();
    generate(&env, "cache-1").status(0);
    let secret = env.folder().join("cache.secret");
    env.configure(
        &[host.url("")],
        &format!("http-signing-key = {}", secret.display()),
    );
    let server = Server::start(&env);
    server.get(&narinfo(&dag.root)).status(404);
    let log = server.stop();
    assert!(log.contains("it is not signed"), "{log}");
}

#[test]
fn a_pair_of_keys_is_made_once() {
    let env = NixEnv::new();
    let public = generate(&env, "cache-1").status(0).stdout();
    let file = env.folder().join("cache.secret");
    let secret = fs::read_to_string(&file).expect("the secret key");
    let mode = |file| fs::metadata(file).expect("a key").permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    let beside = env.folder().join("cache.secret.pub");
    assert_eq!(fs::read_to_string(beside).expect("the public key"), public);
    // Nix takes the pair for one.
    let mut command = env.command("nix");
    command.args(["key", "convert-secret-to-public"]);
    let converted = super::support::run_with_input(command, secret.as_bytes(), SHORT);
    assert_eq!(
        String::from_utf8_lossy(&converted.stdout).trim(),
        public.trim()
    );
    generate(&env, "cache-1")
        .status(1)
        .says(&["never replaced"]);
    assert_eq!(fs::read_to_string(&file).expect("the secret key"), secret);
    generate(&env, "a b")
        .status(1)
        .says(&["cannot be the name of a key"]);
}

#[test]
fn files_that_cannot_be_used_end_the_server_at_once() {
    let env = NixEnv::new();
    let serve = |line: &str| {
        env.configure(&[], line);
        let mut command = env.program();
        command.args(["http", "--listen", "127.0.0.1:0"]);
        Got(run_with_timeout(command, SHORT)).status(1)
    };
    serve("http-signing-key = /nowhere").says(&["cannot read the secret key in /nowhere"]);
    serve("http-password-file = /nowhere").says(&["cannot read the passwords in /nowhere"]);
    serve("http-listen = here").says(&["http-listen", "127.0.0.1:5001"]);
}
