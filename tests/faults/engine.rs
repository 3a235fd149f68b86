//! An engine between Nix's processes and the hosts, and what happens to it while they work.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::relay::signal;
use crate::support::{Nix, Random, SHORT, run_with_timeout};

/// Whether there is an engine, and what goes wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Each process works alone.
    Off,
    /// Nothing happens to it.
    Well,
    /// It is killed (SIGKILL) so long after Nix began.
    Killed(Duration),
    /// It is frozen (SIGSTOP) so long after Nix began, until Nix has ended.
    Frozen(Duration),
    /// In its place a server over HTTP, to which nothing happens.
    Http,
}

impl Engine {
    /// Deals out what happens to the engine of a run.
    pub fn draw(random: &mut Random) -> Self {
        // Runs take some seconds, most of what is asked and sent comes in the first of them.
        let after = Duration::from_millis(random.below(2500) as u64);
        match random.below(4) {
            0 => Self::Killed(after),
            1 => Self::Frozen(after),
            _ => Self::Well,
        }
    }

    /// What stands in the configuration.
    pub fn setting(self) -> &'static str {
        match self {
            Self::Off | Self::Http => "off",
            _ => "auto",
        }
    }
}

/// The engines of one caller. They end with the value.
pub struct Engines {
    program: PathBuf,
    envs: Vec<(OsString, OsString)>,
    /// The one that was frozen. Its socket may be another one's by now.
    frozen: Option<u32>,
}

impl Engines {
    /// Of what this Nix starts, with sockets in this folder.
    pub fn of(nix: &Nix, runtime: &Path) -> Self {
        let command = nix.store().env().program();
        let set = command.get_envs().filter_map(|(name, value)| {
            let value = value?;
            Some((name.to_owned(), value.to_owned()))
        });
        let ours = ("SSH_SUBSTITUTER_RUNTIME_DIR".into(), runtime.into());
        Self {
            program: command.get_program().into(),
            envs: set.chain([ours]).collect(),
            frozen: None,
        }
    }

    /// Does to the engine what is to be done, unless `is_over` before. Whether it was done.
    pub fn trouble(&mut self, planned: Engine, is_over: &AtomicBool) -> bool {
        let (after, what) = match planned {
            Engine::Off | Engine::Well | Engine::Http => return false,
            Engine::Killed(after) => (after, Signal::KILL),
            Engine::Frozen(after) => (after, Signal::STOP),
        };
        let began = Instant::now();
        while !is_over.load(Ordering::SeqCst) {
            if began.elapsed() >= after
                && let Some(pid) = self.pid()
            {
                signal(pid, what);
                if what == Signal::STOP {
                    self.frozen = Some(pid);
                    while !is_over.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    signal(pid, Signal::CONT);
                }
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Bytes of NARs that have come in that way: `raw`, `compressed` or `differences`.
    pub fn received(&self, way: &str) -> u64 {
        let status: serde_json::Value =
            serde_json::from_str(&self.run("status")).unwrap_or_default();
        let hosts = status[0]["hosts"].as_array().cloned().unwrap_or_default();
        let bytes = |host: &serde_json::Value| host["received"][way]["narBytes"].as_u64();
        hosts.iter().filter_map(bytes).sum()
    }

    /// The engine that answers.
    fn pid(&self) -> Option<u32> {
        let status: serde_json::Value = serde_json::from_str(&self.run("status")).ok()?;
        u32::try_from(status.get(0)?.get("pid")?.as_u64()?).ok()
    }

    fn run(&self, action: &str) -> String {
        let mut command = Command::new(&self.program);
        command.env_clear().envs(self.envs.iter().cloned());
        command.args(["engine", action]);
        let output = run_with_timeout(command, SHORT);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Engines {
    fn drop(&mut self) {
        if let Some(pid) = self.frozen {
            signal(pid, Signal::KILL);
        }
        self.run("stop");
    }
}
