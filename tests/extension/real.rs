//! Real logins: accounts that are forced to run our program, and a real Nix that calls it.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::MIB;
use crate::support::{
    Nix, NixEnv, SHORT, Scratch, Sshd, Store, descendants, program, run, run_with_timeout, tool,
    wait_until,
};

/// A server whose account runs our program whatever is asked for. All that each session sends goes to a file of its own.
fn forced(store: &Store, log: &Path) -> Sshd {
    let script = log.join("forced");
    // What ends is our program, as if it had been forced alone.
    let text = format!(
        "#!{}\nexec '{}' serve-local --store '{}' < <(exec tee '{}/asked.'$$ 2>/dev/null)\n",
        tool("bash").display(),
        program().display(),
        store.root().display(),
        log.display(),
    );
    fs::write(&script, text).unwrap();
    crate::change(&script, 0o755);
    Sshd::builder()
        .line(format!("ForceCommand {}", script.display()))
        .start()
}

/// How many parts of NARs were asked for, and in how many sessions.
fn parts(log: &Path) -> (usize, usize) {
    let word = 0x5382_u64.to_le_bytes();
    let sessions = fs::read_dir(log).unwrap().filter_map(|entry| {
        let name = entry.unwrap().path();
        let asked = fs::read(&name).unwrap();
        let is_log = name
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("asked.");
        let all = asked.windows(8).filter(|window| *window == word).count();
        (is_log && all > 0).then_some(all)
    });
    let sessions: Vec<_> = sessions.collect();
    (sessions.iter().sum(), sessions.len())
}

#[test]
fn two_forced_accounts_send_a_large_path_together() {
    let (one, two) = (Store::new(), Store::new());
    let path = one.big("large", 150 * MIB);
    assert_eq!(two.big("large", 150 * MIB), path);
    let logs = [Scratch::new(), Scratch::new()];
    let servers = [forced(&one, logs[0].path()), forced(&two, logs[1].path())];
    let env = NixEnv::new();
    let _masters = env.masters();
    env.configure(
        &servers
            .each_ref()
            .map(|sshd| sshd.store_url("trusted=true")),
        "",
    );
    // Both are logged in to, and known for what they are.
    let mut status = env.program();
    status.arg("status");
    run(status, SHORT);
    // Where one answers late, the path comes from the other one alone.
    for _ in 0..5 {
        let before = logs.each_ref().map(|log| parts(log.path()).0);
        let to = Scratch::new();
        let out = to.path().join("out");
        let mut get = env.program();
        get.args(["get", "--to"]).arg(&out).arg(&path);
        run(get, SHORT);
        let mut dump = env.command("nix-store");
        dump.arg("--dump")
            .arg(out.join(path.trim_start_matches('/')));
        let nar = run_with_timeout(dump, SHORT);
        assert!(nar.stdout == one.nar(&path));
        let shares = [0, 1].map(|at| parts(logs[at].path()).0 - before[at]);
        if shares.iter().all(|share| *share >= 3) && shares.iter().sum::<usize>() >= 75 {
            return;
        }
    }
    panic!("they never shared it");
}

/// The processes of our program that this server has started.
fn programs(sshd: &Sshd) -> Vec<u32> {
    let is_ours = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(11).any(|word| word == b"serve-local")
    };
    descendants(sshd.pid())
        .into_iter()
        .filter(is_ours)
        .collect()
}

#[test]
fn programs_that_are_killed_cost_what_they_had_in_hand() {
    let (one, two) = (Store::new(), Store::new());
    let path = one.big("large", 150 * MIB);
    assert_eq!(two.big("large", 150 * MIB), path);
    let logs = [Scratch::new(), Scratch::new()];
    let servers = [forced(&one, logs[0].path()), forced(&two, logs[1].path())];
    let env = NixEnv::new();
    let _masters = env.masters();
    env.configure(
        &servers
            .each_ref()
            .map(|sshd| sshd.store_url("trusted=true")),
        "",
    );
    let to = Scratch::new();
    let mut get = env.program();
    get.args(["get", "--to"])
        .arg(to.path().join("out"))
        .arg(&path);
    let mut get = get
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // First here, then there; never both at a time, so that one of them goes on.
    for (log, sshd) in logs.iter().zip(&servers) {
        let before = parts(log.path()).0;
        wait_until("it sends parts", || {
            parts(log.path()).0 >= before + 3 || get.try_wait().unwrap().is_some()
        });
        for pid in programs(sshd) {
            let mut kill = std::process::Command::new(tool("kill"));
            kill.args(["-9", &pid.to_string()]);
            let _ = kill.status().unwrap();
        }
    }
    assert!(get.wait().unwrap().success());
    let out = to.path().join("out");
    let copied = out.join(path.trim_start_matches('/')).join("data");
    assert!(fs::read(copied).unwrap() == fs::read(one.physical(&path).join("data")).unwrap());
}

#[test]
fn doctor_and_status_say_that_it_is_there() {
    let store = Store::new();
    store.add_text("a", "a", &[]);
    let log = Scratch::new();
    let sshd = forced(&store, log.path());
    let env = NixEnv::new();
    let _masters = env.masters();
    env.configure(&[sshd.store_url("trusted=true")], "");
    let say = |arguments: &[&str]| {
        let mut command = env.program();
        command.args(arguments);
        let output = run_with_timeout(command, SHORT);
        String::from_utf8(output.stdout).unwrap()
    };
    let doctor = say(&["doctor"]);
    for words in [
        "runs ssh-substituter: large paths come in chunks, without a shell",
        "has zstd: large paths come compressed where that is faster",
        "serve protocol 2.8 (ssh-substituter's own)",
    ] {
        assert!(doctor.contains(words), "{doctor}");
    }
    let status: serde_json::Value = serde_json::from_str(&say(&["status", "--json"])).unwrap();
    assert_eq!(status["hosts"][0]["extension"], true, "{status}");
    // Later commands know.
    let cache = say(&["cache", "stats"]);
    assert!(
        cache.contains("runs this program, and needs no shell"),
        "{cache}"
    );
}

#[test]
fn a_forced_account_sends_a_version_bump_as_its_differences() {
    let store = Store::new();
    let old = store.build("tool-1.0", 1);
    let new = store.build("tool-1.0", 2);
    let log = Scratch::new();
    let sshd = forced(&store, log.path());
    let nix = Nix::through(&[]);
    nix.store().copy_from(&store, &[&old]);
    let env = nix.store().env();
    let base = format!("delta-base = {}", nix.store().root().display());
    let url = sshd.store_url("trusted=true&delta=always");
    let engines = env.configure_with_engine(&[url], &base);
    nix.realise(&[&new]).ok();
    assert!(nix.store().verify_path(&new));
    let received = &engines.status()[0]["hosts"][0]["received"]["differences"];
    let bytes = |field: &str| received[field].as_u64().unwrap();
    assert_eq!(bytes("narBytes"), store.nar_size(&new));
    assert!(bytes("wireBytes") < 170 << 10, "{received}");
    assert_eq!(parts(log.path()), (0, 0));
}

#[test]
fn nix_itself_never_notices() {
    let store = Store::new();
    let (big, many) = (store.big("big", 9 * MIB), store.many_files(50));
    let text = store.add_text("text", "text", &[&big, &many]);
    let log = Scratch::new();
    let sshd = forced(&store, log.path());
    let nix = Nix::new().ssh(&sshd);
    let url = sshd.nix_store_url("");
    nix.copy_from(&url, &[&text], &["--no-check-sigs"]).ok();
    for path in [&big, &many, &text] {
        assert!(nix.store().nar(path) == store.nar(path), "{path}");
    }
    assert_eq!(parts(log.path()), (0, 0));
}
