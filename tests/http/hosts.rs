//! By what the hosts behind the server can be asked for names: shells, our program, nothing.

use super::server::{Server, narinfo};
use super::support::{DagOptions, Host, NixEnv, Sshd, Store, program};

/// A host whose account runs this command, whatever it is asked for.
fn forced(store: Store, command: &str) -> Host {
    let sshd = Sshd::builder()
        .line(format!("ForceCommand {command}"))
        .start();
    Host { store, sshd }
}

#[test]
fn our_program_on_a_host_knows_names() {
    let store = Store::new();
    let root = store.root().display().to_string();
    let host = forced(
        store,
        &format!("{} serve-local --store {root}", program().display()),
    );
    let dag = host.store.dag(30, DagOptions::default());
    let env = NixEnv::new();
    env.configure(&[host.trusted()], "");
    let server = Server::start(&env);
    // The root comes last here: no name is known from references.
    for path in &dag.paths {
        assert_eq!(
            server.get(&narinfo(path)).status(200).field("StorePath"),
            *path
        );
    }
    server
        .get("/7rjj86a15146cq1d3qy068lml7n7ykzm.narinfo")
        .status(404);
}

#[test]
fn where_only_nix_store_runs_names_come_from_this_machine_and_from_references() {
    let store = Store::new();
    let uri = store.uri();
    let host = forced(store, &format!("nix-store --store '{uri}' --serve"));
    let dag = host.store.dag(30, DagOptions::default());
    // A store on this machine that has the root alone.
    let here = Store::new();
    here.copy_from(&host.store, &[&dag.root]);
    let env = NixEnv::new();
    env.configure(&[host.trusted()], "");
    let server = Server::start(&env);
    server.get(&narinfo(&dag.root)).status(404);
    drop(server);
    env.configure(
        &[host.trusted()],
        &format!("delta-base = {}", here.root().display()),
    );
    let server = Server::start(&env);
    for path in dag.paths.iter().rev() {
        assert_eq!(
            server.get(&narinfo(path)).status(200).field("StorePath"),
            *path
        );
    }
}

#[test]
fn what_only_the_second_host_has_is_found_by_name() {
    let (first, second) = (Host::new(), Host::new());
    let path = second.store.add_text("flake.lock", "some text", &[]);
    // Something else with the same hash part.
    std::fs::write(first.store.physical(&format!("{path}.lock")), "").expect("write a lock");
    let env = NixEnv::new();
    env.configure(&[first.trusted(), second.trusted()], "");
    let server = Server::start(&env);
    assert_eq!(
        server.get(&narinfo(&path)).status(200).field("StorePath"),
        path
    );
}
