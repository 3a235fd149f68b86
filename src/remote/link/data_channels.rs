//! Channels that only carry bytes to a host, beside the link on which it answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Link, Writer};
use crate::remote::RemoteError;

const DOING: &str = "from a channel that only takes bytes";

/// Owns such channels: dropping it closes them.
#[derive(Default)]
pub(in crate::remote) struct DataChannels {
    /// Each owns one, and ends with it.
    tasks: JoinSet<RemoteError>,
    written: Vec<Arc<AtomicU64>>,
}

impl DataChannels {
    /// Takes in one more. What is to be sent goes into the writer.
    pub(in crate::remote) fn add(&mut self, mut link: Link, room: usize) -> Writer {
        let writer = link.output.writer(room);
        self.written.push(link.output.counter());
        self.tasks.spawn(async move {
            let began = Instant::now();
            loop {
                match link.input.fill().await {
                    Ok(1..) => link.input.buffer().clear(),
                    end => return link.ended(DOING, began, end.err()).await,
                }
            }
        });
        writer
    }

    /// How many bytes they have taken so far.
    pub(in crate::remote) fn written(&self) -> u64 {
        let written = self.written.iter();
        written.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Returns when one of them ends, with the reason. May be dropped and called again.
    pub(in crate::remote) async fn ended(&mut self) -> RemoteError {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(error)) => return error,
                // The panic hook has reported it.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }
}
