//! A far end: it lets us in or not, starts serve loops and shells, and breaks as its plan says.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use ssh_substituter::transport::{Channel, Child, Program, TransportError, TransportErrorKind};
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::link::{Gone, Link, Pipe, Reader, Writer};
use super::plan::{self, Cut, Login};
use super::store::Store;
use super::trace::Trace;
use super::{serve, shell_loop};

/// How many round trips a login takes.
const LOGIN: u32 = 5;

pub struct Host {
    pub plan: plan::Host,
    pub store: Store,
    pub link: Link,
    start: Instant,
    pub trace: Arc<Trace>,
    /// Contents of paths that were sent, in bytes.
    pub sent: AtomicU64,
    /// Those of them that faults made useless.
    pub lost: AtomicU64,
    /// What a shell was sent and this one does not know.
    pub misread: Mutex<Option<String>>,
    /// When its line was cut.
    pub cut_at: Mutex<Vec<Instant>>,
    login: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_logged_in: bool,
    channels: BTreeMap<u64, Pipes>,
    next: u64,
    cuts: VecDeque<Cut>,
}

#[derive(Clone)]
struct Pipes {
    up: Pipe,
    down: Pipe,
    stderr: Pipe,
    sent: Arc<Mutex<Sent>>,
}

/// What has been sent on one channel, in bytes.
#[derive(Default)]
struct Sent {
    all: u64,
    /// Contents, of an answer that is not complete.
    unfinished: u64,
    /// Where complete answers end, and the contents in each.
    answers: VecDeque<(u64, u64)>,
}

impl Pipes {
    fn sent(&self) -> MutexGuard<'_, Sent> {
        self.sent.lock().expect("no test panics in there")
    }

    /// Contents of answers whose end has not been read.
    fn open(&self) -> u64 {
        let sent = self.sent();
        let read = sent.all - self.down.unread();
        let open = sent.answers.iter().filter(|(end, _)| *end > read);
        sent.unfinished + open.map(|(_, contents)| contents).sum::<u64>()
    }
}

/// A channel as the program at its far end sees it.
pub struct Far {
    pub host: Arc<Host>,
    number: u64,
    input: Reader,
    pub buf: BytesMut,
    pipes: Pipes,
    ended: Arc<Ended>,
}

/// What became of a program.
#[derive(Default)]
struct Ended {
    status: Mutex<Option<Option<i32>>>,
    news: Notify,
}

impl Host {
    pub fn new(plan: plan::Host, store: Store, start: Instant, trace: Arc<Trace>) -> Arc<Self> {
        let stalls = plan.stalls.iter();
        let stalls = stalls.map(|(from, to)| (start + *from, start + *to));
        let state = State {
            cuts: plan.cuts.iter().copied().collect(),
            ..State::default()
        };
        Arc::new(Self {
            link: Link::new(plan.rate, plan.latency, stalls.collect()),
            plan,
            store,
            start,
            trace,
            sent: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            misread: Mutex::default(),
            cut_at: Mutex::default(),
            login: tokio::sync::Mutex::default(),
            state: Mutex::new(state),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics in there")
    }

    pub fn note(&self, what: std::fmt::Arguments<'_>) {
        self.trace.note(format_args!("{} {what}", self.plan.name));
    }

    /// Breaks and falls silent when its time has come.
    pub async fn live(self: Arc<Self>) {
        let outages = self.plan.outages.iter();
        let outages = outages.map(|outage| (outage.from, Some(outage.is_silent)));
        let stalls = self.plan.stalls.iter().map(|(from, _)| (*from, None));
        let mut all: Vec<_> = outages.chain(stalls).collect();
        all.sort_unstable();
        for (at, is_silent) in all {
            sleep_until(self.start + at).await;
            match is_silent {
                Some(is_silent) => {
                    self.note(format_args!("outage, silent: {is_silent}"));
                    self.break_off(is_silent);
                }
                None => {
                    self.note(format_args!("stall"));
                    self.lose(self.lock().channels.values());
                }
            }
        }
    }

    /// What has been sent on these channels may have to be sent again.
    fn lose<'a>(&self, channels: impl Iterator<Item = &'a Pipes>) {
        let lost = channels.map(Pipes::open).sum();
        self.lost.fetch_add(lost, Ordering::Relaxed);
    }

    /// All channels end.
    fn break_off(&self, is_silent: bool) {
        let channels = {
            let mut state = self.lock();
            state.is_logged_in = false;
            std::mem::take(&mut state.channels)
        };
        self.lose(channels.values());
        for pipes in channels.into_values() {
            for pipe in [pipes.up, pipes.down, pipes.stderr] {
                match is_silent {
                    true => pipe.fall_silent(),
                    false => pipe.cut(),
                }
            }
        }
    }

    fn outage(&self) -> Option<&plan::Outage> {
        let now = Instant::now() - self.start;
        let mut outages = self.plan.outages.iter();
        outages.find(|outage| (outage.from..outage.to).contains(&now))
    }

    /// Fails, or never returns, while nobody gets through.
    async fn reach(&self) -> Result<(), TransportError> {
        match self.outage() {
            None => Ok(()),
            Some(outage) if outage.is_silent => std::future::pending().await,
            Some(_) => {
                sleep(2 * self.link.latency).await;
                Err(TransportError::new(
                    self.plan.name,
                    TransportErrorKind::Refused,
                ))
            }
        }
    }

    pub async fn open(self: &Arc<Self>, program: Program) -> Result<Channel, TransportError> {
        self.note(format_args!("open {program:?}"));
        let round_trip = 2 * self.link.latency;
        let mut opened_in = None;
        {
            let _login = self.login.lock().await;
            self.reach().await?;
            if !self.lock().is_logged_in {
                sleep(LOGIN * round_trip + Duration::from_millis(50)).await;
                self.reach().await?;
                self.lock().is_logged_in = true;
            } else {
                opened_in = Some(round_trip);
            }
        }
        sleep(round_trip).await;
        self.reach().await?;
        let pipe = || Pipe::new(self.link.latency);
        let pipes = Pipes {
            up: pipe(),
            down: pipe(),
            stderr: pipe(),
            sent: Arc::default(),
        };
        let number = {
            let mut state = self.lock();
            if state.channels.len() >= self.plan.sessions {
                self.note(format_args!("one channel too many"));
                let kind = TransportErrorKind::SessionRefused;
                return Err(TransportError::new(self.plan.name, kind));
            }
            state.next += 1;
            let number = state.next;
            state.channels.insert(number, pipes.clone());
            number
        };
        let ended = Arc::<Ended>::default();
        let far = Far {
            host: self.clone(),
            number,
            input: Reader::new(&pipes.up),
            buf: BytesMut::new(),
            pipes: pipes.clone(),
            ended: ended.clone(),
        };
        tokio::spawn(run(far, program));
        Ok(Channel {
            stdin: Box::new(Writer::new(&pipes.up)),
            stdout: Box::new(Reader::new(&pipes.down)),
            stderr: Box::new(Reader::new(&pipes.stderr)),
            child: Box::new(Near {
                host: self.clone(),
                number,
                ended,
            }),
            opened_in,
        })
    }
}

/// A program from its start to its end.
async fn run(mut far: Far, program: Program) {
    let status = match (program, far.host.plan.login) {
        (Program::Shell, Login::Shell) => shell_loop::run(&mut far).await,
        (Program::Shell, Login::Refuses) => Ok(128),
        (Program::Shell, Login::Silent) => std::future::pending().await,
        _ => serve::run(&mut far).await,
    };
    far.host.lock().channels.remove(&far.number);
    let due = Instant::now() + far.host.link.latency;
    // What was sent last arrives before the end does.
    let due = far.host.link.carry(0).await.max(due);
    far.pipes.down.end(due);
    far.pipes.stderr.end(due);
    sleep_until(due).await;
    let status = status.ok().filter(|_| !far.pipes.down.is_cut());
    *far.ended.status.lock().expect("no test panics in there") = Some(status);
    far.ended.news.notify_waiters();
}

impl Far {
    /// Reads more from the other end; `false` at its end.
    pub async fn read(&mut self) -> bool {
        matches!(self.input.read_buf(&mut self.buf).await, Ok(1..))
    }

    /// Prints, as fast as the link lets it. Whether these are contents of paths.
    pub async fn print(&mut self, mut bytes: Bytes, is_contents: bool) -> Result<(), Gone> {
        let host = self.host.clone();
        while !bytes.is_empty() {
            let chunk = bytes.split_to(host.link.chunk().min(bytes.len()));
            self.pipes.down.room(chunk.len()).await?;
            let due = host.link.carry(chunk.len()).await;
            if is_contents {
                host.sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                self.pipes.sent().unfinished += chunk.len() as u64;
            }
            let carried = {
                let mut sent = self.pipes.sent();
                sent.all += chunk.len() as u64;
                sent.all
            };
            self.pipes.down.push(due, chunk)?;
            let is_due = {
                let sent = host.sent.load(Ordering::Relaxed);
                let is_due = |cut: &Cut| match cut {
                    Cut::Channel(bytes) => carried >= *bytes,
                    Cut::Total(bytes) => sent >= *bytes,
                };
                let mut state = host.lock();
                let is_due = state.cuts.front().is_some_and(is_due);
                if is_due {
                    state.cuts.pop_front();
                }
                is_due
            };
            if is_due {
                host.note(format_args!("cut after {carried} bytes"));
                let mut cut_at = host.cut_at.lock().expect("no test panics in there");
                cut_at.push(Instant::now());
                drop(cut_at);
                host.break_off(false);
                return Err(Gone);
            }
        }
        Ok(())
    }

    /// An answer is complete.
    pub fn finish(&self) {
        let mut sent = self.pipes.sent();
        let read = sent.all - self.pipes.down.unread();
        sent.answers.retain(|(end, _)| *end > read);
        let answer = (sent.all, std::mem::take(&mut sent.unfinished));
        sent.answers.push_back(answer);
    }

    pub fn complain(&self, text: &str) {
        let due = Instant::now() + self.host.link.latency;
        let _ = self.pipes.stderr.push(due, text.to_owned().into());
    }
}

/// A program as the one who started it has it.
struct Near {
    host: Arc<Host>,
    number: u64,
    ended: Arc<Ended>,
}

#[async_trait]
impl Child for Near {
    async fn wait(self: Box<Self>) -> Option<i32> {
        loop {
            let news = self.ended.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            let status = *self.ended.status.lock().expect("no test panics in there");
            match status {
                Some(status) => return status,
                None => news.await,
            }
        }
    }
}

impl Drop for Near {
    fn drop(&mut self) {
        self.host.lock().channels.remove(&self.number);
    }
}
