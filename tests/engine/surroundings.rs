//! What a caller has open, and what happens to it, is no business of the engine that it started.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process_group};

use super::site::Site;
use super::support::{SHORT, default_signals, run_with_input, run_with_timeout, wait_until};
use super::talk::FrontEnd;

/// A front end that a shell becomes, after this.
fn after(site: &Site, script: &str, argument: &Path) -> Command {
    let front_end = site.command();
    let mut command = site.env.command("sh");
    command.args(["-c", &format!("{script}; exec \"$0\" --serve")]);
    command.arg(front_end.get_program()).arg(argument);
    command
}

#[test]
fn what_the_caller_has_open_is_not_kept_open() {
    let site = Site::new("");
    let file = site.env.folder().join("lock");
    let script = r#"exec 9>"$1" 8>>"$1"; flock -n 9 || exit 1"#;
    let mut front_end = FrontEnd::start(after(&site, script, &file));
    site.fetch(&mut front_end, 0);
    let opened = File::open(&file).expect("open a file");
    let locks = || flock(&opened, FlockOperation::NonBlockingLockExclusive).is_ok();
    assert!(!locks(), "the caller has the lock");
    front_end.end_quietly();
    assert!(locks(), "the engine has the lock");

    let engine = site.process();
    let entry = |name: &str| fs::read_link(format!("/proc/{engine}/{name}")).expect("read a link");
    assert_eq!(entry("cwd"), Path::new("/"));
    assert_eq!(entry("fd/1"), Path::new("/dev/null"));
    assert_eq!(entry("fd/2"), Path::new("/dev/null"));
    for open in fs::read_dir(format!("/proc/{engine}/fd"))
        .expect("read /proc")
        .flatten()
    {
        let target = fs::read_link(open.path()).unwrap_or_default();
        assert_ne!(target, file);
    }
}

#[test]
fn a_pipe_of_the_caller_ends_with_the_front_end() {
    let site = Site::new("");
    // These are the pipes that the callers of commands read to the end: a second copy of each.
    let mut command = after(&site, "exec 7>&1 8>&2", Path::new(""));
    command.arg("-v");
    let output = run_with_input(command, b"", SHORT);
    assert!(output.status.success(), "{output:?}");
    site.process();
    // The same where it is a command for people that starts one: none of them does.
    let mut command = site.env.program();
    command.args(["engine", "status"]);
    assert!(run_with_timeout(command, SHORT).status.success());
}

/// The session that a process belongs to: field 6 of /proc/PID/stat.
fn session(pid: u32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("read /proc");
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    let field = fields.split_whitespace().nth(3).expect("a session");
    field.parse().expect("a number")
}

#[test]
fn signals_to_the_caller_do_not_reach_the_engine() {
    default_signals();
    let site = Site::new("");
    let mut engine = None;
    for signal in [Signal::HUP, Signal::TERM, Signal::INT, Signal::KILL] {
        let mut command = after(&site, ":", Path::new(""));
        command.process_group(0);
        let mut front_end = FrontEnd::start(command);
        site.fetch(&mut front_end, 0);
        let mine = *engine.get_or_insert_with(|| site.process());
        wait_until("the engine has a session of its own", || {
            session(mine) == mine
        });
        let group = i32::try_from(front_end.pid()).ok().and_then(Pid::from_raw);
        kill_process_group(group.expect("a group"), signal).expect("signal a group");
        front_end.wait_for_its_end();
        // What was held for it is free at once.
        site.wait_for_clients(&[(mine, 0)]);
        site.visit(1);
    }
}

#[test]
fn a_caller_that_dies_takes_its_front_end_along_and_leaves_the_engine() {
    let site = Site::new("");
    // The shell is the caller here, and stays.
    let front_end = site.command();
    let mut command = site.env.command("sh");
    command.args(["-c", r#""$0" --serve; exit 3"#]);
    command.arg(front_end.get_program());
    let mut front_end = FrontEnd::start(command);
    site.fetch(&mut front_end, 0);
    let engine = site.process();
    super::site::kill(front_end.pid());
    front_end.wait_for_its_end();
    site.wait_for_clients(&[(engine, 0)]);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(site.process(), engine);
}
