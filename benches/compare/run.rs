//! One run of something: under a time limit, with all its processes ended, its time and memory measured.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Scratch, descendants, kill_tree, program};
use crate::table::tell;

/// What one run took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    pub seconds: f64,
    /// Largest resident set of our process, in bytes; 0 where it was not looked at.
    pub peak: u64,
    /// Round trips on the delay line; 0 where there was none.
    pub trips: u64,
    /// Bytes from the host on the delay line; 0 where there was none.
    pub wire: u64,
}

/// A run, or why there was none.
pub type Tried = Result<Run, String>;

/// Whose memory is looked at.
#[derive(Clone, Copy, PartialEq)]
pub enum Watch {
    Nothing,
    /// The program under test, started by the command or by what it starts.
    Ours,
}

/// Runs a command that must succeed, without input, its output thrown away.
pub fn timed(mut command: Command, limit: Duration, watch: Watch) -> Tried {
    let scratch = Scratch::new();
    let log = scratch.path().join("stderr");
    let stderr = File::create(&log).map_err(|error| error.to_string())?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .process_group(0);
    let start = Instant::now();
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let mut memory = Memory::of(child.id(), watch);
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            break Some(status);
        }
        if start.elapsed() > limit {
            kill_tree(child.id());
            let _ = child.wait();
            break None;
        }
        memory.look();
        thread::sleep(Duration::from_millis(if start.elapsed().as_secs() < 1 {
            2
        } else {
            10
        }));
    };
    let seconds = start.elapsed().as_secs_f64();
    judge(status, limit, &log)?;
    Ok(Run {
        seconds,
        peak: memory.peak,
        ..Run::default()
    })
}

fn judge(status: Option<ExitStatus>, limit: Duration, log: &Path) -> Result<(), String> {
    let said = || {
        let text = fs::read(log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join(" | ")
    };
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("{status}: {}", said())),
        None => Err(format!("no end after {} s: {}", limit.as_secs(), said())),
    }
}

/// Looks at the memory of the program under test from time to time.
struct Memory {
    root: u32,
    watch: Watch,
    pid: Option<u32>,
    next: Instant,
    peak: u64,
}

impl Memory {
    fn of(root: u32, watch: Watch) -> Self {
        Self {
            root,
            watch,
            pid: None,
            next: Instant::now(),
            peak: 0,
        }
    }

    fn look(&mut self) {
        if self.watch == Watch::Nothing || Instant::now() < self.next {
            return;
        }
        // The peak only grows; looking for the process is what costs.
        let pause = Duration::from_millis(if self.pid.is_some() { 10 } else { 50 });
        self.next = Instant::now() + pause;
        match self.pid {
            Some(pid) => self.peak = self.peak.max(high_water(pid)),
            None => {
                let mut all = descendants(self.root).into_iter().chain([self.root]);
                self.pid = all.find(|pid| is_ours(*pid));
            }
        }
    }
}

fn is_ours(pid: u32) -> bool {
    let exe = fs::read_link(format!("/proc/{pid}/exe"));
    exe.is_ok_and(|exe| program().canonicalize().is_ok_and(|ours| ours == exe))
}

/// Peak resident set of a process (`VmHWM`), in bytes; 0 when it has ended.
pub fn high_water(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

/// Ends a process that is spoken with when the time is over, or when this is dropped.
pub struct Deadline {
    pub child: Child,
    /// Dropped to end the watching.
    watcher: Option<Sender<()>>,
}

impl Deadline {
    /// Starts the command; stdin and stdout are for the caller to set.
    pub fn start(mut command: Command, limit: Duration) -> Result<Self, String> {
        let child = command
            .process_group(0)
            .spawn()
            .map_err(|error| error.to_string())?;
        let (watcher, over) = mpsc::channel();
        let pid = child.id();
        thread::spawn(move || {
            if over.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                kill_tree(pid);
            }
        });
        let watcher = Some(watcher);
        Ok(Self { child, watcher })
    }

    /// Waits for the end, which must be a success; stdin must be closed by now.
    pub fn end(mut self) -> Result<(), String> {
        let status = self.child.wait().map_err(|error| error.to_string())?;
        self.watcher = None;
        if status.success() {
            Ok(())
        } else {
            Err(format!("it ended: {status}"))
        }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        // Still watched: it has not been waited for.
        if self.watcher.take().is_some() {
            kill_tree(self.child.id());
            let _ = self.child.wait();
        }
    }
}

/// All runs of the same thing.
#[derive(Default)]
pub struct Runs {
    good: Vec<Run>,
    trouble: Vec<String>,
}

impl Runs {
    /// Takes a run, and tells of it.
    pub fn push(&mut self, who: &str, tried: Tried) {
        match tried {
            Ok(run) => {
                let trips = match run.trips {
                    0 => String::new(),
                    trips => format!(", {trips} round trips"),
                };
                tell(&format!("    {who}: {:.2} s{trips}", run.seconds));
                self.good.push(run);
            }
            Err(why) => {
                tell(&format!("    {who}: failed: {why}"));
                self.trouble.push(format!("{who}: {why}"));
            }
        }
    }

    /// Whether another try would most likely fail too.
    pub fn failed(&self) -> bool {
        !self.trouble.is_empty()
    }

    /// Median of the seconds.
    pub fn seconds(&self) -> Option<f64> {
        median(self.good.iter().map(|run| run.seconds).collect())
    }

    /// Median of the bytes from the host, in millions.
    pub fn wire(&self) -> Option<f64> {
        median(self.good.iter().map(|run| run.wire as f64 / 1e6).collect())
    }

    /// Median of the round trips.
    pub fn trips(&self) -> Option<f64> {
        median(self.good.iter().map(|run| run.trips as f64).collect())
    }

    /// Largest of all peaks.
    pub fn peak(&self) -> u64 {
        self.good.iter().map(|run| run.peak).max().unwrap_or(0)
    }

    /// What went wrong.
    pub fn trouble(&self) -> Vec<String> {
        self.trouble.clone()
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 0 => Some(f64::midpoint(values[middle - 1], values[middle])),
        _ => Some(values[middle]),
    }
}
