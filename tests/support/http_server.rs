//! The program as an HTTP server in a process of its own.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Sender;

use super::{guard, kill_tree, wait_until};

/// A server that runs. It ends when this is dropped.
pub struct HttpServer {
    pub child: Child,
    address: SocketAddr,
    log: PathBuf,
    /// Ends the guard of the child when dropped.
    _guarded: Sender<()>,
}

impl HttpServer {
    /// Runs the command until it says where it listens, with a log in that folder.
    pub fn start(mut command: Command, folder: &Path) -> Self {
        let number = fs::read_dir(folder).expect("read a folder").count();
        let log = folder.join(format!("http-{number}.log"));
        let output = File::create(&log).expect("make a log");
        command.stdout(Stdio::null()).stderr(output);
        let child = command.spawn().expect("start the server");
        let guarded = guard(child.id());
        let mut address = None;
        wait_until("the server says where it listens", || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let lines = text.lines().filter(|_| text.ends_with('\n'));
            let mut said = lines.filter_map(|line| line.split_once("serves on http://"));
            address = said
                .next()
                .and_then(|(_, address)| address.trim().parse().ok());
            assert!(!text.contains("error:"), "{text}");
            address.is_some()
        });
        Self {
            child,
            address: address.expect("an address"),
            log,
            _guarded: guarded,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For `substituters`, by a client that trusts all it gets.
    pub fn trusted(&self) -> String {
        format!("http://{}?trusted=true", self.address)
    }

    /// What it has written to stderr.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("read a log")
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        kill_tree(self.child.id());
        let _ = self.child.wait();
    }
}
