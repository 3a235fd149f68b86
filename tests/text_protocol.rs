//! The text protocol, driven as Nix 1.11 drives it: by pipes, line by line, in a process group of its own, with its
//! configuration in `_NIX_OPTIONS`. At the other end are a real sshd and `nix-store --serve`.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use support::{DagOptions, Host, NixEnv, Scratch, run, run_with_timeout, tool, wait_until};

/// What `_NIX_OPTIONS` holds beside what a test adds.
const OPTIONS: &str = "build-max-jobs=1\nuse-ssh-substituter=true\nrequire-sigs=true\n";

/// The program under the name that Nix 1.x knows.
fn classic(env: &NixEnv, options: &str) -> Command {
    let link = env.folder().join("download-via-ssh");
    if !link.exists() {
        symlink(support::program(), &link).unwrap();
    }
    let mut command = env.command(&link);
    command.env("_NIX_OPTIONS", format!("{OPTIONS}{options}"));
    command.process_group(0).stderr(Stdio::piped());
    command
}

fn hosts(hosts: &[&Host]) -> String {
    let urls: Vec<_> = hosts.iter().map(|host| host.trusted()).collect();
    format!("ssh-substituter-hosts={}\n", urls.join(" "))
}

struct Query {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Query {
    fn start(env: &NixEnv, options: &str) -> Self {
        let mut command = classic(env, options);
        command
            .arg("--query")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut query = Self {
            child,
            input,
            output,
        };
        query.line();
        query
    }

    /// The next line, without its line feed.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line.pop(), Some('\n'), "the program ended");
        line
    }

    fn have(&mut self, paths: &[&str]) -> Vec<String> {
        // With a space at the end, as Nix writes it.
        writeln!(self.input, "have {} ", paths.join(" ")).unwrap();
        let mut have = Vec::new();
        loop {
            match self.line() {
                line if line.is_empty() => return have,
                line => have.push(line),
            }
        }
    }

    /// Path, deriver, references, sizes of each.
    fn info(&mut self, paths: &[&str]) -> Vec<(String, String, Vec<String>, u64, u64)> {
        writeln!(self.input, "info {} ", paths.join(" ")).unwrap();
        let mut infos = Vec::new();
        loop {
            let path = self.line();
            if path.is_empty() {
                return infos;
            }
            assert!(paths.contains(&path.as_str()), "{path} was not asked for");
            let deriver = self.line();
            let count = self.line().parse().unwrap();
            let references = (0..count).map(|_: usize| self.line()).collect();
            let sizes: [u64; 2] = std::array::from_fn(|_| self.line().parse().unwrap());
            infos.push((path, deriver, references, sizes[0], sizes[1]));
        }
    }

    /// Closes its stdin; exit status and stderr.
    fn end(mut self) -> (Option<i32>, String) {
        drop(self.input);
        let mut stderr = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut stderr)
            .unwrap();
        (self.child.wait().unwrap().code(), stderr)
    }
}

fn substitute(env: &NixEnv, options: &str, path: &str, dest: &Path) -> Output {
    let mut command = classic(env, options);
    command.arg("--substitute").arg(path).arg(dest);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    run_with_timeout(command, Duration::from_secs(120))
}

/// Line 2, after a success.
fn hash(output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    stdout
        .lines()
        .nth(1)
        .unwrap_or_else(|| panic!("no second line; {stderr}"))
        .to_owned()
}

/// What Nix does with DEST: hash it.
fn hash_of(dest: &Path) -> String {
    let dump = format!(
        "'{}' --dump '{}' | sha256sum",
        tool("nix-store").display(),
        dest.display()
    );
    let mut command = Command::new("sh");
    command.args(["-c", &dump]);
    let hex = run(command, Duration::from_secs(120));
    let hex = hex.split(' ').next().unwrap().to_owned();
    format!("sha256:{hex}")
        .parse::<ssh_substituter::model::NarHash>()
        .unwrap()
        .to_string()
}

fn nothing_left(folder: &Path) {
    let left: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

const ABSENT: &str = "/nix/store/00000000000000000000000000000000-absent";

#[test]
fn nix_asks_in_waves_and_then_one_by_one() {
    let host = Host::new();
    let dag = host.store.dag(120, DagOptions::default());
    let env = NixEnv::new();
    let _masters = env.masters();
    let mut query = Query::start(&env, &hosts(&[&host]));
    assert_eq!(query.have(&[ABSENT, &dag.root]), [dag.root.as_str()]);
    let mut wave = vec![dag.root.clone()];
    let mut seen = wave.clone();
    while !wave.is_empty() {
        let asked: Vec<&str> = wave.iter().map(String::as_str).collect();
        let infos = query.info(&asked);
        assert_eq!(infos.len(), asked.len());
        let references: Vec<String> = infos.into_iter().flat_map(|info| info.2).collect();
        wave = Vec::new();
        for reference in references {
            if !seen.contains(&reference) {
                seen.push(reference.clone());
                wave.push(reference);
            }
        }
    }
    seen.sort();
    let mut all = dag.paths.clone();
    all.sort();
    assert_eq!(seen, all);
    for path in &all {
        let infos = query.info(&[path]);
        assert_eq!(infos[0].2, host.store.references(path));
        assert_eq!(infos[0].4, host.store.nar_size(path));
    }
    assert_eq!(query.info(&[ABSENT]), []);
    assert_eq!(
        query.have(&["/etc/passwd", "rubbish", &dag.root]),
        [dag.root.as_str()]
    );
    assert_eq!(query.end().0, Some(0));
    assert_eq!(host.sshd.logins(), 1);
}

#[test]
fn every_path_is_restored_as_nix_expects_it() {
    let host = Host::new();
    let dag = host.store.dag(12, DagOptions::default());
    let odd = host.store.many_files(300);
    let env = NixEnv::new();
    let _masters = env.masters();
    let dest = Scratch::new();
    for path in dag.paths.iter().chain([&odd]) {
        let target = dest.path().join(Path::new(path).file_name().unwrap());
        let output = substitute(&env, &hosts(&[&host]), path, &target);
        assert_eq!(hash(&output), host.store.nar_hash(path));
        assert_eq!(hash_of(&target), host.store.nar_hash(path));
        let meta = fs::symlink_metadata(&target).unwrap();
        assert_eq!((meta.mtime(), meta.mode() & 0o222), (1, 0));
    }
    // All twelve processes used one login, and no temporary name is left.
    assert_eq!(host.sshd.logins(), 1);
    assert_eq!(fs::read_dir(dest.path()).unwrap().count(), 13);
}

#[test]
fn large_paths_work() {
    let host = Host::new();
    let (big, many) = (
        host.store.big("big", 400 << 20),
        host.store.many_files(50_000),
    );
    let env = NixEnv::new();
    let _masters = env.masters();
    let dest = Scratch::new();
    for path in [&big, &many] {
        let target = dest.path().join(Path::new(path).file_name().unwrap());
        let output = substitute(&env, &hosts(&[&host]), path, &target);
        assert_eq!(hash(&output), host.store.nar_hash(path));
        assert_eq!(hash_of(&target), host.store.nar_hash(path));
    }
}

#[test]
fn a_failure_prints_the_first_line_and_leaves_nothing() {
    let host = Host::new();
    let (bad, big) = (
        host.store.add_text("bad", "text", &[]),
        host.store.big("big", 10 << 20),
    );
    host.store.corrupt(&bad);
    host.store.corrupt(&big);
    let env = NixEnv::new();
    let _masters = env.masters();
    let dest = Scratch::new();
    let hosts = hosts(&[&host]);
    let off = format!("{hosts}use-ssh-substituter=false\n");
    let wrong = format!("{hosts}connect-timeout=soon\n");
    for (options, path, message) in [
        (&hosts, ABSENT, "no host has"),
        (&hosts, "/etc/passwd", "is not a store path"),
        (&hosts, &bad, "wrong content"),
        (&hosts, &big, "wrong content"),
        (&off, &bad, "no hosts to ask"),
        (&wrong, &bad, "connect-timeout"),
    ] {
        let output = substitute(&env, options, path, &dest.path().join("x"));
        assert_eq!(output.stdout, b"\n", "{path}");
        assert_eq!(output.status.code(), Some(1), "{path}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(message), "{stderr}");
        nothing_left(dest.path());
    }
    // What is there is never touched.
    let taken = dest.write("taken", "mine");
    let good = host.store.add_text("good", "text", &[]);
    let output = substitute(&env, &hosts, &good, &taken);
    assert_eq!(
        (output.status.code(), &output.stdout[..]),
        (Some(1), &b"\n"[..])
    );
    assert_eq!(fs::read(&taken).unwrap(), b"mine");
}

#[test]
fn sigterm_ends_a_restore_and_what_is_left_goes_with_the_next_one() {
    let host = Host::new();
    let big = host.store.big("big", 400 << 20);
    let env = NixEnv::new();
    let _masters = env.masters();
    let dest = Scratch::new();
    let restore = || {
        let mut command = classic(&env, &hosts(&[&host]));
        let to = dest.path().join("x");
        command.arg("--substitute").arg(&big).arg(to);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command
    };
    let mut command = restore();
    let mut child = command.spawn().unwrap();
    wait_until("the restore to begin", || {
        fs::read_dir(dest.path()).unwrap().count() > 0
    });
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    // It does not stay for long to remove what it has written.
    let names = || {
        let entries = fs::read_dir(dest.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect::<Vec<_>>()
    };
    let left = names();
    assert!(left.is_empty() || left == ["x.chroot"], "{left:?}");
    let output = run_with_timeout(restore(), support::SHORT);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(names(), ["x"]);
}

#[test]
fn switched_off_means_silence_and_status_0() {
    let host = Host::new();
    let env = NixEnv::new();
    let untrusted = format!(
        "{}untrusted-ssh-substituter-hosts=elsewhere\n",
        hosts(&[&host])
    );
    for (options, message) in [
        ("", ""),
        ("use-ssh-substituter=false\n", ""),
        (
            "ssh-substituter-hosts=-oProxyCommand=true\n",
            "names no host",
        ),
        (&untrusted, "trusted-ssh-substituter-hosts"),
    ] {
        let mut command = classic(&env, options);
        command
            .arg("--query")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let output = run_with_timeout(command, support::SHORT);
        assert_eq!(
            (output.status.code(), &output.stdout[..]),
            (Some(0), &b""[..])
        );
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(message), "{stderr}");
    }
    assert_eq!(host.sshd.logins(), 0);
}

#[test]
fn every_host_is_used_and_a_dead_one_is_reported_once() {
    let (first, second, dead) = (Host::new(), Host::new(), Host::new());
    let (a, b) = (
        first.store.add_text("a", "a", &[]),
        second.store.add_text("b", "b", &[]),
    );
    dead.sshd.kill();
    let env = NixEnv::new();
    let _masters = env.masters();
    let options = hosts(&[&dead, &first, &second]);
    let mut query = Query::start(&env, &options);
    assert_eq!(query.have(&[&a, &b, ABSENT]), [a.as_str(), b.as_str()]);
    assert_eq!(query.info(&[&b, &a]).len(), 2);
    let (status, stderr) = query.end();
    assert_eq!(status, Some(0));
    assert_eq!(stderr.matches("connection refused").count(), 1, "{stderr}");
    // Nix 1.x puts the program's name before each line of `--query`; it does not stand there twice.
    assert!(stderr.starts_with("warning: "), "{stderr}");
    assert!(!stderr.contains("ssh-substituter: "), "{stderr}");
    let dest = Scratch::new();
    for path in [&a, &b] {
        let target: PathBuf = dest.path().join(Path::new(path).file_name().unwrap());
        assert_eq!(
            hash(&substitute(&env, &options, path, &target)),
            hash_of(&target)
        );
    }
}

#[test]
fn serve_local_can_be_the_remote_program() {
    let host = Host::new();
    let dag = host.store.dag(20, DagOptions::default());
    let env = NixEnv::new();
    let _masters = env.masters();
    let program = support::program().display();
    let url = host.url(&format!(
        "trusted=true&remote-program={program}%20serve-local"
    ));
    let options = format!("ssh-substituter-hosts={url}\n");
    let mut query = Query::start(&env, &options);
    let paths: Vec<&str> = dag.paths.iter().map(String::as_str).collect();
    assert_eq!(query.have(&paths).len(), 20);
    assert_eq!(query.end().0, Some(0));
    let dest = Scratch::new();
    let target = dest.path().join("x");
    let output = substitute(&env, &options, &dag.root, &target);
    assert_eq!(hash(&output), host.store.nar_hash(&dag.root));
    assert_eq!(hash_of(&target), hash(&output));
}
