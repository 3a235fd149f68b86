//! Transfers as the events that Nix's own programs print. No IO.

use std::collections::HashMap;

use super::super::stats::Totals;
use super::json;

/// What has been written, and what is to be.
#[derive(Debug)]
pub(in crate::progress) struct Events {
    next_id: u64,
    overall: Option<u64>,
    counts: [u64; 4],
    transfers: HashMap<u64, Activity>,
    text: String,
    /// Whether transfers go to their hosts.
    is_sent: bool,
}

/// A running transfer as an activity of Nix.
#[derive(Debug)]
struct Activity {
    path: String,
    total: u64,
    hosts: Vec<String>,
    /// Of its two activities, once they have begun.
    ids: Option<[u64; 2]>,
    done: u64,
}

impl Events {
    /// Numbers are unique among processes, as Nix's are: those of a process begin with its own.
    pub(in crate::progress) fn new(process: u32) -> Self {
        Self {
            next_id: u64::from(process) << 32,
            overall: None,
            counts: [0; 4],
            transfers: HashMap::new(),
            text: String::new(),
            is_sent: false,
        }
    }

    /// Transfers go to their hosts from now on.
    pub(in crate::progress) fn sends(&mut self) {
        self.is_sent = true;
    }

    /// So much is to come in all.
    pub(in crate::progress) fn expect(&mut self, paths: u64, bytes: u64) {
        let overall = self.begin_overall(Some(paths));
        self.put(&json::expect_bytes(overall, bytes));
    }

    /// A transfer begins; its host is not known yet.
    pub(in crate::progress) fn start(&mut self, id: u64, path: &str, total: u64) {
        let activity = Activity {
            path: path.to_owned(),
            total,
            hosts: Vec::new(),
            ids: None,
            done: 0,
        };
        self.transfers.insert(id, activity);
    }

    /// A transfer comes from these hosts; other hosts than before make it another activity.
    pub(in crate::progress) fn set_hosts(&mut self, id: u64, hosts: &[&str]) {
        let Some(mut activity) = self.transfers.remove(&id) else {
            return;
        };
        let is_known = hosts.iter().any(|host| !host.is_empty());
        if is_known && (activity.hosts != hosts || activity.ids.is_none()) {
            self.stop(&mut activity);
            activity.hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
            let overall = self.begin_overall(None);
            let ids = [self.new_id(), self.new_id()];
            for event in json::start_transfer(ids, overall, &activity.path, (hosts, self.is_sent)) {
                self.put(&event);
            }
            activity.ids = Some(ids);
        }
        self.transfers.insert(id, activity);
    }

    /// A transfer has ended with so many bytes.
    pub(in crate::progress) fn finish(&mut self, id: u64, done: u64) {
        self.progress(id, done);
        if let Some(mut activity) = self.transfers.remove(&id) {
            self.stop(&mut activity);
        }
    }

    /// How far all are: numbers and bytes of the running ones.
    pub(in crate::progress) fn tick(
        &mut self,
        running: impl Iterator<Item = (u64, u64)>,
        totals: &Totals,
    ) {
        let mut count = 0;
        for (id, done) in running {
            count += 1;
            self.progress(id, done);
        }
        let Some(overall) = self.overall else {
            return;
        };
        let (done, expected) = totals.paths();
        let counts = [done, expected, count, totals.failed()];
        if counts != self.counts {
            self.counts = counts;
            self.put(&json::progress(overall, counts));
        }
    }

    /// The end: nothing that has begun stays open.
    pub(in crate::progress) fn end(
        &mut self,
        running: impl Iterator<Item = (u64, u64)>,
        totals: &Totals,
    ) {
        self.tick(running, totals);
        for (_, mut activity) in std::mem::take(&mut self.transfers) {
            self.stop(&mut activity);
        }
        if let Some(overall) = self.overall.take() {
            self.put(&json::stop(overall));
        }
    }

    /// The lines that are to be written, if there are any.
    pub(in crate::progress) fn take(&mut self) -> Option<String> {
        let text = std::mem::take(&mut self.text);
        (!text.is_empty()).then_some(text)
    }

    fn progress(&mut self, id: u64, done: u64) {
        let Some(activity) = self.transfers.get_mut(&id) else {
            return;
        };
        if let Some([_, copy]) = activity.ids
            && activity.done != done
        {
            activity.done = done;
            let event = json::progress(copy, [done, activity.total, 0, 0]);
            self.put(&event);
        }
    }

    fn stop(&mut self, activity: &mut Activity) {
        for id in activity.ids.take().into_iter().flatten().rev() {
            self.put(&json::stop(id));
        }
        activity.done = 0;
    }

    fn begin_overall(&mut self, paths: Option<u64>) -> u64 {
        if let Some(id) = self.overall {
            return id;
        }
        let id = self.new_id();
        self.overall = Some(id);
        self.put(&json::start_overall(id, paths));
        id
    }

    fn new_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    fn put(&mut self, event: &serde_json::Value) {
        self.text.push_str(&json::line(event));
    }
}
