//! Made-up hosts and a made-up store.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, empty};
use tokio::task::JoinSet;

use super::*;
use crate::hint::Hint;
use crate::model::{HealthRecord, PathInfo, StorePath};
use crate::pool::health::Now;
use crate::transport::{Channel, Child, Program, TransportError, TransportErrorKind};
use crate::wire::put_u64;
use crate::wire::serve::{RequestDecoder, SERVER_MAGIC, Version, put_infos_end, take_client_hello};

/// The connect timeout of the pools.
pub const CONNECT: Duration = Duration::from_millis(400);

/// What a transport is given beyond that, and a loaded machine.
pub const GRACE: Duration = Duration::from_secs(3);

/// What a host does with a connection.
#[derive(Clone, Copy)]
pub enum Does {
    /// Accepts and says nothing.
    Hang,
    Refuse,
    /// Answers that it has nothing.
    Serve,
    /// Says hello only once something was asked.
    WaitForRequest,
    /// Answers the first connection that is made to it and hangs later.
    ServeOnce,
    /// Refuses the first connection that is made to it and answers later.
    RefuseOnce,
    /// Is not reached, by a fault of this machine.
    FailHere,
}

/// Hosts, and what was asked of them and told to the user, by all pools together.
#[derive(Clone)]
pub struct Fake(Arc<Hosts>);

struct Hosts {
    hosts: Vec<(String, Does, AtomicUsize)>,
    told: Mutex<Vec<String>>,
}

impl Fake {
    pub fn new(hosts: &[(&str, Does)]) -> Self {
        let host = |(name, does): &(&str, Does)| (name.to_string(), *does, AtomicUsize::new(0));
        Self(Arc::new(Hosts {
            hosts: hosts.iter().map(host).collect(),
            told: Mutex::default(),
        }))
    }

    /// A pool as a process of its own has it.
    pub fn pool(&self, store: Option<Arc<FakeStore>>) -> Pool {
        let limits = Limits {
            connect: CONNECT,
            silence: CONNECT,
            hedge: Duration::from_millis(50),
        };
        self.pool_with(limits, store)
    }

    pub fn pool_with(&self, limits: Limits, store: Option<Arc<FakeStore>>) -> Pool {
        let hosts = self.0.hosts.iter();
        let hosts = hosts.map(|(name, ..)| Host::parse(name).unwrap()).collect();
        let all = self.0.clone();
        let notify = Arc::new(move |error: &(dyn Hint + 'static)| {
            all.told.lock().push(error.to_string());
        });
        let store = store.map(|store| store as Arc<dyn HostStore>);
        Pool::new(hosts, Arc::new(self.clone()), limits, notify, store)
    }

    /// How many connections were tried.
    pub fn opens(&self, name: &str) -> usize {
        self.host(name).2.load(Ordering::SeqCst)
    }

    /// By its name, without the rest of the spec.
    fn host(&self, name: &str) -> &(String, Does, AtomicUsize) {
        let is_it = |spec: &str| Host::parse(spec).unwrap().name == name;
        self.0.hosts.iter().find(|host| is_it(&host.0)).unwrap()
    }

    pub fn told(&self) -> Vec<String> {
        self.0.told.lock().clone()
    }
}

#[async_trait]
impl Transport for Fake {
    async fn open(&self, host: &Host, _program: Program) -> Result<Channel, TransportError> {
        let (name, does, opens) = self.host(&host.name);
        let before = opens.fetch_add(1, Ordering::SeqCst);
        let refused = || TransportError::new(name, TransportErrorKind::Refused);
        match does {
            Does::Hang => pending().await,
            Does::ServeOnce if before > 0 => pending().await,
            Does::RefuseOnce if before == 0 => Err(refused()),
            Does::Refuse => Err(refused()),
            Does::FailHere => {
                let source = io::ErrorKind::OutOfMemory.into();
                Err(TransportError::local(name, "try", source))
            }
            Does::Serve | Does::WaitForRequest | Does::ServeOnce | Does::RefuseOnce => {
                let (ours, theirs) = duplex(4096);
                tokio::spawn(serve(theirs, matches!(does, Does::WaitForRequest)));
                let (stdout, stdin) = tokio::io::split(ours);
                Ok(Channel {
                    stdin: Box::new(stdin),
                    stdout: Box::new(stdout),
                    stderr: Box::new(empty()),
                    child: Box::new(Nobody),
                    opened_in: None,
                })
            }
        }
    }
}

struct Nobody;

#[async_trait]
impl Child for Nobody {
    async fn wait(self: Box<Self>) -> Option<i32> {
        None
    }
}

async fn serve(mut stream: DuplexStream, wait_for_request: bool) -> Option<()> {
    let (mut buf, mut out, mut decoder) = (BytesMut::new(), Vec::new(), RequestDecoder::default());
    while take_client_hello(&mut buf).unwrap().is_none() {
        read(&mut stream, &mut buf).await?;
    }
    if wait_for_request && buf.is_empty() {
        read(&mut stream, &mut buf).await?;
    }
    put_u64(&mut out, SERVER_MAGIC);
    put_u64(&mut out, Version::NEWEST.number());
    loop {
        stream.write_all(&out).await.ok()?;
        out.clear();
        while decoder.step(&mut buf).unwrap().is_none() {
            read(&mut stream, &mut buf).await?;
        }
        put_infos_end(&mut out);
    }
}

async fn read(stream: &mut DuplexStream, buf: &mut BytesMut) -> Option<()> {
    let read = stream.read_buf(buf).await.ok()?;
    (read > 0).then_some(())
}

/// A store in memory, by names of hosts.
#[derive(Default)]
pub struct FakeStore {
    records: Mutex<HashMap<String, HealthRecord>>,
    writes: AtomicUsize,
    slow: Mutex<Duration>,
}

impl FakeStore {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Times in milliseconds from now.
    pub fn put(&self, host: &str, failures: u32, last_failure: i64, rest_until: i64) {
        let at = |ms| Now::read().unix.saturating_add_signed(ms);
        let record = HealthRecord {
            failures,
            last_failure: at(last_failure),
            rest_until: at(rest_until),
        };
        self.records.lock().insert(host.to_owned(), record);
    }

    pub fn failures(&self, host: &str) -> u32 {
        self.records.lock().get(host).map_or(0, |r| r.failures)
    }

    pub fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }

    pub fn be_slow(&self, by: Duration) {
        *self.slow.lock() = by;
    }

    fn wait(&self) {
        let time = *self.slow.lock();
        std::thread::sleep(time);
    }
}

impl HostStore for FakeStore {
    fn health(&self, host: &str) -> Option<HealthRecord> {
        self.wait();
        let name = host.lines().next().unwrap();
        self.records.lock().get(name).copied()
    }

    fn set_health(&self, host: &str, record: &HealthRecord) {
        self.wait();
        self.writes.fetch_add(1, Ordering::SeqCst);
        let name = host.lines().next().unwrap();
        self.records.lock().insert(name.to_owned(), *record);
    }
}

pub fn any_path() -> StorePath {
    StorePath::parse("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-a").unwrap()
}

pub async fn ask(pool: &Pool) -> Answers {
    pool.ask(&[any_path()], |_, _: &PathInfo| true).await
}

/// What becomes of many tasks that run at once.
pub async fn together<T, F>(count: usize, task: impl Fn() -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut tasks: JoinSet<T> = (0..count).map(|_| task()).collect();
    let mut results = Vec::new();
    while let Some(result) = tasks.join_next().await {
        results.push(result.unwrap());
    }
    results
}
