//! A host, and an environment in which front ends use an engine to reach it.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::process::{Pid, Signal, kill_process};

use super::support::{Dag, DagOptions, Engines, Host, NixEnv, wait_until};
use super::talk::FrontEnd;

pub struct Site {
    pub engines: Engines,
    pub dag: Dag,
    pub host: Host,
    pub env: NixEnv,
}

impl Site {
    /// With these further lines of configuration.
    pub fn new(lines: &str) -> Self {
        let (host, env) = (Host::new(), NixEnv::new());
        let dag = host.store.dag(20, DagOptions::default());
        Self {
            engines: env.configure_with_engine(&[host.trusted()], lines),
            dag,
            host,
            env,
        }
    }

    /// A command that becomes a front end.
    pub fn command(&self) -> Command {
        let mut command = self.env.program();
        command.arg("--serve");
        command
    }

    pub fn front_end(&self) -> FrontEnd {
        FrontEnd::start(self.command())
    }

    /// One path of the closure.
    pub fn path(&self, number: usize) -> &str {
        &self.dag.paths[number]
    }

    /// Has a front end fetch a path of the closure.
    #[track_caller]
    pub fn fetch(&self, front_end: &mut FrontEnd, number: usize) {
        let path = self.path(number);
        front_end.talk.fetch(path, &self.host.store);
    }

    /// One front end that fetches a path and ends, saying nothing.
    #[track_caller]
    pub fn visit(&self, number: usize) {
        let mut front_end = self.front_end();
        self.fetch(&mut front_end, number);
        front_end.end_quietly();
    }

    /// Where the engines' sockets are.
    pub fn runtime(&self) -> PathBuf {
        self.env.folder().join("run/ssh-substituter")
    }

    /// The engines' sockets.
    pub fn sockets(&self) -> Vec<PathBuf> {
        sockets(&self.runtime())
    }

    /// The processes that are engines of this environment, whether they answer or not.
    pub fn processes(&self) -> Vec<u32> {
        engines_of(self.env.folder())
    }

    /// The only one.
    #[track_caller]
    pub fn process(&self) -> u32 {
        let all = self.processes();
        assert_eq!(all.len(), 1, "engines: {all:?}");
        all[0]
    }

    /// Ends the only engine without any warning.
    pub fn kill(&self) {
        let pid = self.process();
        kill(pid);
        wait_until("an engine is killed", || self.processes().is_empty());
    }

    /// Waits until the engines serve so many front ends, by their process ids. An engine sees a moment later that a front end
    /// has ended, or has read the last byte.
    #[track_caller]
    pub fn wait_for_clients(&self, expected: &[(u32, u64)]) {
        wait_until(&format!("the clients are {expected:?}"), || {
            self.clients() == expected
        });
    }

    /// How many front ends each engine serves, by its process id.
    pub fn clients(&self) -> Vec<(u32, u64)> {
        let of = |status: &serde_json::Value| {
            let number = |name: &str| status[name].as_u64().expect("a number");
            (number("pid") as u32, number("clients"))
        };
        self.engines.status().iter().map(of).collect()
    }
}

/// Ends a process without any warning.
pub fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a process"), Signal::KILL).expect("kill a process");
}

pub fn sockets(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sockets = entries.filter(|entry| {
        let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
        is_socket && entry.file_name().to_string_lossy().starts_with("e-")
    });
    let mut all: Vec<_> = sockets.map(|entry| entry.path()).collect();
    all.sort();
    all
}

/// The processes `ssh-substituter engine` whose runtime folder is in this folder, from /proc. What an engine has forked looks
/// like it until it becomes ssh, and does not count.
pub fn engines_of(folder: &Path) -> Vec<u32> {
    let folder = folder.to_string_lossy();
    let read_proc = |pid: u32, name: &str| {
        let bytes = fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let is_engine = |pid: &u32| {
        // The program itself has any name.
        read_proc(*pid, "cmdline").split('\0').nth(1) == Some("engine")
            && read_proc(*pid, "environ").contains(&format!("NIX_CONF_DIR={folder}/"))
    };
    let parent_of = |pid: u32| {
        // The name before it may hold anything but ends with the last bracket: proc_pid_stat(5).
        let stat = read_proc(pid, "stat");
        let (_, after) = stat.rsplit_once(") ")?;
        after.split(' ').nth(1)?.parse::<u32>().ok()
    };
    let entries = fs::read_dir("/proc").expect("read /proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // The parent first: what was forked may be gone a moment later, and then has none.
    let with_parents = pids.filter_map(|pid| Some((pid, parent_of(pid)?)));
    let mut all: Vec<(u32, u32)> = with_parents.filter(|(pid, _)| is_engine(pid)).collect();
    all.sort_unstable();
    let is_forked = |parent: u32| all.iter().any(|(pid, _)| *pid == parent);
    let engines = all.iter().filter(|(_, parent)| !is_forked(*parent));
    engines.map(|(pid, _)| *pid).collect()
}

/// An engine that was started by hand; ended on drop.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
