//! All running transfers, and what is to be written about them. No IO; time is an argument.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::events::Events;
use super::sanitize;
use super::sources::{Sources, names};
use super::table::{Line, Row, lines};
use super::text::Standing;
use super::view::{ALONE, AMONG_OTHERS, Lines, Pace, finished};
use super::whole::Whole;
use crate::transfer::progress::{Outcome, TransferInfo};

/// A transfer has a bar only when it lasts longer than this: most paths are small, and bars that
/// come and go at once can't be read.
const FIRST_BAR: Duration = Duration::from_millis(300);

/// What transfers look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Bars,
    Lines,
    Json,
}

impl Look {
    /// How often it is looked at.
    pub(super) fn period(self) -> Duration {
        match self {
            Self::Bars => Duration::from_millis(125),
            Self::Json => Duration::from_millis(250),
            Self::Lines => Duration::from_millis(500),
        }
    }
}

/// What is to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Output {
    Line(String),
    /// Bars for a terminal of that size.
    Bars(Vec<Line>, (usize, usize)),
    /// Lines with their ends.
    Json(String),
}

#[derive(Debug)]
pub(super) struct State {
    look: Look,
    /// The one that has lasted longest first.
    running: Vec<Running>,
    /// One that another transfer goes on with, which begins next.
    interrupted: Option<Running>,
    next_id: u64,
    whole: Whole,
    lines: Lines,
    events: Events,
    pending: Vec<Output>,
    /// Something has changed that no running transfer shows.
    changed: bool,
}

#[derive(Debug)]
struct Running {
    id: u64,
    name: String,
    sources: Sources,
    /// The hosts as they are shown.
    hosts: String,
    total: u64,
    done: Arc<AtomicU64>,
    started: Instant,
    pace: Pace,
    lines: Lines,
}

impl Running {
    fn standing(&mut self, now: Instant) -> Standing<'_> {
        let done = self.bytes();
        let (rate, silence) = self.pace.note(now, done);
        self.sources.count(done, now);
        self.hosts = names(&self.sources.active(now));
        Standing {
            done,
            total: self.total,
            host: &self.hosts,
            rate,
            silence,
        }
    }

    fn bytes(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

impl State {
    pub(super) fn new(look: Look, now: Instant) -> Self {
        Self {
            look,
            running: Vec::new(),
            interrupted: None,
            next_id: 0,
            whole: Whole::new(now),
            lines: Lines::new(now),
            events: Events::new(std::process::id()),
            pending: Vec::new(),
            changed: false,
        }
    }

    pub(super) fn look(&self) -> Look {
        self.look
    }

    #[cfg(test)]
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// Nothing happens and nothing is to be written.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty() && !self.changed && self.pending.is_empty()
    }

    pub(super) fn expect(&mut self, paths: u64, bytes: u64) {
        self.whole.expect(paths, bytes);
        if self.look == Look::Json {
            self.events.expect(paths, bytes);
        }
        self.changed = true;
    }

    /// A transfer begins that counts its bytes in `done`. Gives its number.
    pub(super) fn start(&mut self, info: &TransferInfo, done: Arc<AtomicU64>, now: Instant) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        if self.whole.start(now) {
            self.lines = Lines::new(now);
        }
        if self.look == Look::Json {
            self.events.start(id, info.path.as_str(), info.total);
            self.events.set_hosts(id, &[&info.host]);
        }
        let name = sanitize(info.path.name()).into_owned();
        let before = self.interrupted.take().filter(|r| r.name == name);
        let (started, lines) = match before {
            Some(before) => (before.started, before.lines),
            None => (now, Lines::new(now)),
        };
        self.running.push(Running {
            id,
            name,
            sources: Sources::new(&info.host),
            hosts: String::new(),
            total: info.total,
            done,
            started,
            pace: Pace::new(now),
            lines,
        });
        id
    }

    /// What comes next of that transfer comes from this host.
    pub(super) fn set_host(&mut self, id: u64, host: &str, now: Instant) {
        if let Some(running) = self.running.iter_mut().find(|r| r.id == id) {
            running.sources.set_host(host, running.bytes(), now);
            self.events.set_hosts(id, &running.sources.active(now));
        }
    }

    /// A transfer has ended. Gives a line for those who want to know all.
    pub(super) fn finish(&mut self, id: u64, outcome: Outcome, now: Instant) -> Option<String> {
        let at = self.running.iter().position(|r| r.id == id)?;
        let mut running = self.running.remove(at);
        let bytes = running.bytes();
        self.whole.finish(bytes, outcome);
        self.changed = true;
        self.events.finish(id, bytes);
        if outcome == Outcome::GoesOn {
            self.interrupted = Some(running);
            return None;
        }
        running.sources.count(bytes, now);
        let from = match running.sources.all() {
            hosts if hosts.is_empty() => hosts,
            hosts => format!(" from {hosts}"),
        };
        let counts = (bytes, running.total);
        if self.look == Look::Lines
            && let Some(line) = running.lines.finish(now, &running.name, counts, outcome)
        {
            self.pending.push(Output::Line(line + &from));
            return None;
        }
        let lasted = now.duration_since(running.started);
        Some(finished(&running.name, counts, lasted, outcome) + &from)
    }

    /// What is to be written now, on a terminal of that size where there is one.
    pub(super) fn tick(
        &mut self,
        now: Instant,
        size: (usize, usize),
        colours: bool,
    ) -> Vec<Output> {
        self.changed = false;
        let moved: u64 = self.running.iter().map(Running::bytes).sum();
        self.whole.tick(now, moved);
        let mut output = std::mem::take(&mut self.pending);
        match self.look {
            Look::Bars => output.push(Output::Bars(self.bars(now, size, colours), size)),
            Look::Lines => output.extend(self.due_lines(now).map(Output::Line)),
            Look::Json => {
                let counts = self.running.iter().map(|r| (r.id, r.bytes()));
                self.events.tick(counts, &self.whole);
                output.extend(self.events.take().map(Output::Json));
            }
        }
        output
    }

    /// What is to be written before the end.
    pub(super) fn last(&mut self, now: Instant) -> Vec<Output> {
        let mut output = std::mem::take(&mut self.pending);
        match self.look {
            Look::Bars => output.push(Output::Bars(Vec::new(), (0, 0))),
            Look::Lines => {
                let Standing { done, total, .. } = self.whole.standing(None);
                let (came, all) = self.whole.paths();
                let outcome = match came < all {
                    true => Outcome::Failed,
                    false => Outcome::Done,
                };
                let name = self.whole.name();
                let line = self.lines.finish(now, &name, (done, total), outcome);
                output.extend(line.filter(|_| self.whole.is_many()).map(Output::Line));
            }
            Look::Json => {
                let counts = self.running.iter().map(|r| (r.id, r.bytes()));
                self.events.end(counts, &self.whole);
                output.extend(self.events.take().map(Output::Json));
            }
        }
        output
    }

    fn bars(&mut self, now: Instant, size: (usize, usize), colours: bool) -> Vec<Line> {
        let whole = self.standing_of_whole();
        let whole = whole.map(|standing| Row::new(&self.whole.name(), &standing));
        let mut rows = Vec::new();
        for running in &mut self.running {
            let (name, started) = (running.name.clone(), running.started);
            let standing = running.standing(now);
            if now.duration_since(started) >= FIRST_BAR {
                rows.push(Row::new(&name, &standing));
            }
        }
        lines(whole, rows, size, colours)
    }

    fn due_lines(&mut self, now: Instant) -> impl Iterator<Item = String> + use<> {
        let mut due = Vec::new();
        let whole = self.standing_of_whole();
        if let Some(standing) = whole
            && !self.running.is_empty()
            && self.lines.is_due(now, ALONE)
        {
            due.push(format!("{}: {}", self.whole.name(), standing.long()));
        }
        let rhythm = if whole.is_some() { AMONG_OTHERS } else { ALONE };
        for running in &mut self.running {
            let is_due = running.lines.is_due(now, rhythm);
            let name = is_due.then(|| running.name.clone());
            let standing = running.standing(now);
            due.extend(name.map(|name| format!("{name}: {}", standing.long())));
        }
        due.into_iter()
    }

    /// Where the whole stands, if there is more of it than one transfer.
    fn standing_of_whole(&self) -> Option<Standing<'static>> {
        let running = self.running.iter().map(Running::bytes).sum();
        let running = (!self.running.is_empty()).then_some(running);
        self.whole.is_many().then(|| self.whole.standing(running))
    }
}
