//! Processes.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit};

/// Open files that are enough for whatever this program does, in one process.
const OPEN_FILES: u64 = 8192;

/// Where Linux tells of processes (proc(5)).
const PROC: &str = "/proc";

/// When a process was started, as a text that only another process with its number has otherwise; `None` where there is no such
/// process, or the system does not tell.
pub(crate) fn start_of(pid: u32) -> Option<String> {
    start_by_proc(Path::new(PROC), pid).or_else(|| start_by_ps(pid))
}

/// In clock ticks since the machine was started: field 22 of `/proc/PID/stat`.
fn start_by_proc(proc: &Path, pid: u32) -> Option<String> {
    let stat = fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?;
    // The second field is the program's name in parentheses, and may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19).map(str::to_owned)
}

/// To the second, where there is no `/proc`: ps(1) of BSD, macOS and Linux.
fn start_by_ps(pid: u32) -> Option<String> {
    if fs::exists(PROC).unwrap_or(false) {
        return None;
    }
    ask_ps(pid)
}

fn ask_ps(pid: u32) -> Option<String> {
    let mut command = Command::new("ps");
    command.args(["-o", "lstart=", "-p"]).arg(pid.to_string());
    // Without them weekdays and months have one name, and hours one number.
    command.env_clear().env("TZ", "UTC");
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}

/// Whether there is a process with this number, whoever's it is.
pub(crate) fn exists(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let asked = pid.map(rustix::process::test_kill_process);
    // EPERM: it is another user's.
    !matches!(asked, None | Some(Err(rustix::io::Errno::SRCH)))
}

/// Allows this process, and those it starts, as many open files as it may need and may have: some systems begin with 256.
///
/// # Errors
/// Those of the system; it then goes on with what it has.
pub(crate) fn raise_open_files() -> io::Result<()> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let Some(current) = limit.current else {
        return Ok(());
    };
    let wanted = OPEN_FILES.min(limit.maximum.unwrap_or(OPEN_FILES));
    if current >= wanted {
        return Ok(());
    }
    let raised = Rlimit {
        current: Some(wanted),
        maximum: limit.maximum,
    };
    Ok(rustix::process::setrlimit(Resource::Nofile, raised)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = std::process::id();
        assert!(start_of(own).is_some());
        assert_eq!(start_of(own), start_of(own));
        assert_eq!(start_of(u32::MAX), None);
        let here = start_by_proc(Path::new(PROC), own);
        assert!(here.unwrap().parse::<u64>().unwrap() > 0);
        assert_eq!(start_by_proc(Path::new("/nowhere"), own), None);
    }

    #[test]
    fn ps_tells_it_where_there_is_no_proc() {
        let own = std::process::id();
        // Where there is no ps, there is nothing to see.
        if Command::new("ps").output().is_err() {
            return;
        }
        let told = ask_ps(own).unwrap();
        // As in `Tue Dec  1 01:20:13 2026`.
        assert_eq!(told.split_ascii_whitespace().count(), 5, "{told}");
        assert_eq!(ask_ps(own), Some(told));
        assert_eq!(ask_ps(4_194_305), None);
    }

    #[test]
    fn processes_that_are_there_are_told_from_others() {
        assert!(exists(std::process::id()));
        // Another user's, unless this is root.
        assert!(exists(1));
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert!(!exists(pid));
        assert!(!exists(0) && !exists(u32::MAX));
    }
}
