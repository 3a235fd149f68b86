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

use super::client_output::{ClientOutput, NarPipe, NarSender};
use super::context::{InUse, ServerContext};
use super::write_timeout::writer_with_timeout;
use crate::backend::{Backend, BackendError, DeliveryError, HostsBackend};
use crate::engine::CallerConnection;
use crate::engine::transfer_registry::{CurrentHost, SessionProgress};
use crate::ipc::Channel;
use crate::pool::{HostId, Pool};
use crate::serve::{MissingHash, Output, ServeError, put_reply, serve};
use crate::wire::nar::Completion;
use crate::wire::serve::engine::{Call, CallDecoder, EXTENSION, Frame, hello_number, split_number};
use crate::wire::serve::{Incoming, Request, SERVER_MAGIC, Version, take_client_hello};
use crate::wire::{WireError, put_u64};

/// How long a client may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How many calls of a client may wait for an answer.
const CALL_QUEUE: usize = 16;

/// Why a connection ended before the client closed it.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("it is user {0}'s")]
    ForeignUser(u32),
    #[error("it said nothing")]
    Silent,
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error("it asked for something without being attached")]
    NotAttached,
}

/// Serves a connection until it ends.
pub(super) async fn run(
    stream: UnixStream,
    context: Arc<ServerContext>,
) -> Result<(), SessionError> {
    let channel = Channel::new(stream);
    let uid = channel.peer_uid()?;
    if uid != rustix::process::geteuid().as_raw() {
        return Err(SessionError::ForeignUser(uid));
    }
    let mut buf = BytesMut::new();
    let mut fd = None;
    let number = loop {
        // Decoded from a copy: the serve loop needs the hello of a plain client.
        if let Some(number) = take_client_hello(&mut buf.clone())? {
            break number;
        }
        let filled = timeout(HELLO_TIMEOUT, channel.fill(&mut buf)).await;
        let incoming = filled.map_err(|_| SessionError::Silent)??;
        if incoming.len == 0 {
            return Ok(());
        }
        fd = fd.or(incoming.fd);
    };
    if split_number(number).1 == 0 {
        return serve_plain(channel, buf, context).await;
    }
    take_client_hello(&mut buf)?;
    Session::new(channel, context, fd).run(buf).await
}

/// Serves a client that does not know the extension for engines, as `nix-store --serve` would.
async fn serve_plain(
    channel: Channel,
    buf: BytesMut,
    context: Arc<ServerContext>,
) -> Result<(), SessionError> {
    let _in_use = context.mark_in_use();
    let (read, write) = channel.into_stream().into_split();
    let input = io::Cursor::new(buf).chain(read);
    let caller = Arc::new(context.engine.transfers.caller());
    context.engine.resolver.new_command();
    let progress = Arc::new(SessionProgress {
        registry: context.transfers.clone(),
        host: Arc::default(),
    });
    let backend = context.engine.backend(caller, progress);
    let output = Output::new(writer_with_timeout(write));
    Ok(serve(input, output, &backend, Version::NEWEST).await?)
}

/// Frames that report the hosts which do not let the engine in and are not in `reported` yet; adds them there.
fn newly_refusing(pool: &Pool, reported: &mut Vec<HostId>) -> Vec<u8> {
    let mut out = Vec::new();
    for id in pool.hosts_that_refuse_login() {
        if !reported.contains(&id) {
            reported.push(id);
            Frame::Closed(pool.host(id).to_string(), String::new()).put(&mut out);
        }
    }
    out
}

/// The connection of a client that knows the extension for engines.
struct Session {
    context: Arc<ServerContext>,
    channel: Arc<Channel>,
    output: Arc<ClientOutput>,
    pipe: Option<NarPipe>,
    /// `None` until the client attaches.
    attached: Option<Attached>,
}

struct Attached {
    backend: HostsBackend,
    current_host: Arc<CurrentHost>,
    /// Hosts that do not let the engine in, as reported to the client.
    reported_refusing: Vec<HostId>,
    _connection: CallerConnection<u64>,
    _in_use: InUse,
}

impl Session {
    fn new(channel: Channel, context: Arc<ServerContext>, fd: Option<OwnedFd>) -> Self {
        let channel = Arc::new(channel);
        let messages = context.options.messages.subscribe();
        Self {
            context,
            output: Arc::new(ClientOutput::new(channel.clone(), messages)),
            channel,
            // Without a pipe, large pieces go through the socket.
            pipe: fd.and_then(|fd| NarPipe::new(fd).ok()),
            attached: None,
        }
    }

    async fn run(mut self, buf: BytesMut) -> Result<(), SessionError> {
        let mut hello = Vec::new();
        put_u64(&mut hello, SERVER_MAGIC);
        put_u64(&mut hello, hello_number(Version::NEWEST, EXTENSION));
        // Not through `output`, which would send pending messages first.
        self.channel.send(&hello).await?;
        let (queue, mut calls) = mpsc::channel(CALL_QUEUE);
        let reading = read_calls(self.channel.clone(), buf, queue);
        let output = self.output.clone();
        let messages = self.context.options.messages.subscribe();
        let answering = async {
            while let Some(call) = calls.recv().await {
                self.output.busy.store(true, Ordering::Relaxed);
                self.answer(call).await?;
                self.output.busy.store(false, Ordering::Relaxed);
            }
            Ok(())
        };
        tokio::select! {
            // A client that ends its side is gone: its pending calls are dropped.
            result = reading => result,
            result = answering => result,
            () = async { output.send_messages(messages).await; std::future::pending().await } => Ok(()),
        }
    }

    async fn answer(&mut self, call: Call) -> Result<(), SessionError> {
        match call {
            Call::Attach {
                fingerprint,
                caller,
            } => {
                if let Some(reason) = self.context.refusal(&fingerprint) {
                    return Ok(self.output.frame(&Frame::Refused(reason)).await?);
                }
                let greeting = self.attach(caller);
                Ok(self.output.send(&greeting).await?)
            }
            Call::Status => {
                let status = Frame::Text(self.context.status().to_string());
                Ok(self.output.frame(&status).await?)
            }
            Call::Forget(host) => {
                let text = match self.context.engine.forget(host.as_deref()) {
                    1 => "forgot what was remembered of 1 host".to_owned(),
                    hosts => format!("forgot what was remembered of {hosts} hosts"),
                };
                Ok(self.output.frame(&Frame::Text(text)).await?)
            }
            Call::Push(is_urgent) => {
                self.context.options.push_sender.wake(is_urgent);
                let text = format!("engine {} looks into the queue", std::process::id());
                Ok(self.output.frame(&Frame::Text(text)).await?)
            }
            Call::Stop => {
                let text = format!("engine {} ends", std::process::id());
                self.output.frame(&Frame::Text(text)).await?;
                self.context.options.stop.notify_one();
                // The connection ends with the process.
                std::future::pending().await
            }
            Call::Serve(incoming) => self.serve(incoming).await,
        }
    }

    /// Attaches the client. Returns the reply.
    fn attach(&mut self, caller: u64) -> Vec<u8> {
        let mut greeting = Vec::new();
        Frame::Attached.put(&mut greeting);
        let connection = self.context.callers.connect(caller);
        let current_host = Arc::<CurrentHost>::default();
        let progress = Arc::new(SessionProgress {
            registry: self.context.transfers.clone(),
            host: current_host.clone(),
        });
        let engine = &self.context.engine;
        let backend = engine.backend(connection.caller.clone(), progress);
        // Earlier messages went to other callers.
        if connection.is_new {
            connection.caller.forget_fetched();
            engine.resolver.new_command();
            // All other trouble is reported when the caller runs into it: the host may be back by then.
            let troubles = engine.pool.present_failures();
            for trouble in troubles.iter().filter(|trouble| trouble.is_login_refused()) {
                if let Some(host) = trouble.host.as_deref() {
                    let text = (self.context.options.render)(&**trouble);
                    Frame::Closed(host.to_owned(), text).put(&mut greeting);
                }
            }
        }
        self.attached = Some(Attached {
            backend,
            current_host,
            reported_refusing: Vec::new(),
            _connection: connection,
            _in_use: self.context.mark_in_use(),
        });
        greeting
    }

    async fn serve(&mut self, incoming: Incoming) -> Result<(), SessionError> {
        let Self {
            attached: Some(attached),
            context,
            output,
            pipe,
            ..
        } = self
        else {
            return Err(SessionError::NotAttached);
        };
        let backend = &attached.backend;
        let mut reply = Vec::new();
        match incoming {
            Incoming::Request(Request::DumpStorePath { path }) => {
                let mut nar = NarSender::new(output, pipe.as_mut(), &attached.current_host);
                match backend.deliver(&path, &mut nar).await {
                    Ok(()) => return Ok(nar.finish().await?),
                    Err(undelivered) => {
                        if let DeliveryError::Sink(error) = undelivered.error {
                            return Err(error.into());
                        }
                        let reason = (context.options.render)(&undelivered.error);
                        Frame::Broken(reason, undelivered.completion).put(&mut reply);
                    }
                }
            }
            Incoming::Request(query) => {
                Frame::Reply.put(&mut reply);
                let (version, missing_hash) = (Version::NEWEST, MissingHash::Send);
                put_reply(&mut reply, query, backend, version, missing_hash).await?;
            }
            Incoming::DumpOf(error) => {
                let reason = error.to_string();
                let frame = Frame::Broken(reason, Completion::default());
                return Ok(output.frame(&frame).await?);
            }
            Incoming::NotServed { op, name } => {
                return Err(ServeError::NotServed { op, name }.into());
            }
        }
        let pool = context.engine.pool();
        let mut bytes = newly_refusing(pool, &mut attached.reported_refusing);
        bytes.append(&mut reply);
        Ok(output.send(&bytes).await?)
    }
}

/// Reads calls until the client ends its side.
async fn read_calls(
    channel: Arc<Channel>,
    mut buf: BytesMut,
    queue: mpsc::Sender<Call>,
) -> Result<(), SessionError> {
    let mut decoder = CallDecoder::default();
    // A client that calls nothing must not keep the engine running.
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
            let filled = timeout(HELLO_TIMEOUT, filled).await;
            filled.map_err(|_| SessionError::Silent)?
        };
        if incoming?.len == 0 {
            return Ok(());
        }
    }
}
