//! The made-up far ends answer as the real ones do: what the client sends them is sent to a real `nix-store --serve` and a
//! real `sh` over the same store.

mod memory;
mod parts;

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::pin::Pin;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use ssh_substituter::config;
use ssh_substituter::model::StorePath;
use ssh_substituter::remote::{RemoteError, Shell, ShellOptions, open_shell};
use ssh_substituter::transport::{Channel, Program, Transport, TransportError};
use ssh_substituter::wire::put_u64;
use ssh_substituter::wire::serve::{CLIENT_MAGIC, Request, Version};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::host::Host;
use super::nars::{Item, Kind, catalogue};
use super::plan::{self, Login};
use super::store::{Copy, Store};
use super::support;
use super::support::canonicalise;
use super::trace::Trace;

const LIMIT: Duration = Duration::from_secs(60);

/// The same paths in a real store and in a made-up one, each with a reference to the one before.
struct Both {
    items: Vec<Arc<Item>>,
    real: support::Store,
    host: Arc<Host>,
}

impl Both {
    /// To be called where time is paused.
    fn new() -> Self {
        let all = catalogue();
        let mut items = all.small[5..11].to_vec();
        items.push(all.large[1].clone());
        let real = support::Store::new();
        let mut before: Option<Arc<Item>> = None;
        let mut copies = Vec::new();
        for item in &items {
            let references: Vec<_> = before.iter().map(|item| item.path.clone()).collect();
            write(&real, item);
            real.register(&[support::Entry {
                path: item.path.as_str().to_owned(),
                references: references
                    .iter()
                    .map(|path| path.as_str().to_owned())
                    .collect(),
                deriver: None,
            }]);
            copies.push(Copy {
                info: item.info(references),
                item: item.clone(),
                from: None,
                until: None,
                again: None,
                wrong: None,
            });
            before = Some(item.clone());
        }
        let start = Instant::now();
        let root = real.root().to_str().expect("UTF-8");
        let trace = Arc::new(Trace::new(start, false));
        let mut store = Store::new(root, copies);
        store.has_zstd = true;
        let host = Host::new(far(), store, start, trace);
        Self { items, real, host }
    }

    fn spec(&self) -> config::host::Host {
        let spec = format!("ssh://far?remote-store={}", self.real.remote_store_param());
        config::host::Host::parse(&spec).expect("a host")
    }

    /// What comes back for these bytes: from the made-up program, from the real one.
    async fn answers(&self, program: Program, sent: &[u8]) -> (Output, Output) {
        let command = match program {
            Program::Shell => Command::new("sh"),
            _ => self.real.serve(false),
        };
        self.answers_beside(command, program, sent).await
    }

    /// The same, where this is the real one.
    async fn answers_beside(
        &self,
        command: Command,
        program: Program,
        sent: &[u8],
    ) -> (Output, Output) {
        let mut channel = self.host.open(program).await.expect("it opens");
        channel.stdin.write_all(sent).await.expect("write");
        channel.stdin.shutdown().await.expect("end");
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        channel.stdout.read_to_end(&mut stdout).await.expect("read");
        channel.stderr.read_to_end(&mut stderr).await.expect("read");
        let status = channel.child.wait().await.expect("it ends by itself");
        let real = support::run_with_input(command, sent, LIMIT);
        let made_up = Output {
            status: std::os::unix::process::ExitStatusExt::from_raw(status << 8),
            stdout,
            stderr,
        };
        (made_up, real)
    }
}

/// A host that nothing is done to.
fn far() -> plan::Host {
    plan::Host {
        name: "far",
        rate: 100_000_000,
        latency: Duration::from_millis(1),
        max_connections: 16,
        sessions: usize::MAX,
        login: Login::Shell,
        has_zstd: true,
        is_ours: false,
        copies: Vec::new(),
        cuts: Vec::new(),
        outages: Vec::new(),
        stalls: Vec::new(),
    }
}

fn write(store: &support::Store, item: &Item) {
    let root = store.physical(item.path.as_str());
    for node in &item.nodes {
        let place = match node.path.as_str() {
            "" => root.clone(),
            path => root.join(path),
        };
        write_node(item, &node.kind, &place);
    }
    canonicalise(&root);
}

fn write_node(item: &Item, kind: &Kind, place: &Path) {
    match kind {
        Kind::Directory => fs::create_dir(place).expect("make a folder"),
        Kind::Symlink(target) => symlink(target, place).expect("make a symlink"),
        Kind::File {
            executable,
            at,
            size,
        } => {
            let contents = &item.nar[*at as usize..(at + size) as usize];
            fs::write(place, contents).expect("write a file");
            let mode = if *executable { 0o755 } else { 0o644 };
            fs::set_permissions(place, fs::Permissions::from_mode(mode)).expect("set a mode");
        }
    }
}

/// Reaches the made-up host, and keeps what is sent to it.
struct Recorder {
    host: Arc<Host>,
    sent: Arc<Mutex<Vec<u8>>>,
}

#[async_trait]
impl Transport for Recorder {
    async fn open(
        &self,
        _: &config::host::Host,
        program: Program,
    ) -> Result<Channel, TransportError> {
        let mut channel = self.host.open(program).await?;
        channel.stdin = Box::new(Recorded {
            stream: channel.stdin,
            sent: self.sent.clone(),
        });
        Ok(channel)
    }
}

struct Recorded {
    stream: Box<dyn AsyncWrite + Send + Unpin>,
    sent: Arc<Mutex<Vec<u8>>>,
}

impl AsyncWrite for Recorded {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(len)) = poll {
            this.sent
                .lock()
                .expect("no panic in there")
                .extend(&bytes[..len]);
        }
        poll
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

fn hello() -> Vec<u8> {
    let mut out = Vec::new();
    put_u64(&mut out, CLIENT_MAGIC);
    put_u64(&mut out, Version::NEWEST.number());
    out
}

fn nowhere() -> StorePath {
    StorePath::parse("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-nowhere").expect("a path")
}

#[tokio::test(start_paused = true)]
async fn the_serve_program_answers_as_the_real_one() {
    let both = Both::new();
    let paths: Vec<_> = both.items.iter().map(|item| item.path.clone()).collect();
    let mut some = vec![nowhere()];
    some.extend(paths.iter().rev().cloned());
    let mut sent = hello();
    let mut requests = vec![
        Request::QueryValidPaths {
            lock: false,
            substitute: false,
            paths: some.clone(),
        },
        Request::QueryPathInfos { paths: some },
        Request::QueryClosure {
            include_outputs: false,
            paths: paths[3..5].to_vec(),
        },
    ];
    let dump = |path: &StorePath| Request::DumpStorePath { path: path.clone() };
    requests.extend(paths.iter().map(dump));
    requests.iter().for_each(|request| request.put(&mut sent));
    let (made_up, real) = both.answers(Program::AsConfigured, &sent).await;
    assert!(
        made_up.stdout == real.stdout,
        "{} bytes, {}",
        made_up.stdout.len(),
        real.stdout.len()
    );
    assert_eq!(made_up.status.code(), real.status.code());
    for request in [
        dump(&nowhere()),
        Request::QueryClosure {
            include_outputs: false,
            paths: vec![nowhere()],
        },
    ] {
        let mut sent = hello();
        request.put(&mut sent);
        dump(&paths[0]).put(&mut sent);
        let (made_up, real) = both.answers(Program::AsConfigured, &sent).await;
        assert!(made_up.stdout == real.stdout);
        let said = String::from_utf8_lossy(&real.stderr).into_owned();
        assert!(said.contains("is not valid"), "{said}");
        assert!(String::from_utf8_lossy(&made_up.stderr).contains("is not valid"));
        assert_eq!(made_up.status.code(), real.status.code());
    }
}

/// Has the client use a shell on the made-up host; what it sent.
async fn record<T>(
    both: &Both,
    work: impl AsyncFnOnce(&mut Shell) -> Result<T, RemoteError>,
) -> (Result<T, RemoteError>, Vec<u8>) {
    let recorder = Recorder {
        host: both.host.clone(),
        sent: Arc::default(),
    };
    let options = ShellOptions {
        connect: LIMIT,
        silence: LIMIT,
    };
    let mut shell = open_shell(&recorder, &both.spec(), &options)
        .await
        .expect("a shell");
    let result = work(&mut shell).await;
    let sent = recorder.sent.lock().expect("no panic in there").clone();
    (result, sent)
}

/// Without the proof that it is a shell, in which the root of the machine is looked at.
fn behind_proof(output: &[u8]) -> &[u8] {
    let end = output
        .iter()
        .position(|byte| *byte == b';')
        .expect("an end of the proof");
    &output[end + 1..]
}

#[tokio::test(start_paused = true)]
async fn the_shell_lists_as_the_real_one() {
    let both = Both::new();
    for item in &both.items {
        let (layout, sent) = record(&both, async |shell| shell.list(&item.path).await).await;
        let layout = layout.expect("no fault").expect("a layout");
        assert_eq!(layout.nar_size(), item.size());
        let (made_up, real) = both.answers(Program::Shell, &sent).await;
        let records = |output: &[u8]| {
            let fields: Vec<Vec<u8>> = behind_proof(output)
                .split(|b| *b == 0)
                .map(Vec::from)
                .collect();
            let mut records: Vec<Vec<Vec<u8>>> = fields.chunks(2).map(Vec::from).collect();
            for record in &mut records {
                // A folder has a size of its own in each file system.
                if record[0].starts_with(b"d ") {
                    let mut words: Vec<&[u8]> = record[0].splitn(4, |b| *b == b' ').collect();
                    words[2] = b"";
                    record[0] = words.join(&b' ');
                }
            }
            // The order of a folder is anybody's.
            records.sort();
            records
        };
        let [ours, theirs] = [&made_up, &real].map(|output| records(&output.stdout));
        assert_eq!(ours, theirs, "{}", item.path);
    }
    let (none, sent) = record(&both, async |shell| shell.list(&nowhere()).await).await;
    assert!(none.expect("no fault").is_none());
    let (made_up, real) = both.answers(Program::Shell, &sent).await;
    assert_eq!(behind_proof(&made_up.stdout), behind_proof(&real.stdout));
}

#[tokio::test(start_paused = true)]
async fn the_shell_reads_as_the_real_one() {
    let both = Both::new();
    for item in &both.items {
        let (layout, _) = record(&both, async |shell| shell.list(&item.path).await).await;
        let layout = layout.expect("no fault").expect("a layout");
        let each = (item.size() / 5).max(100);
        let (came, sent) = record(&both, async |shell| {
            let mut all = Vec::new();
            for segment in layout.segments(0, each) {
                shell.request(&segment, None);
                shell.request_digest(&segment);
                let bytes = shell.segment().await?.bytes;
                let digest = shell.digest().await?;
                assert_eq!(digest, Some(Sha256::digest(&bytes).into()));
                all.extend_from_slice(&bytes);
            }
            Ok(all)
        })
        .await;
        assert!(came.expect("no fault") == item.nar, "{}", item.path);
        // Two versions of zstd make different frames of the same bytes.
        let (compressed, _) = record(&both, async |shell| {
            shell.request(&layout.segment(0, u64::MAX), Some(3));
            shell.segment().await
        })
        .await;
        let compressed = compressed.expect("no fault");
        assert!(compressed.bytes == item.nar, "{}", item.path);
        let (made_up, real) = both.answers(Program::Shell, &sent).await;
        let [ours, theirs] = [&made_up, &real].map(|output| behind_proof(&output.stdout));
        assert!(ours == theirs, "{}", item.path);
        assert_eq!(made_up.status.code(), real.status.code());
        // The same once the path is gone.
        fs::rename(
            both.real.physical(item.path.as_str()),
            both.real.root().join("gone"),
        )
        .expect("move");
        let gone = Store::new(both.real.root().to_str().expect("UTF-8"), []);
        let host = Host::new(
            both.host.plan.clone(),
            gone,
            Instant::now(),
            both.host.trace.clone(),
        );
        let without = Both {
            items: Vec::new(),
            real: support::Store::new(),
            host,
        };
        let (made_up, real) = without.answers(Program::Shell, &sent).await;
        let [ours, theirs] = [&made_up, &real].map(|output| behind_proof(&output.stdout));
        assert!(ours == theirs, "{} when it is gone", item.path);
        fs::rename(
            both.real.root().join("gone"),
            both.real.physical(item.path.as_str()),
        )
        .expect("move");
    }
}
