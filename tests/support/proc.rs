//! Processes: run with a time limit, end with all their descendants, never by name.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::SHORT;

/// Once a process has ended, how long its output may stay open in processes that it left behind.
const LINGER: Duration = Duration::from_secs(5);

/// Absolute path of an installed program; sshd insists on one. Panics if it is missing.
pub fn tool(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        // Not on the PATH of ordinary users.
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| {
            panic!("{name} is not installed; tests/run installs what the tests need")
        })
}

/// Runs to the end with nothing on stdin. Panics, with what was printed, when `limit` passes; everything that was started is
/// killed then. Panics too if the output is held open after the end by a process left behind: callers that read to the end
/// would hang.
pub fn run_with_timeout(command: Command, limit: Duration) -> Output {
    run_with_input(command, b"", limit)
}

/// As [`run_with_timeout`], with `input` on stdin.
pub fn run_with_input(mut command: Command, input: &[u8], limit: Duration) -> Output {
    let shown = format!("{command:?}");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("start {shown}: {error}"));
    let started = Instant::now();
    let stdout = Collector::start(child.stdout.take().expect("stdout is piped"));
    let stderr = Collector::start(child.stderr.take().expect("stderr is piped"));
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let input = input.to_vec();
    thread::spawn(move || {
        // It may end without reading its input.
        let _ = stdin.write_all(&input);
    });

    let fail = |what: &str, child: &mut Child| -> ! {
        kill_tree(child.id());
        let _ = child.wait();
        panic!(
            "{what} after {:?}: {shown}\nstdout:\n{}\nstderr:\n{}",
            started.elapsed(),
            stdout.text(),
            stderr.text()
        )
    };
    let Some(status) = wait(&mut child, limit) else {
        fail("no end", &mut child)
    };
    let ended = Instant::now();
    while !(stdout.is_finished() && stderr.is_finished()) {
        if ended.elapsed() > LINGER {
            fail(
                "its output is still held open by a process left behind",
                &mut child,
            );
        }
        thread::sleep(Duration::from_millis(2));
    }
    Output {
        status,
        stdout: stdout.bytes(),
        stderr: stderr.bytes(),
    }
}

/// Runs a command that must succeed; returns its stdout without the white space at the end.
pub fn run(command: Command, limit: Duration) -> String {
    let shown = format!("{command:?}");
    let output = run_with_timeout(command, limit);
    assert_success(&shown, &output);
    String::from_utf8(output.stdout)
        .expect("UTF-8 output")
        .trim_end()
        .to_owned()
}

/// Panics, with what was printed, unless the command succeeded.
pub fn assert_success(shown: &str, output: &Output) {
    assert!(
        output.status.success(),
        "{}: {shown}\nstdout:\n{}\nstderr:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Waits until something is so; panics if it isn't within a minute.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < SHORT, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for the end, at most for `limit`.
fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let started = Instant::now();
    // Short at first: many commands take a few milliseconds.
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait().expect("wait for a child") {
            return Some(status);
        }
        if started.elapsed() > limit {
            return None;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Reads a stream in a thread and can show what has come so far.
struct Collector {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl Collector {
    fn start(mut stream: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                sink.lock()
                    .expect("the collected output")
                    .extend_from_slice(&buffer[..length]);
            }
        });
        Self { bytes, thread }
    }

    fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    fn bytes(&self) -> Vec<u8> {
        std::mem::take(&mut self.bytes.lock().expect("the collected output"))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().expect("the collected output")).into_owned()
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended meanwhile.
        let _ = kill_process(pid, signal);
    }
}

/// Parent of a process, from /proc; `None` if it has ended.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name of the program, in parentheses, and may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

/// Processes started by this one that have not ended.
pub fn children(pid: u32) -> Vec<u32> {
    fs::read_dir("/proc")
        .expect("read /proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|candidate| parent(*candidate) == Some(pid))
        .collect()
}

/// All processes below this one, parents first.
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut found = children(pid);
    let mut next = 0;
    while next < found.len() {
        found.extend(children(found[next]));
        next += 1;
    }
    found
}

/// Freezes a process and all its descendants (SIGSTOP); returns them all. They have sessions of their own in sshd, so
/// signals to a process group would not reach them.
pub fn stop_tree(pid: u32) -> Vec<u32> {
    let mut stopped = vec![pid];
    let mut next = 0;
    while next < stopped.len() {
        // Stopped first, so that it can't start more while its children are listed.
        signal(stopped[next], Signal::STOP);
        stopped.extend(children(stopped[next]));
        next += 1;
    }
    stopped
}

/// Whether all threads of a process stand still after SIGSTOP: on a busy machine some work on for a moment.
pub fn is_stopped(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let mut stats = threads.map(|thread| fs::read_to_string(thread.path().join("stat")));
    stats.all(|stat| stat.is_ok_and(|stat| stat.contains(") T ")))
}

/// Lets a frozen process and all its descendants go on.
pub fn resume_tree(pid: u32) {
    for pid in descendants(pid).into_iter().chain([pid]) {
        signal(pid, Signal::CONT);
    }
}

/// Kills a process and all its descendants.
pub fn kill_tree(pid: u32) {
    for pid in stop_tree(pid) {
        signal(pid, Signal::KILL);
    }
}

/// A server in the background, with a log file. It ends, with all its descendants, when this is dropped; the server itself
/// ends with the test program even where that is killed.
pub struct Daemon {
    watcher: Child,
    pid: u32,
}

impl Daemon {
    /// Starts a server whose stdout and stderr go to the file `log`.
    pub fn start(
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
        log: &Path,
    ) -> Self {
        let log = File::create(log).expect("make a log file");
        // The shell waits on a pipe that closes when this process ends in any way, then kills the server.
        let script = r#""$@" >&2 & echo $!; exec >&2; read -r _; kill -KILL $!; wait"#;
        let mut watcher = Command::new("/bin/sh")
            .args(["-c", script, "watcher"])
            .arg(program)
            .args(args)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("start /bin/sh");
        let mut line = String::new();
        let stdout = watcher.stdout.take().expect("stdout is piped");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("read the number of a process");
        let pid = line.trim().parse().expect("the number of a process");
        Self { watcher, pid }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the server itself has not ended.
    pub fn is_running(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let ended = stat
            .rsplit_once(')')
            .is_none_or(|(_, fields)| fields.trim_start().starts_with('Z'));
        !ended && parent(self.pid) == Some(self.watcher.id())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        kill_tree(self.watcher.id());
        let _ = self.watcher.wait();
    }
}
