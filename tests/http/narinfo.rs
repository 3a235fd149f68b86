//! What a path is.

use sha2::{Digest, Sha256};
use ssh_substituter::model::NarHash;

use super::server::{Server, narinfo};
use super::support::{DagOptions, Host, NixEnv};

#[test]
fn a_narinfo_says_what_the_hosts_store_says() {
    let host = Host::new();
    let dag = host.store.dag(20, DagOptions::default());
    let text = host.store.add_text("text", "some text", &[]);
    let keys = [host.store.sign_all("one-1"), host.store.sign_all("two-1")];
    let env = NixEnv::new();
    env.configure(
        &[host.url("")],
        &format!("trusted-public-keys = {}", keys[0]),
    );
    let server = Server::start(&env);
    for path in dag.paths.iter().chain([&text]) {
        let reply = server.get(&narinfo(path)).status(200);
        assert_eq!(reply.header("content-type"), Some("text/x-nix-narinfo"));
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        assert_eq!(reply.field("StorePath"), *path);
        assert_eq!(reply.field("NarHash"), host.store.nar_hash(path));
        assert_eq!(
            reply.field("NarSize"),
            host.store.nar_size(path).to_string()
        );
        assert_eq!(reply.field("FileHash"), reply.field("NarHash"));
        assert_eq!(reply.field("FileSize"), reply.field("NarSize"));
        assert_eq!(reply.field("Compression"), "none");
        let references = reply.field("References");
        let references: Vec<_> = references
            .split_whitespace()
            .map(|name| format!("/nix/store/{name}"))
            .collect();
        assert_eq!(references, host.store.references(path));
        let mut names = reply.fields("Sig");
        names.iter_mut().for_each(|sig| sig.truncate(5));
        assert_eq!(names, ["one-1", "two-1"], "{}", reply.text());
        assert_eq!(reply.fields("CA").len(), usize::from(*path == text));
    }
    let derivers = dag
        .paths
        .iter()
        .map(|path| server.get(&narinfo(path)).fields("Deriver").len());
    assert_eq!(derivers.sum::<usize>(), 7);
}

#[test]
fn the_store_is_described_and_the_server_is_alive() {
    let env = NixEnv::new();
    env.configure(&[], "");
    let server = Server::start(&env);
    let mut client = server.connect();
    let info = client.get("/nix-cache-info").status(200);
    assert_eq!(info.field("StoreDir"), "/nix/store");
    assert_eq!(info.field("WantMassQuery"), "1");
    assert_eq!(info.field("Priority"), "30");
    assert_eq!(client.get("/healthz").status(200).text(), "ok\n");
    let log = server.stop();
    assert!(log.contains("no hosts to ask"), "{log}");
}

#[test]
fn what_is_advertised_is_delivered_and_by_another_process_too() {
    let host = Host::new();
    let paths = [
        host.store.add_text("a?b=c+d", "some text", &[]),
        host.store.big("large", 3 << 20),
        host.store.many_files(200),
    ];
    let env = NixEnv::new();
    env.configure(&[host.trusted()], "");
    let server = Server::start(&env);
    let told: Vec<_> = paths
        .iter()
        .map(|path| server.get(&narinfo(path)).status(200))
        .collect();
    drop(server);
    let server = Server::start(&env);
    for (path, told) in paths.iter().zip(told) {
        let nar = server.get(&format!("/{}", told.field("URL"))).status(200);
        let hash = NarHash::new(Sha256::digest(&nar.body).into()).to_string();
        assert_eq!(hash, told.field("NarHash"), "{path}");
        assert_eq!(nar.body, host.store.nar(path), "{path}");
    }
}
