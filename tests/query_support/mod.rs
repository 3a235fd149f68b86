//! Hosts that keep a record of what they are asked, and resolvers as processes of their own have them.

#![allow(dead_code)]

use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use ssh_substituter::cache::disk::{CacheWrite, CachedAnswer, Environment, Lookup, unix_seconds};
use ssh_substituter::cache::{Disk, Lifetimes};
use ssh_substituter::config::host::Host;
use ssh_substituter::hint::Hint;
use ssh_substituter::model::StorePath;
use ssh_substituter::pool::{Limits, Pool};
use ssh_substituter::resolver::{KeyedDisk, Resolver, Trust};
use ssh_substituter::transport::{ProcessTransport, Transport};
use ssh_substituter::wire::serve::{Incoming, Request, RequestDecoder, take_client_hello};

use crate::support::{SHORT, Scratch, Store, tool};

/// A remote program: the real `nix-store`, and a copy of all that it reads.
pub struct Recorder {
    scratch: Scratch,
}

impl Recorder {
    pub fn new() -> Self {
        let scratch = Scratch::new();
        let (folder, nix_store) = (scratch.folder("read"), tool("nix-store"));
        let (folder, nix_store) = (folder.display(), nix_store.display());
        // The record first: who has the answer may look into it.
        let script = format!(
            "#!/bin/sh\n{{ tee /dev/fd/3 > \"{folder}/$$\"; }} 3>&1 | {nix_store} \"$@\"\n"
        );
        let path = scratch.write("nix-store", script);
        fs::set_permissions(path, Permissions::from_mode(0o755)).expect("make it executable");
        Self { scratch }
    }

    pub fn program(&self) -> PathBuf {
        self.scratch.path().join("nix-store")
    }

    /// One file of bytes for each connection so far.
    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.scratch.path().join("read")).expect("read the record");
        entries
            .map(|entry| entry.expect("an entry").path())
            .collect()
    }

    pub fn connections(&self) -> usize {
        self.files().len()
    }

    /// All requests so far; those of one connection in order.
    pub fn requests(&self) -> Vec<Request> {
        let mut requests = Vec::new();
        for file in self.files() {
            let mut bytes = BytesMut::from(&*fs::read(file).expect("read the record"));
            let mut decoder = RequestDecoder::default();
            let _ = take_client_hello(&mut bytes).expect("a client's hello");
            while let Some(incoming) = decoder.step(&mut bytes).expect("a request") {
                if let Incoming::Request(request) = incoming {
                    requests.push(request);
                }
            }
        }
        requests
    }

    /// The sets of paths whose infos were asked for.
    pub fn infos(&self) -> Vec<Vec<StorePath>> {
        let infos = self
            .requests()
            .into_iter()
            .filter_map(|request| match request {
                Request::QueryPathInfos { paths } => Some(paths),
                _ => None,
            });
        infos.collect()
    }

    /// The sets of paths of which it was asked which are there.
    pub fn checks(&self) -> Vec<Vec<StorePath>> {
        let checks = self
            .requests()
            .into_iter()
            .filter_map(|request| match request {
                Request::QueryValidPaths { paths, .. } => Some(paths),
                _ => None,
            });
        checks.collect()
    }

    /// From now on nobody can be reached who is asked by it; connections that there are stay.
    pub fn remove(&self) {
        fs::remove_file(self.program()).expect("remove the program");
    }

    pub fn closures(&self) -> usize {
        let requests = self.requests();
        let is_closure = |request: &&Request| matches!(request, Request::QueryClosure { .. });
        requests.iter().filter(is_closure).count()
    }
}

/// A resolver as one process has it.
pub struct Setup<'a> {
    pub hosts: Vec<(&'a str, &'a Store, &'a Recorder)>,
    /// The cache; none without.
    pub folder: Option<&'a Path>,
    pub lifetimes: Lifetimes,
    pub require_sigs: bool,
    /// Public keys whose signatures count.
    pub keys: Vec<String>,
    /// Seconds until a host starts to answer.
    pub slow: HashMap<&'a str, u32>,
}

impl<'a> Setup<'a> {
    pub fn new(hosts: &[(&'a str, &'a Store, &'a Recorder)], folder: Option<&'a Path>) -> Self {
        Self {
            hosts: hosts.to_vec(),
            folder,
            lifetimes: Lifetimes::default(),
            require_sigs: false,
            keys: Vec::new(),
            slow: HashMap::new(),
        }
    }

    pub fn start(&self) -> Resolver {
        self.start_over(|real| Arc::new(real)).0
    }

    /// Over another transport, which `wrap` makes of the real one; with its pool.
    pub fn start_over(
        &self,
        wrap: impl FnOnce(ProcessTransport) -> Arc<dyn Transport>,
    ) -> (Resolver, Arc<Pool>) {
        let commands: HashMap<String, (PathBuf, String, u32)> = self
            .hosts
            .iter()
            .map(|(name, store, recorder)| {
                let delay = self.slow.get(name).copied().unwrap_or_default();
                ((*name).to_owned(), (recorder.program(), store.uri(), delay))
            })
            .collect();
        let env = self.hosts[0].1.env().conf_dir();
        let transport = ProcessTransport::new(move |host: &Host| {
            let (program, uri, delay) = &commands[&host.name];
            let mut command = Command::new("sh");
            command.args(["-c", &format!("sleep {delay}; exec \"$@\""), "sh"]);
            command.arg(program).args(["--serve", "--store", uri]);
            command.env("NIX_CONF_DIR", &env);
            command
        });
        let hosts = self.hosts.iter();
        let parsed = hosts
            .map(|(name, ..)| Host::parse(name).expect("a host"))
            .collect();
        let limits = Limits {
            connect: SHORT,
            silence: SHORT,
            hedge: Duration::from_millis(300),
        };
        let notify = Arc::new(|error: &(dyn Hint + 'static)| log::debug!("{error}"));
        let pool = Arc::new(Pool::new(parsed, wrap(transport), limits, notify, None));
        let disk = self.folder.map(|folder| KeyedDisk {
            disk: Arc::new(disk(folder)),
            hosts: self.hosts.iter().map(|(name, ..)| (*name).into()).collect(),
        });
        let trust = Trust {
            require_sigs: self.require_sigs,
            keys: self
                .keys
                .iter()
                .map(|key| key.parse().expect("a key"))
                .collect(),
        };
        let resolver = Resolver::with_disk(pool.clone(), trust, disk, self.lifetimes);
        (resolver, pool)
    }
}

/// Makes answers that stand in the disk tier for host `a` older than they are, by so many seconds.
pub fn age(folder: &Path, paths: &[&str], seconds: u64) {
    let (disk, hosts) = (disk(folder), [Arc::from("a")]);
    let paths: Vec<StorePath> = paths.iter().map(|path| parse(path)).collect();
    let lookup = Lookup {
        hosts: &hosts,
        paths: &paths,
        lifetimes: Lifetimes::default(),
        now: unix_seconds(),
        most: 100,
    };
    let said = disk.path_infos(&lookup, |_| false).into_iter();
    let news: Vec<_> = said
        .map(|(_, said)| CachedAnswer {
            checked_at: said.checked_at - seconds,
            ..said
        })
        .map(|said| CacheWrite::Answer("a".into(), said))
        .collect();
    assert_eq!(news.len(), paths.len());
    disk.remember(&news, Lifetimes::default(), unix_seconds());
}

/// As a user who sets them: a second less than the default.
pub fn set_lifetimes() -> Lifetimes {
    let usual = Lifetimes::default();
    Lifetimes {
        positive: usual.positive - Duration::from_secs(1),
        negative: usual.negative - Duration::from_secs(1),
    }
}

/// The disk tier in this folder.
pub fn disk(folder: &Path) -> Disk {
    Disk::new(Environment {
        explicit: Some(folder.to_owned()),
        uid: rustix::process::geteuid().as_raw(),
        ..Environment::default()
    })
}

pub fn parse(path: &str) -> StorePath {
    StorePath::parse(path).expect("a store path")
}

/// Asks as Nix does, for one path at a time from the root downwards; what was found.
pub async fn walk(resolver: &Resolver, root: &str) -> Vec<StorePath> {
    let mut open = vec![parse(root)];
    let mut seen = open.clone();
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        let Some(answer) = resolver.find(std::slice::from_ref(&path)).await.pop() else {
            continue;
        };
        found.push(path);
        for reference in &answer.info.references {
            if !seen.contains(reference) {
                seen.push(reference.clone());
                open.push(reference.clone());
            }
        }
    }
    found
}
