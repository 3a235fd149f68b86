//! The agent that an unprivileged client brings.

use std::path::PathBuf;
use std::process::{Command, Output};

use super::site::{Site, lines, name, stderr};
use super::support::{
    Daemon, Host, NixEnv, SHORT, percent_encode, run, run_with_input, tool, wait_until,
};

/// An agent with the key of a server.
struct Agent {
    _daemon: Daemon,
    socket: PathBuf,
}

impl Agent {
    fn start(env: &NixEnv, name: &str, host: &Host) -> Self {
        let socket = env.folder().join(name);
        let args = ["-D".into(), "-a".into(), socket.clone().into_os_string()];
        let daemon = Daemon::start(tool("ssh-agent"), args, &env.folder().join("agent.log"));
        wait_until("the agent listens", || socket.exists());
        let mut command = Command::new(tool("ssh-add"));
        command
            .env("SSH_AUTH_SOCK", &socket)
            .arg("-q")
            .arg(host.sshd.client_key());
        run(command, SHORT);
        Self {
            _daemon: daemon,
            socket,
        }
    }
}

/// `have PATHS`, asked by the worker of another client.
fn by_another(env: &NixEnv, command: Command, paths: &[String]) -> Output {
    let mut shell = env.command("sh");
    shell
        .args(["-c", r#""$@"; exit $?"#, "worker"])
        .arg(command.get_program())
        .args(command.get_args());
    let set = command
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    shell.envs(set);
    let request = format!("have {} \n", paths.join(" "));
    run_with_input(shell, request.as_bytes(), SHORT)
}

/// The URL of a host whose key is known to the agent only.
fn keyless(host: &Host) -> String {
    let key = percent_encode(&host.sshd.base64_public_host_key());
    let (login, store) = (name(host), host.store.remote_store_param());
    format!("ssh://{login}?base64-ssh-public-host-key={key}&remote-store={store}&trusted=true")
}

#[test]
fn an_engine_serves_clients_with_an_agent_and_the_agent_only_where_it_is_not_let_in() {
    let site = Site::new();
    let (open, closed) = (&site.configured, &site.choosable);
    // What was answered to one client with that agent is not to answer the next.
    let engines = site.env.configure_with_engine(
        &[open.trusted(), keyless(closed)],
        "narinfo-cache-positive-ttl = 0",
    );
    let agent = Agent::start(&site.env, "agent", closed);
    let socket = agent.socket.to_str().expect("UTF-8").to_owned();
    let choice = [("untrusted-ssh-auth-sock", socket.as_str())];
    let query = |choice: &[(&str, &str)]| {
        let command = site.classic(choice, &["--query"]);
        by_another(&site.env, command, &site.paths)
    };
    let both = ["", &site.paths[0], &site.paths[1], ""];
    let mut sorted = both;
    sorted[1..3].sort_unstable();
    for client in 1..=2 {
        let output = query(&choice);
        assert_eq!(lines(&output), sorted, "{}", stderr(&output));
        assert_eq!(stderr(&output), "", "the login that counts is no trouble");
        let logins = (open.sshd.logins(), closed.sshd.logins());
        assert_eq!(logins, (1, client), "one is shared, the other is not");
    }
    // The one through the engine, the other by this process.
    for path in &site.paths {
        let mut output = site.substitute(&choice, path);
        // Where the engine was refused a moment ago, nobody logs in for a second.
        for _ in 0..20 {
            if !stderr(&output).contains("its address refused a login") {
                break;
            }
            std::thread::sleep(std::time::Duration::from_secs(1));
            output = site.substitute(&choice, path);
        }
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(
            stderr(&output).matches("warning").count(),
            0,
            "{}",
            stderr(&output)
        );
    }
    assert_eq!(engines.status()[0]["delivered"]["paths"], 1);
    assert_eq!(open.sshd.logins(), 1);
    // Who has no agent gets nothing through those of others.
    let output = query(&[]);
    assert_eq!(
        lines(&output),
        ["", &site.paths[0], ""],
        "{}",
        stderr(&output)
    );
    // Nor does the client once its agent has gone.
    drop(agent);
    let output = query(&choice);
    assert_eq!(
        lines(&output),
        ["", &site.paths[0], ""],
        "{}",
        stderr(&output)
    );
    // On a slow machine the engine may have been refused a moment ago, and nobody logs in for a second.
    let said = stderr(&output);
    assert!(
        said.contains("cannot be asked") || said.contains("its address refused a login"),
        "{said}"
    );
    // A new engine only finds noted that the host failed. After so many refusals the address is left alone
    // for some seconds.
    engines.stop();
    let agent = Agent::start(&site.env, "again", closed);
    let socket = agent.socket.to_str().expect("UTF-8").to_owned();
    wait_until("the login is tried again", || {
        let output = query(&[("untrusted-ssh-auth-sock", &socket)]);
        lines(&output) == sorted
    });
}

#[test]
fn a_transfer_that_an_engine_cannot_end_goes_on_by_the_clients_own_login() {
    let site = Site::new();
    let (open, closed) = (&site.configured, &site.choosable);
    let path = open.store.big("both", 3_000_000);
    assert_eq!(closed.store.big("both", 3_000_000), path);
    let _engines = site
        .env
        .configure_with_engine(&[open.trusted(), keyless(closed)], "");
    let agent = Agent::start(&site.env, "agent", closed);
    let socket = agent.socket.to_str().expect("UTF-8").to_owned();
    let choice = [("untrusted-ssh-auth-sock", socket.as_str())];
    // Known to the engine, which then finds the files gone.
    let output = site.query(&choice, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let command = site.classic(&choice, &["--query"]);
    let output = by_another(&site.env, command, std::slice::from_ref(&path));
    assert_eq!(lines(&output), ["", &path, ""], "{}", stderr(&output));
    let files = open.store.physical(&path);
    std::fs::set_permissions(&files, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("open a folder");
    std::fs::remove_file(files.join("data")).expect("remove a file");
    let output = site.substitute(&choice, &path);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let hash = closed.store.nar_hash(&path);
    assert_eq!(lines(&output), ["", hash.as_str()]);
}

#[test]
fn a_clients_agent_is_used_for_that_client_alone() {
    let site = Site::new();
    let host = &site.configured;
    site.env.configure(&[keyless(host)], "");
    let agent = Agent::start(&site.env, "agent", host);
    let socket = agent.socket.to_str().expect("UTF-8").to_owned();
    let socket = socket.as_str();
    let choice = [("untrusted-ssh-auth-sock", socket)];
    let found = ["", site.paths[0].as_str(), ""];
    // All processes that one client's worker starts share a connection.
    assert_eq!(lines(&site.query(&choice, &[])), found);
    let output = site.substitute(&choice, &site.paths[0]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(host.sshd.logins(), 1);
    // Another client has another worker: who names the same agent has to ask it again, and gets nothing where it has gone.
    let fresh = |choice: &[(&str, &str)], folder: &str| {
        let mut command = site.classic(choice, &["--query"]);
        command.env("SSH_SUBSTITUTER_CACHE_DIR", site.env.folder().join(folder));
        by_another(&site.env, command, &site.paths[..1])
    };
    let output = fresh(&choice, "second");
    assert_eq!(lines(&output), found, "{}", stderr(&output));
    assert_eq!(host.sshd.logins(), 2);
    drop(agent);
    let gone = |choice: &[(&str, &str)]| {
        let output = fresh(choice, "third");
        assert_eq!(lines(&output), ["", ""], "{}", stderr(&output));
        stderr(&output)
    };
    let told = gone(&choice);
    assert!(
        told.contains(&format!("the ssh agent at {socket} cannot be asked")),
        "{told}"
    );
    // Who names none does not get into that connection either.
    let told = gone(&[]);
    assert!(told.contains("permission denied (tried: "), "{told}");
    assert_eq!(host.sshd.logins(), 2);
}
