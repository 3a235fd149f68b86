//! The folder that a command is given in: ssh connections and engines that outlive it are elsewhere, and find what it named
//! from there. What they leave in the runtime folder goes with them.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use support::{Host, NixEnv, SHORT, percent_encode, run_with_input, wait_until};

/// Processes with this in their command line, and the folders that they are in.
fn processes(word: &str) -> Vec<(u32, PathBuf)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let of = |pid: u32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let found = String::from_utf8_lossy(&words).contains(word);
        let folder = fs::read_link(format!("/proc/{pid}/cwd")).ok();
        folder.filter(|_| found).map(|folder| (pid, folder))
    };
    pids.filter_map(of).collect()
}

fn runtime(env: &NixEnv) -> PathBuf {
    env.folder().join("run/ssh-substituter")
}

/// The folders that ssh masters of this environment are in.
fn masters(env: &NixEnv) -> Vec<PathBuf> {
    let all = processes(runtime(env).to_str().unwrap());
    all.into_iter().map(|(_, folder)| folder).collect()
}

/// Asks for a path from this folder. Whether it was found, and what was said.
fn ask(mut command: Command, folder: &Path, path: &str) -> (bool, String) {
    command.current_dir(folder).arg("--query");
    let output = run_with_input(command, format!("have {path}\n").as_bytes(), SHORT);
    let found = output.stdout == format!("\n{path}\n\n").as_bytes();
    (found, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The files that lead ssh to a host, all in one folder, and nothing that names it.
fn files(env: &NixEnv, host: &Host) -> PathBuf {
    let folder = env.folder().join("caller's 100%");
    fs::create_dir_all(folder.join("keys")).unwrap();
    fs::copy(host.sshd.client_key(), folder.join("keys/id")).unwrap();
    fs::copy(host.sshd.known_hosts(), folder.join("known")).unwrap();
    let config = format!(
        "Host alias\n  HostName 127.0.0.1\n  Port {}\n  User {}\n  IdentitiesOnly yes\n  IdentityAgent none\n  \
         GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n",
        host.sshd.port(),
        host.sshd.user(),
    );
    fs::write(folder.join("config"), config).unwrap();
    folder
}

fn found_from_there(engine: bool) {
    let host = Host::new();
    let path = host.store.add_text("text", "text", &[]);
    let env = NixEnv::new();
    let folder = files(&env, &host);
    let store = host.store.remote_store_param();
    let options = "-F config -o UserKnownHostsFile=known";
    let key = percent_encode("keys/id");
    for (url, options) in [
        (
            format!("ssh://alias?remote-store={store}&trusted=true"),
            format!("{options} -i keys/id"),
        ),
        (
            format!("ssh://alias?remote-store={store}&trusted=true"),
            format!("{options} -oIdentityFile=keys/id"),
        ),
        (
            format!("ssh://alias?ssh-key={key}&remote-store={store}&trusted=true"),
            options.to_owned(),
        ),
    ] {
        let _masters = env.masters();
        let engines = engine.then(|| env.configure_with_engine(std::slice::from_ref(&url), ""));
        if !engine {
            env.configure(&[url], "");
        }
        let mut command = env.program();
        command.env("NIX_SSHOPTS", &options);
        // A cache would know the answer the second time.
        let cache = env.folder().join(format!("cache-{}", options.len()));
        command.env("SSH_SUBSTITUTER_CACHE_DIR", cache);
        let (found, said) = ask(command, &folder, &path);
        assert!(found, "{options}: {said}");
        assert_eq!(masters(&env), [Path::new("/")], "{options}");
        if let Some(engines) = engines {
            assert_eq!(engines.pids().len(), 1, "{options}: {said}");
            engines.stop();
        }
        drop(_masters);
        wait_until("the connection ends", || masters(&env).is_empty());
    }
}

#[test]
fn files_are_found_from_there() {
    found_from_there(false);
}

#[test]
fn an_engine_finds_them_too() {
    found_from_there(true);
}

#[test]
fn what_ssh_is_configured_with_is_meant_from_there_as_well() {
    let host = Host::new();
    let path = host.store.add_text("text", "text", &[]);
    let env = NixEnv::new();
    let folder = files(&env, &host);
    let mut config = fs::read_to_string(folder.join("config")).unwrap();
    config.push_str(
        "  IdentityFile keys/id\n  UserKnownHostsFile known\n  ProxyCommand keys/proxy %h %p\n",
    );
    fs::write(folder.join("config"), config).unwrap();
    let proxy = folder.join("keys/proxy");
    let nc = "#!/bin/sh\nexec 3<>/dev/null\nexec nc \"$1\" \"$2\"\n";
    let by_bash = "#!/bin/bash\nexec 3<>\"/dev/tcp/$1/$2\"\ncat <&3 &\nexec cat >&3\n";
    let has_nc = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .any(|folder| folder.join("nc").exists());
    fs::write(&proxy, if has_nc { nc } else { by_bash }).unwrap();
    fs::set_permissions(&proxy, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let store = host.store.remote_store_param();
    env.configure(
        &[format!("ssh://alias?remote-store={store}&trusted=true")],
        "",
    );
    let _masters = env.masters();
    let mut command = env.program();
    command.env("NIX_SSHOPTS", "-F config");
    let (found, said) = ask(command, &folder, &path);
    assert!(found, "{said}");
    assert!(masters(&env).contains(&PathBuf::from("/")));
}

#[test]
fn what_masters_leave_behind_goes_with_them() {
    let (first, second) = (Host::new(), Host::new());
    let paths = [&first, &second].map(|host| host.store.add_text("text", "text", &[]));
    let env = NixEnv::new();
    let names = || {
        let mut names: Vec<_> = fs::read_dir(runtime(&env))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let masters_of_first = env.masters();
    env.configure(&[first.trusted()], "");
    assert!(ask(env.program(), env.folder(), &paths[0]).0);
    let one = names();
    // Socket, log, lock, the host's key, and how the login at its address went.
    assert_eq!(one.len(), 5, "{one:?}");
    // As long as it lives, nothing is taken away.
    env.configure(&[second.trusted()], "");
    assert!(ask(env.program(), env.folder(), &paths[1]).0);
    assert!(
        one.iter().all(|name| names().contains(name)),
        "{:?}",
        names()
    );
    env.configure(&[first.trusted()], "");
    assert!(ask(env.program(), env.folder(), &paths[0]).0);
    assert_eq!((first.sshd.logins(), second.sshd.logins()), (1, 1));

    // One ends as it should, one is killed.
    drop(masters_of_first);
    wait_until("both end", || masters(&env).is_empty());
    let third = Host::new();
    let _masters = env.masters();
    let path = third.store.add_text("other", "text", &[]);
    env.configure(&[third.trusted()], "");
    assert!(ask(env.program(), env.folder(), &path).0);
    let pid = processes(runtime(&env).to_str().unwrap())[0].0;
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    wait_until("it is gone", || masters(&env).is_empty());
    assert!(
        names().iter().any(|name| name.ends_with("-0")),
        "a socket is left"
    );
    env.configure(&[second.trusted()], "");
    assert!(ask(env.program(), env.folder(), &paths[1]).0);
    std::thread::sleep(Duration::from_millis(200));
    let mut left = names();
    // Keys stay for an hour, and so does what is remembered of logins.
    left.retain(|name| !name.ends_with(".known") && !name.ends_with(".login"));
    let stems: std::collections::BTreeSet<_> = left
        .iter()
        .map(|name| name.split('.').next().unwrap())
        .collect();
    assert_eq!((left.len(), stems.len()), (3, 1), "{left:?}");
}
