//! A caller that does what Nix 2 does with `--serve`, as slowly as a test wants.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
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

use crate::support::{NixEnv, kill_tree};

/// No test takes so long: whoever waits for ever gets to know that the front end has ended.
const LIMIT: Duration = Duration::from_secs(120);

/// How much is read at once, in bytes.
const READ: usize = 16 << 10;

/// A connection to a front end.
pub struct ServeClient {
    pub child: Child,
    input: ChildStdin,
    output: ChildStdout,
    buf: BytesMut,
    /// Tells whoever guards the child that all is over.
    _guarded: Sender<()>,
}

/// A NAR that came; it was well-formed.
pub struct Came {
    pub hash: String,
    pub bytes: Vec<u8>,
}

impl ServeClient {
    /// A front end of this process.
    pub fn start(env: &NixEnv) -> Self {
        Self::of(env.program())
    }

    /// A front end that this command leads to; the arguments of the program are added.
    pub fn of(mut command: Command) -> Self {
        command.args(["--serve", "--write"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start the program");
        let pid = child.id();
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let mut client = Self {
            child,
            input: input.expect("a pipe"),
            output: output.expect("a pipe"),
            buf: BytesMut::new(),
            _guarded: guard(pid),
        };
        let mut bytes = Vec::new();
        put_u64(&mut bytes, CLIENT_MAGIC);
        put_u64(&mut bytes, Version::NEWEST.number());
        client.input.write_all(&bytes).expect("say hello");
        let mut hello = ServerHello::default();
        client.read(|buf| hello.step(buf));
        client
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
        let mut piece = [0; READ];
        let len = self.output.read(&mut piece).expect("read a reply");
        assert!(len > 0, "the program ended");
        self.buf.extend_from_slice(&piece[..len]);
        len as u64
    }

    /// Sends a request without waiting for the reply.
    pub fn ask(&mut self, request: &Request) {
        let mut bytes = Vec::new();
        request.put(&mut bytes);
        self.input.write_all(&bytes).expect("send a request");
    }

    pub fn ask_infos(&mut self, paths: &[&str]) {
        let paths = parsed(paths);
        self.ask(&Request::QueryPathInfos { paths });
    }

    /// The reply to [`ask_infos`](Self::ask_infos).
    pub fn read_infos(&mut self) -> Vec<PathInfo> {
        let mut decoder = InfosDecoder::new(Version::NEWEST);
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

    pub fn dump(&mut self, path: &str) -> Came {
        self.dump_while(path, |_| {})
    }

    /// Each time before more is read `watch` gets to know how many bytes have come: the first time
    /// when the request has been sent and nothing has come.
    pub fn dump_while(&mut self, path: &str, mut watch: impl FnMut(u64)) -> Came {
        let path = StorePath::parse(path).expect("a store path");
        self.ask(&Request::DumpStorePath { path });
        assert!(self.buf.is_empty(), "an answer to nothing");
        let (mut decoder, mut bytes, mut came) = (Decoder::new(u64::MAX), Vec::new(), 0);
        loop {
            let (read, event) = decoder.step(&self.buf).expect("a well-formed NAR");
            let (ended, hungry) = (event == Some(Event::End), event.is_none());
            bytes.extend_from_slice(&self.buf.split_to(read));
            if ended {
                let hash = NarHash::new(Sha256::digest(&bytes).into()).to_string();
                assert!(self.buf.is_empty(), "more than the NAR");
                return Came { hash, bytes };
            }
            if hungry {
                watch(came);
                came += self.more();
            }
        }
    }

    /// The front end ends well when its caller does.
    pub fn end(mut self) {
        drop(self.input);
        assert!(self.child.wait().expect("wait").success());
    }
}

/// Kills the process, and whatever it started, when the time is over and nobody has let go of what
/// this gives.
pub fn guard(pid: u32) -> Sender<()> {
    let (alive, ended) = mpsc::channel();
    thread::spawn(move || {
        if ended.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
            kill_tree(pid);
        }
    });
    alive
}

fn parsed(paths: &[&str]) -> Vec<StorePath> {
    let parse = |path: &&str| StorePath::parse(path).expect("a store path");
    paths.iter().map(parse).collect()
}
