//! A stderr that nobody reads, a pipe that is full or a terminal that is stopped, holds up nothing: neither answers nor the end.

mod support;

#[allow(dead_code)]
#[path = "engine/talk.rs"]
mod talk;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use ssh_substituter::progress::{Display, Mode, level};
use ssh_substituter::wire::serve::Version;
use support::{Host, NixEnv, Scratch, tool, wait_until};
use talk::Talk;

/// Nobody listens there.
const REFUSED: &str = "ssh://127.0.0.1:1?trusted=true";

/// More than any of these takes, even on a machine that is busy, and far less than for ever.
const SOON: Duration = Duration::from_secs(20);

/// Both ends of a pipe that takes nothing more. Nobody reads from it as long as the first one lives.
fn full_pipe() -> (OwnedFd, OwnedFd) {
    let (read, mut write) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&write, true).unwrap();
    let full = std::iter::repeat_with(|| write.write(&[b'x'; 4096])).find_map(Result::err);
    assert_eq!(full.unwrap().kind(), ErrorKind::WouldBlock);
    rustix::io::ioctl_fionbio(&write, false).unwrap();
    (read.into(), write.into())
}

/// Waits for the end, which comes soon; the status.
#[track_caller]
fn ends(mut child: Child) -> Option<i32> {
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > SOON {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it is held up");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait().unwrap().code()
}

/// Has this process end if something takes too long: what waits for an answer cannot be told to stop.
fn with_limit<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        use std::sync::mpsc::RecvTimeoutError::Timeout;
        if is_done.recv_timeout(SOON * 3) == Err(Timeout) {
            let _ = std::io::stderr().write_all(b"it is held up\n");
            std::process::exit(1);
        }
    });
    let value = act();
    drop(done);
    watch.join().unwrap();
    value
}

fn serves_with_a_full_stderr(engine: bool) {
    let host = Host::new();
    let path = host.store.add_text("text", "text", &[]);
    let large = host.store.big("large", 20 << 20);
    let env = NixEnv::new();
    let hosts = [REFUSED.to_owned(), host.trusted()];
    let _masters = env.masters();
    let _engines = engine.then(|| env.configure_with_engine(&hosts, ""));
    if !engine {
        env.configure(&hosts, "");
    }
    let (_unread, stderr) = full_pipe();
    let mut command = env.program();
    // With a line for each thing that it does.
    command.args(["--serve", "-vv", "--log-format", "raw"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .unwrap();
    let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    with_limit(|| {
        let mut talk = Talk::begin(input, output, Version::NEWEST);
        talk.fetch(&path, &host.store);
        talk.fetch(&large, &host.store);
    });
    assert_eq!(ends(child), Some(0));
}

#[test]
fn serve_answers_by_itself() {
    serves_with_a_full_stderr(false);
}

#[test]
fn serve_answers_with_an_engine() {
    serves_with_a_full_stderr(true);
}

#[test]
fn the_text_protocol_and_get_do_their_work() {
    let host = Host::new();
    let path = host.store.big("large", 20 << 20);
    let env = NixEnv::new();
    env.configure(&[REFUSED.to_owned(), host.trusted()], "");
    let _masters = env.masters();
    let dest = Scratch::new();
    let start = |arguments: &[&str], input: Stdio| {
        let mut command = env.program();
        command.args(["-vv", "--log-format", "raw"]).args(arguments);
        let (unread, stderr) = full_pipe();
        let command = command.stdin(input).stdout(Stdio::piped()).stderr(stderr);
        (command.spawn().unwrap(), unread)
    };
    let (mut child, _unread) = start(&["--query"], Stdio::piped());
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "have {path}\nnonsense\nhave {path}").unwrap();
    drop(input);
    let mut output = child.stdout.take().unwrap();
    assert_eq!(ends(child), Some(0));
    let mut answer = String::new();
    output.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, format!("\n{path}\n\n\n{path}\n\n"));

    let target = dest.path().join("x");
    let words = ["--substitute", &path, target.to_str().unwrap()];
    let (child, _unread) = start(&words, Stdio::null());
    assert_eq!(ends(child), Some(0));
    assert!(target.exists());

    let folder = dest.path().join("folder");
    let words = ["get", "--to", folder.to_str().unwrap(), &path];
    let (child, _unread) = start(&words, Stdio::null());
    assert_eq!(ends(child), Some(0));
    assert!(folder.join("nix-path-registration").exists());

    // What ends before it begins ends, too.
    for words in [&["--no-such-flag"][..], &["get", "--to"]] {
        let (child, _unread) = start(words, Stdio::null());
        assert_eq!(ends(child), Some(2), "{words:?}");
    }
}

#[test]
fn who_reads_late_finds_what_was_said_first() {
    let host = Host::new();
    let path = host.store.add_text("text", "text", &[]);
    let env = NixEnv::new();
    env.configure(&[REFUSED.to_owned(), host.trusted()], "");
    let _masters = env.masters();
    let (unread, stderr) = full_pipe();
    let mut command = env.program();
    command.arg("--query").stdin(Stdio::piped());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .unwrap();
    // It holds the pipe open.
    drop(command);
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "have {path}").unwrap();
    let mut answer = vec![0; path.len() + 3];
    let mut output = child.stdout.take().unwrap();
    output.read_exact(&mut answer).unwrap();
    // The caller comes to it only now.
    let mut said = String::new();
    let reader = std::thread::spawn(move || {
        File::from(unread).read_to_string(&mut said).unwrap();
        said
    });
    drop(input);
    assert_eq!(ends(child), Some(0));
    let said = reader.join().unwrap();
    let said = said.trim_start_matches('x');
    assert!(
        said.starts_with("warning: ") && said.contains("127.0.0.1:1"),
        "{said}"
    );
}

#[test]
fn bars_on_a_terminal_that_nobody_reads_hold_up_nothing() {
    let host = Host::new();
    let paths: Vec<String> = (0..40)
        .map(|number| host.store.big(&format!("path-{number}"), 300_000))
        .collect();
    let env = NixEnv::new();
    env.configure(&[REFUSED.to_owned(), host.trusted()], "");
    let _masters = env.masters();
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap();
    let terminal = File::options()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    // It takes nothing more.
    let mut full = File::options()
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(name.to_str().unwrap())
        .unwrap();
    while full.write(&[b'x'; 512]).is_ok() {}
    let dest = Scratch::new();
    let folder = dest.path().join("folder");
    let mut command = env.program();
    command
        .args(["get", "-vv", "--log-format", "bar", "--to"])
        .arg(&folder)
        .args(&paths);
    command
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let child = command.stderr(terminal).spawn().unwrap();
    assert_eq!(ends(child), Some(0));
    drop(controller);
}

/// What [`a_panic_is_reported_without_waiting`] runs in a process of its own.
#[test]
#[ignore = "run by another test"]
fn panics() {
    let display = Display::new(Mode::Off);
    display.log_to_stderr(level(0, false));
    display.report_panics();
    let thread = std::thread::Builder::new().name("unlucky".to_owned());
    let ended = thread.spawn(|| panic!("bad luck")).unwrap().join();
    assert!(ended.is_err());
    display.close();
}

#[test]
fn a_panic_is_reported_without_waiting() {
    let start = |stderr: Stdio| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "panics", "--ignored", "--nocapture"]);
        command
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap()
    };
    let (_unread, stderr) = full_pipe();
    assert_eq!(ends(start(stderr.into())), Some(0));
    let output = start(Stdio::piped()).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("thread 'unlucky' panicked at tests/stderr.rs"),
        "{said}"
    );
    assert!(said.contains("bad luck"), "{said}");
}

#[test]
fn a_signal_ends_it_all_the_same() {
    let host = Host::new();
    let path = host.store.big("large", 100 << 20);
    let env = NixEnv::new();
    env.configure(&[REFUSED.to_owned(), host.trusted()], "");
    let _masters = env.masters();
    let dest = Scratch::new();
    let (_unread, stderr) = full_pipe();
    let mut command = env.program();
    command
        .args(["-vv", "--substitute", &path])
        .arg(dest.path().join("x"));
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let child = command.stderr(stderr).spawn().unwrap();
    wait_until("it begins", || {
        std::fs::read_dir(dest.path()).unwrap().count() > 0
    });
    host.sshd.freeze();
    let mut kill = Command::new(tool("kill"));
    kill.arg(child.id().to_string());
    assert!(kill.status().unwrap().success());
    let began = Instant::now();
    assert_eq!(ends(child), Some(128 + 15));
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    host.sshd.thaw();
}
