//! A process `nix-store --serve --write` on this machine, and the client side of its protocol.

use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::commands::get::error::NixError;
use crate::model::{MAX_PATH_LEN, PathInfo, StorePath};
use crate::remote::readable;
use crate::wire::serve::{CLIENT_MAGIC, Request, ServerHello, SetDecoder, Version};
use crate::wire::{WireError, put_string, put_u64, take};

/// AddToStoreNar.
const ADD_TO_STORE_NAR: u64 = 9;

/// From here there is AddToStoreNar (Nix 2.2).
const OLDEST: Version = Version::new(2, 5);

/// The newest version whose AddToStoreNar is known (Nix 2.34).
const NEWEST: Version = Version::new(2, 7);

/// How long it may take to exit, and its stderr to be read, once stdout is closed.
const EXIT_GRACE: Duration = Duration::from_millis(500);

/// How much of the end of its stderr is kept, in bytes.
const MAX_STDERR_TAIL: usize = 4 << 10;

/// Where Nix is when it is not in PATH; the first one is below the home folder.
const USUAL_PLACES: [&str; 3] = [
    ".nix-profile/bin",
    "/nix/var/nix/profiles/default/bin",
    "/run/current-system/sw/bin",
];

/// Finds `nix-store`.
pub(super) fn find_program() -> Result<PathBuf, NixError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let usual = USUAL_PLACES.map(|place| home.clone().unwrap_or_else(|| "/".into()).join(place));
    let mut places = std::env::split_paths(&path).chain(usual);
    let found = places.find_map(|place| {
        let file = place.join("nix-store");
        file.is_file().then_some(file)
    });
    found.ok_or(NixError::Missing)
}

/// The process. It is killed when this is dropped.
pub(super) struct ServeProcess {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    input: BytesMut,
    stderr_tail: Arc<Mutex<Vec<u8>>>,
    stderr_reader: JoinHandle<()>,
    version: Version,
    /// How long it may be silent.
    silence: Duration,
}

impl ServeProcess {
    /// Starts one, in this process's environment.
    pub(super) async fn start(program: &Path, silence: Duration) -> Result<Self, NixError> {
        let failed = |source| NixError::Start {
            program: program.to_owned(),
            source,
        };
        let mut child = Command::new(program)
            .args(["--serve", "--write"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let lost = || failed(std::io::ErrorKind::BrokenPipe.into());
        let stderr_tail = Arc::new(Mutex::new(Vec::new()));
        let stderr = child.stderr.take().ok_or_else(lost)?;
        let mut process = Self {
            stdin: child.stdin.take().ok_or_else(lost)?,
            stdout: child.stdout.take().ok_or_else(lost)?,
            stderr_reader: tokio::spawn(read_stderr(stderr, stderr_tail.clone())),
            child,
            input: BytesMut::new(),
            stderr_tail,
            version: OLDEST,
            silence,
        };
        process.handshake().await?;
        Ok(process)
    }

    async fn handshake(&mut self) -> Result<(), NixError> {
        let doing = "the handshake";
        let mut hello = Vec::new();
        put_u64(&mut hello, CLIENT_MAGIC);
        put_u64(&mut hello, NEWEST.number());
        self.write(&hello, doing).await?;
        let mut decoder = ServerHello::default();
        let theirs = self.read(doing, |buf| decoder.step(buf)).await?;
        let version = NEWEST.negotiate(theirs);
        let good = version.filter(|version| *version >= OLDEST);
        self.version = good.ok_or_else(|| NixError::TooOld {
            expected: OLDEST.to_string(),
            got: format!("{}.{}", theirs >> 8, theirs & 0xff),
        })?;
        Ok(())
    }

    /// Those of `paths` that are valid. They are kept from being collected as long as this lives.
    pub(super) async fn valid(&mut self, paths: &[StorePath]) -> Result<Vec<StorePath>, NixError> {
        let doing = "the question which paths are valid";
        let mut request = Vec::new();
        Request::QueryValidPaths {
            lock: true,
            substitute: false,
            paths: paths.to_vec(),
        }
        .put(&mut request);
        self.write(&request, doing).await?;
        let mut decoder = SetDecoder::default();
        // What is no store path was not asked for.
        let path = |bytes: &[u8]| Ok(StorePath::from_bytes(bytes).ok());
        self.read(doing, |buf| decoder.step(buf, path)).await
    }

    /// Begins to add a path, all of whose references are valid. Its NAR follows, by [`nar`](Self::nar).
    pub(super) async fn begin(&mut self, info: &PathInfo) -> Result<(), NixError> {
        let (Some(hash), true) = (info.nar_hash, info.nar_size > 0) else {
            let path = info.path.clone();
            return Err(NixError::NoHash(path));
        };
        let mut request = Vec::new();
        put_u64(&mut request, ADD_TO_STORE_NAR);
        put_string(&mut request, info.path.as_str().as_bytes());
        let deriver = info.deriver.as_ref().map_or("", StorePath::as_str);
        put_string(&mut request, deriver.as_bytes());
        put_string(&mut request, hash.base16().as_bytes());
        let strings = |request: &mut Vec<u8>, all: &mut dyn ExactSizeIterator<Item = &str>| {
            put_u64(request, all.len() as u64);
            all.for_each(|text| put_string(request, text.as_bytes()));
        };
        strings(
            &mut request,
            &mut info.references.iter().map(StorePath::as_str),
        );
        // The time of the registration: Nix takes its own.
        put_u64(&mut request, 0);
        put_u64(&mut request, info.nar_size);
        // Not built here.
        put_u64(&mut request, 0);
        strings(&mut request, &mut info.sigs.iter().map(String::as_str));
        put_string(
            &mut request,
            info.ca.as_deref().unwrap_or_default().as_bytes(),
        );
        self.write(&request, &adding(&info.path)).await
    }

    /// The next bytes of the NAR.
    pub(super) async fn nar(&mut self, path: &StorePath, bytes: &Bytes) -> Result<(), NixError> {
        self.write(bytes, &adding(path)).await
    }

    /// The NAR is complete: waits until the path is valid.
    pub(super) async fn end(&mut self, path: &StorePath) -> Result<(), NixError> {
        let doing = adding(path);
        let done = self.read(&doing, |buf| take(buf, |c| c.u64())).await?;
        if done == 1 {
            return Ok(());
        }
        Err(NixError::Protocol {
            doing,
            source: WireError::new("the answer", "1", done),
        })
    }

    async fn write(&mut self, bytes: &[u8], doing: &str) -> Result<(), NixError> {
        match timeout(self.silence, self.stdin.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.ended(doing).await),
            Err(_) => Err(self.silent(doing)),
        }
    }

    async fn read<T>(
        &mut self,
        doing: &str,
        mut step: impl FnMut(&mut BytesMut) -> Result<Option<T>, WireError>,
    ) -> Result<T, NixError> {
        loop {
            match step(&mut self.input) {
                Ok(Some(value)) => return Ok(value),
                Ok(None) => {}
                Err(source) => {
                    let doing = doing.to_owned();
                    return Err(NixError::Protocol { doing, source });
                }
            }
            self.input.reserve(MAX_PATH_LEN);
            match timeout(self.silence, self.stdout.read_buf(&mut self.input)).await {
                Ok(Ok(1..)) => {}
                Ok(_) => return Err(self.ended(doing).await),
                Err(_) => return Err(self.silent(doing)),
            }
        }
    }

    fn silent(&self, doing: &str) -> NixError {
        NixError::Silent {
            doing: doing.to_owned(),
            seconds: self.silence.as_secs(),
        }
    }

    /// The error when it has closed its side: with the end of its stderr, which may take a moment.
    async fn ended(&mut self, doing: &str) -> NixError {
        let _ = timeout(EXIT_GRACE, &mut self.stderr_reader).await;
        let stderr_tail = readable(&self.stderr_tail.lock());
        let stderr_tail = stderr_tail.split_whitespace().collect::<Vec<_>>().join(" ");
        let stderr_tail = match timeout(EXIT_GRACE, self.child.wait()).await {
            Ok(Ok(status)) if stderr_tail.is_empty() => status.to_string(),
            _ if stderr_tail.is_empty() => "it said nothing".to_owned(),
            _ => stderr_tail,
        };
        let doing = doing.to_owned();
        NixError::Ended {
            doing,
            said: stderr_tail,
        }
    }
}

impl Drop for ServeProcess {
    fn drop(&mut self) {
        self.stderr_reader.abort();
    }
}

fn adding(path: &StorePath) -> String {
    format!("the addition of {path}")
}

/// Keeps the end of its stderr, and logs all of it.
async fn read_stderr(mut stderr: ChildStderr, stderr_tail: Arc<Mutex<Vec<u8>>>) {
    let mut piece = [0; 1024];
    while let Ok(len @ 1..) = stderr.read(&mut piece).await {
        for line in readable(&piece[..len]).lines() {
            log::debug!("nix-store: {line}");
        }

        let mut stderr_tail = stderr_tail.lock();
        stderr_tail.extend_from_slice(&piece[..len]);
        let excess = stderr_tail.len().saturating_sub(MAX_STDERR_TAIL);
        stderr_tail.drain(..excess);
    }
}
