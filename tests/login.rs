//! The ways to log in that users of OpenSSH know: aliases, jump hosts, options with quotes, agents, compression, and forced
//! commands.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use support::{
    Daemon, Host, NixEnv, Scratch, Sshd, TempUser, joint_ssh_config, run, run_with_input, tool,
    wait_until,
};

/// Whether `--query` with this host and this environment finds the path; panics with what was printed otherwise.
fn finds(env: &NixEnv, url: &str, variables: &[(&str, &str)], path: &str) {
    let _masters = env.masters();
    env.configure(&[url.to_owned()], "");
    let mut command = env.program();
    command.arg("--query").envs(variables.iter().copied());
    let output = run_with_input(command, format!("have {path}\n").as_bytes(), support::SHORT);
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(stdout, format!("\n{path}\n\n"), "{stderr}");
}

#[test]
fn an_alias_behind_a_jump_host_by_ssh_options_with_quotes() {
    let (host, jump) = (Host::new(), Sshd::start());
    let path = host.store.add_text("text", "text", &[]);
    let scratch = Scratch::new();
    let config = joint_ssh_config(scratch.path(), &[("jump", &jump), ("target", &host.sshd)]);
    let text = fs::read_to_string(&config).unwrap();
    let text = text.replace("Host target\n", "Host target\n  ProxyJump jump\n");
    fs::write(&config, text).unwrap();
    let store = host.store.remote_store_param();
    let options = format!("-F '{}' -o \"LogLevel ERROR\"", config.display());
    let url = format!("target?trusted=true&remote-store={store}");
    finds(&NixEnv::new(), &url, &[("NIX_SSHOPTS", &options)], &path);
    assert_eq!((jump.logins(), host.sshd.logins()), (1, 1));
}

#[test]
fn an_agent_named_by_ssh_auth_sock() {
    let host = Host::new();
    let path = host.store.add_text("text", "text", &[]);
    let scratch = Scratch::new();
    let socket = scratch.path().join("agent");
    let args = ["-D".into(), "-a".into(), socket.clone().into_os_string()];
    let _agent = Daemon::start(tool("ssh-agent"), args, &scratch.path().join("log"));
    wait_until("the agent", || socket.exists());
    let mut add = Command::new(tool("ssh-add"));
    add.arg(host.sshd.client_key())
        .env("SSH_AUTH_SOCK", &socket);
    run(add, support::SHORT);
    let store = host.store.remote_store_param();
    let url = host
        .sshd
        .store_url(&format!("trusted=true&compress=true&remote-store={store}"));
    // Without the key's file only the agent can log in.
    let (before, after) = (url.find("ssh-key=").unwrap(), url.find("base64").unwrap());
    let url = format!("{}{}", &url[..before], &url[after..]);
    let env = NixEnv::new();
    let socket = socket.to_str().unwrap();
    finds(&env, &url, &[("SSH_AUTH_SOCK", socket)], &path);
    finds(
        &env,
        &url,
        &[("NIX_CONFIG", &format!("ssh-auth-sock = {socket}"))],
        &path,
    );
}

#[test]
fn a_forced_command_serves_whatever_is_asked_for() {
    let store = support::Store::new();
    let path = store.add_text("text", "text", &[]);
    let nix_store = tool("nix-store");
    let forced = format!(
        "ForceCommand {} --serve --store '{}'",
        nix_store.display(),
        store.uri()
    );
    let sshd = Sshd::builder().line(forced).start();
    finds(&NixEnv::new(), &sshd.store_url("trusted=true"), &[], &path);
}

#[test]
fn a_user_of_a_domain_has_an_at_sign_in_the_name() {
    let user = TempUser::with_suffix("bash", "@corp");
    let host = Host {
        store: support::Store::new(),
        sshd: Sshd::builder().user(&user).start(),
    };
    let path = host.store.add_text("text", "text", &[]);
    host.store.give_to(&user);
    for (spelled, logins) in [
        (user.name().to_owned(), 1),
        (user.name().replace('@', "%40"), 2),
    ] {
        let url = host.trusted().replacen(user.name(), &spelled, 1);
        finds(&NixEnv::new(), &url, &[], &path);
        assert_eq!(host.sshd.logins(), logins, "{url}");
    }
    // What cannot be logged in to is named so that the command in the hint can be pasted.
    let url = host.trusted().replacen(user.name(), "nobody%40corp", 1);
    let env = NixEnv::new();
    env.configure(&[url], "");
    let _masters = env.masters();
    let mut command = env.program();
    command.arg("--query");
    let output = run_with_input(command, format!("have {path}\n").as_bytes(), support::SHORT);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let port = host.sshd.port();
    for words in [
        format!("nobody@corp@127.0.0.1:{port}: permission denied"),
        format!("-p {port} nobody@corp@127.0.0.1'"),
    ] {
        assert!(stderr.contains(&words), "{words}: {stderr}");
    }
}

/// A server whose account starts nothing but what is exactly that, and writes down what it was asked for.
fn allowing(command: &str, scratch: &Scratch) -> Host {
    let store = support::Store::new();
    let script = format!(
        "#!/bin/sh\necho \"$SSH_ORIGINAL_COMMAND\" >> {log}\n\
         [ \"$SSH_ORIGINAL_COMMAND\" = '{command}' ] || {{ echo refused >&2; exit 9; }}\n\
         exec {nix_store} ${{SSH_ORIGINAL_COMMAND#* }} --store '{uri}'\n",
        log = scratch.path().join("log").display(),
        nix_store = tool("nix-store").display(),
        uri = store.uri()
    );
    let gate = scratch.write("gate", script);
    fs::set_permissions(&gate, fs::Permissions::from_mode(0o755)).unwrap();
    let line = format!("ForceCommand {}", gate.display());
    let sshd = Sshd::builder().line(line).start();
    Host { store, sshd }
}

fn asked(scratch: &Scratch) -> Vec<String> {
    let log = fs::read_to_string(scratch.path().join("log")).unwrap();
    log.lines().map(str::to_owned).collect()
}

#[test]
fn an_account_that_allows_exactly_what_nix_asks_for() {
    let scratch = Scratch::new();
    let host = allowing("nix-store --serve --write", &scratch);
    let paths = [1, 2].map(|n| host.store.add_text(&format!("text-{n}"), "text", &[]));
    let env = NixEnv::new();
    let url = host.sshd.store_url("trusted=true&max-connections=2");
    let _engines = env.configure_with_engine(&[url], "");
    for path in &paths {
        let dest = env.folder().join("dest");
        let mut command = env.program();
        command
            .arg("--substitute")
            .args([path.as_ref(), dest.as_os_str()]);
        let output = run_with_input(command, b"", support::SHORT);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        fs::remove_file(dest).unwrap();
    }
    let asked = asked(&scratch);
    let refused = asked.iter().filter(|line| *line == "nix-store --serve");
    assert_eq!(refused.count(), 1, "{asked:?}");
    assert!(asked.iter().any(|line| line == "nix-store --serve --write"));
}

#[test]
fn nobody_else_is_asked_with_write() {
    let scratch = Scratch::new();
    let host = allowing("nix-store --serve", &scratch);
    let path = host.store.add_text("text", "text", &[]);
    let url = host.sshd.store_url("trusted=true");
    finds(&NixEnv::new(), &url, &[], &path);
    assert_eq!(asked(&scratch)[0], "nix-store --serve");
    assert!(!asked(&scratch).iter().any(|line| line.contains("--write")));
}
