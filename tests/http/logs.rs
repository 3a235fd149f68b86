//! How derivations were built, as the real Nix asks for it.

use std::fs;

use super::server::Server;
use super::support::{Host, NixEnv, SHORT, run};

#[test]
fn logs_of_builds_come_from_a_host_with_a_shell() {
    let hosts = [Host::new(), Host::new()];
    let mut instantiate = hosts[1].store.command("nix-instantiate");
    let expression =
        r#"derivation { name = "its"; system = "x86_64-linux"; builder = "/bin/sh"; }"#;
    instantiate.args(["--expr", expression]);
    let derivation = run(instantiate, SHORT).trim().to_owned();
    let name = derivation.rsplit('/').next().unwrap();
    // The first one has no log.
    let folder = hosts[1]
        .store
        .root()
        .join("nix/var/log/nix/drvs")
        .join(&name[..2]);
    fs::create_dir_all(&folder).unwrap();
    let log = "unpacking sources\nit's done\n";
    fs::write(folder.join(&name[2..]), log).unwrap();
    let env = NixEnv::new();
    env.configure(&hosts.each_ref().map(Host::trusted), "");
    let server = Server::start(&env);
    let reply = server.get(&format!("/log/{name}")).status(200);
    assert_eq!(reply.body, log.as_bytes());
    assert_eq!(
        reply.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    let other = name.replace("its", "other");
    server.get(&format!("/log/{other}")).status(404);

    let mut command = env.command("nix");
    command.args(["--extra-experimental-features", "nix-command", "log"]);
    command.arg("--store").arg(server.url()).arg(&derivation);
    assert_eq!(run(command, SHORT).trim(), log.trim());

    // A longer one is cut.
    fs::write(folder.join(&name[2..]), vec![b'x'; 5 << 20]).unwrap();
    let reply = server.get(&format!("/log/{name}")).status(200);
    let cut = String::from_utf8(reply.body).unwrap();
    assert!(cut.ends_with("[ssh-substituter: there is more, which is left out]\n"));
    assert!((4 << 20..5 << 20).contains(&cut.len()), "{}", cut.len());
}
