//! Whom an engine serves: one user, with one configuration that nobody else has chosen.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use ssh_substituter::wire::put_u64;
use ssh_substituter::wire::serve::engine::{EXTENSION, hello_number, put_status};
use ssh_substituter::wire::serve::{CLIENT_MAGIC, Version};

use super::site::{Running, Site, sockets};
use super::support::{NixEnv, SHORT, TempUser, is_root, run, tool, wait_until};
use super::talk::FrontEnd;

/// A front end that carries what a client of Nix 1.x's daemon chose.
fn choosing(site: &Site, choice: &str) -> FrontEnd {
    let mut command = site.command();
    command.env("_NIX_OPTIONS", format!("{choice}\n"));
    FrontEnd::start(command)
}

#[test]
fn an_unprivileged_choice_has_no_part_in_an_engine() {
    let site = Site::new("");
    let sshd = &site.host.sshd;
    let host = format!("{}@127.0.0.1:{}", sshd.user(), sshd.port());
    let choices = [
        format!("untrusted-ssh-substituter-hosts={host}"),
        format!("untrusted-extra-ssh-substituter-hosts={host}"),
        format!("untrusted-ssh-substituter-hosts={host}\nuntrusted-ssh-auth-sock=/nowhere/agent"),
    ];
    for (number, choice) in choices.iter().enumerate() {
        let mut front_end = choosing(&site, choice);
        site.fetch(&mut front_end, number);
        assert!(site.processes().is_empty(), "{choice}");
        front_end.end_quietly();
    }
    // Nor when there is one.
    site.visit(3);
    let engine = site.process();
    for (number, choice) in choices.iter().enumerate() {
        let mut front_end = choosing(&site, choice);
        site.fetch(&mut front_end, number);
        // The front end of `visit` may be remembered for a moment, this one would be there until its end.
        site.wait_for_clients(&[(engine, 0)]);
        front_end.end_quietly();
    }
    // What a client cannot choose, or chose without effect, is no reason.
    let mut front_end = choosing(&site, "untrusted-ssh-auth-sock=");
    site.fetch(&mut front_end, 4);
    site.wait_for_clients(&[(engine, 1)]);
    front_end.end_quietly();
    assert_eq!(site.engines.status()[0]["delivered"]["paths"], 2);
}

#[test]
fn a_clients_agent_is_no_reason_to_do_without_an_engine_and_never_gets_there() {
    let site = Site::new("");
    // The first one starts it, the second one finds it.
    for (number, agent) in ["/nowhere/agent", "/elsewhere/agent"].iter().enumerate() {
        let mut front_end = choosing(&site, &format!("untrusted-ssh-auth-sock={agent}"));
        site.fetch(&mut front_end, number);
        let engine = site.process();
        site.wait_for_clients(&[(engine, 1)]);
        front_end.end_quietly();
    }
    assert_eq!(site.engines.status()[0]["delivered"]["paths"], 2);
    assert_eq!(site.host.sshd.logins(), 1);
    // It is the one of clients without an agent, too.
    site.visit(2);
    assert_eq!(site.engines.status()[0]["delivered"]["paths"], 3);
}

#[test]
fn another_agent_is_another_engine() {
    let site = Site::new("");
    let with = |agent: &str| {
        let mut command = site.command();
        command.env("SSH_AUTH_SOCK", agent);
        let mut front_end = FrontEnd::start(command);
        site.fetch(&mut front_end, 0);
        front_end
    };
    let (first, second, same) = (with("/a/agent"), with("/b/agent"), with("/a/agent"));
    let mut clients: Vec<u64> = site.clients().into_iter().map(|(_, count)| count).collect();
    clients.sort_unstable();
    assert_eq!(clients, [1, 2]);
    for front_end in [first, second, same] {
        front_end.end_quietly();
    }
}

#[test]
fn other_environments_that_lead_elsewhere_are_other_engines() {
    let site = Site::new("");
    site.visit(0);
    for (count, (name, value)) in [
        ("SSH_SUBSTITUTER_CACHE_DIR", site.env.folder().join("cache")),
        ("NIX_SSHOPTS", "-4".into()),
        ("NIX_STORE_DIR", "/other/store".into()),
    ]
    .into_iter()
    .enumerate()
    {
        let mut command = site.command();
        command.env(name, value);
        FrontEnd::start(command).end();
        assert_eq!(site.processes().len(), count + 2, "{name}");
    }
    // What concerns nobody does not matter.
    let mut command = site.command();
    command.env("EDITOR", "ed");
    FrontEnd::start(command).end_quietly();
    assert_eq!(site.processes().len(), 4);
}

/// Another user of this machine, with an environment of his own. `None`, with a word, where none can be made.
struct Other {
    env: NixEnv,
    _user: TempUser,
    id: u32,
}

impl Other {
    fn new() -> Option<Self> {
        if !is_root() {
            let word = "skipped: only root can make another user";
            let _ = writeln!(std::io::stderr(), "{word}");
            return None;
        }
        let (env, user) = (NixEnv::new(), TempUser::new("sh"));
        env.configure(&["nobody@127.0.0.1:1".to_owned()], "engine = auto");
        user.give(env.folder());
        let mut command = Command::new(tool("id"));
        command.args(["-u", user.name()]);
        let id = run(command, SHORT).parse().expect("a user id");
        Some(Self {
            env,
            _user: user,
            id,
        })
    }

    fn command(&self) -> Command {
        let mut command = self.env.program();
        command.uid(self.id).gid(self.id);
        command
    }

    /// An engine, started by hand.
    fn engine(&self) -> Running {
        let mut command = self.command();
        let child = command.arg("engine").stdin(Stdio::null()).spawn();
        let engine = Running(child.expect("start an engine"));
        wait_until("there is a socket", || !self.sockets().is_empty());
        // It is there a moment before it listens.
        let socket = &self.sockets()[0];
        wait_until("it listens", || UnixStream::connect(socket).is_ok());
        engine
    }

    fn sockets(&self) -> Vec<std::path::PathBuf> {
        sockets(&self.env.folder().join("run/ssh-substituter"))
    }
}

/// What comes back when a client asks for the status.
fn asked(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_u64(&mut bytes, CLIENT_MAGIC);
    put_u64(&mut bytes, hello_number(Version::NEWEST, EXTENSION));
    put_status(&mut bytes);
    // It may have been closed already.
    let _ = stream.write_all(&bytes);
    let _ = stream.set_read_timeout(Some(SHORT));
    let mut reply = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return reply,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return reply,
            Ok(len) => reply.extend_from_slice(&piece[..len]),
            Err(error) => panic!("neither answered nor closed: {error}"),
        }
    }
}

#[test]
fn another_user_is_not_answered() {
    let Some(other) = Other::new() else { return };
    let engine = other.engine();
    let path = &other.sockets()[0];
    for _ in 0..2 {
        let mut stream = UnixStream::connect(path).expect("root may connect anywhere");
        assert_eq!(asked(&mut stream), b"");
    }
    // Its own user is.
    let mut command = other.command();
    command.args(["engine", "status"]);
    let status: serde_json::Value = serde_json::from_str(&run(command, SHORT)).expect("JSON");
    assert_eq!(status[0]["pid"], engine.0.id());
}

#[test]
fn a_front_end_sends_nothing_to_a_socket_of_another_user() {
    let Some(other) = Other::new() else { return };
    let engine = other.engine();
    let path = other.sockets().remove(0);
    drop(engine);
    fs::remove_file(&path).expect("remove a socket");
    let managed = path.with_file_name("engine");
    for path in [path, managed] {
        let listener = UnixListener::bind(&path).expect("listen in place of the engine");
        fs::set_permissions(&path, Permissions::from_mode(0o777)).expect("open up a socket");
        let mut command = other.command();
        command.args(["--serve", "-v"]);
        let told = FrontEnd::start(command).end();
        let (mut stream, _) = listener.accept().expect("it has connected");
        let mut heard = Vec::new();
        // Closed with or without an error: not a byte came.
        let _ = stream.read_to_end(&mut heard);
        assert_eq!(heard, b"");
        if path.ends_with("engine") {
            // There it starts one of its own.
            assert_eq!(other.sockets().len(), 1);
        } else {
            let line = format!(
                "{} is the socket of user 0, not of this one",
                path.display()
            );
            assert!(told.contains(&line), "{told}");
        }
        fs::remove_file(path).expect("remove a socket");
    }
    let mut command = other.command();
    command.args(["engine", "stop"]);
    run(command, SHORT);
}
