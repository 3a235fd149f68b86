//! Other ways to the server than its own command: a socket that somebody else has made, and an engine.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use super::server::{Client, Server, narinfo};
use super::support::{Host, NixEnv, wait_until};

#[test]
fn a_socket_that_was_passed_on_is_served() {
    let env = NixEnv::new();
    env.configure(&[], "");
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = listener.local_addr().expect("an address");
    let mut command = env.program();
    command
        .arg("http")
        .stdin(Stdio::from(OwnedFd::from(listener)));
    let server = Server::with_stdin(&env, command);
    assert_eq!(server.address(), address);
    server.get("/healthz").status(200);
}

#[test]
fn an_engine_serves_too() {
    let host = Host::new();
    let path = host.store.add_text("text", "some text", &[]);
    let env = NixEnv::new();
    // Free a moment ago, and not used by others before a while.
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = free.expect("a port");
    let line = format!("http-listen = {address}\nengine-idle-timeout = 1");
    let engines = env.configure_with_engine(&[host.trusted()], &line);
    let log = env.folder().join("engine.log");
    let mut command = env.program();
    command
        .arg("engine")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command.stderr(fs::File::create(&log).expect("make a log"));
    let mut engine = command.spawn().expect("start an engine");
    wait_until("the engine serves", || {
        fs::read_to_string(&log)
            .expect("a log")
            .contains("serves on http://")
    });
    let get = |url: &str| Client::new(address).get(url).status(200);
    assert_eq!(get(&narinfo(&path)).field("StorePath"), path);
    // It does not end by itself.
    std::thread::sleep(std::time::Duration::from_secs(5));
    let ended = engine.try_wait().expect("look at the engine");
    assert!(ended.is_none(), "{ended:?}");
    let url = format!("/{}", get(&narinfo(&path)).field("URL"));
    assert_eq!(get(&url).body, host.store.nar(&path));
    engines.stop();
    engine.wait().expect("the end of the engine");
}
