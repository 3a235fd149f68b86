//! The serve protocol from the caller's side: over pipes to a front end, or over a socket to an engine.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::BytesMut;
use sha2::{Digest, Sha256};
use ssh_substituter::model::{NarHash, PathInfo, StorePath};
use ssh_substituter::wire::nar::{Decoder, Event};
use ssh_substituter::wire::serve::{
    CLIENT_MAGIC, InfosDecoder, InfosStep, Request, ServerHello, SetDecoder, Version,
};
use ssh_substituter::wire::{WireError, put_u64};

use super::support::Store;

/// A valid path that nobody has.
pub const NOBODYS: &str = "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-nobodys";

/// What leaves a process without a cache on disk: a variable and its value.
pub const NO_DISK: (&str, &str) = ("SSH_SUBSTITUTER_CACHE_DIR", "/dev/null/cache");

/// How long a socket may be silent before a test fails.
const SILENCE: Duration = Duration::from_secs(60);

/// One conversation.
pub struct Talk {
    input: Box<dyn Write + Send>,
    output: Box<dyn Read + Send>,
    buf: BytesMut,
    version: Version,
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

    /// With whoever listens on this socket.
    pub fn on_socket(path: &Path, version: Version) -> Self {
        let stream = UnixStream::connect(path).expect("connect to a socket");
        let limit = stream.set_read_timeout(Some(SILENCE));
        limit.expect("limit the silence on a socket");
        let input = stream.try_clone().expect("clone a socket");
        Self::begin(input, stream, version)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.input.write_all(bytes).expect("ask");
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

    fn more(&mut self) {
        let mut piece = [0; 64 << 10];
        let len = self.output.read(&mut piece).expect("read a reply");
        assert!(len > 0, "the server ended");
        self.buf.extend_from_slice(&piece[..len]);
    }

    fn ask(&mut self, request: &Request) {
        let mut bytes = Vec::new();
        request.put(&mut bytes);
        self.send(&bytes);
    }

    pub fn infos(&mut self, paths: &[&str]) -> Vec<PathInfo> {
        let paths = paths.iter().map(|path| store_path(path)).collect();
        self.ask(&Request::QueryPathInfos { paths });
        let mut decoder = InfosDecoder::new(self.version);
        let mut infos = Vec::new();
        while let InfosStep::Info(info) = self.read(|buf| decoder.step(buf)) {
            infos.push(info);
        }
        infos
    }

    // For those who include this module from elsewhere.
    #[allow(dead_code)]
    pub fn closure(&mut self, path: &str) -> Vec<String> {
        self.ask(&Request::QueryClosure {
            include_outputs: false,
            paths: vec![store_path(path)],
        });
        let mut decoder = SetDecoder::default();
        let text = |bytes: &[u8]| Ok(Some(String::from_utf8_lossy(bytes).into_owned()));
        self.read(|buf| decoder.step(buf, text))
    }

    /// The hash of the NAR that comes, which must be a well-formed one. `pause` goes after each piece that was read.
    pub fn dump_slowly(&mut self, path: &str, mut pause: impl FnMut()) -> String {
        let path = store_path(path);
        self.ask(&Request::DumpStorePath { path });
        let (mut decoder, mut hasher) = (Decoder::new(u64::MAX), Sha256::new());
        loop {
            let (read, event) = decoder.step(&self.buf).expect("a well-formed NAR");
            let (ended, hungry) = (event == Some(Event::End), event.is_none());
            hasher.update(self.buf.split_to(read));
            if ended {
                return NarHash::new(hasher.finalize().into()).to_string();
            }
            if hungry {
                pause();
                self.more();
            }
        }
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

fn store_path(path: &str) -> StorePath {
    StorePath::parse(path).expect("a store path")
}

/// A front end that runs, with a conversation on its pipes.
pub struct FrontEnd {
    child: Child,
    pub talk: Talk,
    stderr: File,
}

impl FrontEnd {
    /// Starts this command, which ends up as the program with `--serve`. Its parent is this process.
    pub fn start(mut command: Command) -> Self {
        let stderr = tempfile::tempfile().expect("make a temporary file");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr.try_clone().expect("clone a file"))
            .spawn()
            .expect("start a front end");
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let talk = Talk::begin(
            input.expect("stdin is piped"),
            output.expect("stdout is piped"),
            Version::NEWEST,
        );
        Self {
            child,
            talk,
            stderr,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as callers do; gives what it printed.
    #[track_caller]
    pub fn end(self) -> String {
        let Self {
            mut child,
            talk,
            stderr,
        } = self;
        drop(talk);
        let status = child.wait().expect("wait for a front end");
        let text = text_of(stderr);
        assert!(status.success(), "{status}: {text}");
        text
    }

    /// Ends it; it has printed nothing.
    #[track_caller]
    pub fn end_quietly(self) {
        assert_eq!(self.end(), "");
    }

    /// Waits for an end that comes by force.
    pub fn wait_for_its_end(mut self) {
        let status = self.child.wait().expect("wait for a front end");
        assert!(!status.success(), "{status}");
    }
}

fn text_of(mut file: File) -> String {
    use std::io::Seek;
    file.rewind().expect("go back in a file");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("read a file");
    text
}
