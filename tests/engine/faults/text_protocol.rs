//! The same for the front ends of Nix 1.x.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{Frozen, GOES_ON_WITHIN, MIB, configure, hosts, signal};
use crate::support::{
    NixEnv, SHORT, Scratch, ServeClient, bytes_below, guard, run, run_with_timeout,
};

/// `--substitute`, during which something happens once so many bytes are there. Its lines.
fn substitute(env: &NixEnv, path: &str, at: u64, happens: impl FnOnce() + Send) -> String {
    let scratch = Scratch::new();
    let folder = scratch.folder("there");
    let dest = folder.join("dest");
    let mut command = env.program();
    command.args(["--substitute", path]).arg(&dest);
    let output = thread::scope(|scope| {
        let running = scope.spawn(|| run_with_timeout(command, SHORT));
        while bytes_below(&folder) < at && !running.is_finished() {
            thread::sleep(Duration::from_micros(200));
        }
        happens();
        running.join().expect("it ends")
    });
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut command = env.command("nix-hash");
    command.args(["--type", "sha256", "--base32"]).arg(&dest);
    let hash = run(command, SHORT);
    assert_eq!(lines, format!("\nsha256:{hash}\n"));
    lines
}

#[test]
fn a_path_is_restored_though_the_engine_is_killed_or_frozen() {
    let (hosts, large, _) = hosts(1, 60 * MIB);
    let env = NixEnv::new();
    let engines = configure(&env, &hosts);
    let expected = format!("\n{}\n", hosts[0].store.nar_hash(&large));
    let size = hosts[0].store.nar_size(&large);
    for at in [0, 64 << 10, size / 2] {
        // So that there is one.
        ServeClient::start(&env).end();
        let pid = engines.pid();
        let lines = substitute(&env, &large, at, || signal(pid, Signal::KILL));
        assert_eq!(lines, expected);
    }
    for at in [0, size / 3] {
        ServeClient::start(&env).end();
        let pid = engines.pid();
        let mut frozen = None;
        let lines = substitute(&env, &large, at, || frozen = Some(Frozen::new(pid)));
        assert_eq!(lines, expected);
    }
}

struct Query {
    child: Child,
    output: BufReader<ChildStdout>,
    _guarded: Sender<()>,
}

impl Query {
    fn start(env: &NixEnv) -> Self {
        let mut command = env.program();
        command.arg("--query");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start the program");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut query = Self {
            _guarded: guard(child.id()),
            child,
            output,
        };
        assert_eq!(query.line(), "");
        query
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        assert_eq!(line.pop(), Some('\n'), "the program ended");
        line
    }

    fn ask(&mut self, what: &str, path: &str) {
        let input = self.child.stdin.as_mut().expect("a pipe");
        writeln!(input, "{what} {path} ").expect("ask");
    }

    fn have(&mut self, path: &str) {
        self.ask("have", path);
        assert_eq!([self.line(), self.line()], [path, ""]);
    }

    fn info(&mut self, path: &str) {
        self.ask("info", path);
        self.read_info(path);
    }

    fn read_info(&mut self, path: &str) {
        let lines: Vec<_> = (0..6).map(|_| self.line()).collect();
        assert_eq!((lines[0].as_str(), lines[5].as_str()), (path, ""));
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().expect("wait").success());
    }
}

#[test]
fn questions_of_the_text_protocol_are_answered_though_the_engine_is_killed_or_frozen() {
    let (hosts, large, small) = hosts(1, MIB);
    let third = hosts[0].store.big("third", 3000);
    let env = NixEnv::new();
    let engines = configure(&env, &hosts);

    let mut query = Query::start(&env);
    query.have(&small);
    signal(engines.pid(), Signal::KILL);
    query.info(&small);
    query.have(&large);
    query.end();

    let mut query = Query::start(&env);
    query.have(&small);
    let pid = engines.pid();
    hosts[0].sshd.freeze();
    query.ask("info", &third);
    thread::sleep(Duration::from_millis(300));
    signal(pid, Signal::KILL);
    hosts[0].sshd.thaw();
    query.read_info(&third);
    query.end();

    let mut query = Query::start(&env);
    query.have(&small);
    let frozen = Frozen::new(engines.pid());
    let began = Instant::now();
    query.info(&large);
    query.have(&small);
    assert!(began.elapsed() < GOES_ON_WITHIN, "{:?}", began.elapsed());
    drop(frozen);
    query.end();
}
