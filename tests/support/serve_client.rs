//! The serve protocol from the caller's side: over pipes to a front end, or over a socket to an engine.

use std::io::{Read, Write};
use std::ops::{Deref, DerefMut};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use bytes::BytesMut;
use sha2::{Digest, Sha256};
use ssh_substituter::model::{NarHash, PathInfo, StorePath};
use ssh_substituter::wire::nar::{Decoder, Event};
use ssh_substituter::wire::serve::{
    CLIENT_MAGIC, InfosDecoder, InfosStep, Request, ServerHello, SetDecoder, Version,
};
use ssh_substituter::wire::{WireError, put_u64};

use super::{NixEnv, Store, kill_tree};

/// A front end is killed after this time: a test that waits for it fails then, instead of waiting for ever.
const LIFETIME: Duration = Duration::from_secs(120);

/// How long a socket may be silent before a test fails.
const SILENCE: Duration = Duration::from_secs(60);

/// How much is read at once, in bytes.
const READ_SIZE: usize = 64 << 10;

/// The same for a [`ServeClient`], whose tests do something after each piece.
const SMALL_READ_SIZE: usize = 16 << 10;

/// One conversation.
pub struct Talk {
    input: Box<dyn Write + Send>,
    output: Box<dyn Read + Send>,
    buf: BytesMut,
    version: Version,
    read_size: usize,
}

/// A NAR that came; it was well-formed.
pub struct Came {
    pub hash: String,
    pub bytes: Vec<u8>,
}

impl Talk {
    /// Says hello with this version, and expects the server to go on with it.
    pub fn begin(
        input: impl Write + Send + 'static,
        output: impl Read + Send + 'static,
        version: Version,
    ) -> Self {
        let mut talk = Self {
            input: Box::new(input),
            output: Box::new(output),
            buf: BytesMut::new(),
            version,
            read_size: READ_SIZE,
        };
        let mut bytes = Vec::new();
        put_u64(&mut bytes, CLIENT_MAGIC);
        put_u64(&mut bytes, version.number());
        talk.send(&bytes);
        let mut hello = ServerHello::default();
        let theirs = talk.read(|buf| hello.step(buf));
        assert_eq!(hello.banner(), b"");
        assert_eq!(version.negotiate(theirs), Some(version));
        talk
    }

    /// With the process that listens on this socket.
    pub fn on_socket(path: &Path, version: Version) -> Self {
        let stream = UnixStream::connect(path).expect("connect to a socket");
        let limit = stream.set_read_timeout(Some(SILENCE));
        limit.expect("limit the silence on a socket");
        let input = stream.try_clone().expect("clone a socket");
        Self::begin(input, stream, version)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.input.write_all(bytes).expect("send a request");
    }

    fn read<T>(
        &mut self,
        mut step: impl FnMut(&mut BytesMut) -> Result<Option<T>, WireError>,
    ) -> T {
        loop {
            if let Some(value) = step(&mut self.buf).expect("the protocol") {
                return value;
            }
            self.more();
        }
    }

    fn more(&mut self) -> u64 {
        let mut piece = vec![0; self.read_size];
        let len = self.output.read(&mut piece).expect("read a reply");
        assert!(len > 0, "the server ended");
        self.buf.extend_from_slice(&piece[..len]);
        len as u64
    }

    /// Sends a request without waiting for the reply.
    pub fn ask(&mut self, request: &Request) {
        let mut bytes = Vec::new();
        request.put(&mut bytes);
        self.send(&bytes);
    }

    pub fn ask_infos(&mut self, paths: &[&str]) {
        let paths = parsed(paths);
        self.ask(&Request::QueryPathInfos { paths });
    }

    /// The reply to [`ask_infos`](Self::ask_infos).
    pub fn read_infos(&mut self) -> Vec<PathInfo> {
        let mut decoder = InfosDecoder::new(self.version);
        let mut infos = Vec::new();
        while let InfosStep::Info(info) = self.read(|buf| decoder.step(buf)) {
            infos.push(info);
        }
        infos
    }

    pub fn infos(&mut self, paths: &[&str]) -> Vec<PathInfo> {
        self.ask_infos(paths);
        self.read_infos()
    }

    pub fn valid(&mut self, paths: &[&str]) -> Vec<StorePath> {
        self.ask(&Request::QueryValidPaths {
            lock: false,
            substitute: false,
            paths: parsed(paths),
        });
        let mut decoder = SetDecoder::default();
        self.read(|buf| decoder.step(buf, |bytes| Ok(StorePath::from_bytes(bytes).ok())))
    }

    pub fn closure(&mut self, path: &str) -> Vec<String> {
        self.ask(&Request::QueryClosure {
            include_outputs: false,
            paths: parsed(&[path]),
        });
        let mut decoder = SetDecoder::default();
        let text = |bytes: &[u8]| Ok(Some(String::from_utf8_lossy(bytes).into_owned()));
        self.read(|buf| decoder.step(buf, text))
    }

    /// Receives a NAR, which must be a well-formed one. `take` gets its bytes; `watch` gets to know, each time before more is
    /// read, how many bytes have come: the first time when the request has been sent and nothing has come.
    fn receive(&mut self, path: &str, mut take: impl FnMut(&[u8]), mut watch: impl FnMut(u64)) {
        let path = StorePath::parse(path).expect("a store path");
        self.ask(&Request::DumpStorePath { path });
        assert!(self.buf.is_empty(), "an answer to nothing");
        let (mut decoder, mut came) = (Decoder::new(u64::MAX), 0);
        loop {
            let (read, event) = decoder.step(&self.buf).expect("a well-formed NAR");
            let (ended, hungry) = (event == Some(Event::End), event.is_none());
            take(&self.buf.split_to(read));
            if ended {
                assert!(self.buf.is_empty(), "more than the NAR");
                return;
            }
            if hungry {
                watch(came);
                came += self.more();
            }
        }
    }

    /// The NAR of a path; `watch` as in [`receive`](Self::receive).
    pub fn dump_while(&mut self, path: &str, watch: impl FnMut(u64)) -> Came {
        let mut bytes = Vec::new();
        self.receive(path, |piece| bytes.extend_from_slice(piece), watch);
        let hash = NarHash::new(Sha256::digest(&bytes).into()).to_string();
        Came { hash, bytes }
    }

    /// The hash of the NAR of a path. `pause` goes before each piece that is read.
    pub fn dump_slowly(&mut self, path: &str, mut pause: impl FnMut()) -> String {
        let mut hasher = Sha256::new();
        self.receive(path, |piece| hasher.update(piece), |_| pause());
        NarHash::new(hasher.finalize().into()).to_string()
    }

    /// The same, as fast as it comes.
    pub fn dump(&mut self, path: &str) -> String {
        self.dump_slowly(path, || {})
    }

    /// Asks for a path as Nix does, and checks what comes against what the store has.
    #[track_caller]
    pub fn fetch(&mut self, path: &str, from: &Store) {
        let hash = from.nar_hash(path);
        let infos = self.infos(&[path]);
        assert_eq!(infos.len(), 1, "{path}: {infos:?}");
        let told = infos[0].nar_hash.map(|hash| hash.to_string());
        assert_eq!(told.as_ref(), Some(&hash));
        assert_eq!(self.dump(path), hash, "{path}");
    }
}

/// A front end that runs, with a conversation on its pipes. It does what Nix 2 does with `--serve`, as slowly as a test wants.
pub struct ServeClient {
    pub child: Child,
    talk: Talk,
    /// Ends the guard of the child when dropped.
    _guarded: Sender<()>,
}

impl ServeClient {
    /// A front end of this process.
    pub fn start(env: &NixEnv) -> Self {
        Self::of(env.program())
    }

    /// The same, for a caller of an older version.
    pub fn start_with_version(env: &NixEnv, version: Version) -> Self {
        Self::of_version(env.program(), version)
    }

    /// A front end that this command leads to; the arguments of the program are added.
    pub fn of(command: Command) -> Self {
        Self::of_version(command, Version::NEWEST)
    }

    fn of_version(mut command: Command, version: Version) -> Self {
        command.args(["--serve", "--write"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start the program");
        let guarded = guard(child.id());
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (input, output) = (input.expect("a pipe"), output.expect("a pipe"));
        let mut talk = Talk::begin(input, output, version);
        talk.read_size = SMALL_READ_SIZE;
        Self {
            child,
            talk,
            _guarded: guarded,
        }
    }

    /// The front end ends well when its caller does.
    pub fn end(mut self) {
        drop(self.talk);
        assert!(self.child.wait().expect("wait").success());
    }
}

impl Deref for ServeClient {
    type Target = Talk;

    fn deref(&self) -> &Talk {
        &self.talk
    }
}

impl DerefMut for ServeClient {
    fn deref_mut(&mut self) -> &mut Talk {
        &mut self.talk
    }
}

/// Kills the process, and all that it started, after [`LIFETIME`], unless what this returns is dropped before.
pub fn guard(pid: u32) -> Sender<()> {
    let (alive, ended) = mpsc::channel();
    thread::spawn(move || {
        if ended.recv_timeout(LIFETIME) == Err(RecvTimeoutError::Timeout) {
            kill_tree(pid);
        }
    });
    alive
}

fn parsed(paths: &[&str]) -> Vec<StorePath> {
    let parse = |path: &&str| StorePath::parse(path).expect("a store path");
    paths.iter().map(parse).collect()
}
