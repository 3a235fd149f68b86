//! All running transfers, and what is to be written about them. No IO; time is an argument.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::internal_json::Events;
use super::screen::bar_layout::{Line, Row, lines};
use super::stats::line_timer::{LineTimer, ONE_OF_SEVERAL, SINGLE, finished};
use super::stats::{RateMeter, Totals, TransferHosts, TransferStatus, names};
use super::text::sanitize;
use crate::transfer::progress::{Outcome, TransferInfo};

/// A transfer has a bar only when it lasts longer than this: most paths are small, and bars that
/// come and go at once can't be read.
const MIN_BAR_AGE: Duration = Duration::from_millis(300);

/// What transfers style like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Bars,
    Lines,
    Json,
}

impl Style {
    /// How often transfers are drawn.
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
pub(super) struct Tracker {
    style: Style,
    /// The oldest first.
    running: Vec<Running>,
    /// A transfer that the next one with the same path continues.
    interrupted: Option<Running>,
    next_id: u64,
    totals: Totals,
    line_timer: LineTimer,
    events: Events,
    pending: Vec<Output>,
    /// `from`, or `to` where paths are sent.
    direction: &'static str,
    /// Something has changed that the running transfers do not show.
    changed: bool,
}

#[derive(Debug)]
struct Running {
    id: u64,
    name: String,
    senders: TransferHosts,
    /// The hosts as they are shown.
    hosts: String,
    total: u64,
    done: Arc<AtomicU64>,
    started: Instant,
    rate_meter: RateMeter,
    line_timer: LineTimer,
}

impl Running {
    fn status(&mut self, now: Instant, direction: &'static str) -> TransferStatus<'_> {
        let done = self.bytes();
        let (rate, silence) = self.rate_meter.record(now, done);
        self.senders.record(done, now);
        self.hosts = names(&self.senders.active(now));
        TransferStatus {
            done,
            total: self.total,
            host: &self.hosts,
            direction,
            rate,
            silence,
            wire: None,
        }
    }

    fn bytes(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

impl Tracker {
    pub(super) fn new(style: Style, now: Instant) -> Self {
        Self {
            style,
            running: Vec::new(),
            interrupted: None,
            next_id: 0,
            totals: Totals::new(now),
            line_timer: LineTimer::new(now),
            events: Events::new(std::process::id()),
            pending: Vec::new(),
            direction: "from",
            changed: false,
        }
    }

    pub(super) fn style(&self) -> Style {
        self.style
    }

    /// Transfers go to their hosts from now on, and do not come from them.
    pub(super) fn sends(&mut self) {
        self.direction = "to";
        self.events.sends();
    }

    #[cfg(test)]
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// Whether nothing runs and nothing is to be written.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty() && !self.changed && self.pending.is_empty()
    }

    pub(super) fn expect(&mut self, paths: u64, bytes: u64) {
        self.totals.expect(paths, bytes);
        if self.style == Style::Json {
            self.events.expect(paths, bytes);
        }
        self.changed = true;
    }

    /// The bytes that have come over the wire for all transfers are counted there.
    pub(super) fn show_wire_bytes(&mut self, count: Arc<AtomicU64>) {
        self.totals.show_wire_bytes(count);
    }

    /// A transfer begins that counts its bytes in `done`. Returns its id.
    pub(super) fn start(&mut self, info: &TransferInfo, done: Arc<AtomicU64>, now: Instant) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        if self.totals.start(now) {
            self.line_timer = LineTimer::new(now);
        }
        if self.style == Style::Json {
            self.events.start(id, info.path.as_str(), info.total);
            self.events.set_hosts(id, &[&info.host]);
        }
        let name = sanitize(info.path.name()).into_owned();
        let before = self.interrupted.take().filter(|r| r.name == name);
        let (started, line_timer) = match before {
            Some(before) => (before.started, before.line_timer),
            None => (now, LineTimer::new(now)),
        };
        self.running.push(Running {
            id,
            name,
            senders: TransferHosts::new(&info.host),
            hosts: String::new(),
            total: info.total,
            done,
            started,
            rate_meter: RateMeter::new(now),
            line_timer,
        });
        id
    }

    /// From now on that transfer comes from this host.
    pub(super) fn set_host(&mut self, id: u64, host: &str, now: Instant) {
        if let Some(running) = self.running.iter_mut().find(|r| r.id == id) {
            running.senders.set_host(host, running.bytes(), now);
            self.events.set_hosts(id, &running.senders.active(now));
        }
    }

    /// A transfer has ended. Returns a line for the debug log, unless one is shown anyway.
    pub(super) fn finish(&mut self, id: u64, outcome: Outcome, now: Instant) -> Option<String> {
        let at = self.running.iter().position(|r| r.id == id)?;
        let mut running = self.running.remove(at);
        let bytes = running.bytes();
        self.totals.finish(bytes, outcome);
        self.changed = true;
        self.events.finish(id, bytes);
        if outcome == Outcome::GoesOn {
            self.interrupted = Some(running);
            return None;
        }
        running.senders.record(bytes, now);
        let from = match running.senders.all() {
            hosts if hosts.is_empty() => hosts,
            hosts => format!(" {} {hosts}", self.direction),
        };
        let counts = (bytes, running.total);
        if self.style == Style::Lines
            && let Some(line) = running
                .line_timer
                .finish(now, &running.name, counts, outcome)
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
        self.totals.tick(now, moved);
        let mut output = std::mem::take(&mut self.pending);
        match self.style {
            Style::Bars => output.push(Output::Bars(self.bars(now, size, colours), size)),
            Style::Lines => output.extend(self.due_lines(now).map(Output::Line)),
            Style::Json => {
                let counts = self.running.iter().map(|r| (r.id, r.bytes()));
                self.events.tick(counts, &self.totals);
                output.extend(self.events.take().map(Output::Json));
            }
        }
        output
    }

    /// What is to be written before the end.
    pub(super) fn last(&mut self, now: Instant) -> Vec<Output> {
        let mut output = std::mem::take(&mut self.pending);
        match self.style {
            Style::Bars => output.push(Output::Bars(Vec::new(), (0, 0))),
            // What still runs has neither come nor failed: the command was interrupted, and says itself what is there.
            Style::Lines if !self.running.is_empty() => {}
            Style::Lines => {
                let TransferStatus { done, total, .. } = self.totals.status(None);
                let (came, all) = self.totals.paths();
                let outcome = match came < all {
                    true => Outcome::Failed,
                    false => Outcome::Done,
                };
                let name = self.totals.name();
                let line = self.line_timer.finish(now, &name, (done, total), outcome);
                output.extend(line.filter(|_| self.totals.is_several()).map(Output::Line));
            }
            Style::Json => {
                let counts = self.running.iter().map(|r| (r.id, r.bytes()));
                self.events.end(counts, &self.totals);
                output.extend(self.events.take().map(Output::Json));
            }
        }
        output
    }

    fn bars(&mut self, now: Instant, size: (usize, usize), colours: bool) -> Vec<Line> {
        let totals = self.total_status();
        let totals = totals.map(|status| Row::new(&self.totals.name(), &status));
        let mut rows = Vec::new();
        for running in &mut self.running {
            let (name, started) = (running.name.clone(), running.started);
            let status = running.status(now, self.direction);
            if now.duration_since(started) >= MIN_BAR_AGE {
                rows.push(Row::new(&name, &status));
            }
        }
        lines(totals, rows, size, colours)
    }

    fn due_lines(&mut self, now: Instant) -> impl Iterator<Item = String> + use<> {
        let mut due = Vec::new();
        let totals = self.total_status();
        if let Some(status) = totals
            && !self.running.is_empty()
            && self.line_timer.is_due(now, SINGLE)
        {
            due.push(format!("{}: {}", self.totals.name(), status.describe()));
        }
        let intervals = if totals.is_some() {
            ONE_OF_SEVERAL
        } else {
            SINGLE
        };
        for running in &mut self.running {
            let is_due = running.line_timer.is_due(now, intervals);
            let name = is_due.then(|| running.name.clone());
            let status = running.status(now, self.direction);
            due.extend(name.map(|name| format!("{name}: {}", status.describe())));
        }
        due.into_iter()
    }

    /// How far all transfers are, if there are several.
    fn total_status(&self) -> Option<TransferStatus<'static>> {
        let running = self.running.iter().map(Running::bytes).sum();
        let running = (!self.running.is_empty()).then_some(running);
        self.totals
            .is_several()
            .then(|| self.totals.status(running))
    }
}
