//! A hostile host, an honest one behind it in the order, and the program between them and its caller.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::host::{Attack, Hostile, World};
use super::support::{Host, NixEnv, SHORT, kill_tree, run};
use super::talk::FrontEnd;

/// How long anything may take, hosts that say nothing included.
pub const LIMIT: Duration = Duration::from_secs(45);

/// The most memory that any process of the program may take, in bytes.
pub const MOST: u64 = 200 << 20;

/// Keeps the waiting short.
const WAITS: &str = "connect-timeout = 6\nstalled-download-timeout = 3\n";

/// Longest line that people get to read, in bytes.
const LINE: usize = 8 << 10;

/// Who asks, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// As Nix 2 does.
    Serve,
    /// As Nix 1 does.
    Substitute,
}

pub const BOTH: [Door; 2] = [Door::Serve, Door::Substitute];

pub struct Scene {
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
        let large = good.store.big("large", 6 << 20);
        let bad = Hostile::new(World::of(&good.store));
        Self {
            good,
            bad,
            small,
            large,
        }
    }

    /// Both hosts, the hostile one first, and what keeps waiting short.
    fn hosts(&self) -> Vec<String> {
        let store = self.good.store.remote_store_param();
        let bad = format!("remote-store={store}&trusted=true");
        vec![self.bad.sshd.store_url(&bad), self.good.trusted()]
    }

    /// One path through one door, in an environment of its own.
    #[track_caller]
    pub fn fetch(&self, door: Door, engine: bool, path: &str, lines: &str) -> Run {
        let env = NixEnv::new();
        let lines = format!("{WAITS}{lines}");
        let engines = engine.then(|| env.configure_with_engine(&self.hosts(), &lines));
        if !engine {
            env.configure(&self.hosts(), &lines);
        }
        let _masters = env.masters();
        let mut run = match door {
            Door::Serve => self.serve(&env, path),
            Door::Substitute => self.substitute(&env, path),
        };
        if let Some(engines) = &engines {
            run.peak = run.peak.max(peak(engines.pid()).expect("an engine"));
        }
        run
    }

    fn serve(&self, env: &NixEnv, path: &str) -> Run {
        let mut command = env.program();
        command.arg("--serve");
        let mut front_end = FrontEnd::start(command);
        let pid = front_end.pid();
        let (done, watch) = channel::<()>();
        let watchdog = thread::spawn(move || {
            if watch.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
                kill_tree(pid);
            }
        });
        // Twice, so that a loss of step shows.
        for _ in 0..2 {
            front_end.talk.fetch(path, &self.good.store);
        }
        let peak = peak(pid).expect("a process");
        let stderr = front_end.end();
        drop(done);
        watchdog.join().expect("the watchdog");
        Run { stderr, peak }
    }

    fn substitute(&self, env: &NixEnv, path: &str) -> Run {
        let dest = env.folder().join("dest");
        let mut command = env.program();
        command.args(["--substitute", path]).arg(&dest);
        let ran = Watched::run(command);
        let hash = self.good.store.nar_hash(path);
        assert_eq!(ran.stdout, format!("\n{hash}\n"), "{}", ran.run.stderr);
        let mut command = env.command("nix-hash");
        command.args(["--type", "sha256", "--base32"]).arg(&dest);
        assert_eq!(format!("sha256:{}", run(command, SHORT)), hash);
        ran.run
    }

    /// An attack through both doors, with and without an engine: the path is brought all the same. Where the hostile host
    /// is the only one, what is printed names it and holds these words.
    #[track_caller]
    pub fn survives<A: Attack + 'static>(
        &self,
        attack: impl Fn() -> A,
        path: &str,
        words: &[&str],
    ) {
        for engine in [false, true] {
            for door in BOTH {
                let what = format!("{door:?}, engine: {engine}");
                self.bad.attack(attack());
                let began = Instant::now();
                self.fetch(door, engine, path, "").is_harmless(&what);
                println!("{what}: {:?}", began.elapsed());
                assert!(began.elapsed() < LIMIT, "{what}");
            }
            self.bad.attack(attack());
            self.fails_alone(engine, path, words);
        }
    }

    /// Asks the hostile host only: nothing is brought, and what is printed names the host and holds these words.
    #[track_caller]
    pub fn fails_alone(&self, engine: bool, path: &str, words: &[&str]) -> Run {
        let env = NixEnv::new();
        let lines = WAITS;
        let hosts = &self.hosts()[..1];
        let engines = engine.then(|| env.configure_with_engine(hosts, lines));
        if !engine {
            env.configure(hosts, lines);
        }
        let _masters = env.masters();
        let dest = env.folder().join("dest");
        let mut command = env.program();
        command.args(["--substitute", path]).arg(&dest);
        let began = Instant::now();
        let mut ran = Watched::run(command);
        println!("alone: {:?}, {}", began.elapsed(), ran.run.stderr);
        if let Some(engines) = &engines {
            let engine = peak(engines.pid()).expect("an engine");
            ran.run.peak = ran.run.peak.max(engine);
        }
        assert_eq!(ran.stdout, "\n", "{}", ran.run.stderr);
        assert!(!dest.exists(), "{}", ran.run.stderr);
        ran.run.is_harmless("alone");
        for word in words.iter().copied().chain([&*self.bad.name()]) {
            let says = ran.run.stderr.contains(word);
            assert!(says, "engine: {engine}: no {word:?} in\n{}", ran.run.stderr);
        }
        ran.run
    }
}

impl Run {
    /// Nothing in what was printed can drive a terminal, nor flood it; and the program has not grown.
    #[track_caller]
    pub fn is_harmless(&self, what: &str) {
        let bad = |c: &char| {
            (c.is_control() && *c != '\n')
                || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        let found = self.stderr.chars().find(bad);
        assert_eq!(found, None, "{what}: {:?}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{what}: {}", self.stderr);
        let ours = |line: &str| line.starts_with("ssh-substituter: ");
        assert!(self.stderr.lines().all(ours), "{what}: {}", self.stderr);
        let longest = self.stderr.lines().map(str::len).max();
        assert!(longest.unwrap_or(0) <= LINE, "{what}: {longest:?}");
        assert!(self.stderr.len() < 16 * LINE, "{what}: {}", self.stderr.len());
        assert!(self.peak < MOST, "{what}: {} MiB", self.peak >> 20);
    }
}

/// The most memory that a process has had, in bytes, from /proc.
pub fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
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
