//! Which path may go to one host next, and on which lane. No IO.
//!
//! ```text
//! Unknown -> Missing -> InFlight(lane) -> Sent
//!     \-> There      \-> Failed, with what refers to it
//! ```
//!
//! A path may go on a lane once each of its references is there, was acknowledged, or went out before on the same lane,
//! whose host reads strictly in order. What has to wait is parked at the reference it waits for.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::PathFault;
use super::plan::Plan;

/// NARs from this size on have lanes of their own, in bytes: at 100 ms and 2 MiB a round trip it keeps a lane busy for
/// 50 ms.
pub(super) const LARGE: u64 = 1 << 20;

/// A lane, by a number that is never used again.
pub(super) type LaneId = usize;

/// What a lane is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Asks, locks, and sends what is small; large ones only once no small one is left, or nobody else takes them.
    Main,
    /// Sends large ones.
    Large,
    /// Takes blocks: sends the largest first, or everything.
    Blocks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unknown,
    There,
    Missing,
    InFlight(LaneId),
    Sent,
    Failed,
}

/// The state of all paths of a plan at one host.
pub(super) struct Schedule {
    plan: Arc<Plan>,
    states: Vec<State>,
    /// Missing ones that may be able to go, small and large, in the order in which they go: see [`Schedule::rank`].
    open: [BTreeSet<(u64, usize)>; 2],
    /// Missing ones that wait, by the reference that they wait for.
    parked: HashMap<usize, Vec<usize>>,
    /// Small and large ones that are missing, parked ones included.
    missing: [usize; 2],
    in_flight: usize,
    /// Those that refer to a path.
    referrers: Vec<Vec<usize>>,
    faults: Vec<(usize, Arc<PathFault>)>,
    /// How many lanes for large ones there are, or are being opened.
    large_lanes: usize,
    /// The lane that takes blocks gets these.
    wide: BTreeSet<usize>,
    /// Everything goes by this lane, which takes blocks, or is to as soon as it is open.
    only: Option<LaneId>,
    /// What does not go by a lane that takes blocks.
    plain: BTreeSet<usize>,
    asked: bool,
    given_up: bool,
}

impl Schedule {
    pub(super) fn new(plan: Arc<Plan>) -> Self {
        let mut referrers = vec![Vec::new(); plan.items.len()];
        for (place, item) in plan.items.iter().enumerate() {
            for reference in &item.references {
                referrers[*reference].push(place);
            }
        }
        Self {
            states: vec![State::Unknown; plan.items.len()],
            open: Default::default(),
            parked: HashMap::new(),
            missing: [0; 2],
            in_flight: 0,
            referrers,
            faults: Vec::new(),
            large_lanes: 0,
            wide: BTreeSet::new(),
            only: None,
            plain: BTreeSet::new(),
            asked: false,
            given_up: false,
            plan,
        }
    }

    fn is_large(&self, place: usize) -> bool {
        self.plan.info(place).nar_size >= LARGE
    }

    /// Where it stands in the order: small ones as in the plan, large ones by their size, since the largest takes
    /// longest whatever else goes beside it.
    fn rank(&self, place: usize) -> (u64, usize) {
        match self.is_large(place) {
            true => (u64::MAX - self.plan.info(place).nar_size, place),
            false => (0, place),
        }
    }

    fn set_missing(&mut self, place: usize) {
        self.states[place] = State::Missing;
        let kind = usize::from(self.is_large(place));
        self.open[kind].insert(self.rank(place));
        self.missing[kind] += 1;
    }

    /// Takes a path out of those that are missing.
    fn unset_missing(&mut self, place: usize) {
        let kind = usize::from(self.is_large(place));
        self.open[kind].remove(&self.rank(place));
        self.missing[kind] -= 1;
    }

    /// What the host has, of all paths of the plan. What is in flight stays so. Returns how many it had before and lacks
    /// now: they were collected there.
    pub(super) fn set_valid(&mut self, is_valid: impl Fn(usize) -> bool) -> usize {
        self.asked = true;
        let mut lost = 0;
        for place in 0..self.states.len() {
            match (self.states[place], is_valid(place)) {
                (State::Unknown, true) => self.states[place] = State::There,
                (State::Unknown, false) => self.set_missing(place),
                (State::Missing, true) => {
                    self.unset_missing(place);
                    self.states[place] = State::Sent;
                    self.unpark(place);
                }
                (State::There | State::Sent, false) => {
                    lost += 1;
                    self.set_missing(place);
                }
                _ => {}
            }
        }
        lost
    }

    /// The next path for a lane, which is in flight on it from now on.
    pub(super) fn next(&mut self, lane: LaneId, role: Role) -> Option<usize> {
        if self.given_up {
            return None;
        }
        let found = match (role, self.only) {
            (Role::Blocks, Some(only)) if only == lane => {
                let small = self.next_of(lane, 0, Self::is_plain);
                small.or_else(|| self.next_of(lane, 1, Self::is_plain))
            }
            (Role::Main, Some(_)) => self.next_plain(lane),
            (_, Some(_)) => None,
            (Role::Blocks, None) => self.next_of(lane, 1, Self::is_plain),
            (Role::Large, None) => self.next_of(lane, 1, Self::is_wide),
            (Role::Main, None) if self.large_lanes == 0 || self.missing[0] == 0 => {
                let small = self.next_of(lane, 0, Self::is_wide);
                small.or_else(|| self.next_of(lane, 1, Self::is_wide))
            }
            (Role::Main, None) => self.next_of(lane, 0, Self::is_wide),
        };
        let place = found?;
        self.unset_missing(place);
        self.states[place] = State::InFlight(lane);
        self.in_flight += 1;
        self.unpark(place);
        Some(place)
    }

    /// The first one of that kind that can go, other than those for which `is_not_for` it.
    fn next_of(
        &mut self,
        lane: LaneId,
        kind: usize,
        is_not_for: fn(&Self, usize) -> bool,
    ) -> Option<usize> {
        let mut from = (0, 0);
        while let Some((rank, place)) = self.open[kind].range(from..).next().copied() {
            from = (rank, place + 1);
            if is_not_for(self, place) {
                continue;
            }
            match self.waits_for(lane, place) {
                None => return Some(place),
                Some(reference) => {
                    self.open[kind].remove(&(rank, place));
                    self.parked.entry(reference).or_default().push(place);
                }
            }
        }
        None
    }

    /// The first one that can go and does not go by a lane that takes blocks.
    fn next_plain(&self, lane: LaneId) -> Option<usize> {
        let mut plain = self.plain.iter().copied();
        plain.find(|place| {
            self.states[*place] == State::Missing && self.waits_for(lane, *place).is_none()
        })
    }

    /// Whether it does not go by lanes that take blocks.
    pub(super) fn is_plain(&self, place: usize) -> bool {
        self.plain.contains(&place)
    }

    /// Whether it is left to the lane that takes blocks.
    fn is_wide(&self, place: usize) -> bool {
        self.wide.contains(&place) && !self.is_plain(place)
    }

    /// A reference for which that path has to wait on that lane.
    fn waits_for(&self, lane: LaneId, place: usize) -> Option<usize> {
        let references = self.plan.items[place].references.iter().copied();
        let mut late = references.filter(|reference| {
            !matches!(self.states[*reference], State::There | State::Sent)
                && self.states[*reference] != State::InFlight(lane)
        });
        late.next()
    }

    /// Those that waited for a path may be able to go now.
    fn unpark(&mut self, reference: usize) {
        for place in self.parked.remove(&reference).unwrap_or_default() {
            if self.states[place] == State::Missing {
                let kind = usize::from(self.is_large(place));
                self.open[kind].insert(self.rank(place));
            }
        }
    }

    /// The host has taken it.
    pub(super) fn sent(&mut self, place: usize) {
        if let State::InFlight(_) = self.states[place] {
            self.in_flight -= 1;
            self.states[place] = State::Sent;
            self.unpark(place);
        }
    }

    /// A lane has ended: what was in flight on it is missing again.
    pub(super) fn release(&mut self, lane: LaneId) {
        for place in 0..self.states.len() {
            if self.states[place] == State::InFlight(lane) {
                self.in_flight -= 1;
                self.set_missing(place);
            }
        }
    }

    /// It cannot be sent, and neither can what refers to it. `consequence` makes the fault of one of those, of its place
    /// and that of the reference.
    pub(super) fn fail(
        &mut self,
        place: usize,
        fault: Arc<PathFault>,
        consequence: impl Fn(usize, usize) -> PathFault,
    ) {
        let mut due = vec![(place, fault)];
        while let Some((place, fault)) = due.pop() {
            match self.states[place] {
                State::Missing => self.unset_missing(place),
                State::InFlight(_) => self.in_flight -= 1,
                _ => continue,
            }
            self.states[place] = State::Failed;
            self.faults.push((place, fault));
            let referrers = self.referrers[place].iter();
            due.extend(referrers.map(|next| (*next, Arc::new(consequence(*next, place)))));
            self.unpark(place);
        }
    }

    /// Nothing more is tried.
    pub(super) fn give_up(&mut self) {
        self.given_up = true;
    }

    /// Whether nothing is missing or in flight any more, or nothing more is tried.
    pub(super) fn is_finished(&self) -> bool {
        self.given_up || self.asked && self.in_flight == 0 && self.missing == [0, 0]
    }

    /// Whether large ones are missing.
    pub(super) fn has_large(&self) -> bool {
        self.missing[1] > 0
    }

    /// How many small and large ones are missing.
    pub(super) fn missing(&self) -> [usize; 2] {
        self.missing
    }

    /// How many lanes for large ones there are now.
    pub(super) fn large_lanes(&self) -> usize {
        self.large_lanes
    }

    /// How many lanes for large ones there are.
    pub(super) fn set_large_lanes(&mut self, lanes: usize) {
        self.large_lanes = lanes;
    }

    /// A lane for large ones is no more.
    pub(super) fn lose_large_lane(&mut self) {
        self.large_lanes = self.large_lanes.saturating_sub(1);
    }

    /// A lane that takes blocks is being opened, for these first of all.
    pub(super) fn leave_wide(&mut self, places: BTreeSet<usize>) {
        self.wide = places;
    }

    /// From now on everything goes by that lane, which takes blocks.
    pub(super) fn leave_all_to(&mut self, lane: LaneId) {
        self.only = Some(lane);
    }

    /// Whether everything goes by another lane than that.
    pub(super) fn is_left_to_another(&self, lane: LaneId) -> bool {
        self.only.is_some_and(|only| only != lane)
    }

    /// There is no lane that takes blocks any more.
    pub(super) fn lose_blocks(&mut self) {
        self.wide.clear();
        self.only = None;
    }

    /// It does not go by lanes that take blocks.
    pub(super) fn set_plain(&mut self, place: usize) {
        self.plain.insert(place);
    }

    /// How many paths the host had from the beginning.
    pub(super) fn there(&self) -> usize {
        let there = self.states.iter();
        there.filter(|state| **state == State::There).count()
    }

    /// Places of what it has taken.
    pub(super) fn sent_places(&self) -> impl Iterator<Item = usize> {
        let states = self.states.iter().enumerate();
        let sent = states.filter(|(_, state)| **state == State::Sent);
        sent.map(|(place, _)| place)
    }

    /// Places of what it lacks.
    pub(super) fn lacking(&self) -> impl Iterator<Item = usize> {
        let is_lacking = |state: &State| !matches!(state, State::There | State::Sent);
        let states = self.states.iter().enumerate();
        states
            .filter(move |(_, state)| is_lacking(state))
            .map(|(place, _)| place)
    }

    /// Those that are missing and not in flight.
    pub(super) fn open_places(&self) -> Vec<usize> {
        let states = self.states.iter().enumerate();
        let missing = states.filter(|(_, state)| **state == State::Missing);
        missing.map(|(place, _)| place).collect()
    }

    /// What failed, with the reasons.
    pub(super) fn faults(&self) -> &[(usize, Arc<PathFault>)] {
        &self.faults
    }
}

#[cfg(test)]
mod tests;
