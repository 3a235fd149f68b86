//! What must hold in every run.
//!
//! | rule | when it counts |
//! | --- | --- |
//! | bytes that were delivered are the right ones; a path that fails is completed to a proper archive | always; before a failure, what was passed on may be wrong only where a holder has a wrong byte and the NAR is passed on as it comes |
//! | a path is delivered | if a holder is [well](is_healthy) |
//! | at most 1.1 times the useful bytes are fetched, 1.5 times with faults | always, but for [`SLACK`](super::waste), a part from each host that another one brings sooner, the parts that are being sent when their path is collected, what a plain dump sends again after an outage, what a fault cut off in the middle, what came whole and was wrong, what a disk that fails has lost, and the beginning of a large path whose caller [pauses](super::waste) when others need its channel |
//! | a host is not counted as failed, and nobody is told that it is | if it is [up](plan::Host::is_up) and its line does not stall |
//! | what is read ahead stays within its budget, and nothing of it is left at the end | always; what is being fetched may be held besides |
//! | it ends in time | always; see [`time_limit`] |

use std::error::Error;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ssh_substituter::remote::RemoteError;
use ssh_substituter::transfer::{HostFault, PathFault, Transfers};
use tokio::time::Instant;

use super::caller::{Outcome, Why, own_time};
use super::plan::{self, Plan};

/// How long hosts may be silent in all runs.
pub const SILENCE: Duration = Duration::from_secs(10);

/// A stall that is no fault: far shorter than [`SILENCE`].
const SHORT: Duration = Duration::from_secs(4);

/// How long a host is left alone after its line was cut.
const RESTS: Duration = Duration::from_secs(1);

/// A round trip within which a host answers before callers go on without its answer.
const FAST_ANSWER: Duration = Duration::from_millis(10);

/// NARs below this size are verified whole before their first byte is passed on.
pub const WHOLE: u64 = 8 << 20;

/// Looks on while a run goes on.
#[derive(Default)]
pub struct Watch {
    /// What those need who fetch now.
    fetched: AtomicU64,
    offences: Mutex<Vec<String>>,
    told: Mutex<Vec<Told>>,
}

/// What a user was told of a host.
struct Told {
    host: Option<String>,
    is_remote: bool,
    differs: bool,
    text: String,
}

/// A NAR in memory takes a bit more than it is.
fn room_for(size: u64) -> u64 {
    size + size / 16
}

impl Watch {
    pub fn begins(&self, size: u64) {
        self.fetched.fetch_add(room_for(size), Ordering::Relaxed);
    }

    pub fn ends(&self, size: u64) {
        self.fetched.fetch_sub(room_for(size), Ordering::Relaxed);
    }

    fn offend(&self, text: String) {
        let mut offences = self.offences.lock().expect("no test panics in there");
        if offences.len() < 20 {
            offences.push(text);
        }
    }

    pub fn look(&self, transfers: &Transfers) {
        for (place, (used, total)) in [
            ("in memory", transfers.memory()),
            ("on disk", transfers.on_disk()),
        ] {
            let most = total + self.fetched.load(Ordering::Relaxed);
            if used > most {
                self.offend(format!("{used} bytes are held {place}, {most} may be"));
            }
        }
    }

    pub fn told(&self, error: &(dyn Error + 'static)) {
        let remote = error.downcast_ref::<RemoteError>();
        let fault = error.downcast_ref::<HostFault>();
        let host = remote.and_then(|error| error.host.clone());
        let host = host.or_else(|| of_fault(fault?));
        self.told
            .lock()
            .expect("no test panics in there")
            .push(Told {
                host,
                is_remote: remote.is_some(),
                differs: matches!(
                    fault,
                    Some(HostFault::Path {
                        fault: PathFault::Differs,
                        ..
                    })
                ),
                text: error.to_string(),
            });
    }
}

/// The host that a fault is about.
fn of_fault(fault: &HostFault) -> Option<String> {
    Some(match fault {
        HostFault::Remote(error) => error.host.clone()?,
        HostFault::FailedBefore(fault) => of_fault(fault)?,
        HostFault::Path { host, .. } => host.clone(),
    })
}

/// Whether a host delivers a path whenever it is asked, if not at once: it is up, its line stalls shortly if at all, it
/// has the path all the time, with the right content.
pub fn is_healthy(host: &plan::Host, path: usize) -> bool {
    let mut copies = host.copies.iter();
    let is_good = |copy: &plan::Copy| copy.is_always_there() && copy.wrong.is_none();
    host.outages.is_empty()
        && stalls_shortly(host)
        && copies.any(|copy| copy.path == path && is_good(copy))
}

fn is_wrong(copy: &plan::Copy) -> bool {
    copy.wrong.is_some()
}

fn stalls_shortly(host: &plan::Host) -> bool {
    let all: Duration = host.stalls.iter().map(|(from, to)| *to - *from).sum();
    all <= SHORT
}

/// Generous: three times what the slowest host takes for all, what callers take on their own account, what faults last
/// or what it takes to find out about them.
pub fn time_limit(plan: &Plan) -> Duration {
    let fetches = plan
        .callers
        .iter()
        .flat_map(|caller| caller.fetches.concat());
    let bytes: u64 = fetches.map(|at| plan.paths[at].item.size()).sum();
    let slowest = plan.hosts.iter().map(|host| host.rate).min();
    let moving = 3.0 * bytes as f64 / slowest.expect("there is a host") as f64;
    let mut limit = own_time(plan) + Duration::from_secs_f64(moving) + Duration::from_secs(60);
    for host in &plan.hosts {
        let faults = host.cuts.len() + host.outages.len() + host.stalls.len();
        limit += 6 * SILENCE * u32::try_from(faults).expect("a few");
        limit += 2 * SILENCE * u32::from(host.login == plan::Login::Silent);
    }
    limit
}

/// What was not as it must be.
pub struct Judge<'a> {
    pub plan: &'a Plan,
    pub watch: &'a Watch,
    pub outcomes: &'a [Outcome],
    /// Contents that the hosts sent, in bytes.
    pub sent: u64,
    /// Those of them that faults made useless.
    pub lost: u64,
    /// When the line of each host was cut.
    pub cut_at: Vec<Vec<Instant>>,
    /// Hosts that count as failing.
    pub failing: Vec<String>,
    /// What is still held.
    pub held: u64,
}

impl Judge<'_> {
    pub fn judge(&self) -> Vec<String> {
        let mut offences = self
            .watch
            .offences
            .lock()
            .expect("no test panics in there")
            .clone();
        for outcome in self.outcomes {
            offences.extend(self.outcome(outcome));
        }
        offences.extend(self.waste());
        offences.extend(self.blame());
        if self.held > 0 {
            offences.push(format!("{} bytes are held at the end", self.held));
        }
        offences
    }

    fn outcome(&self, outcome: &Outcome) -> Option<String> {
        let path = &self.plan.paths[outcome.path];
        let name = path.item.path.name();
        let may_be_wrong = path.item.size() >= WHOLE && self.copies(outcome.path).any(is_wrong);
        if let Some(at) = outcome.wrong_at
            && (outcome.result.is_ok() || !may_be_wrong)
        {
            return Some(format!(
                "{name}: wrong from byte {at} on: {:?}",
                outcome.result
            ));
        }
        if !outcome.is_proper {
            return Some(format!("{name}: no proper archive: {:?}", outcome.result));
        }
        match &outcome.result {
            Ok(()) if outcome.passed != path.item.size() => {
                let (passed, size) = (outcome.passed, path.item.size());
                Some(format!("{name}: {passed} bytes came of {size}"))
            }
            Ok(()) | Err(Why::Vanished) => None,
            Err(_) if may_be_wrong && self.is_first(outcome) && !self.can_compare(outcome.path) => {
                None
            }
            Err(why) => {
                let host = self.well(outcome)?;
                Some(format!("{name}: {why:?}, although host {host} is well"))
            }
        }
    }

    fn copies(&self, path: usize) -> impl Iterator<Item = &plan::Copy> {
        let all = self.plan.hosts.iter().flat_map(|host| &host.copies);
        all.filter(move |copy| copy.path == path)
    }

    /// A host that should have delivered.
    fn well(&self, outcome: &Outcome) -> Option<&str> {
        let hosts = self.plan.hosts.iter().zip(&self.cut_at);
        let mut well = hosts.filter(|(host, _)| is_healthy(host, outcome.path));
        // A line that is cut before anything has come may be cut once too often.
        let (host, _) = well.find(|(_, cut_at)| {
            // After a cut the host is left alone for a moment.
            let spoils =
                |cut: &Instant| (outcome.begun..=outcome.ended + RESTS).contains(&(*cut + RESTS));
            outcome.passed > 0 || !cut_at.iter().any(spoils)
        })?;
        Some(host.name)
    }

    /// Whether nobody could know yet that a holder has it wrongly.
    fn is_first(&self, outcome: &Outcome) -> bool {
        let before = |other: &&Outcome| other.path == outcome.path && other.ended <= outcome.begun;
        let mut others = self.outcomes.iter().filter(before);
        others.all(|other| !matches!(other.result, Err(Why::Failed(_))))
    }

    /// Whether a wrong byte is noticed before it is passed on: it comes in chunks, and all who have it can tell what they
    /// have, all the time.
    fn can_compare(&self, path: usize) -> bool {
        // What comes as differences, comes from one host.
        let mut bases = self.plan.bases.iter().flat_map(|bases| &bases.bases);
        if bases.any(|base| base.path == path) {
            return false;
        }
        let has = |host: &&plan::Host| host.copies.iter().any(|copy| copy.path == path);
        let first = self.plan.hosts.iter().find(has);
        let can = |host: &plan::Host| {
            let mut copies = host.copies.iter();
            copies.all(|copy| copy.path != path || copy.is_always_there())
                && match host.login {
                    plan::Login::Shell => true,
                    plan::Login::Forced | plan::Login::Refuses => host.is_ours,
                    plan::Login::Silent => false,
                }
                && host.is_up()
                && host.stalls.is_empty()
                && host.sessions == usize::MAX
                && host.max_connections > 2
                // Else a caller may begin before it is known that this host has the path: it waits for the first one only.
                && host.latency <= FAST_ANSWER
                && first.is_none_or(|first| host.latency <= first.latency)
        };
        self.plan.hosts.iter().filter(has).all(can)
    }

    fn blame(&self) -> Vec<String> {
        let mut offences = Vec::new();
        let host = |name: &str| self.plan.hosts.iter().find(|host| host.name == name);
        let is_good = |host: &plan::Host| host.is_up() && host.stalls.is_empty();
        for name in &self.failing {
            if host(name).is_some_and(is_good) {
                offences.push(format!("host {name} counts as failing"));
            }
        }
        let has_wrong = |host: &plan::Host| host.copies.iter().any(|copy| copy.wrong.is_some());
        for told in self
            .watch
            .told
            .lock()
            .expect("no test panics in there")
            .iter()
        {
            let Some(host) = told.host.as_deref().and_then(host) else {
                continue;
            };
            let is_blamed = match told.is_remote {
                true => is_good(host),
                false if told.differs => !self.plan.hosts.iter().any(has_wrong),
                false => !has_wrong(host),
            };
            if is_blamed {
                offences.push(format!("a user is told: {}", told.text));
            }
        }
        offences
    }
}
