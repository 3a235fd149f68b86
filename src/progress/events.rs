//! Transfers as the events that Nix's own programs print. No IO.

use std::collections::HashMap;

use super::json;
use super::whole::Whole;

/// What has been told, and what is to be.
#[derive(Debug)]
pub(super) struct Events {
    next_id: u64,
    whole: Option<u64>,
    counts: [u64; 4],
    transfers: HashMap<u64, Told>,
    text: String,
}

/// A transfer that has begun.
#[derive(Debug)]
struct Told {
    path: String,
    total: u64,
    hosts: Vec<String>,
    /// Of its two activities, once they have begun.
    ids: Option<[u64; 2]>,
    done: u64,
}

impl Events {
    /// Numbers are unique among processes, as Nix's are: those of a process begin with its own.
    pub(super) fn new(process: u32) -> Self {
        Self {
            next_id: u64::from(process) << 32,
            whole: None,
            counts: [0; 4],
            transfers: HashMap::new(),
            text: String::new(),
        }
    }

    /// So much is to come in all.
    pub(super) fn expect(&mut self, paths: u64, bytes: u64) {
        let whole = self.begin_whole(Some(paths));
        self.put(&json::expect_bytes(whole, bytes));
    }

    /// A transfer begins, from nobody knows where.
    pub(super) fn start(&mut self, id: u64, path: &str, total: u64) {
        let told = Told {
            path: path.to_owned(),
            total,
            hosts: Vec::new(),
            ids: None,
            done: 0,
        };
        self.transfers.insert(id, told);
    }

    /// A transfer comes from these hosts; from others than before it is another activity.
    pub(super) fn set_hosts(&mut self, id: u64, hosts: &[&str]) {
        let Some(mut told) = self.transfers.remove(&id) else {
            return;
        };
        let is_known = hosts.iter().any(|host| !host.is_empty());
        if is_known && (told.hosts != hosts || told.ids.is_none()) {
            self.stop(&mut told);
            told.hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
            let whole = self.begin_whole(None);
            let ids = [self.number(), self.number()];
            for event in json::start_transfer(ids, whole, &told.path, hosts) {
                self.put(&event);
            }
            told.ids = Some(ids);
        }
        self.transfers.insert(id, told);
    }

    /// A transfer has ended with so many bytes.
    pub(super) fn finish(&mut self, id: u64, done: u64) {
        self.progress(id, done);
        if let Some(mut told) = self.transfers.remove(&id) {
            self.stop(&mut told);
        }
    }

    /// How far all are: numbers and bytes of the running ones.
    pub(super) fn tick(&mut self, running: impl Iterator<Item = (u64, u64)>, all: &Whole) {
        let mut count = 0;
        for (id, done) in running {
            count += 1;
            self.progress(id, done);
        }
        let Some(whole) = self.whole else {
            return;
        };
        let (done, expected) = all.paths();
        let counts = [done, expected, count, all.failed()];
        if counts != self.counts {
            self.counts = counts;
            self.put(&json::progress(whole, counts));
        }
    }

    /// The end: nothing that has begun stays open.
    pub(super) fn end(&mut self, running: impl Iterator<Item = (u64, u64)>, all: &Whole) {
        self.tick(running, all);
        for (_, mut told) in std::mem::take(&mut self.transfers) {
            self.stop(&mut told);
        }
        if let Some(whole) = self.whole.take() {
            self.put(&json::stop(whole));
        }
    }

    /// The lines that are to be written, if there are any.
    pub(super) fn take(&mut self) -> Option<String> {
        let text = std::mem::take(&mut self.text);
        (!text.is_empty()).then_some(text)
    }

    fn progress(&mut self, id: u64, done: u64) {
        let Some(told) = self.transfers.get_mut(&id) else {
            return;
        };
        if let Some([_, copy]) = told.ids
            && told.done != done
        {
            told.done = done;
            let event = json::progress(copy, [done, told.total, 0, 0]);
            self.put(&event);
        }
    }

    fn stop(&mut self, told: &mut Told) {
        for id in told.ids.take().into_iter().flatten().rev() {
            self.put(&json::stop(id));
        }
        told.done = 0;
    }

    fn begin_whole(&mut self, paths: Option<u64>) -> u64 {
        if let Some(id) = self.whole {
            return id;
        }
        let id = self.number();
        self.whole = Some(id);
        self.put(&json::start_whole(id, paths));
        id
    }

    fn number(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    fn put(&mut self, event: &serde_json::Value) {
        self.text.push_str(&json::line(event));
    }
}
