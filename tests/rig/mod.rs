//! Hosts of a pool without ssh: real `nix-store --serve` processes, with faults on the way from them and a record of what is
//! asked of them.

#![allow(dead_code, unused_imports)]

mod asked;
mod differences;
mod fault;
mod link;

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use ssh_substituter::config::host::Host;
use ssh_substituter::engine::{LocalBases, ResolverLookup};
use ssh_substituter::hint::Hint;
use ssh_substituter::model::StorePath;
use ssh_substituter::pool::{Limits, Pool};
use ssh_substituter::resolver::{Found, Resolver, Trust};
use ssh_substituter::transfer::progress::NoProgress;
use ssh_substituter::transfer::{
    BaseLookup, Caller, FailedTransfer, FetchRequest, NarSink, Piece, ResumePoint, SpillDisk,
    Transfers,
};
use ssh_substituter::transport::process::ProcessTransport;
use ssh_substituter::transport::{Channel, Program, Transport, TransportError};
use tokio::io::AsyncWrite;

pub use differences::{builds, slow_line, slow_link};
pub use fault::Fault;
use fault::Faulty;
pub use link::Link;
use link::Linked;

use super::support::Store;

/// Hosts `one`, `two`, … with their stores, delays before they answer at all, and faults.
struct Hosts {
    asked: Asked,
    real: ProcessTransport,
    faults: HashMap<String, Arc<Mutex<Option<Fault>>>>,
    links: HashMap<String, Arc<Link>>,
    opened: Mutex<Vec<String>>,
    is_other_version: bool,
}

#[async_trait]
impl Transport for Hosts {
    async fn open(&self, host: &Host, program: Program) -> Result<Channel, TransportError> {
        self.opened.lock().unwrap().push(host.name.clone());
        let mut channel = self.real.open(host, program).await?;
        if let Some(fault) = self.faults.get(&host.name) {
            channel.stdout = Box::new(Faulty::new(channel.stdout, fault));
        }
        if let Some(link) = self.links.get(&host.name) {
            channel.stdout = Box::new(Linked::new(channel.stdout, link));
            channel.opened_in = Some(link.latency);
        }
        channel.stdin = Box::new(Recorded {
            stream: channel.stdin,
            host: host.name.clone(),
            asked: self.asked.clone(),
            is_other_version: self.is_other_version,
        });
        Ok(channel)
    }
}

/// All bytes that each host was sent, in order, its connections mixed.
type Asked = Arc<Mutex<HashMap<String, Vec<u8>>>>;

struct Recorded {
    stream: Box<dyn AsyncWrite + Send + Unpin>,
    host: String,
    asked: Asked,
    is_other_version: bool,
}

/// A program with another version of the extension takes the question for this one so.
fn for_another_version(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let word = b"-ssh-substituter-serve-extension-";
    if let Some(at) = bytes.windows(word.len()).position(|part| part == word) {
        bytes[at + word.len()] = b'9';
    }
    bytes
}

impl AsyncWrite for Recorded {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let this = self.get_mut();
        let bytes = &match this.is_other_version {
            true => for_another_version(bytes),
            false => bytes.to_vec(),
        };
        let poll = Pin::new(&mut this.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(len)) = poll {
            let mut asked = this.asked.lock().unwrap();
            let all = asked.entry(this.host.clone()).or_default();
            all.extend_from_slice(&bytes[..len]);
        }
        poll
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

pub struct Setup {
    pub resolver: Arc<Resolver>,
    pub transfers: Transfers,
    pub caller: Caller,
    pub told: Arc<Mutex<Vec<String>>>,
    asked: Asked,
}

/// A pool of these hosts: store, seconds before it starts, fault.
pub fn setup(hosts: &[(&Store, f64, Option<Fault>)]) -> Setup {
    setup_with(hosts, 64 << 20)
}

/// The same with so many bytes for readahead.
pub fn setup_with(hosts: &[(&Store, f64, Option<Fault>)], memory: u64) -> Setup {
    setup_as(hosts, memory, false)
}

/// The same, where accounts may have a shell.
pub fn setup_as(hosts: &[(&Store, f64, Option<Fault>)], memory: u64, shells: bool) -> Setup {
    let shells = if shells { &NAMES[..] } else { &[] };
    build(hosts, &[], memory, shells, &Account::default())
}

/// The same, where the accounts on these hosts have a shell.
pub fn setup_shells(hosts: &[(&Store, f64, Option<Fault>)], memory: u64, shells: &[&str]) -> Setup {
    build(hosts, &[], memory, shells, &Account::default())
}

/// The same, over these links.
pub fn setup_over(hosts: &[(&Store, &Arc<Link>)], memory: u64, shells: bool) -> Setup {
    let links: Vec<_> = hosts.iter().map(|(_, link)| (*link).clone()).collect();
    let hosts: Vec<_> = hosts.iter().map(|(store, _)| (*store, 0.0, None)).collect();
    let shells = if shells { &NAMES[..] } else { &[] };
    build(&hosts, &links, memory, shells, &Account::default())
}

/// Hosts without shells over these links.
pub fn setup_restricted(hosts: &[(&Store, &Arc<Link>)], memory: u64, account: &Account) -> Setup {
    let links: Vec<_> = hosts.iter().map(|(_, link)| (*link).clone()).collect();
    let hosts: Vec<_> = hosts.iter().map(|(store, _)| (*store, 0.0, None)).collect();
    build(&hosts, &links, memory, &[], account)
}

/// How the accounts of a test differ from usual ones.
#[derive(Default)]
pub struct Account {
    /// Where to read ahead beside the memory, and how many bytes.
    pub disk: Option<(Arc<dyn SpillDisk>, u64)>,
    /// Further parameters of the hosts' URLs, each with a `&` before it.
    pub params: &'static str,
    /// A folder with programs that are found before the usual ones.
    pub programs: Option<PathBuf>,
    /// The usual ones are not found at all.
    pub has_no_others: bool,
    /// How many bytes may be read ahead.
    pub memory: u64,
    /// Roots of stores on this machine that have other versions of paths.
    pub bases: Vec<PathBuf>,
    /// What happens to the bytes that come.
    pub fault: Option<Fault>,
    /// The hosts that run our program in place of Nix's.
    pub ours: &'static [&'static str],
    /// They have another version of the extension.
    pub is_other_version: bool,
}

/// One host with a shell, over a link.
pub fn setup_account(store: &Store, link: &Arc<Link>, account: &Account) -> Setup {
    let hosts = [(store, 0.0, account.fault)];
    let links = std::slice::from_ref(link);
    build(&hosts, links, account.memory, &NAMES[..1], account)
}

/// Hosts without shells, some of which run our program, over links or not.
pub fn setup_ours(
    hosts: &[(&Store, f64, Option<Fault>)],
    links: &[Arc<Link>],
    memory: u64,
    account: &Account,
) -> Setup {
    build(hosts, links, memory, &[], account)
}

const NAMES: [&str; 3] = ["one", "two", "three"];

fn build(
    hosts: &[(&Store, f64, Option<Fault>)],
    links: &[Arc<Link>],
    memory: u64,
    shells: &[&str],
    account: &Account,
) -> Setup {
    let names = NAMES;
    let shells: Vec<_> = shells.iter().map(|name| (*name).to_owned()).collect();
    let mut commands = HashMap::new();
    let mut faults = HashMap::new();
    for ((store, delay, fault), name) in hosts.iter().zip(names) {
        let real = match account.ours.contains(&name) {
            true => {
                let mut ours = Command::new(super::support::program());
                ours.args(["serve-local", "--store"]).arg(store.root());
                ours
            }
            false => store.serve(false),
        };
        let mut words = vec![real.get_program().to_owned()];
        words.extend(real.get_args().map(ToOwned::to_owned));
        let env: Vec<_> = real
            .get_envs()
            .map(|(k, v)| (k.to_owned(), v.map(ToOwned::to_owned)))
            .collect();
        commands.insert(name.to_owned(), (words, env, *delay));
        if let Some(fault) = fault {
            faults.insert(name.to_owned(), Arc::new(Mutex::new(Some(*fault))));
        }
    }
    let real = ProcessTransport::new(move |host: &Host| {
        let (words, env, delay) = &commands[&host.name];
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("sleep {delay}; exec \"$@\""), "sh"])
            .args(words);
        for (name, value) in env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    });
    let (programs, has_no_others) = (account.programs.clone(), account.has_no_others);
    let real = match shells.is_empty() {
        true => real,
        false => real.with_shell(move |host| {
            let has = shells.contains(&host.name);
            let name = if has { "sh" } else { "false" };
            let mut shell = Command::new(super::support::tool(name));
            if let Some(programs) = &programs {
                let usual = match has_no_others {
                    true => String::new(),
                    false => std::env::var("PATH").unwrap(),
                };
                shell.env("PATH", format!("{}:{usual}", programs.display()));
            }
            shell
        }),
    };
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = told.clone();
    let is_stall = |fault: &Option<Fault>| matches!(fault, Some(Fault::Stall(_)));
    let stalls = links.is_empty() && hosts.iter().any(|(_, _, fault)| is_stall(fault));
    let limits = Limits {
        connect: Duration::from_secs(10),
        // Short where a silence is waited for. On a loaded machine any host is silent for a while.
        silence: match stalls {
            true => Duration::from_secs(2),
            false => Duration::from_secs(60),
        },
        hedge: Duration::from_millis(300),
    };
    let parsed = names[..hosts.len()]
        .iter()
        .zip(hosts)
        .map(|(name, (store, _, _))| {
            let store = store.remote_store_param();
            let params = account.params;
            Host::parse(&format!("ssh://{name}?remote-store={store}{params}")).unwrap()
        })
        .collect();
    let asked = Asked::default();
    let transport = Arc::new(Hosts {
        asked: asked.clone(),
        real,
        faults,
        links: names
            .map(str::to_owned)
            .into_iter()
            .zip(links.iter().cloned())
            .collect(),
        opened: Mutex::default(),
        is_other_version: account.is_other_version,
    });
    let notify = Arc::new(move |error: &(dyn Hint + 'static)| {
        tell.lock().unwrap().push(error.to_string());
    });
    let pool = Arc::new(Pool::new(parsed, transport, limits, notify, None));
    let trust = Trust {
        require_sigs: false,
        keys: Arc::default(),
    };
    let resolver = Arc::new(Resolver::new(pool.clone(), trust));
    let answers = Box::new(ResolverLookup(resolver.clone()));
    let bases = match account.bases.is_empty() {
        true => None,
        false => Some(
            Arc::new(LocalBases::of(account.bases.clone(), "/nix/store")) as Arc<dyn BaseLookup>,
        ),
    };
    let mut transfers = Transfers::with_bases(pool, memory, answers, bases);
    if let Some((disk, bytes)) = &account.disk {
        transfers = transfers.with_disk(disk.clone(), *bytes);
    }
    Setup {
        resolver,
        caller: transfers.caller(),
        transfers,
        told,
        asked,
    }
}

impl Setup {
    pub async fn find(&self, path: &str) -> Option<Found> {
        let path = StorePath::parse(path).unwrap();
        self.resolver.find(&[path]).await.pop()
    }

    /// As a caller that is going to fetch these paths.
    pub async fn expect(&self, paths: &[String]) {
        self.expect_for(&self.caller, paths).await;
    }

    pub async fn expect_for(&self, caller: &Caller, paths: &[String]) {
        for path in paths {
            let found = self.find(path).await.expect("a host has it");
            caller.expect(&found.info, &found.holders);
        }
    }

    pub async fn fetch(&self, path: &str) -> (Vec<u8>, Result<u64, FailedTransfer>) {
        self.fetch_for(&self.caller, path, None).await
    }

    /// The same for another caller, or from where another transfer broke off.
    pub async fn fetch_for(
        &self,
        caller: &Caller,
        path: &str,
        resume: Option<ResumePoint>,
    ) -> (Vec<u8>, Result<u64, FailedTransfer>) {
        let found = self.find(path).await.expect("a host has it");
        let mut sink = Collect::default();
        let wish = FetchRequest {
            info: &found.info,
            holders: &found.holders,
            caller,
            resume,
            progress: &NoProgress,
        };
        let result = self.transfers.fetch(wish, &mut sink).await;
        (sink.0, result)
    }

    /// Fetches what the store has.
    pub async fn fetch_right(&self, store: &Store, path: &str) {
        self.fetch_right_for(&self.caller, store, path).await;
    }

    pub async fn fetch_right_for(&self, caller: &Caller, store: &Store, path: &str) {
        let (nar, result) = self.fetch_for(caller, path, None).await;
        assert!(result.is_ok(), "{path}: {:?}", result.err());
        assert!(nar == store.nar(path), "{path}: wrong content");
    }
}

/// Waits for what comes soon, or the test fails.
pub async fn until(what: &str, is_true: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_true() {
        let waited = start.elapsed();
        assert!(waited < Duration::from_secs(60), "waited for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[derive(Default)]
struct Collect(Vec<u8>);

#[async_trait]
impl NarSink for Collect {
    async fn write(&mut self, piece: Piece) -> std::io::Result<()> {
        self.0.extend_from_slice(&piece.bytes);
        Ok(())
    }
}
