//! Which program an account starts: how it has to be asked for, and whether it is a daemon instead of a serve
//! loop.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use crate::config::host::Host;
use crate::transport::{Program, Transport};

/// What a client of the worker protocol says first, and what its server answers (Nix,
/// `libstore/worker-protocol.hh`; unchanged since Nix 0.12).
const WORKER_HELLO: u64 = 0x6e69_7863;
const WORKER_ANSWER: u64 = 0x6478_696f;

/// How much is read before that answer, in bytes: start-up files of login shells print too.
const BANNER_MAX: u64 = 64 << 10;

/// How long a daemon may take to answer; it looks nothing up for this.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(5);

/// How the serve program of one host has to be asked for, as far as is known. To be kept for as long as
/// connections to the host are made.
#[derive(Debug, Default)]
pub struct LearntProgram(AtomicU8);

impl LearntProgram {
    /// What to ask for: as the host's URL says, unless something else is known to work.
    #[must_use]
    pub fn get(&self) -> Program {
        match self.0.load(Ordering::Relaxed) {
            1 => Program::InUsualPlaces,
            2 => Program::WithWrite,
            3 => Program::WithWriteInUsualPlaces,
            _ => Program::AsConfigured,
        }
    }

    /// Records what has worked.
    pub(super) fn record(&self, program: Program) {
        let number = match program {
            Program::InUsualPlaces => 1,
            Program::WithWrite => 2,
            Program::WithWriteInUsualPlaces => 3,
            Program::AsConfigured | Program::Shell => 0,
        };
        self.0.store(number, Ordering::Relaxed);
    }
}

/// Whether what a program said before it ended may be the daemon's: it takes our hello for a wrong one,
/// or, where it passes on to another process, sees only that this one closed the connection. Some say
/// nothing.
pub(super) fn may_be_a_daemon(stderr: &str) -> bool {
    let stderr = stderr.to_lowercase();
    stderr.trim().is_empty()
        || ["protocol mismatch", "daemon"]
            .iter()
            .any(|w| stderr.contains(w))
}

/// Whether what the account starts speaks the worker protocol, as `nix-daemon --stdio` does.
pub(super) async fn is_a_daemon(transport: &dyn Transport, host: &Host, deadline: Instant) -> bool {
    let deadline = deadline.min(Instant::now() + DAEMON_TIMEOUT);
    let answer = async {
        let mut channel = transport.open(host, Program::AsConfigured).await.ok()?;
        channel
            .stdin
            .write_all(&WORKER_HELLO.to_le_bytes())
            .await
            .ok()?;
        channel.stdin.flush().await.ok()?;
        let mut output = channel.stdout.take(BANNER_MAX);
        let mut got = Vec::new();
        while !got.ends_with(&WORKER_ANSWER.to_le_bytes()) {
            got.push(output.read_u8().await.ok()?);
        }
        Some(())
    };
    matches!(timeout_at(deadline, answer).await, Ok(Some(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learnt_is_given_again() {
        let learnt = LearntProgram::default();
        assert_eq!(learnt.get(), Program::AsConfigured);
        for program in [
            Program::InUsualPlaces,
            Program::WithWrite,
            Program::WithWriteInUsualPlaces,
            Program::AsConfigured,
        ] {
            learnt.record(program);
            assert_eq!(learnt.get(), program);
        }
    }
}
