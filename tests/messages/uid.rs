//! A user whom this machine's user database does not know, as in containers that are started with any uid.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::support::{
    Host, NixEnv, SHORT, is_root, percent_encode, program, run, run_with_input, tool,
};

const UID: u32 = 54_321;

/// Where distributions put nss_wrapper.
fn nss_wrapper() -> PathBuf {
    let folders = |at: &str| fs::read_dir(at).into_iter().flatten().flatten();
    let mut places = ["/usr/lib", "/usr/lib64"]
        .into_iter()
        .flat_map(folders)
        .map(|entry| entry.path())
        .flat_map(|path| [path.join("libnss_wrapper.so"), path])
        .filter(|path| path.ends_with("libnss_wrapper.so"));
    places
        .find(|path| path.exists())
        .expect("libnss_wrapper.so is missing: see tests/run")
}

/// `have PATH`, asked by that user. All of the environment's files are that user's.
fn ask(env: &NixEnv, path: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = env.command(tool("setpriv"));
    let id = UID.to_string();
    command
        .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
        .arg(env.folder().join("program"))
        .arg("--query")
        .env("NIX_SSHOPTS", "-F none")
        .envs(variables.iter().copied());
    run_with_input(command, format!("have {path}\n").as_bytes(), SHORT)
}

fn give(path: &Path) {
    chown(path, Some(UID), Some(UID)).expect("give a file away");
}

#[test]
fn a_uid_without_an_entry_in_the_user_database() {
    assert!(is_root(), "only root can become another user");
    let (host, env) = (Host::new(), NixEnv::new());
    let path = host.store.add_text("text", "text", &[]);
    // By another process: a program that is open for writing anywhere cannot be started.
    let mut copy = Command::new(tool("cp"));
    copy.arg(program()).arg(env.folder().join("program"));
    run(copy, SHORT);
    let key = env.folder().join("key");
    fs::copy(host.sshd.client_key(), &key).expect("copy a key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("set a mode");
    for own in [&key, &env.folder().join("home"), &env.folder().join("run")] {
        give(own);
    }
    // The way to private folders belongs to root, who runs the tests.
    let theirs = percent_encode(host.sshd.client_key().to_str().expect("UTF-8"));
    let own = percent_encode(key.to_str().expect("UTF-8"));
    env.configure(&[host.trusted().replace(&theirs, &own)], "");
    let _masters = env.masters();

    let output = ask(&env, &path, &[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    for words in [
        "ssh refuses to run as uid 54321, which has no entry in this machine's user database (hint",
        "'ci:x:54321:54321::/tmp:/bin/sh' to /etc/passwd",
        "LD_PRELOAD=libnss_wrapper.so",
        "NSS_WRAPPER_PASSWD",
    ] {
        assert!(stderr.contains(words), "{words}: {stderr}");
    }
    assert!(!stderr.contains("may tell more"), "{stderr}");

    let home = env.folder().join("home");
    let passwd = format!("ci:x:{UID}:{UID}::{}:/bin/sh\n", home.display());
    fs::write(env.folder().join("passwd"), passwd).expect("write a user database");
    fs::write(env.folder().join("group"), format!("ci:x:{UID}:\n")).expect("write it");
    let at = |name: &str| env.folder().join(name).display().to_string();
    let wrapper = nss_wrapper().display().to_string();
    // What else is loaded is nobody's business but the caller's.
    let (passwd, group) = (at("passwd"), at("group"));
    let output = ask(
        &env,
        &path,
        &[
            ("LD_PRELOAD", &wrapper),
            ("NSS_WRAPPER_PASSWD", &passwd),
            ("NSS_WRAPPER_GROUP", &group),
        ],
    );
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(stdout, format!("\n{path}\n\n"), "{stderr}");
}
