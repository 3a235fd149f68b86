//! A host that is anything but what it should be: a real sshd whose only command is a relay to this test program, which
//! answers as the attack at hand wants it.
//!
//! ```text
//! the relay sends: the command that was asked for, LF, then all that comes by stdin
//! it is sent:      kind (1 byte) length (4 bytes, big endian) bytes
//! kind = "o" for stdout | "e" for stderr | "x" to end with this length as exit status
//! ```

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bytes::BytesMut;
use ssh_substituter::model::{PathInfo, StorePath};
use ssh_substituter::wire::put_u64;
use ssh_substituter::wire::serve::{
    Incoming, Request, RequestDecoder, SERVER_MAGIC, Version, put_info, put_infos_end, put_set,
    take_client_hello,
};

use super::support::{Scratch, Sshd, Store, tool};
use super::talk::Talk;

/// Stands between sshd and this program.
const RELAY: &str = r#"use strict; use IO::Socket::UNIX;
my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or exit 99;
syswrite($s, ($ENV{SSH_ORIGINAL_COMMAND} // "") . "\n");
my $pid = fork;
if (!$pid) {
  while (my $n = sysread(STDIN, my $b, 65536)) {
    for (my $o = 0; $o < $n;) { my $w = syswrite($s, $b, $n - $o, $o) or exit; $o += $w }
  }
  shutdown($s, 1); exit;
}
sub all { my ($n) = @_; my $b = ""; while ($n > length $b) { sysread($s, $b, $n - length $b, length $b) or return } $b }
my $status = 0;
while (defined(my $h = all(5))) {
  my ($kind, $n) = unpack "aN", $h;
  if ($kind eq "x") { $status = $n; last }
  my $b = all($n) // last;
  my $to = $kind eq "e" ? \*STDERR : \*STDOUT;
  for (my $o = 0; $o < $n;) { my $w = syswrite($to, $b, $n - $o, $o) or exit 98; $o += $w }
}
kill KILL => $pid; exit $status;
"#;

/// The way to the client of one connection, and whose turn it is to write.
pub struct Line(UnixStream, Arc<Mutex<()>>);

pub type Io = io::Result<()>;

impl Line {
    fn frame(&mut self, kind: u8, bytes: &[u8]) -> Io {
        let mut head = vec![kind];
        head.extend_from_slice(&u32::try_from(bytes.len()).expect("a length").to_be_bytes());
        let _turn = self.1.lock().expect("a turn");
        self.0.write_all(&head)?;
        self.0.write_all(bytes)
    }

    /// What the client sends from now on.
    pub fn reader(&self) -> io::Result<UnixStream> {
        self.0.try_clone()
    }

    /// A second way to the same client.
    pub fn another(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?, self.1.clone()))
    }

    /// To its stdout.
    pub fn out(&mut self, bytes: &[u8]) -> Io {
        bytes
            .chunks(64 << 10)
            .try_for_each(|piece| self.frame(b'o', piece))
    }

    /// To its stderr.
    pub fn err(&mut self, bytes: &[u8]) -> Io {
        bytes
            .chunks(64 << 10)
            .try_for_each(|piece| self.frame(b'e', piece))
    }

    /// The same to its stdout until it takes no more.
    pub fn flood(&mut self, bytes: &[u8]) -> Io {
        let piece = bytes.repeat((64 << 10) / bytes.len() + 1);
        loop {
            self.out(&piece)?;
        }
    }

    /// Byte after byte, with a pause behind each; then nothing more.
    pub fn trickle(&mut self, bytes: &[u8], pause: Duration) -> Io {
        for byte in bytes {
            self.out(&[*byte])?;
            thread::sleep(pause);
        }
        self.hold()
    }

    /// Says nothing more until the client has gone.
    pub fn hold(&mut self) -> Io {
        let mut left = Vec::new();
        self.0.try_clone()?.read_to_end(&mut left)?;
        gone()
    }

    /// Ends with this status.
    pub fn exit(&mut self, status: u32) -> Io {
        self.0.write_all(b"x")?;
        self.0.write_all(&status.to_be_bytes())?;
        gone()
    }
}

fn gone() -> Io {
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// What an honest host knows and has.
#[derive(Clone, Default)]
pub struct World(pub BTreeMap<StorePath, (PathInfo, Vec<u8>)>);

impl World {
    /// All that a store has.
    pub fn of(store: &Store) -> Self {
        let mut child = store
            .serve(false)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("start nix-store");
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (input, output) = (input.expect("a pipe"), output.expect("a pipe"));
        let mut talk = Talk::begin(input, output, Version::new(2, 5));
        let paths = store.all_paths();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let infos = talk.infos(&paths);
        drop(talk);
        child.wait().expect("wait for nix-store");
        let with_nar = |info: PathInfo| {
            let nar = store.nar(info.path.as_str());
            (info.path.clone(), (info, nar))
        };
        Self(infos.into_iter().map(with_nar).collect())
    }

    fn info(&self, path: &StorePath) -> Option<&PathInfo> {
        self.0.get(path).map(|(info, _)| info)
    }
}

/// What a host does with what it is asked. Without a word about it, what an honest one does.
pub trait Attack: Send + Sync {
    /// Before anything else; a shell is refused.
    fn begin(&self, line: &mut Line, command: &str) -> Io {
        match command == "sh" {
            true => line.exit(1),
            false => Ok(()),
        }
    }

    fn hello(&self, line: &mut Line) -> Io {
        line.out(&hello())
    }

    fn infos(&self, line: &mut Line, world: &World, asked: &[StorePath]) -> Io {
        let infos: Vec<_> = asked.iter().filter_map(|path| world.info(path)).collect();
        line.out(&infos_reply(infos))
    }

    fn closure(&self, line: &mut Line, world: &World, asked: &[StorePath]) -> Io {
        let mut all: Vec<StorePath> = asked.to_vec();
        let mut next = 0;
        while next < all.len() {
            let info = world.info(&all[next]);
            for path in info.map_or(&[][..], |info| &info.references) {
                if !all.contains(path) {
                    all.push(path.clone());
                }
            }
            next += 1;
        }
        let mut out = Vec::new();
        put_set(&mut out, &all);
        line.out(&out)
    }

    fn dump(&self, line: &mut Line, info: &PathInfo, nar: &[u8]) -> Io {
        let _ = info;
        line.out(nar)
    }
}

/// A host that does nothing wrong.
pub struct Honest;

impl Attack for Honest {}

pub fn hello() -> Vec<u8> {
    let mut out = Vec::new();
    put_u64(&mut out, SERVER_MAGIC);
    put_u64(&mut out, Version::NEWEST.number());
    out
}

pub fn infos_reply<'a>(infos: impl IntoIterator<Item = &'a PathInfo>) -> Vec<u8> {
    let mut out = Vec::new();
    for info in infos {
        put_info(&mut out, Version::NEWEST, info);
    }
    put_infos_end(&mut out);
    out
}

struct Shared {
    attack: Mutex<Arc<dyn Attack>>,
    world: Mutex<World>,
}

/// The host.
pub struct Hostile {
    pub sshd: Sshd,
    shared: Arc<Shared>,
    _scratch: Scratch,
}

impl Hostile {
    pub fn new(world: World) -> Self {
        let scratch = Scratch::new();
        let socket = scratch.path().join("socket");
        let listener = UnixListener::bind(&socket).expect("listen on a socket");
        let shared = Arc::new(Shared {
            attack: Mutex::new(Arc::new(Honest)),
            world: Mutex::new(world),
        });
        let serving = shared.clone();
        // It ends with the test program.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = serving.clone();
                thread::spawn(move || {
                    // Whoever ends a connection ends this.
                    let _ = serve(&stream, &shared);
                    let _ = stream.shutdown(std::net::Shutdown::Both);
                });
            }
        });
        let relay = scratch.write("relay.pl", RELAY);
        let command = format!(
            "ForceCommand exec {} {} {}",
            tool("perl").display(),
            relay.display(),
            socket.display()
        );
        Self {
            sshd: Sshd::builder().line(command).start(),
            shared,
            _scratch: scratch,
        }
    }

    /// What it does from now on.
    pub fn attack(&self, attack: impl Attack + 'static) {
        *self.shared.attack.lock().expect("an attack") = Arc::new(attack);
    }

    /// What it would have and know if it were honest.
    pub fn set_world(&self, world: World) {
        *self.shared.world.lock().expect("a world") = world;
    }

    /// How messages name it.
    pub fn name(&self) -> String {
        format!("{}@127.0.0.1:{}", self.sshd.user(), self.sshd.port())
    }
}

fn serve(stream: &UnixStream, shared: &Shared) -> Io {
    let mut line = Line(stream.try_clone()?, Arc::default());
    let mut input = stream.try_clone()?;
    // Byte by byte: what follows may be for somebody else.
    let (mut command, mut byte) = (Vec::new(), [0]);
    while input.read_exact(&mut byte).is_ok() && byte != *b"\n" {
        command.push(byte[0]);
    }
    let command = String::from_utf8_lossy(&command);
    let attack = shared.attack.lock().expect("an attack").clone();
    let world = shared.world.lock().expect("a world").clone();
    attack.begin(&mut line, command.trim())?;
    let mut buffer = BytesMut::new();
    let mut decoder = RequestDecoder::default();
    let mut greeted = false;
    let mut piece = vec![0; 64 << 10];
    loop {
        if !greeted {
            if let Ok(Some(_)) = take_client_hello(&mut buffer) {
                attack.hello(&mut line)?;
                greeted = true;
                continue;
            }
        } else if let Ok(Some(incoming)) = decoder.step(&mut buffer) {
            answer(&*attack, &mut line, &world, incoming)?;
            continue;
        }
        match input.read(&mut piece)? {
            0 => return Ok(()),
            len => buffer.extend_from_slice(&piece[..len]),
        }
    }
}

fn answer(attack: &dyn Attack, line: &mut Line, world: &World, incoming: Incoming) -> Io {
    match incoming {
        Incoming::Request(Request::QueryPathInfos { paths }) => attack.infos(line, world, &paths),
        Incoming::Request(Request::QueryClosure { paths, .. }) => {
            attack.closure(line, world, &paths)
        }
        Incoming::Request(Request::DumpStorePath { path }) => match world.0.get(&path) {
            Some((info, nar)) => attack.dump(line, info, nar),
            None => line.exit(1),
        },
        Incoming::Request(Request::QueryValidPaths { paths, .. }) => {
            let mut out = Vec::new();
            let valid = paths.into_iter().filter(|path| world.0.contains_key(path));
            put_set(&mut out, &valid.collect::<Vec<_>>());
            line.out(&out)
        }
        _ => line.exit(1),
    }
}
