//! Messages for users, on their way to all clients that are attached.

use tokio::sync::broadcast;

use crate::wire::serve::engine::Frame;

/// How many messages wait for a slow client before it misses some.
const QUEUE_LENGTH: usize = 256;

/// Sends messages to all clients, as frames.
#[derive(Debug, Clone)]
pub struct Messages(broadcast::Sender<Frame>);

impl Default for Messages {
    fn default() -> Self {
        Self(broadcast::Sender::new(QUEUE_LENGTH))
    }
}

impl Messages {
    /// Sends a message to the clients that are attached now.
    pub fn send(&self, level: log::Level, text: String) {
        // There may be no client.
        let _ = self.0.send(Frame::Log(level as u64, text));
    }

    /// Reports that a host does not let the engine in, or with an empty `host`, that none can be asked. A client with a
    /// login of its own uses that then, and need not show the message.
    pub fn send_login_refused(&self, host: &str, text: String) {
        let _ = self.0.send(Frame::Closed(host.to_owned(), text));
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Frame> {
        self.0.subscribe()
    }
}
