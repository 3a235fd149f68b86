//! A client that knows nothing of engines is served as by `nix-store --serve`.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write, stdin};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::thread;

use ssh_substituter::wire::serve::Version;

use super::site::Site;
use super::support::Nix;
use super::talk::{NOBODYS, Talk};

#[test]
fn it_is_served_in_every_version() {
    let site = Site::new("");
    site.visit(0);
    let socket = site.sockets().remove(0);
    let large = site.host.store.big("large", 3 << 20);
    for minor in 4..=8 {
        let mut talk = Talk::on_socket(&socket, Version::new(2, minor));
        talk.fetch(site.path(1), &site.host.store);
        talk.fetch(&large, &site.host.store);
        assert!(talk.infos(&[NOBODYS]).is_empty());
        talk.fetch(site.path(2), &site.host.store);
    }
    // A transfer is counted a moment after its last byte was sent, and before the client is forgotten.
    site.wait_for_clients(&[(site.process(), 0)]);
    let delivered = &site.engines.status()[0]["delivered"];
    assert_eq!(delivered["paths"], 1 + 5 * 3);
}

#[test]
fn it_keeps_the_engine_alive() {
    let site = Site::new("engine-idle-timeout = 1");
    let mut front_end = site.front_end();
    site.fetch(&mut front_end, 0);
    let socket = site.sockets().remove(0);
    let engine = site.process();
    let mut talk = Talk::on_socket(&socket, Version::new(2, 7));
    front_end.end_quietly();
    thread::sleep(std::time::Duration::from_secs(4));
    talk.fetch(site.path(1), &site.host.store);
    assert_eq!(site.process(), engine);
    drop(talk);
    super::support::wait_until("the engine ends", || site.processes().is_empty());
}

/// The variable that makes a relay of this program; holds the path of a socket.
const SOCKET: &str = "ENGINE_TEST_SOCKET";

#[test]
fn nix_can_use_its_socket() {
    let site = Site::new("");
    site.visit(0);
    let relay = site.env.folder().join("relay");
    let script = format!(
        "#!/bin/sh\n{SOCKET}='{}' exec '{}' --exact plain::relay --ignored --nocapture 3>&1 1>/dev/null 2>&1\n",
        site.sockets()[0].display(),
        std::env::current_exe()
            .expect("the path of this program")
            .display()
    );
    fs::write(&relay, script).expect("write a script");
    fs::set_permissions(&relay, Permissions::from_mode(0o755)).expect("make it executable");
    let nix = Nix::new().substituters(&format!(
        "ssh://localhost?remote-program={}&trusted=true",
        relay.display()
    ));
    nix.realise(&[&site.dag.root]).ok();
    for path in &site.dag.paths {
        assert!(nix.store().verify_path(path), "{path}");
    }
    site.wait_for_clients(&[(site.process(), 0)]);
    let delivered = &site.engines.status()[0]["delivered"];
    assert_eq!(delivered["paths"], 1 + site.dag.paths.len());
}

/// Not a test: moves bytes between Nix and the socket.
#[test]
#[ignore = "started by another test"]
fn relay() {
    let Some(path) = std::env::var_os(SOCKET) else {
        return;
    };
    let mut socket = UnixStream::connect(path).expect("connect to the engine");
    let mut there = socket.try_clone().expect("clone a socket");
    thread::spawn(move || {
        let _ = pass(stdin().lock(), &mut there);
        there.shutdown(Shutdown::Write)
    });
    // libtest prints to stdout, so the script has kept it elsewhere.
    let out = File::options().write(true).open("/proc/self/fd/3");
    let _ = pass(&mut socket, &mut out.expect("open the way back"));
    std::process::exit(0);
}

/// Without a buffer in between: whoever asks waits for the answer.
fn pass(mut from: impl Read, to: &mut impl Write) -> std::io::Result<()> {
    let mut piece = vec![0; 64 << 10];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(()),
            len => to.write_all(&piece[..len])?,
        }
    }
}
