//! How quickly a host answers, as measured.

use std::time::Duration;

/// The shortest times in which a host answered: upper bounds of the link's round trip.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// From a question on a connection without other pending replies to the first byte of its reply, or from
    /// asking for a channel to its being open.
    exchange: Option<Duration>,
    /// From our hello to the end of theirs. The program has to start in between.
    hello: Option<Duration>,
}

impl Latency {
    /// Of a connection whose channel took that long to open, where it is known: that is an exchange too.
    pub(in crate::remote) fn of_opening(took: Option<Duration>) -> Self {
        Self {
            exchange: took,
            hello: None,
        }
    }

    /// Records how long the handshake took.
    pub(in crate::remote) fn record_handshake(&mut self, took: Duration) {
        self.hello = shorter(self.hello, Some(took));
    }

    /// Records how long a question took.
    pub(in crate::remote) fn record_exchange(&mut self, took: Duration) {
        self.exchange = shorter(self.exchange, Some(took));
    }

    /// Takes in the times of another connection to the same host.
    pub(crate) fn merge(&mut self, other: Self) {
        self.exchange = shorter(self.exchange, other.exchange);
        self.hello = shorter(self.hello, other.hello);
    }

    /// The best upper bound of the round trip: by a question if one was answered, by the handshake otherwise;
    /// `None` before either.
    #[must_use]
    pub fn shortest(self) -> Option<Duration> {
        self.exchange.or(self.hello)
    }
}

fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_shortest_exchange_counts_and_the_handshake_only_without_one() {
        let mut seen = Latency::default();
        assert_eq!(seen.shortest(), None);
        seen.record_handshake(ms(30));
        seen.record_handshake(ms(50));
        assert_eq!(seen.shortest(), Some(ms(30)));
        for (took, shortest) in [(40, 40), (20, 20), (25, 20)] {
            seen.record_exchange(ms(took));
            assert_eq!(seen.shortest(), Some(ms(shortest)));
        }
    }

    #[test]
    fn connections_are_taken_together() {
        let mut one = Latency::of_opening(None);
        one.record_handshake(ms(9));
        let mut other = Latency::of_opening(Some(ms(8)));
        other.record_exchange(ms(7));
        one.merge(other);
        assert_eq!(one.shortest(), Some(ms(7)));
        other.record_exchange(ms(5));
        one.merge(other);
        one.merge(Latency::default());
        assert_eq!(one.shortest(), Some(ms(5)));
    }
}
