//! A slow way to an sshd: it lets so many bytes a second through in one direction, counts them, and can be cut. Or a long one,
//! where they take their time in both.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// How many bytes pass at once.
const PIECE: usize = 16 << 10;

/// How many pieces may be on a long way.
const FAR_PIECES: usize = 4096;

pub struct Relay {
    port: u16,
    line: Arc<Line>,
}

struct Line {
    /// Bytes a second.
    rate: u64,
    /// Whether that is for what goes to the server, and not for what comes from it.
    is_upwards: bool,
    /// How long bytes take in each direction.
    delay: Duration,
    came: AtomicU64,
    is_cut: AtomicBool,
    /// When the next piece may pass.
    next: Mutex<Instant>,
    open: Mutex<Vec<TcpStream>>,
}

impl Relay {
    pub fn new(upstream: u16, rate: u64) -> Self {
        Self::with(upstream, rate, false, Duration::ZERO)
    }

    /// Slow for what goes to the server, which is also what is counted.
    pub fn upwards(upstream: u16, rate: u64) -> Self {
        Self::with(upstream, rate, true, Duration::ZERO)
    }

    /// So far away, there and back; what goes to the server is counted.
    pub fn far(upstream: u16, round_trip: Duration) -> Self {
        Self::with(upstream, u64::MAX, true, round_trip / 2)
    }

    fn with(upstream: u16, rate: u64, is_upwards: bool, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let line = Arc::new(Line {
            rate,
            is_upwards,
            delay,
            came: AtomicU64::new(0),
            is_cut: AtomicBool::new(false),
            next: Mutex::new(Instant::now()),
            open: Mutex::default(),
        });
        let shared = line.clone();
        thread::spawn(move || accept(&listener, upstream, &shared));
        Self { port, line }
    }

    /// The URL of the host at `upstream`, by this way.
    pub fn url(&self, upstream: u16, url: &str) -> String {
        url.replace(&format!(":{upstream}"), &format!(":{}", self.port))
    }

    /// Bytes that have passed in the slow direction so far, from the host as a rule.
    pub fn came(&self) -> u64 {
        self.line.came.load(Ordering::SeqCst)
    }

    /// Ends all connections; there are no new ones.
    pub fn cut(&self) {
        self.line.is_cut.store(true, Ordering::SeqCst);
        for stream in self.line.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        self.line.is_cut.store(false, Ordering::SeqCst);
    }
}

fn accept(listener: &TcpListener, upstream: u16, line: &Arc<Line>) {
    for stream in listener.incoming() {
        let Ok(client) = stream else { return };
        if line.is_cut.load(Ordering::SeqCst) {
            continue;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)) else {
            continue;
        };
        let copy = |stream: &TcpStream| stream.try_clone().unwrap();
        line.open
            .lock()
            .unwrap()
            .extend([copy(&client), copy(&server)]);
        let (from, to) = (copy(&client), copy(&server));
        let (up, down) = (line.clone(), line.clone());
        thread::spawn(move || pass(from, to, up.delay, |len| up.passes(len, true)));
        thread::spawn(move || pass(server, client, down.delay, |len| down.passes(len, false)));
    }
}

impl Line {
    fn passes(&self, len: usize, is_upwards: bool) {
        if is_upwards != self.is_upwards {
            return;
        }
        let wait = {
            let mut next = self.next.lock().unwrap();
            let now = Instant::now();
            *next = (*next).max(now) + Duration::from_secs_f64(len as f64 / self.rate as f64);
            *next - now
        };
        thread::sleep(wait);
        self.came.fetch_add(len as u64, Ordering::SeqCst);
    }
}

fn pass(mut from: TcpStream, to: TcpStream, delay: Duration, before: impl Fn(usize)) {
    // What is on its way, and when it is there.
    let pieces = if delay.is_zero() { 0 } else { FAR_PIECES };
    let (sender, due) = mpsc::sync_channel::<(Instant, Vec<u8>)>(pieces);
    let mut writer = to.try_clone().unwrap();
    let writing = thread::spawn(move || {
        for (at, bytes) in due {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if writer.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = writer.shutdown(Shutdown::Both);
    });
    let mut buf = [0; PIECE];
    while let Ok(len @ 1..) = from.read(&mut buf) {
        before(len);
        let piece = (Instant::now() + delay, buf[..len].to_vec());
        if sender.send(piece).is_err() {
            break;
        }
    }
    drop(sender);
    let _ = writing.join();
    let _ = from.shutdown(Shutdown::Both);
}
