//! Hosts that let us in and have no serve program that answers.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use super::caller::{Caller, NOBODYS, name, scripted, ssh, url};
use super::support::{Daemon, SHORT, Sshd, Store, is_root, run, tool, wait_until};

#[test]
fn no_such_program() {
    let (sshd, store) = (Sshd::start(), Store::new());
    let url = format!("{}&remote-program=no-such-nix-store", url(&sshd, &store));
    Caller::of(&url).substitute(NOBODYS).fails_with(
        &name(&sshd),
        "\"no-such-nix-store\" ended before the handshake with exit status 127",
        &[
            "install Nix there",
            "remote-program=/path/to/nix-store",
            &format!("'{}env'", ssh(&sshd)),
        ],
    );
}

#[test]
fn an_account_that_allows_other_commands_only() {
    let sshd = Sshd::builder()
        .line("ForceCommand echo 'not allowed here' >&2; exit 3")
        .start();
    Caller::of(&sshd.store_url("")).substitute(NOBODYS).fails_with(
        &name(&sshd),
        "\"nix-store\" ended before the handshake with exit status 3; it said: not allowed here",
        &["exactly 'nix-store --serve' or 'nix-store --serve --write'"],
    );
}

/// With and without another process that does the daemon's work.
#[test]
fn an_account_that_is_forced_to_run_the_daemon() {
    let store = Store::new();
    let socket = store.env().folder().join("socket");
    let arguments = [
        format!("NIX_CONF_DIR={}", store.env().conf_dir().display()),
        format!("NIX_REMOTE={}", store.uri()),
        format!("NIX_DAEMON_SOCKET_PATH={}", socket.display()),
        tool("nix-daemon").display().to_string(),
    ];
    let log = store.env().folder().join("log");
    let _daemon = Daemon::start(tool("env"), arguments, &log);
    wait_until("the daemon listens", || socket.exists());
    let socket = socket.to_str().expect("UTF-8");
    for store in [store.uri().as_str(), "daemon"] {
        let sshd = Sshd::builder()
            .line(format!(
                "ForceCommand {} --stdio",
                tool("nix-daemon").display()
            ))
            .env("NIX_REMOTE", store)
            .env("NIX_DAEMON_SOCKET_PATH", socket)
            .start();
        Caller::of(&sshd.store_url("")).substitute(NOBODYS).fails_with(
            &name(&sshd),
            "this account serves ssh-ng only: nix-daemon --stdio answers, expected nix-store --serve (hint",
            &[
                "command=\"nix-store --serve\"",
                "ForceCommand",
                "nix.sshServe.protocol = \"ssh\"",
            ],
        );
        // It said so by itself: nobody asked for permission to write.
        assert!(!sshd.log().contains("--write"), "{}", sshd.log());
    }
}

/// A user who owns nothing. Only root can become somebody else.
const NOBODY: &str = "exec setpriv --reuid 65534 --regid 65534 --clear-groups nix-store \"$@\"";

#[test]
fn a_database_that_may_not_be_read() {
    let (sshd, store) = (Sshd::start(), Store::new());
    let path = store.add_text("text", "text", &[]);
    let db = store.root().join("nix/var/nix/db");
    let url = if is_root() {
        let mut command = Command::new(tool("chown"));
        command.args(["-hR", "65534"]).arg(store.root());
        run(command, SHORT);
        chown(&db, Some(0), None).expect("keep the database");
        fs::set_permissions(&db, Permissions::from_mode(0o700)).expect("close a folder");
        scripted(&sshd, &store, NOBODY)
    } else {
        fs::set_permissions(&db, Permissions::from_mode(0o000)).expect("close a folder");
        url(&sshd, &store)
    };
    let warning = Caller::of(&url).substitute(&path).fails_with(
        &name(&sshd),
        "\"",
        &["may not read the Nix store", "remote-store=daemon"],
    );
    assert!(warning.contains("Permission denied"), "{warning}");
}

#[test]
fn a_store_that_is_somebody_elses() {
    assert!(is_root(), "only root can become somebody else");
    let (sshd, store) = (Sshd::start(), Store::new());
    let path = store.add_text("text", "text", &[]);
    let url = scripted(&sshd, &store, NOBODY);
    Caller::of(&url).substitute(&path).fails_with(
        &name(&sshd),
        "\"",
        &["may not read the Nix store", "remote-store=daemon"],
    );
}

#[test]
fn a_protocol_that_is_too_old() {
    let (sshd, store) = (Sshd::start(), Store::new());
    // The magic and version 1.1, then silence.
    let script = r"printf '\313\356\122\124\0\0\0\0\001\001\0\0\0\0\0\0'; cat >/dev/null";
    let url = scripted(&sshd, &store, script);
    Caller::of(&url).substitute(NOBODYS).fails_with(
        &name(&sshd),
        "its serve protocol is 1.1, expected 2.",
        &[
            "update Nix there",
            &format!("'{}nix-store --version'", ssh(&sshd)),
        ],
    );
}

#[test]
fn a_store_in_another_folder() {
    let (sshd, store) = (Sshd::start(), Store::new());
    let script = "NIX_STORE_DIR=/elsewhere/store exec nix-store \"$@\"";
    let url = scripted(&sshd, &store, script);
    let warning = Caller::of(&url).substitute(NOBODYS).fails_with(
        &name(&sshd),
        "the connection ended while reading the reply to QueryPathInfos; it said: ",
        &[
            "in another folder",
            "NIX_STORE_DIR",
            &format!("'{}env'", ssh(&sshd)),
            "remote-store",
        ],
    );
    assert!(warning.contains("is not in the Nix store"), "{warning}");
}

#[test]
fn a_banner() {
    let (sshd, store) = (Sshd::start(), Store::new());
    let path = store.add_text("text", "text", &[]);
    let url = scripted(
        &sshd,
        &store,
        "printf 'Welcome\\n\\033[31m!\\n'; exec nix-store \"$@\"",
    );
    let run = Caller::of(&url).substitute(&path);
    run.succeeds();
    run.warns(
        &name(&sshd),
        "skipped text that was printed before the handshake: \"Welcome\\n\\u{1b}[31m!\"",
        &[&format!("'{}true' must print nothing", ssh(&sshd))],
    );
}

#[test]
fn garbage_without_end() {
    let (sshd, store) = (Sshd::start(), Store::new());
    let url = scripted(&sshd, &store, "exec yes 'no such service'");
    Caller::of(&url).substitute(NOBODYS).fails_with(
        &name(&sshd),
        "the handshake is malformed: ",
        &[
            "remote-program",
            &format!("'{}true' must print nothing", ssh(&sshd)),
        ],
    );
}

#[test]
fn a_farewell() {
    let (sshd, store) = (Sshd::start(), Store::new());
    let url = scripted(
        &sshd,
        &store,
        "printf '\\033]0;x\\007This account is closed.\\r\\n'; exit 1",
    );
    let program = store.env().folder().join("program");
    let program = program.display();
    Caller::of(&url).substitute(NOBODYS).fails_with(
        &name(&sshd),
        &format!("\"{program}\" ended before the handshake with exit status 1; it said: ]0;xThis account is closed. (hint"),
        &[&format!("'{}{program} --serve'", ssh(&sshd)), "ForceCommand"],
    );
}

#[test]
fn a_program_that_only_waits() {
    let (sshd, store) = (Sshd::start(), Store::new());
    let url = scripted(&sshd, &store, "exec sleep 30");
    Caller::of(&url)
        .option("connect-timeout", "3")
        .substitute(NOBODYS)
        .fails_with(
            &name(&sshd),
            "no handshake from ",
            &["the login worked", "--serve'", "raise connect-timeout"],
        );
}
