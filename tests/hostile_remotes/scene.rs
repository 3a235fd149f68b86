//! A hostile host, an honest one behind it in the order, and the program between them and its caller.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::host::{Attack, Hostile, World};
use super::support::{Engines, Host, Masters, NixEnv, SHORT, kill_tree, run, wait_until};
use super::talk::FrontEnd;

/// How long anything may take, hosts that say nothing included.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The most memory that any process of the program may take, in bytes.
pub const MOST: u64 = 200 << 20;

/// Keeps the waiting short, and leaves an honest host enough time on a loaded machine.
const WAITS: &str = "connect-timeout = 12\nstalled-download-timeout = 3\n";

/// Longest line that people get to read, in bytes.
const LINE: usize = 8 << 10;

/// Who asks, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// As Nix 2 does.
    Serve,
    /// As Nix 1 does.
    Substitute,
}

pub const BOTH: [Protocol; 2] = [Protocol::Serve, Protocol::Substitute];

/// Both protocols, with and without an engine, in turn: what is attacked lies behind them, and is the same.
#[derive(Default)]
pub struct Turns(Cell<usize>);

impl Turns {
    /// Is there an engine, and which protocol?
    pub fn next(&self) -> (bool, Protocol) {
        let turn = self.0.replace(self.0.get() + 1) % 4;
        (turn % 2 == 1, BOTH[usize::from(turn == 1 || turn == 2)])
    }
}

pub struct Scene {
    turns: Turns,
    pub good: Host,
    pub bad: Hostile,
    /// A small path, which refers to another one.
    pub small: String,
    /// One that is passed on before all of it is there.
    pub large: String,
}

/// What is left of a run.
pub struct Run {
    pub stderr: String,
    /// Bytes.
    pub peak: u64,
}

impl Scene {
    pub fn new() -> Self {
        let good = Host::new();
        let other = good.store.add_text("other", "other", &[]);
        let small = good.store.add_text("small", "small", &[&other]);
        let large = good.store.big("large", 10 << 20);
        let bad = Hostile::new(World::of(&good.store));
        Self {
            turns: Turns::default(),
            good,
            bad,
            small,
            large,
        }
    }

    /// The hostile host, with these parameters.
    fn hostile(&self, extra: &str) -> String {
        let store = self.good.store.remote_store_param();
        self.bad
            .sshd
            .store_url(&format!("remote-store={store}{extra}"))
    }

    /// Both hosts, the hostile one first.
    pub fn both(&self) -> Vec<String> {
        vec![self.hostile("&trusted=true"), self.good.trusted()]
    }

    /// The same, and neither is trusted.
    pub fn untrusted(&self) -> Vec<String> {
        vec![self.hostile(""), self.good.url("")]
    }

    /// The hostile one only.
    pub fn alone(&self) -> Vec<String> {
        vec![self.hostile("&trusted=true")]
    }

    /// The same, which is not trusted.
    pub fn distrusted(&self) -> Vec<String> {
        vec![self.hostile("")]
    }

    /// Brings a path over a protocol, right to the last byte.
    #[track_caller]
    pub fn fetch(&self, user: &User, protocol: Protocol, path: &str, args: &[&str]) -> Run {
        let began = Instant::now();
        let mut run = match protocol {
            Protocol::Serve => self.serve(user, path, args, || {}),
            Protocol::Substitute => {
                let ran = user.substitute(path, args);
                let hash = self.good.store.nar_hash(path);
                assert_eq!(ran.stdout, format!("\n{hash}\n"), "{}", ran.run.stderr);
                let mut command = user.env.command("nix-hash");
                command.args(["--type", "sha256", "--base32"]);
                command.arg(user.dest());
                assert_eq!(format!("sha256:{}", run(command, SHORT)), hash);
                ran.run
            }
        };
        user.look_at_the_engine(&mut run);
        assert!(began.elapsed() < LIMIT, "{protocol:?}");
        run.is_harmless();
        run
    }

    /// Brings a path, waits until something has happened meanwhile, and brings it again.
    #[track_caller]
    pub fn fetch_around(
        &self,
        user: &User,
        path: &str,
        what: &str,
        has_happened: impl Fn() -> bool,
    ) {
        let mut run = self.serve(user, path, &[], || wait_until(what, has_happened));
        user.look_at_the_engine(&mut run);
        run.is_harmless();
    }

    fn serve(&self, user: &User, path: &str, args: &[&str], meanwhile: impl FnOnce()) -> Run {
        let mut command = user.env.program();
        command.arg("--serve").args(args);
        let mut front_end = FrontEnd::start(command);
        let _watchdog = Watchdog::of(front_end.pid());
        // Twice, so that a loss of step shows.
        front_end.talk.fetch(path, &self.good.store);
        meanwhile();
        front_end.talk.fetch(path, &self.good.store);
        let peak = peak(front_end.pid()).expect("a process");
        let stderr = front_end.end();
        Run { stderr, peak }
    }

    /// At most one of three times, what comes may be anything that is complete and not what was promised. It need not be the
    /// first one: where the hostile host is slow to answer, an honest one may have brought it.
    #[track_caller]
    pub fn fails_at_most_once(&self, user: &User, path: &str) {
        let mut command = user.env.program();
        command.arg("--serve");
        let mut front_end = FrontEnd::start(command);
        let _watchdog = Watchdog::of(front_end.pid());
        let hash = self.good.store.nar_hash(path);
        front_end.talk.infos(&[path]);
        let came = [(); 3].map(|()| front_end.talk.dump(path));
        let wrong = came.iter().filter(|came| **came != hash).count();
        assert!(wrong <= 1, "{hash}: {came:?}");
        front_end.talk.fetch(&self.small, &self.good.store);
        let peak = peak(front_end.pid()).expect("a process");
        let stderr = front_end.end();
        Run { stderr, peak }.is_harmless();
    }

    /// An attack through both protocols, with and without an engine in turn: the path is brought all the same. Where the hostile
    /// host is the only one, nothing is, and what is printed names it and holds these words.
    #[track_caller]
    pub fn survives<A: Attack + 'static>(
        &self,
        attack: impl Fn() -> A,
        path: &str,
        words: &[impl AsRef<str>],
    ) {
        for _ in 0..2 {
            let (engine, protocol) = self.turns.next();
            self.bad.attack(attack());
            self.fetch(&User::new(&self.both(), engine), protocol, path, &[]);
        }
        let engine = self.turns.0.get().is_multiple_of(4);
        self.bad.attack(attack());
        self.gets_nothing(&User::new(&self.alone(), engine), path, words);
    }

    /// Nothing is brought, and what is printed names the hostile host and holds these words.
    #[track_caller]
    pub fn gets_nothing(&self, user: &User, path: &str, words: &[impl AsRef<str>]) -> Run {
        let mut ran = user.substitute(path, &[]);
        user.look_at_the_engine(&mut ran.run);
        assert_eq!(ran.stdout, "\n", "{}", ran.run.stderr);
        assert!(!user.dest().exists(), "{}", ran.run.stderr);
        ran.run.is_harmless();
        self.is_told(&ran.run, words);
        ran.run
    }

    /// What is printed names the hostile host and holds these words.
    #[track_caller]
    pub fn is_told(&self, run: &Run, words: &[impl AsRef<str>]) {
        for word in words.iter().map(AsRef::as_ref).chain([&*self.bad.name()]) {
            let says = run.stderr.contains(word);
            assert!(says, "no {word:?} in\n{}", run.stderr);
        }
    }
}

/// Somebody who calls the program, in an environment of his own.
pub struct User {
    engines: Option<Engines>,
    _masters: Masters,
    pub env: NixEnv,
}

impl User {
    pub fn new(hosts: &[String], engine: bool) -> Self {
        Self::with(hosts, engine, "")
    }

    /// With these further lines of configuration.
    pub fn with(hosts: &[String], engine: bool, lines: &str) -> Self {
        let env = NixEnv::new();
        let lines = format!("{WAITS}{lines}");
        let engines = engine.then(|| env.configure_with_engine(hosts, &lines));
        if !engine {
            env.configure(hosts, &lines);
        }
        Self {
            engines,
            _masters: env.masters(),
            env,
        }
    }

    pub fn dest(&self) -> PathBuf {
        self.env.folder().join("dest")
    }

    #[track_caller]
    pub fn substitute(&self, path: &str, args: &[&str]) -> Watched {
        let mut command = self.env.program();
        command.args(args).args(["--substitute", path]);
        command.arg(self.dest());
        Watched::run(command)
    }

    #[track_caller]
    fn look_at_the_engine(&self, run: &mut Run) {
        if let Some(engines) = &self.engines {
            let engine = peak(engines.pid()).expect("an engine");
            run.peak = run.peak.max(engine);
        }
    }
}

/// Ends a process that goes on for too long, unless this is dropped before.
pub struct Watchdog(Option<(Sender<()>, JoinHandle<()>)>);

impl Watchdog {
    pub fn of(pid: u32) -> Self {
        let (done, watch) = channel::<()>();
        let thread = thread::spawn(move || {
            if watch.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
                kill_tree(pid);
            }
        });
        Self(Some((done, thread)))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Some((done, thread)) = self.0.take() {
            drop(done);
            let _ = thread.join();
        }
    }
}

impl Run {
    /// Nothing in what was printed can drive a terminal, nor flood it; and the program has not grown.
    #[track_caller]
    pub fn is_harmless(&self) {
        let bad = |c: &char| {
            (c.is_control() && *c != '\n')
                || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        let found = self.stderr.chars().find(bad);
        assert_eq!(found, None, "{:?}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        // Messages, and the progress of what is brought.
        let begins = ["ssh-substituter: ", "small: ", "large: "];
        let ours = |line: &str| begins.iter().any(|begin| line.starts_with(begin));
        assert!(self.stderr.lines().all(ours), "{}", self.stderr);
        let longest = self.stderr.lines().map(str::len).max();
        assert!(longest.unwrap_or(0) <= LINE, "{longest:?}");
        assert!(self.stderr.len() < 16 * LINE, "{}", self.stderr.len());
        assert!(self.peak < MOST, "{} MiB", self.peak >> 20);
    }
}

/// The most memory that a process has had, in bytes, from /proc.
pub fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

/// A process that runs to its end, and is looked at meanwhile.
pub struct Watched {
    pub run: Run,
    pub stdout: String,
}

impl Watched {
    #[track_caller]
    pub fn run(mut command: Command) -> Self {
        let [stdout, stderr] = [(); 2].map(|()| tempfile::tempfile().expect("a file"));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(stdout.try_clone().expect("clone a file"))
            .stderr(stderr.try_clone().expect("clone a file"))
            .spawn()
            .expect("start the program");
        let began = Instant::now();
        let mut most = 0;
        while child.try_wait().expect("wait for the program").is_none() {
            most = peak(child.id()).unwrap_or(0).max(most);
            if began.elapsed() > LIMIT {
                kill_tree(child.id());
                let _ = child.wait();
                panic!("no end: {command:?}\n{}", text(stderr));
            }
            thread::sleep(Duration::from_millis(3));
        }
        Self {
            run: Run {
                stderr: text(stderr),
                peak: most,
            },
            stdout: text(stdout),
        }
    }
}

fn text(mut file: fs::File) -> String {
    use std::io::{Read, Seek};
    file.rewind().expect("go back in a file");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("UTF-8 text");
    text
}
