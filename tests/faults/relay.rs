//! The relay on the remote side: stands between sshd and the real `nix-store --serve`, understands what passes, and makes
//! go wrong what is planned.
//!
//! It is this very test program, started by a script as the host's `remote-program`. libtest prints to stdout, so the script
//! sends stdout away and gives the relay its stderr as the way back to the client; the real stderr is file descriptor 3.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use bytes::BytesMut;
use rustix::process::{Pid, Signal, kill_process};
use ssh_substituter::wire::serve::{
    Incoming, InfosDecoder, InfosStep, Request, RequestDecoder, SetDecoder, Version,
    take_client_hello,
};

use crate::plan::{Fault, Kind, LARGE, Place, When};
use crate::plan_folder::PlanFolder;
use crate::proxy::cut_after;
use crate::support::{descendants, tool};

/// The variable that makes a relay of this program; holds the path of the plan folder.
pub const FOLDER: &str = "FAULT_RELAY_FOLDER";

/// The script that starts a relay.
pub fn script(folder: &Path) -> String {
    let program = std::env::current_exe().expect("the path of this program");
    format!(
        "#!/bin/sh\n{FOLDER}='{}' exec '{}' --exact relay_main --ignored --nocapture --test-threads=1 3>&2 2>&1 1>/dev/null\n",
        folder.display(),
        program.display()
    )
}

/// A reply that is owed.
struct Owed {
    shape: Shape,
    fault: Option<Fault>,
}

enum Shape {
    Bytes(u64),
    Infos,
    Set,
    /// Of something that nobody has: the server will end.
    Unknown,
}

/// Relays until either side ends.
pub fn main(folder: &Path) -> ! {
    let plan_folder = PlanFolder::new(folder);
    let mut server = Command::new("/bin/sh")
        .args(["-c", r#"exec "$0" --serve --store "$1" 2>&3"#])
        .arg(tool("nix-store"))
        .arg(plan_folder.get("store"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start nix-store");
    let (owed, replies) = channel();
    let hello = Owed {
        shape: Shape::Bytes(16),
        fault: plan_folder.claim(When::Handshake, None),
    };
    owed.send(hello).expect("the other thread");
    let pid = server.id();
    let (input, output) = (server.stdin.take(), server.stdout.take());
    let there = PlanFolder::new(folder);
    thread::spawn(move || requests(&there, pid, input.expect("a pipe"), &owed));
    let mut back = Back {
        plan_folder,
        output: output.expect("a pipe"),
        server,
        buffer: BytesMut::new(),
    };
    back.relay(&replies)
}

/// Passes requests on, after it has noted what reply is owed for each.
fn requests(plan_folder: &PlanFolder, server: u32, mut input: ChildStdin, owed: &Sender<Owed>) {
    let sizes = plan_folder.sizes();
    let mut buffer = BytesMut::new();
    let mut greeted = false;
    let mut decoder = RequestDecoder::default();
    let mut piece = vec![0; 64 << 10];
    while let Ok(length @ 1..) = std::io::stdin().read(&mut piece) {
        buffer.extend_from_slice(&piece[..length]);
        greeted = greeted || matches!(take_client_hello(&mut buffer), Ok(Some(_)));
        while greeted && let Ok(Some(incoming)) = decoder.step(&mut buffer) {
            let (shape, when, path) = match incoming {
                Incoming::Request(Request::QueryPathInfos { .. }) => {
                    (Shape::Infos, When::Query, None)
                }
                Incoming::Request(Request::DumpStorePath { path }) => {
                    let path = path.as_str().to_owned();
                    match sizes.get(&path) {
                        Some(size) if *size > LARGE => {
                            (Shape::Bytes(*size), When::Large, Some(path))
                        }
                        Some(size) => (Shape::Bytes(*size), When::Small, Some(path)),
                        None => (Shape::Unknown, When::Small, Some(path)),
                    }
                }
                Incoming::Request(_) => (Shape::Set, When::Query, None),
                _ => (Shape::Unknown, When::Query, None),
            };
            let mut fault = plan_folder.claim(when, path.as_deref());
            if let (Some(Kind::Gc), Some(path)) = (fault.as_ref().map(|f| f.kind), &path) {
                collect(plan_folder, path, &fault.take().expect("a fault"));
            }
            if owed.send(Owed { shape, fault }).is_err() {
                return;
            }
        }
        if input.write_all(&piece[..length]).is_err() {
            // The server has ended; what it said last is on its way.
            return;
        }
    }
    // The client has gone, and the server may be frozen.
    signal(server, Signal::KILL);
    std::process::exit(0);
}

/// The path is gone. Only where nothing refers to it: Nix would not do it.
fn collect(plan_folder: &PlanFolder, path: &str, fault: &Fault) {
    let deleted = Command::new(tool("nix-store"))
        .args(["--delete", path, "--store", &plan_folder.get("store")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if deleted.is_ok_and(|status| status.success()) {
        plan_folder.fired(fault);
    }
}

/// The way back.
struct Back {
    plan_folder: PlanFolder,
    output: ChildStdout,
    server: Child,
    buffer: BytesMut,
}

impl Back {
    fn relay(&mut self, replies: &Receiver<Owed>) -> ! {
        while let Ok(Owed { shape, fault }) = replies.recv() {
            let length = match shape {
                Shape::Bytes(length) => length,
                Shape::Infos => self.whole(infos),
                Shape::Set => self.whole(set),
                Shape::Unknown => u64::MAX,
            };
            self.pass(length, fault.as_ref());
            // What came spoilt is not through yet: another reply will have to make up for it.
            if fault.is_none_or(|fault| fault.kind == Kind::Slow) {
                self.plan_folder.done();
            }
        }
        // All requests are answered and the server takes no more.
        self.end(0)
    }

    /// Waits for a whole reply; its length.
    fn whole(&mut self, length: fn(&[u8]) -> Option<usize>) -> u64 {
        loop {
            if let Some(length) = length(&self.buffer) {
                return length as u64;
            }
            self.fill();
        }
    }

    /// Reads more; ends as the server does.
    fn fill(&mut self) {
        let mut piece = [0; 64 << 10];
        match self.output.read(&mut piece) {
            Ok(length @ 1..) => self.buffer.extend_from_slice(&piece[..length]),
            _ => {
                let rest = self.buffer.split();
                self.send(&rest);
                let status = self.server.wait().ok().and_then(|status| status.code());
                self.end(status.unwrap_or(1))
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        if std::io::stderr().write_all(bytes).is_err() {
            self.end(1);
        }
    }

    fn end(&mut self, status: i32) -> ! {
        signal(self.server.id(), Signal::KILL);
        std::process::exit(status)
    }

    /// Passes on a reply of that length, with what shall go wrong in it.
    fn pass(&mut self, length: u64, fault: Option<&Fault>) {
        let place = fault.map(|fault| (self.offset(fault, length), fault));
        let mut sent = 0;
        let mut spoilt = 0;
        let mut pace = None;
        while sent < length {
            let mut most = length - sent;
            if let Some((at, fault)) = place {
                if at == sent {
                    self.plan_folder.fired(fault);
                    self.act(fault, length - sent);
                    match fault.kind {
                        Kind::Garbage => spoilt = 64,
                        Kind::Slow => pace = Some(Pace::new(length - sent)),
                        _ => {}
                    }
                } else if at > sent {
                    most = at - sent;
                }
            }
            if self.buffer.is_empty() {
                self.fill();
            }
            if let Some(pace) = &mut pace {
                most = most.min(pace.wait());
            }
            let size = self
                .buffer
                .len()
                .min(usize::try_from(most).unwrap_or(usize::MAX));
            let mut piece = self.buffer.split_to(size);
            for byte in piece.iter_mut().take(spoilt) {
                // Never a zero, which padding would like, and never ASCII.
                *byte = !*byte | 0x80;
            }
            spoilt = spoilt.saturating_sub(size);
            self.send(&piece);
            sent += size as u64;
        }
    }

    fn offset(&self, fault: &Fault, length: u64) -> u64 {
        if fault.kind == Kind::Flip && fault.when == When::Query {
            // Any other bit could be a word that is wrong and looks right, and an info proves nothing about itself.
            let reply = usize::try_from(length).expect("a short reply");
            return framing(&self.buffer[..reply], fault.place);
        }
        fault.offset(length)
    }

    /// Does it, with `left` bytes of the reply not sent yet.
    fn act(&mut self, fault: &Fault, left: u64) {
        match fault.kind {
            Kind::Kill => {
                signal(self.server.id(), Signal::KILL);
                self.end(137)
            }
            Kind::Stop => {
                signal(self.server.id(), Signal::STOP);
                loop {
                    // Until the client goes: the other thread sees that.
                    thread::sleep(Duration::from_secs(1));
                }
            }
            Kind::Sshd => {
                let sshd = self.plan_folder.get("sshd").parse().expect("a number");
                let all = descendants(sshd);
                signal(sshd, Signal::KILL);
                for pid in all {
                    if pid != std::process::id() {
                        signal(pid, Signal::KILL);
                    }
                }
                self.end(1)
            }
            Kind::Cut => {
                let control = self.plan_folder.get("control").parse().expect("a number");
                // Fewer than are left, so that the reply can't slip through before the cut.
                cut_after(control, fault.random % left.clamp(1, 2000));
            }
            Kind::Truncate => self.end(0),
            Kind::Banner => {
                let text = "Welcome to this host!\n".repeat(1 + fault.random as usize % 20);
                self.send(text.as_bytes());
            }
            Kind::Flip => {
                if self.buffer.is_empty() {
                    self.fill();
                }
                self.buffer[0] ^= 1 << (fault.random % 8);
            }
            Kind::Garbage | Kind::Slow | Kind::Gc => {}
        }
    }
}

/// A slow link: about a second for the whole, in at most 100 drops.
struct Pace {
    drop: u64,
    drops: u32,
}

impl Pace {
    fn new(length: u64) -> Self {
        Self {
            drop: length.div_ceil(100).max(1),
            drops: 100,
        }
    }

    fn wait(&mut self) -> u64 {
        if self.drops == 0 {
            return u64::MAX;
        }
        self.drops -= 1;
        thread::sleep(Duration::from_millis(10));
        self.drop
    }
}

/// Length of a whole reply to QueryPathInfos.
fn infos(buffer: &[u8]) -> Option<usize> {
    let mut decoder = InfosDecoder::new(Version::NEWEST);
    let mut rest = BytesMut::from(buffer);
    loop {
        match decoder.step(&mut rest).ok()?? {
            InfosStep::Info(_) | InfosStep::Unreadable(_) => {}
            InfosStep::End => return Some(buffer.len() - rest.len()),
        }
    }
}

/// Length of a whole set.
fn set(buffer: &[u8]) -> Option<usize> {
    let mut rest = BytesMut::from(buffer);
    let mut decoder = SetDecoder::default();
    let whole = decoder.step(&mut rest, |_| Ok(Some(())));
    whole.ok()?.map(|_: Vec<()>| buffer.len() - rest.len())
}

/// A byte of the frame in the reply about one path: in the length of the path, in the number of references, in the end.
fn framing(reply: &[u8], place: Place) -> u64 {
    let last = reply.len() as u64 - 1;
    let word = |at: usize| -> usize {
        let bytes = reply.get(at..at + 8).and_then(|word| word.try_into().ok());
        usize::try_from(bytes.map_or(0, u64::from_le_bytes)).unwrap_or_default()
    };
    let after = |at: usize| at + 8 + word(at).next_multiple_of(8);
    match place {
        Place::First => 7.min(last),
        Place::Middle => (after(after(0)) as u64 + 7).min(last),
        Place::Last => last,
    }
}

pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}
