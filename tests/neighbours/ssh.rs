//! What ssh gets to see, and what others can see of ssh: its environment and its command line.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::support::{Host, NixEnv, SHORT, run_with_input, tool};

/// What one ssh was started with, as the system tells it.
struct Seen {
    environment: BTreeSet<String>,
    words: Vec<String>,
}

/// Puts an `ssh` first in the PATH that writes down how it was started, and becomes the real one.
fn watch_ssh(env: &NixEnv) -> (std::ffi::OsString, std::path::PathBuf) {
    let (bin, log) = (env.folder().join("bin"), env.folder().join("ssh-log"));
    for folder in [&bin, &log] {
        fs::create_dir(folder).expect("make a folder");
    }
    let script = format!(
        "#!/bin/sh\nfor what in environ cmdline; do cat /proc/$$/$what > {}/$$.$what; done\nexec {} \"$@\"\n",
        log.display(),
        tool("ssh").display()
    );
    fs::write(bin.join("ssh"), script).expect("write a script");
    fs::set_permissions(bin.join("ssh"), Permissions::from_mode(0o755)).expect("set a mode");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(bin).chain(std::env::split_paths(&path));
    (std::env::join_paths(folders).expect("a PATH"), log)
}

fn seen(log: &Path) -> Vec<Seen> {
    let strings = |path: &Path| {
        let bytes = fs::read(path).expect("read a log");
        let text = String::from_utf8(bytes).expect("UTF-8");
        text.split_terminator('\0')
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let entries = fs::read_dir(log).expect("read a folder").flatten();
    let all = entries.filter(|entry| {
        entry
            .path()
            .extension()
            .is_some_and(|what| what == "environ")
    });
    all.map(|entry| Seen {
        environment: strings(&entry.path()).into_iter().collect(),
        words: strings(&entry.path().with_extension("cmdline")),
    })
    .collect()
}

#[test]
fn ssh_gets_what_it_needs_and_shows_no_secret() {
    let (host, env) = (Host::new(), NixEnv::new());
    let secret = "a-secret-of-the-callers";
    let url = host.trusted();
    env.configure(
        std::slice::from_ref(&url),
        "extra-ssh-environment = AWS_PROFILE UNSET",
    );
    let _masters = env.masters();
    let path = host.store.add_text("path", "text", &[]);
    let key = host.store.sign("test-1", &[&path]);
    let (search, log) = watch_ssh(&env);
    for front_end in ["--query", "--serve"] {
        let mut command = env.program();
        command.arg(front_end).env("PATH", &search);
        for name in [
            "SSH_ASKPASS",
            "SSH_ASKPASS_REQUIRE",
            "SSH_CONNECTION",
            "SSH_SK_HELPER",
            "DISPLAY",
            "LD_LIBRARY_PATH",
            "LD_AUDIT_X",
            "BASH_ENV",
            "ENV",
            "IFS",
            "PYTHONPATH",
            "NIX_REMOTE",
            "NIX_CONFIG",
            "NIX_SECRET_KEY_FILE",
            "TOKEN",
            "AWS_SECRET_ACCESS_KEY",
            "GITHUB_TOKEN",
            "TERM",
            "EDITOR",
            "PS4",
            "GCONV_PATH",
            "LOCPATH",
            "MALLOC_CHECK_",
        ] {
            let value = if name == "NIX_CONFIG" {
                "connect-timeout = 20"
            } else {
                secret
            };
            command.env(name, value);
        }
        let options = format!(
            "secret-token={secret}\ntrusted-public-keys={key}\nuntrusted-ssh-auth-sock=\nssh-auth-sock=/the/agent\n"
        );
        command.env("_NIX_OPTIONS", options);
        command
            .env("AWS_PROFILE", "work")
            .env("LC_TIME", "C")
            .env("USER", "u")
            .env("LOGNAME", "u")
            .env("SHELL", "/bin/sh");
        let input = match front_end {
            "--query" => format!("have {path} \n").into_bytes(),
            // Hello, QueryValidPaths of no path.
            _ => [0x390c_9deb_u64, 0x205, 1, 0, 0, 0]
                .iter()
                .flat_map(|number| number.to_le_bytes())
                .collect(),
        };
        let output = run_with_input(command, &input, SHORT);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let all = seen(&log);
    // The connection, and what asks ssh for its configuration.
    assert!(
        all.iter().any(|ssh| ssh.words.contains(&"-N".to_owned())),
        "{}",
        all.len()
    );
    assert_eq!(host.sshd.logins(), 1);
    let mut names: BTreeSet<&str> = [
        "AWS_PROFILE",
        "HOME",
        "LANG",
        "LC_TIME",
        "LOGNAME",
        "PATH",
        "SHELL",
        "SSH_ASKPASS",
        "SSH_ASKPASS_REQUIRE",
        "SSH_AUTH_SOCK",
        "USER",
        "XDG_RUNTIME_DIR",
    ]
    .into();
    if std::env::var_os("TMPDIR").is_some() {
        names.insert("TMPDIR");
    }
    for ssh in &all {
        let got: BTreeSet<&str> = ssh
            .environment
            .iter()
            .filter_map(|one| Some(one.split_once('=')?.0))
            .collect();
        assert_eq!(got, names, "{:?}", ssh.words);
        for known in [
            "SSH_ASKPASS=false",
            "SSH_AUTH_SOCK=/the/agent",
            "AWS_PROFILE=work",
        ] {
            assert!(ssh.environment.contains(known), "{known}");
        }
        let line = ssh.words.join(" ");
        let public = host.sshd.host_key().split(' ').nth(1).expect("a key");
        for hidden in [
            secret,
            "/the/agent",
            public,
            &key,
            "AWS_PROFILE",
            "trusted",
            &path,
            "BEGIN OPENSSH",
        ] {
            assert!(!line.contains(hidden), "{hidden}: {line}");
        }
    }
}

#[test]
fn without_an_agent_in_the_configuration_ssh_gets_none() {
    let (host, env) = (Host::new(), NixEnv::new());
    env.configure(&[host.trusted()], "ssh-auth-sock =");
    let _masters = env.masters();
    let path = host.store.add_text("path", "text", &[]);
    let (search, log) = watch_ssh(&env);
    let mut command = env.program();
    command
        .arg("--query")
        .env("PATH", &search)
        .env("SSH_AUTH_SOCK", "/of/somebody");
    let output = run_with_input(command, format!("have {path} \n").as_bytes(), SHORT);
    assert!(String::from_utf8_lossy(&output.stdout).contains(&path));
    let all = seen(&log);
    assert!(!all.is_empty());
    for ssh in all {
        assert!(
            !ssh.environment
                .iter()
                .any(|one| one.starts_with("SSH_AUTH_SOCK=")),
            "{:?}",
            ssh.environment
        );
    }
}
