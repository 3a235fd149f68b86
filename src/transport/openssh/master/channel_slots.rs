//! How many channels this process has on each master.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// sshd allows 10 sessions on a connection by default (`MaxSessions`, sshd_config(5)); a bit less
/// leaves room for other processes on the same master.
pub(in crate::transport::openssh) const MAX_CHANNELS_PER_MASTER: u8 = 8;

#[derive(Default)]
pub(in crate::transport::openssh) struct ChannelSlots {
    taken: Mutex<HashMap<String, u8>>,
}

impl ChannelSlots {
    /// Takes a slot on that master; `None` when all are taken.
    pub(in crate::transport::openssh) fn take(
        self: &Arc<Self>,
        master: &str,
    ) -> Option<ChannelSlot> {
        let mut taken = self.taken.lock();
        let count = taken.entry(master.to_owned()).or_default();
        if *count >= MAX_CHANNELS_PER_MASTER {
            return None;
        }
        *count += 1;
        Some(ChannelSlot {
            slots: Arc::clone(self),
            master: master.to_owned(),
        })
    }
}

/// A channel's slot on a master; dropping it frees the slot.
pub(in crate::transport::openssh) struct ChannelSlot {
    slots: Arc<ChannelSlots>,
    master: String,
}

impl Drop for ChannelSlot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock();
        if let Some(count) = taken.get_mut(&self.master) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.master);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_and_given_back() {
        let slots = Arc::new(ChannelSlots::default());
        let mut held: Vec<_> = (0..MAX_CHANNELS_PER_MASTER)
            .map(|_| slots.take("a").unwrap())
            .collect();
        assert!(slots.take("a").is_none());
        assert!(slots.take("b").is_some());
        held.pop();
        assert!(slots.take("a").is_some());
        drop(held);
        assert!(slots.taken.lock().is_empty());
    }
}
