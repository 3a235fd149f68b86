//! A link with latency: this program, started again as ssh's ProxyCommand.
//!
//! ```text
//! compare delay-line HOST PORT ONE_WAY RATE SHARED COUNTS
//!
//! ONE_WAY  delay of each direction, in microseconds
//! RATE     bytes per second from the host, 0 for no limit
//! SHARED   file through which all connections to a host share the rate, or -
//! COUNTS   folder where round trips and bytes from the host are counted, one file for each connection, or -
//! ```
//!
//! Each direction has a thread that reads and stamps, and one that waits until the stamp is due and writes. Only time is
//! added: up to [`IN_FLIGHT`] bytes may be on the way, far more than OpenSSH lets be unacknowledged. The rate is kept where
//! bytes are read, so that a sender feels it, as it would on a real link.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};
use rustix::net::sockopt::set_socket_recv_buffer_size;

/// The word that starts this instead of the table.
pub const NAME: &str = "delay-line";
/// Bytes on the way in one direction before its reader has to wait.
const IN_FLIGHT: usize = 256 << 20;
/// One read of a link without a rate.
const PIECE: usize = 256 << 10;
/// One read of a link with a rate: a few milliseconds' worth, so that connections share it evenly.
const SMALL_PIECE: usize = 32 << 10;
/// What the kernel may hold of a link with a rate: more would be a queue that real links don't have.
const SMALL_BUFFER: usize = 128 << 10;
/// How much of an unused rate may be caught up with: sleeps last longer than asked for.
const BURST: Duration = Duration::from_millis(10);

/// Runs until either side closes.
pub fn run(args: &[String]) -> std::io::Result<()> {
    let [host, port, one_way, rate, shared, counts] = args else {
        return Err(std::io::Error::other("six arguments"));
    };
    let number = |text: &str| text.parse::<u64>().map_err(std::io::Error::other);
    let delay = Duration::from_micros(number(one_way)?);
    let path = |text: &str| (text != "-").then(|| PathBuf::from(text));
    let rate = match number(rate)? {
        0 => None,
        bytes => Some(Rate::new(bytes, path(shared).as_deref())?),
    };
    let port = u16::try_from(number(port)?).map_err(std::io::Error::other)?;
    // What connecting costs on a real link: one round trip.
    thread::sleep(delay * 2);
    let socket = TcpStream::connect((host.as_str(), port))?;
    socket.set_nodelay(true)?;
    if rate.is_some() {
        set_socket_recv_buffer_size(&socket, SMALL_BUFFER)?;
    }

    let trips = match path(counts) {
        Some(folder) => Some(Trips::new(&folder, delay * 2)?),
        None => None,
    };
    let answered = Arc::new(AtomicBool::new(true));
    let counted = trips.as_ref().map(|trips| trips.file.try_clone());
    let counted = counted.transpose()?;
    let (up, down) = (Queue::new(), Queue::new());
    let (from, to) = (socket.try_clone()?, socket.try_clone()?);

    thread::spawn({
        let (up, answered) = (Arc::clone(&up), Arc::clone(&answered));
        let mut trips = trips;
        move || {
            let seen = |_| {
                if let Some(trips) = &mut trips {
                    trips.sent(&answered);
                }
            };
            read_all(std::io::stdin().lock(), &up, delay, None, seen);
        }
    });
    thread::spawn({
        let up = Arc::clone(&up);
        move || {
            write_all(&to, &up);
            let _ = to.shutdown(Shutdown::Write);
        }
    });
    thread::spawn({
        let down = Arc::clone(&down);
        let seen = {
            let answered = Arc::clone(&answered);
            let mut bytes = 0;
            move |len: usize| {
                // Passed on later than it is seen here, but what the client does about it comes later still.
                answered.store(true, Ordering::Relaxed);
                bytes += len as u64;
                if let Some(counts) = &counted {
                    let _ = counts.write_all_at(&bytes.to_le_bytes(), 8);
                }
            }
        };
        move || read_all(&from, &down, delay, rate, seen)
    });
    write_all(std::io::stdout().lock(), &down);
    // ssh is gone or the host has closed: the other threads end with the process.
    Ok(())
}

/// Reads to the end, and puts what it read into the queue.
fn read_all(
    mut from: impl Read,
    queue: &Queue,
    delay: Duration,
    mut rate: Option<Rate>,
    mut seen: impl FnMut(usize),
) {
    let mut buffer = vec![0; if rate.is_some() { SMALL_PIECE } else { PIECE }];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if let Some(rate) = &mut rate {
            rate.take(length);
        }
        seen(length);
        queue.put(Some(buffer[..length].to_vec()), Instant::now() + delay);
    }
    queue.put(None, Instant::now() + delay);
}

/// Writes what is due, to the end.
fn write_all(mut to: impl Write, queue: &Queue) {
    loop {
        let (bytes, due) = queue.take();
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let Some(bytes) = bytes else { return };
        if to.write_all(&bytes).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

/// What is on the way.
struct Queue {
    pieces: Mutex<Pieces>,
    changed: Condvar,
}

#[derive(Default)]
struct Pieces {
    queue: VecDeque<(Option<Vec<u8>>, Instant)>,
    bytes: usize,
}

impl Queue {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            pieces: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    fn put(&self, piece: Option<Vec<u8>>, due: Instant) {
        let pieces = self.pieces.lock().expect("the queue");
        let mut pieces = self
            .changed
            .wait_while(pieces, |pieces| pieces.bytes > IN_FLIGHT)
            .expect("the queue");
        pieces.bytes += piece.as_ref().map_or(0, Vec::len);
        pieces.queue.push_back((piece, due));
        self.changed.notify_all();
    }

    fn take(&self) -> (Option<Vec<u8>>, Instant) {
        let pieces = self.pieces.lock().expect("the queue");
        let mut pieces = self
            .changed
            .wait_while(pieces, |pieces| pieces.queue.is_empty())
            .expect("the queue");
        let taken = pieces.queue.pop_front().expect("a piece");
        pieces.bytes -= taken.0.as_ref().map_or(0, Vec::len);
        self.changed.notify_all();
        taken
    }
}

/// A token bucket, its state in a file where connections share it: the time from which on the next byte may pass, in
/// nanoseconds since the epoch, which all processes of the machine see alike.
struct Rate {
    bytes: u64,
    shared: Option<File>,
    own: [u8; 8],
}

impl Rate {
    fn new(bytes: u64, shared: Option<&Path>) -> std::io::Result<Self> {
        let open = |path| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            options.open(path)
        };
        Ok(Self {
            bytes,
            shared: shared.map(open).transpose()?,
            own: [0; 8],
        })
    }

    /// Waits until so many bytes may pass.
    fn take(&mut self, length: usize) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).expect("before the year 2554");
        if let Some(file) = &self.shared {
            flock(file, FlockOperation::LockExclusive).expect("lock the rate");
            // It is empty at first.
            let _ = file.read_exact_at(&mut self.own, 0);
        }
        let now = nanos(
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .expect("a clock"),
        );
        let free = u64::from_le_bytes(self.own).max(now - nanos(BURST));
        let next = free + length as u64 * 1_000_000_000 / self.bytes;
        self.own = next.to_le_bytes();
        if let Some(file) = &self.shared {
            file.write_all_at(&self.own, 0).expect("write the rate");
            flock(file, FlockOperation::Unlock).expect("unlock the rate");
        }
        thread::sleep(Duration::from_nanos(next.saturating_sub(now)));
    }
}

/// Counts round trips: how often the client sends something after it has had an answer, and at least one round trip after
/// the last time counted. So a chain of questions counts each, and requests written ahead count once.
struct Trips {
    file: File,
    rtt: Duration,
    last: Option<Instant>,
    count: u64,
}

impl Trips {
    fn new(folder: &Path, rtt: Duration) -> std::io::Result<Self> {
        let file = File::create(folder.join(std::process::id().to_string()))?;
        Ok(Self {
            file,
            rtt,
            last: None,
            count: 0,
        })
    }

    fn sent(&mut self, answered: &AtomicBool) {
        let passed = self.last.is_none_or(|last| last.elapsed() >= self.rtt);
        if passed && answered.swap(false, Ordering::Relaxed) {
            self.last = Some(Instant::now());
            self.count += 1;
            // At once: ssh kills its ProxyCommand in the end.
            let _ = self.file.write_all_at(&self.count.to_le_bytes(), 0);
        }
    }
}

/// Round trips of all connections that were counted in this folder, and bytes that came from the host.
pub fn counts(folder: &Path) -> (u64, u64) {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let numbers = files.filter_map(|file| {
        let bytes = std::fs::read(file.path()).ok()?;
        let number = |bytes: Option<&[u8]>| {
            let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u64::from_le_bytes)
        };
        Some((number(bytes.get(..8)), number(bytes.get(8..16))))
    });
    numbers.fold((0, 0), |sum, (trips, bytes)| (sum.0 + trips, sum.1 + bytes))
}
