//! What users should know, on its way to all who are attached.

use tokio::sync::broadcast;

/// How many messages a client may lag behind before it misses some.
const LAG: usize = 256;

/// A message for the user.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// As the crate `log` numbers them: 1 is an error, 5 the least.
    pub(super) level: u64,
    pub(super) text: String,
}

/// Where messages are posted.
#[derive(Debug, Clone)]
pub struct Messages(broadcast::Sender<Message>);

impl Default for Messages {
    fn default() -> Self {
        Self(broadcast::Sender::new(LAG))
    }
}

impl Messages {
    /// Tells all clients that are attached now.
    pub fn post(&self, level: log::Level, text: String) {
        let level = level as u64;
        // Nobody may be there.
        let _ = self.0.send(Message { level, text });
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Message> {
        self.0.subscribe()
    }
}
