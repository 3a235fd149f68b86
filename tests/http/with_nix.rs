//! A real Nix in front of the server.

use std::thread;

use super::server::{Server, narinfo};
use super::support::{DagOptions, Host, Nix, NixEnv, Relay, wait_until};

#[test]
fn realise_fetches_a_closure() {
    let host = Host::new();
    let dag = host.store.dag(300, DagOptions::default());
    let env = NixEnv::new();
    env.configure(&[host.trusted()], "");
    let server = Server::start(&env);
    let nix = Nix::new().substituters(&server.trusted());
    nix.realise(&[&dag.root]).ok();
    for path in &dag.paths {
        assert!(nix.store().verify_path(path), "{path}");
    }
    assert_eq!(host.sshd.logins(), 1);
}

#[test]
fn signatures_of_the_hosts_are_enough() {
    let host = Host::new();
    let dag = host.store.dag(30, DagOptions::default());
    let key = host.store.sign_all("host-1");
    let env = NixEnv::new();
    env.configure(&[host.trusted()], "");
    let server = Server::start(&env);
    let nix = Nix::new().substituters(&server.url()).trust(&key);
    nix.realise(&[&dag.root]).ok();
    let nix = Nix::new().substituters(&server.url());
    nix.realise(&[&dag.root]).failed();
}

#[test]
fn what_no_host_has_is_left_to_other_caches() {
    let (host, other) = (Host::new(), Host::new());
    let path = other.store.add_text("text", "some text", &[]);
    let mut servers = Vec::new();
    for host in [&host, &other] {
        let env = NixEnv::new();
        env.configure(&[host.trusted()], "");
        servers.push((Server::start(&env), env));
    }
    let urls = format!("{} {}", servers[0].0.trusted(), servers[1].0.trusted());
    let nix = Nix::new().substituters(&urls);
    nix.realise(&[&path]).ok();
}

#[test]
fn a_download_that_broke_off_goes_on() {
    let host = Host::new();
    let path = host.store.big("large", 60 << 20);
    let env = NixEnv::new();
    env.configure(&[host.trusted()], "");
    let server = Server::start_with(&env, &["-v"]);
    let relay = Relay::new(server.address().port(), 20 << 20);
    let url = relay.url(server.address().port(), &server.trusted());
    let nix = Nix::new().substituters(&url);
    server.get(&narinfo(&path)).status(200);
    thread::scope(|scope| {
        let realise = scope.spawn(|| nix.realise(&[&path]).ok());
        wait_until("some of it has come", || relay.came() > 20 << 20);
        relay.cut();
        relay.mend();
        realise.join().expect("Nix");
    });
    assert!(nix.store().verify_path(&path));
    // It did not begin again.
    assert!(relay.came() < 68 << 20, "{}", relay.came());
}
