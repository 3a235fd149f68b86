//! Speaks with `ssh-substituter --serve` as Nix does: infos path by path, then NARs path by path, here read to their ends
//! and thrown away, so that no disk takes part.

use std::io::{Read, Write};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use ssh_substituter::model::{PathInfo, StorePath};
use ssh_substituter::wire::nar::{Decoder, Event};
use ssh_substituter::wire::put_u64;
use ssh_substituter::wire::serve::{
    CLIENT_MAGIC, InfosDecoder, InfosStep, Request, ServerHello, Version,
};

use crate::lab::Link;
use crate::run::{Deadline, Run, Tried, high_water};
use crate::support::NixEnv;

/// One read.
const PIECE: usize = 256 << 10;

/// A new process brings these paths; the time counts from its start.
pub fn fetch(env: &NixEnv, link: &Link, paths: &[String], limit: Duration) -> Tried {
    with_client(env, link, limit, |client| {
        let mut infos = Vec::new();
        for path in paths {
            infos.push(client.info(path)?);
        }
        infos.iter().try_for_each(|info| client.dump(info))
    })
}

/// A new process answers one question; the time counts from its start to the end of the reply.
pub fn first_answer(env: &NixEnv, link: &Link, path: &str, limit: Duration) -> Tried {
    with_client(env, link, limit, |client| client.info(path).map(drop))
}

/// What a new process takes for this, the hello included, without its end.
fn with_client(
    env: &NixEnv,
    link: &Link,
    limit: Duration,
    action: impl FnOnce(&mut Client) -> Result<(), String>,
) -> Tried {
    let mut command = env.program();
    command
        .args(["--serve", "--write"])
        .env("NIX_SSHOPTS", link.options())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let before = link.trips();
    let start = Instant::now();
    let mut process = Deadline::start(command, limit)?;
    let mut client = Client {
        stdin: process.child.stdin.take().expect("stdin is piped"),
        stdout: process.child.stdout.take().expect("stdout is piped"),
        buffer: BytesMut::new(),
        piece: vec![0; PIECE],
    };
    let done = client.hello().and_then(|()| action(&mut client));
    let seconds = start.elapsed().as_secs_f64();
    done.map_err(|error| format!("after {seconds:.1} s: {error}"))?;
    let peak = high_water(process.child.id());
    drop(client);
    process.end()?;
    Ok(Run {
        seconds,
        peak,
        trips: link.trips() - before,
        ..Run::default()
    })
}

struct Client {
    stdin: ChildStdin,
    stdout: ChildStdout,
    /// What has been read and not been looked at.
    buffer: BytesMut,
    piece: Vec<u8>,
}

impl Client {
    fn hello(&mut self) -> Result<(), String> {
        let mut words = Vec::new();
        put_u64(&mut words, CLIENT_MAGIC);
        put_u64(&mut words, Version::NEWEST.number());
        self.send(&words)?;
        let mut hello = ServerHello::default();
        while hello.step(&mut self.buffer).map_err(text)?.is_none() {
            self.more()?;
        }
        Ok(())
    }

    fn info(&mut self, path: &str) -> Result<PathInfo, String> {
        let path = StorePath::parse(path).map_err(text)?;
        let mut request = Vec::new();
        let paths = vec![path.clone()];
        Request::QueryPathInfos { paths }.put(&mut request);
        self.send(&request)?;
        // The server speaks at least as new a version as this client's infos need: it is this very crate.
        let mut decoder = InfosDecoder::new(Version::NEWEST);
        let mut found = None;
        loop {
            match decoder.step(&mut self.buffer).map_err(text)? {
                Some(InfosStep::Info(info)) => found = Some(info),
                Some(InfosStep::Unreadable(entry)) => return Err(entry.why.to_string()),
                Some(InfosStep::End) => {
                    return found.ok_or_else(|| format!("{path} is not available"));
                }
                None => self.more()?,
            }
        }
    }

    /// Reads a NAR to its end.
    fn dump(&mut self, info: &PathInfo) -> Result<(), String> {
        let mut request = Vec::new();
        let path = info.path.clone();
        Request::DumpStorePath { path }.put(&mut request);
        self.send(&request)?;
        let mut decoder = Decoder::new(u64::MAX);
        loop {
            let (read, event) = decoder.step(&self.buffer).map_err(text)?;
            let (ended, stuck) = (matches!(event, Some(Event::End)), event.is_none());
            self.buffer.advance(read);
            if ended {
                break;
            }
            if stuck {
                self.more()?;
            }
        }
        // A path that cannot be delivered comes as a small NAR that holds the reason.
        if decoder.bytes_read() == info.nar_size {
            Ok(())
        } else {
            let (got, path) = (decoder.bytes_read(), &info.path);
            Err(format!(
                "{got} bytes instead of {} for {path}",
                info.nar_size
            ))
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stdin.write_all(bytes).map_err(text)
    }

    fn more(&mut self) -> Result<(), String> {
        match self.stdout.read(&mut self.piece).map_err(text)? {
            0 => Err("its output ended".to_owned()),
            length => {
                self.buffer.extend_from_slice(&self.piece[..length]);
                Ok(())
            }
        }
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
