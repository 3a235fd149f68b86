//! The record of logins at an address, and when the next one may be tried.

/// What a refusal costs, in milliseconds: on average, one login in this time may be refused.
const REFUSAL_COST_MS: u64 = 8_000;

/// After a refusal, a host that has let us in gets no further login for so long, in milliseconds;
/// doubled with each refusal that follows.
const MIN_BACKOFF_MS: u64 = 30_000;

/// The longest such pause, in milliseconds; also of sshd's own penalties.
const MAX_BACKOFF_MS: u64 = 600_000;

/// The time over which firewalls count connections, in milliseconds.
const RATE_WINDOW_MS: u64 = 30_000;

/// After so many logins in [`RATE_WINDOW_MS`], a further one waits.
const MAX_LOGINS_PER_WINDOW: usize = 4;

/// Which login it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transport::openssh) enum LoginKind {
    /// The host cannot be used without it.
    First,
    /// The host has let us in: this one is for more channels.
    Further,
}

/// The record of logins at an address. Times are milliseconds of Unix time. They are capped when they are
/// read, at the longest pause from now: clocks may have been set back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LoginRecord {
    /// Failures since a login of the kind that failed last succeeded.
    failures: u64,
    /// Whether that was a further login.
    further: bool,
    /// From when on a further login may be tried.
    further_allowed_at: u64,
    /// When a login was refused last.
    pub(super) last_refusal: u64,
    /// When all refusals will have been worked off, one each [`REFUSAL_COST_MS`].
    paid_at: u64,
    /// The latest logins.
    logins: Vec<u64>,
}

impl LoginRecord {
    pub(super) fn read(text: &str, now: u64) -> Self {
        let mut numbers = text.split_ascii_whitespace().map_while(|n| n.parse().ok());
        let mut next = || numbers.next().unwrap_or(0);
        let (failures, further) = (next(), next() == 1);
        let (further_allowed_at, last_refusal, paid_at) = (next(), next(), next());
        Self {
            failures,
            further,
            further_allowed_at: further_allowed_at.min(now + MAX_BACKOFF_MS),
            last_refusal: last_refusal.min(now),
            paid_at: paid_at.min(now + 2 * REFUSAL_COST_MS),
            logins: numbers
                .take(MAX_LOGINS_PER_WINDOW)
                .filter(|at| *at <= now)
                .collect(),
        }
    }

    pub(super) fn to_line(&self) -> String {
        let further = u64::from(self.further);
        let mut line = format!(
            "{} {further} {} {} {}",
            self.failures, self.further_allowed_at, self.last_refusal, self.paid_at
        );
        for at in &self.logins {
            line.push_str(&format!(" {at}"));
        }
        line + "\n"
    }

    /// How long to wait before a login of this kind, in milliseconds.
    pub(super) fn wait(&self, login: LoginKind, now: u64) -> u64 {
        let refusals = self.paid_at.saturating_sub(now + REFUSAL_COST_MS);
        match login {
            LoginKind::First => refusals,
            LoginKind::Further => {
                let oldest = match self.logins.as_slice() {
                    [oldest, ..] if self.logins.len() >= MAX_LOGINS_PER_WINDOW => {
                        oldest + RATE_WINDOW_MS
                    }
                    _ => 0,
                };
                refusals.max(self.further_allowed_at.max(oldest).saturating_sub(now))
            }
        }
    }

    pub(super) fn record_success(&mut self, login: LoginKind, now: u64) {
        self.push_login(now);
        // A host that was down and is up again, or has room again.
        if login == LoginKind::Further || !self.further {
            (self.failures, self.further, self.further_allowed_at) = (0, false, 0);
        }
    }

    pub(super) fn record_failure(&mut self, login: LoginKind, is_counted: bool, now: u64) {
        self.push_login(now);
        self.failures = self.failures.saturating_add(1);
        self.further |= login == LoginKind::Further;
        let pause = MIN_BACKOFF_MS.saturating_mul(1 << (self.failures - 1).min(16));
        self.further_allowed_at = now + pause.min(MAX_BACKOFF_MS);
        self.last_refusal = now;
        if is_counted {
            self.paid_at = self.paid_at.max(now) + REFUSAL_COST_MS;
        }
    }

    fn push_login(&mut self, now: u64) {
        self.logins.push(now);
        let excess = self.logins.len().saturating_sub(MAX_LOGINS_PER_WINDOW);
        self.logins.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use super::LoginKind::{First, Further};
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    /// As the next process reads it.
    fn next(record: &LoginRecord, now: u64) -> LoginRecord {
        LoginRecord::read(&record.to_line(), now)
    }

    #[test]
    fn after_a_refusal_there_is_no_further_login_for_a_growing_time() {
        let mut record = LoginRecord::default();
        record.record_success(First, NOW);
        assert_eq!(record.wait(Further, NOW), 0);
        let mut now = NOW;
        for pause in [30_000, 60_000, 120_000, 240_000, 480_000, 600_000, 600_000] {
            record.record_failure(Further, false, now);
            record = next(&record, now);
            assert_eq!(record.wait(Further, now), pause);
            assert_eq!(record.wait(First, now), 0);
            record.record_success(First, now);
            assert_eq!(record.wait(Further, now), pause, "that says nothing");
            now += pause;
            assert_eq!(record.wait(Further, now), 0);
        }
        record.record_success(Further, now);
        assert_eq!(record.wait(Further, now), 0);
        record.record_failure(Further, false, now);
        assert_eq!(record.wait(Further, now), 30_000, "short again");
    }

    #[test]
    fn a_host_that_was_down_gets_further_logins_once_it_is_up() {
        let mut record = LoginRecord::default();
        for _ in 0..9 {
            record.record_failure(First, false, NOW);
        }
        assert_eq!(record.wait(First, NOW), 0);
        record.record_success(First, NOW);
        record.logins.clear();
        assert_eq!(record.wait(Further, NOW), 0);
    }

    /// As sshd counts: 5 s for each wrong key, in force from 15 s on. And as `ufw limit` does.
    #[test]
    fn wrong_keys_lock_nobody_out() {
        let (mut record, mut logins) = (LoginRecord::default(), Vec::new());
        let mut penalty = 0;
        for ms in (0..120_000).step_by(500) {
            let now = NOW + ms;
            while record.wait(First, now) == 0 {
                record.record_failure(First, true, now);
                record = next(&record, now);
                logins.push(now);
                penalty = penalty.max(now) + 5_000;
                assert!(penalty - now < 15_000);
            }
        }
        assert_eq!(
            logins[..2],
            [NOW; 2],
            "one wrong key does not hold up the next"
        );
        assert!(logins.len() >= 15, "{}", logins.len());
        let in_a_window = |at: u64| {
            let window = at..at + 30_000;
            logins.iter().filter(|other| window.contains(other)).count()
        };
        assert!(logins.iter().all(|at| in_a_window(*at) < 6));
    }

    #[test]
    fn further_logins_come_in_no_bursts() {
        let mut record = LoginRecord::default();
        for _ in 0..4 {
            assert_eq!(record.wait(Further, NOW), 0);
            record.record_success(Further, NOW);
        }
        assert_eq!(record.wait(Further, NOW + 1_000), 29_000);
        assert_eq!(record.wait(First, NOW), 0);
    }

    #[test]
    fn nonsense_and_clocks_that_were_set_back_hold_up_nobody_for_long() {
        for text in ["", "x", "1 1", "99 1 99999999999999 1 99999999999999 7 x 8"] {
            let record = LoginRecord::read(text, NOW);
            assert!(record.wait(First, NOW) <= REFUSAL_COST_MS, "{text}");
            assert!(record.wait(Further, NOW) <= MAX_BACKOFF_MS, "{text}");
        }
    }
}
