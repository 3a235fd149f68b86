//! A front end with a conversation on its pipes, and what it prints.

use std::fs::File;
use std::io::Read;
use std::process::{Child, Command, Stdio};

use ssh_substituter::wire::serve::Version;

pub use super::support::Talk;

/// A valid path that nobody has.
pub const NOBODYS: &str = "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-nobodys";

/// What leaves a process without a cache on disk: a variable and its value.
pub const NO_DISK: (&str, &str) = ("SSH_SUBSTITUTER_CACHE_DIR", "/dev/null/cache");

/// A front end that runs, with a conversation on its pipes.
pub struct FrontEnd {
    child: Child,
    pub talk: Talk,
    stderr: File,
}

impl FrontEnd {
    /// Starts this command, which ends up as the program with `--serve`. Its parent is this process.
    pub fn start(mut command: Command) -> Self {
        let stderr = tempfile::tempfile().expect("make a temporary file");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr.try_clone().expect("clone a file"))
            .spawn()
            .expect("start a front end");
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let talk = Talk::begin(
            input.expect("stdin is piped"),
            output.expect("stdout is piped"),
            Version::NEWEST,
        );
        Self {
            child,
            talk,
            stderr,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as callers do; gives what it printed.
    #[track_caller]
    pub fn end(self) -> String {
        let Self {
            mut child,
            talk,
            stderr,
        } = self;
        drop(talk);
        let status = child.wait().expect("wait for a front end");
        let text = text_of(stderr);
        assert!(status.success(), "{status}: {text}");
        text
    }

    /// Ends it; it has printed nothing.
    #[track_caller]
    pub fn end_quietly(self) {
        assert_eq!(self.end(), "");
    }

    /// Waits for an end that comes by force.
    pub fn wait_for_its_end(mut self) {
        let status = self.child.wait().expect("wait for a front end");
        assert!(!status.success(), "{status}");
    }
}

fn text_of(mut file: File) -> String {
    use std::io::Seek;
    file.rewind().expect("go back in a file");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("read a file");
    text
}
