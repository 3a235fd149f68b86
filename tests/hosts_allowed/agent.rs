//! The agent that an unprivileged client brings.

use std::path::PathBuf;
use std::process::Command;

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

#[test]
fn a_clients_agent_is_used_for_that_client_alone() {
    let site = Site::new();
    let host = &site.configured;
    // Its key is known to the agent only.
    let key = percent_encode(&host.sshd.base64_public_host_key());
    let (login, store) = (name(host), host.store.remote_store_param());
    let url =
        format!("ssh://{login}?base64-ssh-public-host-key={key}&remote-store={store}&trusted=true");
    site.env.configure(&[url], "");
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
    let by_another = |command: Command| {
        let mut shell = site.env.command("sh");
        shell
            .args(["-c", r#""$@"; exit $?"#, "worker"])
            .arg(command.get_program())
            .args(command.get_args());
        let set = command
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?)));
        shell.envs(set);
        let request = format!("have {} \n", site.paths[0]);
        run_with_input(shell, request.as_bytes(), SHORT)
    };
    let fresh = |choice: &[(&str, &str)], folder: &str| {
        let mut command = site.classic(choice, &["--query"]);
        command.env("SSH_SUBSTITUTER_CACHE_DIR", site.env.folder().join(folder));
        by_another(command)
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
