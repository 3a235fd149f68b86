//! A shell that becomes a serve program which is given blocks: see [`crate::remote::blocks`].

use std::time::Duration;

use bytes::Buf;
use tokio::time::{Instant, timeout_at};

use super::Shell;
use super::command;
use super::dumps::serve_words;
use super::output::{Output, Step};
use crate::config::host::Host;
use crate::remote::link::Link;
use crate::remote::{RemoteError, RemoteErrorKind};

/// The longest process id, in bytes.
const PID_MAX: usize = 20;

const READY: &str = "whether blocks can be taken";

/// What was a shell.
pub(in crate::remote) struct TakesBlocks {
    /// What goes in is blocks (or, with pipes, a line when all of them are in use), what comes out is the serve program's.
    pub(in crate::remote) link: Link,
    /// The process that has the pipes.
    pid: String,
    nonce: String,
}

impl Shell {
    /// Has the serve program of `host` take blocks: from this channel, or from so many pipes. `None` when what is needed is
    /// not there.
    ///
    /// # Errors
    /// When the link breaks, or nothing comes for as long as `limit`.
    pub(in crate::remote) async fn take_blocks(
        mut self,
        host: &Host,
        pipes: usize,
        limit: Duration,
    ) -> Result<Option<TakesBlocks>, RemoteError> {
        let deadline = Instant::now() + limit;
        self.leave_path();
        let number = self.number();
        let line = command::take_blocks(&serve_words(host, true), pipes, number);
        let mut output = Output::new(&self.nonce, number, PID_MAX);
        self.link.output.send_bytes(line);
        let began = Instant::now();
        loop {
            match output.step(self.link.input.peek()) {
                Step::NeedMore => {}
                Step::TooLong => return Ok(None),
                Step::Done(len, status) => {
                    let pid = String::from_utf8_lossy(&self.link.input.peek()[..len]).into_owned();
                    let is_pid = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
                    self.link.input.buffer().advance(len + command::TRAILER);
                    return Ok((status == 0 && is_pid).then_some(TakesBlocks {
                        link: self.link,
                        pid,
                        nonce: self.nonce,
                    }));
                }
            }
            match timeout_at(deadline, self.link.input.fill()).await {
                Ok(Ok(1..)) => {}
                Ok(end) => return Err(self.link.ended(READY, began, end.err()).await),
                Err(_) => {
                    let after = limit;
                    let kind = RemoteErrorKind::Silent {
                        doing: READY,
                        after,
                    };
                    return Err(self.link.error(kind));
                }
            }
        }
    }
}

impl TakesBlocks {
    /// What a shell on another channel is to run, which then passes all that comes into the pipe of that number, and what it
    /// prints when it is ready to.
    pub(in crate::remote) fn pipe_script(&self, pipe: usize) -> (String, String) {
        let (pid, nonce) = (&self.pid, &self.nonce);
        let fd = command::FIRST_PIPE + pipe;
        let (first, second) = nonce.split_at(nonce.len() / 2);
        // Its stdout stays open as long as it runs, so that its end shows.
        let script = format!(
            "{{ exec 4>/proc/{pid}/fd/{fd}&&printf '=%s%s;' {first} {second}&&exec cat 5>&1 >&4;exit 1;}}\n"
        );
        (script, format!("={nonce};"))
    }
}
