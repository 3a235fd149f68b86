//! Room for what is read ahead for one caller: in memory, and on disk for large NARs when that is used up.

use std::sync::Arc;

use super::budget::{ByteBudget, CallerBudget, Reservation};
use super::spill::Spill;
use crate::transfer::chunks::MIN_NAR_SIZE;

/// The memory that a NAR takes, in bytes: a bit more than its size, for the blocks that it comes in.
fn in_memory(nar_size: u64) -> u64 {
    nar_size.saturating_add(nar_size / 16)
}

/// One caller's share of memory and disk.
pub(super) struct CallerRoom {
    memory: Arc<CallerBudget>,
    disk: Option<(Arc<Spill>, Arc<CallerBudget>)>,
}

/// Room for one NAR.
pub(super) struct Room {
    pub(super) reservation: Reservation,
    /// It is on disk.
    pub(super) spill: Option<Arc<Spill>>,
}

impl CallerRoom {
    pub(super) fn new(memory: Arc<ByteBudget>, spill: Option<Arc<Spill>>) -> Self {
        let share = |spill: Arc<Spill>| {
            let budget = CallerBudget::new(spill.budget.clone());
            (spill, Arc::new(budget))
        };
        Self {
            memory: Arc::new(CallerBudget::new(memory)),
            disk: spill.map(share),
        }
    }

    /// Whether nothing may be held.
    pub(super) fn is_none(&self) -> bool {
        self.memory.largest() == 0
    }

    /// Whether there may ever be room for a NAR.
    pub(super) fn may_suit(&self, nar_size: u64) -> bool {
        let disk = self.disk.as_ref();
        let on_disk = || disk.is_some_and(|(_, budget)| nar_size <= budget.largest());
        !self.is_none()
            && (in_memory(nar_size) <= self.memory.largest()
                || (nar_size >= MIN_NAR_SIZE && on_disk()))
    }

    /// The same as long as the disk is as it is.
    pub(super) fn suits(&self, nar_size: u64) -> bool {
        let is_usable = || {
            self.disk
                .as_ref()
                .is_some_and(|(spill, _)| spill.is_usable())
        };
        let fits_memory = in_memory(nar_size) <= self.memory.largest();
        self.may_suit(nar_size) && (fits_memory || is_usable())
    }

    /// Room for a NAR in memory, if there is some.
    pub(super) fn in_memory(&self, nar_size: u64) -> Option<Room> {
        Some(Room {
            reservation: self.memory.reserve(in_memory(nar_size))?,
            spill: None,
        })
    }

    /// Room for a NAR in memory, else on disk. Small ones are not worth a file.
    pub(super) fn anywhere(&self, nar_size: u64) -> Option<Room> {
        if let Some(room) = self.in_memory(nar_size) {
            return Some(room);
        }
        let (spill, _) = self.disk.as_ref().filter(|(spill, _)| spill.is_usable())?;
        if self.is_none() || nar_size < MIN_NAR_SIZE {
            return None;
        }
        Some(Room {
            reservation: self.for_reader(nar_size, true)?,
            spill: Some(spill.clone()),
        })
    }

    /// What one more reader reserves of a NAR that is in memory or on disk already.
    pub(super) fn for_reader(&self, nar_size: u64, is_on_disk: bool) -> Option<Reservation> {
        match &self.disk {
            Some((_, budget)) if is_on_disk => Some(budget.reserve(nar_size)?.kept()),
            _ => self.memory.reserve(in_memory(nar_size)),
        }
    }

    /// The same for a reader that reads it at once, whether there is room or not.
    pub(super) fn for_reader_anyway(&self, nar_size: u64, is_on_disk: bool) -> Reservation {
        match &self.disk {
            Some((_, budget)) if is_on_disk => budget.reserve_anyway(nar_size).kept(),
            _ => self.memory.reserve_anyway(in_memory(nar_size)),
        }
    }

    /// The caller fetches so many bytes here, not elsewhere.
    pub(super) fn caller_fetches(&self, bytes: u64) {
        self.memory.caller_fetches(bytes);
        if let Some((_, budget)) = &self.disk {
            budget.caller_fetches(bytes);
        }
    }

    /// Whether little more can be held.
    pub(super) fn is_nearly_full(&self) -> bool {
        let disk = self.disk.as_ref();
        self.memory.is_nearly_full() || disk.is_some_and(|(_, budget)| budget.is_nearly_full())
    }
}
