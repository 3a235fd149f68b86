//! Hosts that are not reached at all.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};

use ssh_substituter::model::StorePath;
use ssh_substituter::wire::put_u64;
use ssh_substituter::wire::serve::{CLIENT_MAGIC, Request, Version};

use super::caller::{Caller, NOBODYS, name, url};
use super::support::{Sshd, Store, closed_port};

#[test]
fn a_name_that_does_not_resolve() {
    let run = Caller::of("u@no-such-host.invalid:2222").substitute(NOBODYS);
    run.fails_with(
        "u@no-such-host.invalid:2222",
        "the host name 'no-such-host.invalid' cannot be resolved (hint",
        &["ssh-substituter-hosts", "HostName in ~/.ssh/config"],
    );
    assert_eq!(
        run.error(),
        format!("cannot tell whether a host has {NOBODYS}: 1 of 1 hosts gave no answer")
    );
}

#[test]
fn a_refused_connection() {
    let port = closed_port();
    let host = format!("u@127.0.0.1:{port}");
    Caller::of(&host).substitute(NOBODYS).fails_with(
        &host,
        "connection refused (hint",
        &[
            &format!("'ssh -p {port} u@127.0.0.1 true'"),
            "ssh://HOST:PORT",
        ],
    );
}

#[test]
fn a_server_that_takes_the_connection_and_says_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind a port");
    let port = listener.local_addr().expect("an address").port();
    let host = format!("127.0.0.1:{port}");
    let run = Caller::of(&host)
        .option("connect-timeout", "2")
        .substitute(NOBODYS);
    let warning = run.fails_with(
        &host,
        "no answer within 1",
        &[
            &format!("'ssh -v -p {port} 127.0.0.1 true'"),
            "raise connect-timeout",
        ],
    );
    // What was spent and what was set: half of a limit is not taken for another setting.
    let words =
        "connecting and logging in (connect-timeout is 2 s, at most half of it for one address)";
    assert!(warning.contains(words), "{warning}");
}

/// A socket whose queue is full: the kernel drops what comes, as a firewall does.
fn swallowing() -> (OwnedFd, Vec<TcpStream>, u16) {
    let server = socket(AddressFamily::INET, SocketType::STREAM, None).expect("make a socket");
    bind(&server, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).expect("bind a port");
    listen(&server, 0).expect("listen");
    let address = SocketAddrV4::try_from(getsockname(&server).expect("an address"));
    let port = address.expect("IPv4").port();
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into();
    let mut inside = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        inside.push(stream);
    }
    (server, inside, port)
}

#[test]
fn a_network_that_swallows_everything() {
    let (_server, _inside, port) = swallowing();
    let host = format!("u@127.0.0.1:{port}");
    let run = Caller::of(&host)
        .option("connect-timeout", "2")
        .substitute(NOBODYS);
    run.fails_with(
        &host,
        "no answer within 1",
        &["'ssh -v -p", "raise connect-timeout"],
    );
}

#[test]
fn one_of_two_hosts_is_down() {
    let (sshd, store) = (Sshd::start(), Store::new());
    let down = format!("u@127.0.0.1:{}", closed_port());
    let run = Caller::of(&url(&sshd, &store))
        .and_host(&down)
        .substitute(NOBODYS);
    run.fails_with(&down, "connection refused (hint", &[]);
    assert_eq!(
        run.error(),
        format!("no host that answered has {NOBODYS}, but 1 of 2 hosts gave no answer")
    );
}

#[test]
fn no_host_is_down() {
    let (sshd, store) = (Sshd::start(), Store::new());
    let run = Caller::of(&url(&sshd, &store)).substitute(NOBODYS);
    assert_eq!(run.error(), format!("no host has {NOBODYS}"));
    assert!(!name(&sshd).is_empty());
}

#[test]
fn several_questions_to_a_host_that_is_down_make_one_line() {
    let host = format!("u@127.0.0.1:{}", closed_port());
    let run = Caller::of(&host).query(&format!("have {NOBODYS}\ninfo {NOBODYS}\n"));
    // The line that the caller ignores, and an empty answer to each.
    run.answers("\n\n\n");
    run.warns(&host, "connection refused (hint", &["true'"]);
}

#[test]
fn a_dump_says_that_hosts_gave_no_answer() {
    let mut input = Vec::new();
    put_u64(&mut input, CLIENT_MAGIC);
    put_u64(&mut input, Version::NEWEST.number());
    let path = StorePath::parse(NOBODYS).expect("a store path");
    Request::DumpStorePath { path }.put(&mut input);
    let host = format!("u@127.0.0.1:{}", closed_port());
    let run = Caller::of(&host).serve(&input);
    let warnings = run.lines("warning");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with(&format!("{host}: connection refused (hint")));
    assert_eq!(
        warnings[1],
        format!("cannot tell whether a host has {NOBODYS}: 1 of 1 hosts gave no answer")
    );
}
