//! The folder through which the suite and the relays of one host talk: plans, what fired, what the relays must know.
//!
//! Relays are processes of their own, several at a time and killed at any moment, so everything here is a file: a fault
//! is claimed by renaming its plan, and each line of the log is one write.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::plan::{Fault, When};

/// One side's view of the folder.
pub struct PlanFolder(PathBuf);

/// What stands in the log.
#[derive(Clone, Debug)]
pub enum Event {
    /// A fault happened.
    Fired { at: u128, fault: Fault },
    /// A reply came through whole and right.
    Done { at: u128 },
}

impl PlanFolder {
    pub fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// Clears the table and puts new plans on it, to be claimed in this order.
    pub fn arm(&self, faults: &[Fault]) {
        for entry in fs::read_dir(&self.0)
            .expect("read the plan folder")
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            let old = ["plan-", "claimed-", "count-", "log"];
            if old.iter().any(|old| name.starts_with(old)) {
                let _ = fs::remove_file(entry.path());
            }
        }
        for (number, fault) in faults.iter().enumerate() {
            self.put(&format!("plan-{number:03}"), &fault.to_string());
        }
    }

    pub fn put(&self, name: &str, content: &str) {
        fs::write(self.0.join(name), content).expect("write to the plan folder");
    }

    pub fn get(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }

    /// NAR sizes of all paths.
    pub fn sizes(&self) -> HashMap<String, u64> {
        let text = self.get("sizes");
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        pairs
            .map(|(path, size)| (path.to_owned(), size.parse().expect("a number")))
            .collect()
    }

    /// Takes the next fault for such a message off the table.
    pub fn claim(&self, when: When, path: Option<&str>) -> Option<Fault> {
        let seen = self.count(when);
        let mut plans: Vec<PathBuf> = fs::read_dir(&self.0)
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| name(path).starts_with("plan-"))
            .collect();
        plans.sort();
        for plan in plans {
            let Ok(text) = fs::read_to_string(&plan) else {
                continue;
            };
            let fault = Fault::parse(&text);
            match &fault.path {
                Some(wanted) if path == Some(wanted) => return Some(fault),
                Some(_) => continue,
                None => {}
            }
            let claimed = self.0.join(name(&plan).replace("plan-", "claimed-"));
            if fault.when == when && fault.skip < seen && fs::rename(&plan, claimed).is_ok() {
                return Some(fault);
            }
        }
        None
    }

    /// Counts such messages, this one included.
    fn count(&self, when: When) -> usize {
        let path = self.0.join(format!("count-{when:?}"));
        let _ = append(&path, b".");
        fs::metadata(path).map_or(0, |file| file.len() as usize)
    }

    pub fn fired(&self, fault: &Fault) {
        self.log(&format!("fired {} {fault}\n", now()));
    }

    pub fn done(&self) {
        self.log(&format!("done {}\n", now()));
    }

    fn log(&self, line: &str) {
        let _ = append(&self.0.join("log"), line.as_bytes());
    }

    pub fn events(&self) -> Vec<Event> {
        let text = self.get("log");
        text.lines()
            .map(|line| {
                let (what, rest) = line.split_once(' ').expect("a line of the log");
                if what == "done" {
                    let at = rest.parse().expect("a number");
                    return Event::Done { at };
                }
                let (at, fault) = rest.split_once(' ').expect("a line of the log");
                Event::Fired {
                    at: at.parse().expect("a number"),
                    fault: Fault::parse(fault),
                }
            })
            .collect()
    }
}

fn append(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(bytes)
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Milliseconds since 1970.
pub fn now() -> u128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("a clock").as_millis()
}
