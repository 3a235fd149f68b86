//! What is in a path, as the real Nix lists it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::Value;

use super::server::{Server, narinfo};
use super::support::{Host, NixEnv, Random, SHORT, run};

#[test]
fn listings_are_those_of_nix() {
    let host = Host::new();
    let path = Random::new(1, "tree").store_path("tree");
    host.store.add_made(path.clone(), |path| {
        fs::create_dir_all(path.join("bin/empty")).unwrap();
        fs::write(path.join("bin/program"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(path.join("bin/program"), Permissions::from_mode(0o555)).unwrap();
        fs::write(path.join("text"), vec![b'x'; 300_000]).unwrap();
        symlink("bin/program", path.join("link")).unwrap();
    });
    let env = NixEnv::new();
    env.configure(&[host.trusted()], "");
    let server = Server::start(&env);
    let url = narinfo(&path).replace(".narinfo", ".ls");
    let reply = server.get(&url).status(200);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let got: Value = serde_json::from_slice(&reply.body).unwrap();

    let nar = env.folder().join("tree.nar");
    fs::write(&nar, host.store.nar(&path)).unwrap();
    let mut command = env.command("nix");
    command.args(["--extra-experimental-features", "nix-command", "nar", "ls"]);
    command.args(["--json", "--recursive"]).arg(nar).arg("/");
    let expected: Value = serde_json::from_str(&run(command, SHORT)).unwrap();
    assert_eq!(got["root"], expected);
    assert_eq!(got["version"], 1);

    let other = url.replace(&url[1..5], "0000");
    server.get(&other).status(404);
}
