//! Parts of NARs from a host with our program: the channel against the real program, programs that lie, hosts with and
//! without it, a real sshd that forces it, a real Nix that never notices.

#[path = "extension/compressed.rs"]
mod compressed;
#[path = "extension/differences.rs"]
mod differences;
#[path = "extension/hosts.rs"]
mod hosts;
#[path = "extension/liars.rs"]
mod liars;
#[path = "extension/real.rs"]
mod real;
mod rig;
mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use async_trait::async_trait;
use ssh_substituter::backend::LocalBackend;
use ssh_substituter::config::host::Host;
use ssh_substituter::local_store::LocalStore;
use ssh_substituter::model::StorePath;
use ssh_substituter::remote::{
    ConnectOptions, ExtensionChannel, LearntProgram, RemoteError, RemoteErrorKind, open_extension,
};
use ssh_substituter::serve::{Output, serve};
use ssh_substituter::transport::process::ProcessTransport;
use ssh_substituter::transport::{Channel, Child, Program, Transport, TransportError};
use ssh_substituter::wire::nar::layout::Layout;
use ssh_substituter::wire::serve::Version;
use support::{Random, Store, tool};

const MIB: u64 = 1 << 20;

fn parse(path: &str) -> StorePath {
    StorePath::parse(path).unwrap()
}

struct Nobody;

#[async_trait]
impl Child for Nobody {
    async fn wait(self: Box<Self>) -> Option<i32> {
        Some(0)
    }
}

/// Our serve loop at the other end of streams that hold so many bytes.
struct Narrow(PathBuf, usize);

#[async_trait]
impl Transport for Narrow {
    async fn open(&self, _: &Host, _: Program) -> Result<Channel, TransportError> {
        let (stdin, server_in) = tokio::io::duplex(self.1);
        let (stdout, server_out) = tokio::io::duplex(self.1);
        let backend = LocalBackend::new(LocalStore::open(&self.0).unwrap());
        tokio::spawn(async move {
            let output = Output::new(server_out);
            let _ = serve(server_in, output, &backend, Version::NEWEST).await;
        });
        Ok(Channel {
            stdin: Box::new(stdin),
            stdout: Box::new(stdout),
            stderr: Box::new(tokio::io::empty()),
            child: Box::new(Nobody),
            opened_in: None,
        })
    }
}

/// The real program in a process of its own.
fn process(store: &Store) -> ProcessTransport {
    let root = store.root().to_owned();
    ProcessTransport::new(move |_| serve_local(&root))
}

fn serve_local(root: &Path) -> Command {
    let mut command = Command::new(support::program());
    command.args(["serve-local", "--store"]).arg(root);
    command
}

async fn try_open(transport: &dyn Transport) -> Result<Option<ExtensionChannel>, RemoteError> {
    let options = ConnectOptions {
        connect: Duration::from_secs(20),
        silence: Duration::from_secs(20),
        program: &LearntProgram::default(),
    };
    let host = Host::parse("example").unwrap();
    open_extension(transport, &host, &options, "/nix/store").await
}

async fn open(transport: &dyn Transport) -> ExtensionChannel {
    try_open(transport).await.unwrap().expect("the extension")
}

async fn list(channel: &mut ExtensionChannel, path: &str) -> Layout {
    channel.list(&parse(path)).await.unwrap().unwrap()
}

/// All of it in parts of that length, so many asked for ahead; every second part is compressed.
async fn read(channel: &mut ExtensionChannel, layout: &Layout, len: u64, ahead: usize) -> Vec<u8> {
    let mut levels = [None, Some(3)].into_iter().cycle();
    let mut segments = layout.segments(0, len);
    let mut out = Vec::new();
    loop {
        while channel.outstanding() < ahead
            && let Some(segment) = segments.next()
        {
            channel.request(&segment, levels.next().unwrap());
        }
        if channel.outstanding() == 0 {
            assert!(channel.is_clean());
            return out;
        }
        out.extend_from_slice(&channel.segment().await.unwrap().bytes);
    }
}

fn change(file: &Path, mode: u32) {
    fs::set_permissions(file, Permissions::from_mode(mode)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_a_nar_can_hold_comes_as_nix_dumps_it() {
    let store = Store::new();
    let tree = store.many_files(400);
    let big = store.big("big", 20 * MIB);
    let mut random = Random::new(1, "single");
    let (file, link) = (random.store_path("file"), random.store_path("link"));
    let (folder, empty) = (random.store_path("folder"), random.store_path("empty"));
    let bytes = random.bytes(300_000);
    store.add_made(file.clone(), |to| fs::write(to, bytes).unwrap());
    store.add_made(link.clone(), |to| {
        std::os::unix::fs::symlink("/etc/passwd", to).unwrap();
    });
    store.add_made(folder.clone(), |to| fs::create_dir(to).unwrap());
    store.add_made(empty.clone(), |to| fs::write(to, "").unwrap());
    let mut real = open(&process(&store)).await;
    for path in [&tree, &big, &file, &link, &folder, &empty] {
        let want = store.nar(path);
        let layout = list(&mut real, path).await;
        assert_eq!(layout.nar_size(), want.len() as u64);
        for (len, ahead) in [(4 * MIB, 3), (100_003, 8), (u64::MAX, 1)] {
            let got = read(&mut real, &layout, len, ahead).await;
            assert!(got == want, "{path} in parts of {len}");
        }
    }
    // Byte by byte, as it were; parts begin and end anywhere in the framing.
    let mut narrow = open(&Narrow(store.root().to_owned(), 8)).await;
    let small = store.many_files(30);
    let layout = list(&mut narrow, &small).await;
    let got = read(&mut narrow, &layout, 101, 8).await;
    assert!(got == store.nar(&small));
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_are_those_of_the_parts() {
    use sha2::{Digest, Sha256};
    let store = Store::new();
    let path = store.many_files(200);
    let nar = store.nar(&path);
    let mut channel = open(&process(&store)).await;
    let layout = list(&mut channel, &path).await;
    let part = layout.segment(1001, 50_000);
    let all = layout.segment(0, u64::MAX);
    channel.request_digest(&part);
    channel.request(&part, Some(1));
    channel.request_contents_digest(&part);
    channel.request_digest(&all);
    let hash = |bytes: &[u8]| -> [u8; 32] { Sha256::digest(bytes).into() };
    assert_eq!(
        channel.digest().await.unwrap(),
        Some(hash(&nar[1001..51_001]))
    );
    let got = channel.segment().await.unwrap();
    assert!(got.bytes == nar[1001..51_001]);
    let mut contents = Vec::new();
    let mut at = 1001;
    for piece in part.pieces() {
        use ssh_substituter::wire::nar::layout::Piece;
        match piece {
            Piece::Framing(bytes) => at += bytes.len(),
            Piece::Contents(range) => {
                let len = usize::try_from(range.len).unwrap();
                contents.extend_from_slice(&nar[at..at + len]);
                at += len;
            }
        }
    }
    assert_eq!(channel.digest().await.unwrap(), Some(hash(&contents)));
    assert_eq!(channel.digest().await.unwrap(), Some(hash(&nar)));
    assert!(channel.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_had_costs_its_own_reply_only() {
    let store = Store::new();
    let (good, changes) = (store.big("good", 3 * MIB), store.big("changes", 3 * MIB));
    let absent = "/nix/store/00000000000000000000000000000000-absent";
    let mut channel = open(&process(&store)).await;
    let layout = list(&mut channel, &good).await;
    let other = list(&mut channel, &changes).await;
    assert!(channel.list(&parse(absent)).await.unwrap().is_none());
    // A fifo, as nothing that a NAR holds.
    let fifo = Random::new(2, "fifo").store_path("fifo");
    let mut mkfifo = Command::new(tool("mkfifo"));
    mkfifo.arg(store.physical(&fifo));
    support::run(mkfifo, support::SHORT);
    assert!(channel.list(&parse(&fifo)).await.unwrap().is_none());
    let file = store.physical(&changes).join("data");
    change(&file, 0o644);
    change(file.parent().unwrap(), 0o755);
    fs::OpenOptions::new()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(MIB)
        .unwrap();
    for level in [None, Some(3)] {
        channel.request(&other.segment(0, MIB), level);
        channel.request(&layout.segment(0, MIB), level);
        let error = channel.segment().await.unwrap_err();
        assert!(
            matches!(&error.kind, RemoteErrorKind::NotAsListed { path, .. } if path.as_str() == changes),
            "{error}"
        );
        assert!(error.to_string().contains("got 1048576"), "{error}");
        let got = channel.segment().await.unwrap();
        assert!(got.bytes == store.nar(&good)[..got.bytes.len()]);
    }
    channel.request_digest(&other.segment(0, MIB));
    assert_eq!(channel.digest().await.unwrap(), None);
    // Into another folder, or gone.
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink(store.physical(&good).join("data"), &file).unwrap();
    channel.request(&other.segment(0, MIB), None);
    let error = channel.segment().await.unwrap_err();
    assert!(error.to_string().contains("cannot open"), "{error}");
    fs::remove_dir_all(store.physical(&changes)).unwrap();
    channel.request(&other.segment(0, MIB), None);
    let error = channel.segment().await.unwrap_err();
    assert!(error.to_string().contains("No such file"), "{error}");
    assert!(channel.is_clean());
    assert!(channel.list(&parse(&changes)).await.unwrap().is_none());
    let got = read(&mut channel, &layout, MIB, 2).await;
    assert!(got == store.nar(&good));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_not_valid_any_more_is_not_opened() {
    let store = Store::new();
    let path = store.big("once", 2 * MIB);
    let mut channel = open(&process(&store)).await;
    let layout = list(&mut channel, &path).await;
    // Its files are there still, as those of a path that is being collected or made.
    let kept = store.root().join("kept");
    let physical = store.physical(&path);
    fs::rename(&physical, &kept).unwrap();
    store.delete(&[&path]);
    fs::rename(&kept, &physical).unwrap();
    assert!(physical.join("data").exists() && !store.is_valid(&path));
    channel.request(&layout.segment(0, MIB), None);
    let error = channel.segment().await.unwrap_err();
    assert!(error.to_string().contains("is not valid"), "{error}");
    channel.request_digest(&layout.segment(0, MIB));
    assert_eq!(channel.digest().await.unwrap(), None);
    assert!(channel.list(&parse(&path)).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_nix_store_says_no_and_serves_on() {
    let store = Store::new();
    store.add_text("a", "a", &[]);
    let root = store.root().to_owned();
    let serve = move || {
        let mut command = Command::new(tool("nix-store"));
        command.arg("--serve").args(["--store"]).arg(&root);
        command
    };
    let transport = ProcessTransport::new(move |_| serve());
    assert!(try_open(&transport).await.unwrap().is_none());
}
