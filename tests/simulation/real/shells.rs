//! The made-up shell against a real one: what the client writes is replayed.

use std::fs;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use ssh_substituter::config;
use ssh_substituter::remote::{RemoteError, Shell, ShellOptions, open_shell};
use ssh_substituter::transport::{Channel, Program, Transport, TransportError};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::super::host::Host;
use super::super::store::Store;
use super::super::support;

use super::{Both, LIMIT, nowhere};

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
                shell.request(&segment);
                shell.request_digest(&segment);
                let bytes = shell.segment().await?;
                let digest = shell.digest().await?;
                assert_eq!(digest, Some(Sha256::digest(&bytes).into()));
                all.extend_from_slice(&bytes);
            }
            Ok(all)
        })
        .await;
        assert!(came.expect("no fault") == item.nar, "{}", item.path);
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
