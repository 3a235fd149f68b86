//! What users should know, on its way to all who are attached.

use tokio::sync::broadcast;

use crate::wire::serve::engine::Frame;

/// How many messages a client may lag behind before it misses some.
const LAG: usize = 256;

/// Where messages are posted: the frames that clients get.
#[derive(Debug, Clone)]
pub struct Messages(broadcast::Sender<Frame>);

impl Default for Messages {
    fn default() -> Self {
        Self(broadcast::Sender::new(LAG))
    }
}

impl Messages {
    /// Tells all clients that are attached now.
    pub fn post(&self, level: log::Level, text: String) {
        // Nobody may be there.
        let _ = self.0.send(Frame::Say(level as u64, text));
    }

    /// Tells all of them that a host does not let the engine in. Clients that have a login of their own
    /// use that then, and need not tell their user. Without a host it is about all of them.
    pub fn post_closed(&self, host: &str, text: String) {
        let _ = self.0.send(Frame::Closed(host.to_owned(), text));
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Frame> {
        self.0.subscribe()
    }
}
