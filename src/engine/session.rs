//! One connection to the engine.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::board::{Posted, Source as Host};
use super::callers::Present;
use super::frames::{NarFrames, Out, Pipe};
use super::hurry::Hurry;
use super::server::{Need, Server};
use crate::front::{self, Backend, HostsBackend, Reason, ServeError, Source};
use crate::ipc::Channel;
use crate::pool::{HostId, Pool};
use crate::wire::serve::engine::{Call, CallDecoder, EXTENSION, Frame, hello_number, split_number};
use crate::wire::serve::{
    Incoming, Request, SERVER_MAGIC, Version, put_info, put_infos_end, put_set, take_client_hello,
};
use crate::wire::{WireError, put_u64};

/// How long a client may take to say hello.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// How many calls a client may have sent ahead.
const AHEAD: usize = 16;

/// Why a connection ended other than by the client's wish.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("it is user {0}'s")]
    Stranger(u32),
    #[error("it said nothing")]
    Silent,
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("it asked for something without being attached")]
    NotAttached,
}

/// Serves a connection until it ends.
pub(super) async fn run(stream: UnixStream, server: Arc<Server>) -> Result<(), SessionError> {
    let channel = Channel::new(stream);
    let uid = channel.peer_uid()?;
    if uid != rustix::process::geteuid().as_raw() {
        return Err(SessionError::Stranger(uid));
    }
    let mut buf = BytesMut::new();
    let mut fd = None;
    let number = loop {
        // A look: a plain client's hello is the serve loop's.
        if let Some(number) = take_client_hello(&mut buf.clone())? {
            break number;
        }
        let filled = timeout(HELLO_WITHIN, channel.fill(&mut buf)).await;
        let incoming = filled.map_err(|_| SessionError::Silent)??;
        if incoming.len == 0 {
            return Ok(());
        }
        fd = fd.or(incoming.fd);
    };
    if split_number(number).1 == 0 {
        return plain(channel, buf, server).await;
    }
    take_client_hello(&mut buf)?;
    Extended::new(channel, server, fd).run(buf).await
}

/// A client that knows nothing of engines.
async fn plain(channel: Channel, buf: BytesMut, server: Arc<Server>) -> Result<(), SessionError> {
    let _need = server.need();
    let (read, write) = channel.into_stream().into_split();
    let input = io::Cursor::new(buf).chain(read);
    let caller = Arc::new(server.engine.transfers.caller());
    server.engine.resolver.tell_again();
    let host = Arc::default();
    let board = server.board.clone();
    let backend = server
        .engine
        .backend(caller, Arc::new(Posted { board, host }));
    Ok(front::serve(input, Hurry::new(write), &backend, Version::NEWEST).await?)
}

/// Frames that name the hosts that do not let the engine in and are not in `known`, where they are then.
fn newly_closed(pool: &Pool, known: &mut Vec<HostId>) -> Vec<u8> {
    let mut out = Vec::new();
    for id in pool.hosts_that_refuse_login() {
        if !known.contains(&id) {
            known.push(id);
            Frame::Closed(pool.host(id).to_string(), String::new()).put(&mut out);
        }
    }
    out
}

struct Extended {
    server: Arc<Server>,
    channel: Arc<Channel>,
    out: Arc<Out>,
    pipe: Option<Pipe>,
    /// Once it is attached.
    attached: Option<Attached>,
}

struct Attached {
    backend: HostsBackend,
    host: Arc<Host>,
    /// Hosts of which the client knows that they do not let the engine in.
    closed: Vec<HostId>,
    _present: Present,
    _need: Need,
}

impl Extended {
    fn new(channel: Channel, server: Arc<Server>, fd: Option<OwnedFd>) -> Self {
        let channel = Arc::new(channel);
        let messages = server.messages.subscribe();
        Self {
            server,
            out: Arc::new(Out::new(channel.clone(), messages)),
            channel,
            // Without it large pieces come with the others.
            pipe: fd.and_then(|fd| Pipe::new(fd).ok()),
            attached: None,
        }
    }

    async fn run(mut self, buf: BytesMut) -> Result<(), SessionError> {
        let mut hello = Vec::new();
        put_u64(&mut hello, SERVER_MAGIC);
        put_u64(&mut hello, hello_number(Version::NEWEST, EXTENSION));
        // Not by way of `out`, which says first what there is to say.
        self.channel.send(&hello).await?;
        let (queue, mut calls) = mpsc::channel(AHEAD);
        let reading = read(self.channel.clone(), buf, queue);
        let (out, messages) = (self.out.clone(), self.server.messages.subscribe());
        let answering = async {
            while let Some(call) = calls.recv().await {
                self.out.busy.store(true, Ordering::Relaxed);
                self.answer(call).await?;
                self.out.busy.store(false, Ordering::Relaxed);
            }
            Ok(())
        };
        tokio::select! {
            // A client that ends its side is gone: what it still waits for interests nobody.
            result = reading => result,
            result = answering => result,
            () = async { out.chat(messages).await; std::future::pending().await } => Ok(()),
        }
    }

    async fn answer(&mut self, call: Call) -> Result<(), SessionError> {
        match call {
            Call::Attach {
                fingerprint,
                caller,
            } => {
                if let Some(reason) = self.server.refuses(&fingerprint) {
                    return Ok(self.out.frame(&Frame::Refused(reason)).await?);
                }
                let greeting = self.attach(caller);
                Ok(self.out.send(&greeting).await?)
            }
            Call::Status => {
                let status = Frame::Text(self.server.status().to_string());
                Ok(self.out.frame(&status).await?)
            }
            Call::Forget(host) => {
                let text = match self.server.engine.forget(host.as_deref()) {
                    1 => "forgot what was remembered of 1 host".to_owned(),
                    hosts => format!("forgot what was remembered of {hosts} hosts"),
                };
                Ok(self.out.frame(&Frame::Text(text)).await?)
            }
            Call::Stop => {
                let text = format!("engine {} ends", std::process::id());
                self.out.frame(&Frame::Text(text)).await?;
                self.server.stop.notify_one();
                // The connection ends with the process.
                std::future::pending().await
            }
            Call::Serve(incoming) => self.serve(incoming).await,
        }
    }

    /// What the client gets in reply.
    fn attach(&mut self, caller: u64) -> Vec<u8> {
        let mut greeting = Vec::new();
        Frame::Attached.put(&mut greeting);
        let present = self.server.callers.enter(caller);
        let host = Arc::<Host>::default();
        let posted = Posted {
            board: self.server.board.clone(),
            host: host.clone(),
        };
        let backend = self
            .server
            .engine
            .backend(present.caller.clone(), Arc::new(posted));
        // Others have been told before this one came.
        if present.is_new {
            present.caller.forget_fetched();
            self.server.engine.resolver.tell_again();
            // Of all other trouble it is told when that is in its way: it may find out whether the
            // host is back.
            let troubles = self.server.engine.pool.present_failures();
            for trouble in troubles.iter().filter(|trouble| trouble.is_login_refused()) {
                if let Some(host) = trouble.host() {
                    let text = (self.server.render)(&**trouble);
                    Frame::Closed(host.to_owned(), text).put(&mut greeting);
                }
            }
        }
        self.attached = Some(Attached {
            backend,
            host,
            closed: Vec::new(),
            _present: present,
            _need: self.server.need(),
        });
        greeting
    }

    async fn serve(&mut self, incoming: Incoming) -> Result<(), SessionError> {
        let Self {
            attached: Some(attached),
            out,
            pipe,
            ..
        } = self
        else {
            return Err(SessionError::NotAttached);
        };
        let Attached {
            backend,
            host,
            closed,
            ..
        } = attached;
        let pool = self.server.engine.pool();
        let mut reply = Vec::new();
        Frame::Reply.put(&mut reply);
        match incoming {
            Incoming::Request(Request::QueryValidPaths { paths, .. }) => {
                put_set(&mut reply, &backend.valid_paths(&paths).await?);
            }
            Incoming::Request(Request::QueryPathInfos { paths }) => {
                for info in backend.path_infos(&paths).await? {
                    put_info(&mut reply, Version::NEWEST, &info);
                }
                put_infos_end(&mut reply);
            }
            Incoming::Request(Request::QueryClosure {
                include_outputs,
                paths,
            }) => {
                let closure = backend.closure(&paths, include_outputs).await?;
                put_set(&mut reply, &closure);
            }
            Incoming::Request(Request::DumpStorePath { path }) => {
                let mut frames = NarFrames::new(out, pipe.as_mut(), host);
                match backend.bring(&path, &mut frames).await {
                    Ok(()) => return Ok(frames.end().await?),
                    Err(undelivered) => {
                        if let Reason::Sink(error) = undelivered.reason {
                            return Err(error.into());
                        }
                        let reason = (self.server.render)(&undelivered.reason);
                        let frame = Frame::Broken(reason, undelivered.rest);
                        let mut reply = newly_closed(pool, closed);
                        frame.put(&mut reply);
                        return Ok(out.send(&reply).await?);
                    }
                }
            }
            Incoming::DumpOf(error) => {
                let reason = error.to_string();
                let frame = Frame::Broken(reason, crate::wire::nar::Completion::default());
                return Ok(out.frame(&frame).await?);
            }
            Incoming::NotServed { op, name } => {
                return Err(ServeError::NotServed { op, name }.into());
            }
        }
        let mut all = newly_closed(pool, closed);
        all.append(&mut reply);
        Ok(out.send(&all).await?)
    }
}

/// Reads calls until the client ends its side.
async fn read(
    channel: Arc<Channel>,
    mut buf: BytesMut,
    queue: mpsc::Sender<Call>,
) -> Result<(), SessionError> {
    let mut decoder = CallDecoder::default();
    // Who wants nothing shall not keep the engine alive.
    let mut called = false;
    loop {
        while let Some(call) = decoder.step(&mut buf)? {
            called = true;
            if queue.send(call).await.is_err() {
                return Ok(());
            }
        }
        let filled = channel.fill(&mut buf);
        let incoming = if called {
            filled.await
        } else {
            let filled = timeout(HELLO_WITHIN, filled).await;
            filled.map_err(|_| SessionError::Silent)?
        };
        if incoming?.len == 0 {
            return Ok(());
        }
    }
}
