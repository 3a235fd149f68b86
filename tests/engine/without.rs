//! Where no engine can be had the front end works alone, and makes no words about it.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use super::site::Site;
use super::support::{SHORT, Scratch, program, run, tool, wait_until};
use super::talk::FrontEnd;

/// What a front end prints that shall work without an engine, asked for a path: nothing, and a line about it with `-v`.
/// Gives that line.
#[track_caller]
fn works_alone(site: &Site, command: impl Fn() -> Command) -> String {
    let mut front_end = FrontEnd::start(command());
    site.fetch(&mut front_end, 0);
    front_end.end_quietly();
    let mut verbose = command();
    verbose.arg("-v");
    let mut front_end = FrontEnd::start(verbose);
    site.fetch(&mut front_end, 1);
    let line = the_line_about_it(&front_end.end());
    assert!(site.processes().is_empty());
    line
}

#[track_caller]
fn the_line_about_it(printed: &str) -> String {
    let about = printed.lines().filter(|line| line.contains("engine"));
    let about: Vec<_> = about.collect();
    let [line] = about[..] else {
        panic!("{printed}")
    };
    let reason = line.strip_prefix("ssh-substituter: works without an engine: ");
    reason.unwrap_or_else(|| panic!("{line}")).to_owned()
}

/// The same where ssh has no folder for its sockets either: no host is reached, which is told as without an engine.
#[track_caller]
fn reaches_nothing_alone(runtime: &Path) -> String {
    let ask = |engine: &str, verbose: bool| {
        let site = Site::new(&format!("engine = {engine}"));
        let mut command = site.command();
        command.env("SSH_SUBSTITUTER_RUNTIME_DIR", runtime);
        command.args(verbose.then_some("-v"));
        let mut front_end = FrontEnd::start(command);
        assert!(front_end.talk.infos(&[site.path(0)]).is_empty());
        let printed = front_end.end();
        assert!(site.processes().is_empty());
        printed.replace(&site.host.sshd.port().to_string(), "PORT")
    };
    let printed = ask("auto", false);
    assert_eq!(printed, ask("off", false));
    assert_eq!(printed.lines().count(), 1, "{printed}");
    the_line_about_it(&ask("auto", true))
}

#[test]
fn no_runtime_folder() {
    let scratch = Scratch::new();
    let file = scratch.write("file", "");
    let below = file.join("below");
    for path in [
        &*below,
        &file,
        Path::new("/proc/below"),
        Path::new("relative"),
    ] {
        let line = reaches_nothing_alone(path);
        assert!(line.contains(&path.display().to_string()), "{line}");
    }
}

#[test]
fn a_symlink_in_place_of_the_runtime_folder() {
    let scratch = Scratch::new();
    let (target, link) = (scratch.folder("target"), scratch.path().join("link"));
    fs::set_permissions(&target, Permissions::from_mode(0o700)).expect("close a folder");
    symlink(&target, &link).expect("make a symlink");
    let line = reaches_nothing_alone(&link);
    assert!(line.contains("it is a symbolic link"), "{line}");
    assert_eq!(fs::read_dir(&target).expect("read a folder").count(), 0);
}

#[test]
fn a_runtime_folder_that_cannot_be_written_to() {
    let site = Site::new("");
    // A lock that is a folder cannot be taken, whoever one is.
    site.visit(2);
    let socket = site.sockets().remove(0);
    site.engines.stop();
    let lock = socket.with_extension("lock");
    fs::remove_file(&lock).expect("remove the lock");
    fs::create_dir(&lock).expect("make a folder");
    let line = works_alone(&site, || site.command());
    assert!(line.contains(&socket.display().to_string()), "{line}");
}

#[test]
fn an_engine_that_is_switched_off() {
    let site = Site::new("");
    let hosts = [site.host.trusted()];
    site.env.configure(&hosts, "engine = off");
    let line = works_alone(&site, || site.command());
    assert!(line.contains("it is switched off"), "{line}");
}

/// The dynamic linker of the program, from its own memory map.
fn linker() -> PathBuf {
    let mut sleeper = Command::new(tool("sleep"))
        .arg("60")
        .spawn()
        .expect("start sleep");
    let maps = format!("/proc/{}/maps", sleeper.id());
    let mut found = None;
    wait_until("a program is loaded", || {
        let maps = fs::read_to_string(&maps).unwrap_or_default();
        let mut paths = maps
            .lines()
            .filter_map(|line| line.split_whitespace().nth(5));
        found = paths.find(|path| path.contains("/ld-")).map(PathBuf::from);
        found.is_some()
    });
    sleeper.kill().expect("end sleep");
    sleeper.wait().expect("wait for sleep");
    found.expect("a dynamic linker")
}

#[test]
fn an_engine_that_ends_at_once() {
    let site = Site::new("");
    // The process is the linker's then, which knows no program named `engine`.
    let linker = linker();
    let command = || {
        let mut command = site.env.command(&linker);
        command.arg(program()).arg("--serve");
        command
    };
    for _ in 0..2 {
        works_alone(&site, command);
    }
}

#[test]
fn a_program_that_cannot_be_started_any_more() {
    let site = Site::new("");
    let copy = site.env.folder().join("copy");
    let mut command = Command::new(tool("cp"));
    command.arg(program()).arg(&copy);
    run(command, SHORT);
    // It waits for its configuration, and meanwhile the right to start it again goes.
    let file = site.env.conf_dir().join("ssh-substituter.conf");
    let text = fs::read(&file).expect("read the configuration");
    fs::remove_file(&file).expect("remove the configuration");
    let mut command = Command::new(tool("mkfifo"));
    command.args(["-m", "600"]).arg(&file);
    run(command, SHORT);
    for (flags, expected) in [(&[][..], 0), (&["-v"][..], 1)] {
        fs::set_permissions(&copy, Permissions::from_mode(0o755)).expect("allow it");
        let mut command = site.env.command(&copy);
        command.arg("--serve").args(flags);
        let mut front_end = thread::scope(|scope| {
            scope.spawn(|| {
                // Opening it waits for the reader.
                let pipe = fs::OpenOptions::new().write(true).open(&file);
                let forbidden = Permissions::from_mode(0o000);
                fs::set_permissions(&copy, forbidden).expect("forbid it");
                let written = pipe.and_then(|mut pipe| pipe.write_all(&text));
                written.expect("write to a pipe");
            });
            FrontEnd::start(command)
        });
        site.fetch(&mut front_end, 0);
        assert!(site.processes().is_empty());
        let printed = front_end.end();
        let count = printed
            .matches("works without an engine: cannot start an engine")
            .count();
        assert_eq!(count, expected, "{printed}");
        assert!(expected == 1 || printed.is_empty(), "{printed}");
        assert_eq!(site.sockets().len(), 0);
    }
}
