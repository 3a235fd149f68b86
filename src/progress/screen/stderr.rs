//! Writing to stderr without waiting for its reader. Texts are queued, and a thread of its own writes them: a pipe that
//! nobody reads, or a terminal that is stopped, blocks that thread alone. A text that does not fit the queue is dropped.
//!
//! A pipe is written to at once as long as it has room. Nix 1.x reads it only while it waits for an answer: a message about
//! the answer has to be in the pipe before it.
//!
//! Stderr itself stays blocking: O_NONBLOCK belongs to the open file description, which the caller shares.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::sys::pipes;

/// How much may wait to be written, in bytes.
const MAX_QUEUED: usize = 256 << 10;

/// What a pipe takes whole or not at all, in bytes.
const ATOMIC_WRITE: usize = pipes::ATOMIC_WRITE;

/// How long [`drain`] waits while stderr takes nothing.
const DRAIN_IDLE_TIMEOUT: Duration = Duration::from_millis(100);

/// How long [`drain`] waits in all.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// How often [`drain`] checks whether stderr takes something again.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// This process's stderr.
static STDERR: LazyLock<Writer> = LazyLock::new(|| Writer::new(rustix::stdio::stderr()));

/// Queues a text, to be written as it is and in one piece, behind all that were queued before. Never waits.
pub(in crate::progress) fn write(text: &str) {
    STDERR.push(text.as_bytes());
}

/// Whether something waits to be written.
pub(in crate::progress) fn is_busy() -> bool {
    STDERR.queue.lock().is_busy()
}

/// Waits until all is written, but not for a stderr that takes nothing for a tenth of a second.
pub(in crate::progress) fn drain() {
    STDERR.drain();
}

struct Writer {
    fd: BorrowedFd<'static>,
    /// The same pipe, opened again: O_NONBLOCK is set for this descriptor alone.
    pipe: Option<OwnedFd>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    texts: VecDeque<Vec<u8>>,
    /// In all of them.
    bytes: usize,
    /// How many texts the thread has written, and whether it is writing one.
    written: u64,
    writing: bool,
    has_thread: bool,
    /// [`drain`] has timed out, and nothing was written since.
    stuck: bool,
}

impl Queue {
    fn is_busy(&self) -> bool {
        self.writing || !self.texts.is_empty()
    }
}

impl Writer {
    fn new(fd: BorrowedFd<'static>) -> Self {
        Self {
            fd,
            pipe: pipe_of(fd),
            queue: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn push(&'static self, text: &[u8]) {
        let mut queue = self.queue.lock();
        if !queue.is_busy() && self.has_taken(text) {
            return;
        }
        if queue.bytes + text.len() > MAX_QUEUED {
            return;
        }
        if !queue.has_thread {
            let name = "stderr".to_owned();
            let thread = thread::Builder::new().name(name).spawn(|| self.run());
            if thread.is_err() {
                // A process that can have no thread should at least say so.
                if self.takes_something() {
                    self.write(text);
                }
                return;
            }
            queue.has_thread = true;
        }
        queue.bytes += text.len();
        queue.texts.push_back(text.to_vec());
        drop(queue);
        self.changed.notify_all();
    }

    /// Whether a pipe took all of it at once.
    fn has_taken(&self, text: &[u8]) -> bool {
        let pipe = self.pipe.as_ref().filter(|_| text.len() <= ATOMIC_WRITE);
        pipe.is_some_and(|pipe| rustix::io::write(pipe, text) == Ok(text.len()))
    }

    fn run(&self) {
        let mut queue = self.queue.lock();
        loop {
            let Some(text) = queue.texts.pop_front() else {
                self.changed.wait(&mut queue);
                continue;
            };
            queue.writing = true;
            drop(queue);
            self.write(&text);
            queue = self.queue.lock();
            queue.bytes -= text.len();
            queue.written += 1;
            queue.writing = false;
            queue.stuck = false;
            self.changed.notify_all();
        }
    }

    /// Errors are ignored: there is nowhere else to report them.
    fn write(&self, mut text: &[u8]) {
        while !text.is_empty() {
            match rustix::io::write(self.fd, text) {
                Ok(0) => return,
                Ok(len) => text = &text[len..],
                Err(Errno::INTR) => {}
                // Another process with the same stderr has made it non-blocking.
                Err(Errno::AGAIN) => {
                    let _ = poll(
                        &mut [PollFd::from_borrowed_fd(self.fd, PollFlags::OUT)],
                        None,
                    );
                }
                Err(_) => return,
            }
        }
    }

    fn takes_something(&self) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.fd, PollFlags::OUT)];
        // An error, such as a reader that is gone, shows in a write that does not block either.
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    fn drain(&self) {
        let began = Instant::now();
        let mut moved = began;
        let mut queue = self.queue.lock();
        if queue.stuck && !self.takes_something() {
            return;
        }
        let mut written = queue.written;
        while queue.is_busy() {
            self.changed.wait_for(&mut queue, POLL_INTERVAL);
            if queue.written != written || self.takes_something() {
                written = queue.written;
                moved = Instant::now();
            }
            if moved.elapsed() >= DRAIN_IDLE_TIMEOUT || began.elapsed() >= DRAIN_TIMEOUT {
                queue.stuck = true;
                return;
            }
        }
    }
}

/// A pipe opened anew, where that can be.
fn pipe_of(fd: BorrowedFd<'_>) -> Option<OwnedFd> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(fd).ok()?.st_mode);
    let path = pipes::path_of(fd).ok()?;
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = || rustix::fs::open(path, flags, Mode::empty()).ok();
    (kind == FileType::Fifo).then(open)?
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::{AsFd, OwnedFd};

    use super::*;

    /// A pipe; the side for writing and all that uses it lives as long as the process.
    fn pipe() -> (std::fs::File, &'static Writer) {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let write: &'static OwnedFd = Box::leak(Box::new(write));
        (read.into(), Box::leak(Box::new(Writer::new(write.as_fd()))))
    }

    #[test]
    fn all_comes_in_order_and_in_one_piece() {
        let (mut read, writer) = pipe();
        let texts: Vec<String> = (0..1000).map(|number| format!("line {number}\n")).collect();
        texts.iter().for_each(|text| writer.push(text.as_bytes()));
        writer.drain();
        let all = texts.concat();
        let mut got = vec![0; all.len()];
        read.read_exact(&mut got).unwrap();
        assert_eq!(String::from_utf8(got).unwrap(), all);
        assert!(!writer.queue.lock().is_busy());
    }

    #[test]
    fn nobody_waits_for_a_pipe_that_nobody_reads() {
        let (mut read, writer) = pipe();
        let began = Instant::now();
        let line = format!("{}\n", "x".repeat(999));
        for _ in 0..10_000 {
            writer.push(line.as_bytes());
        }
        assert!(began.elapsed() < Duration::from_secs(2), "a push waited");
        assert!(writer.queue.lock().bytes <= MAX_QUEUED);
        let began = Instant::now();
        writer.drain();
        let took = began.elapsed();
        assert!(
            took >= DRAIN_IDLE_TIMEOUT && took < DRAIN_TIMEOUT,
            "{took:?}"
        );
        // The second time it is known.
        let began = Instant::now();
        writer.drain();
        assert!(began.elapsed() < DRAIN_IDLE_TIMEOUT);
        // Whoever begins to read gets whole lines, and what is written then.
        let reader = thread::spawn(move || {
            let mut all = Vec::new();
            while !all.ends_with(b"end\n") {
                let mut some = [0; 4096];
                let len = read.read(&mut some).unwrap();
                all.extend_from_slice(&some[..len]);
            }
            String::from_utf8(all).unwrap()
        });
        while writer.queue.lock().is_busy() {
            thread::sleep(POLL_INTERVAL);
        }
        writer.push(b"end\n");
        let all = reader.join().unwrap();
        assert!(
            all.len() > MAX_QUEUED && all.len() < 2 * MAX_QUEUED,
            "{}",
            all.len()
        );
        let mut lines = all.lines();
        assert_eq!(lines.next_back(), Some("end"));
        assert!(lines.all(|text| text == line.trim_end()));
    }

    #[test]
    fn one_that_does_not_block_gets_all_the_same() {
        let (mut read, writer) = pipe();
        let flags = rustix::fs::fcntl_getfl(writer.fd).unwrap();
        rustix::fs::fcntl_setfl(writer.fd, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
        let text = vec![b'x'; MAX_QUEUED];
        writer.push(&text);
        let mut got = vec![0; text.len()];
        read.read_exact(&mut got).unwrap();
        assert_eq!(got, text);
    }
}
