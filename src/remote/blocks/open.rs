//! Opens a connection that takes blocks.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::writer::BlockWriter;
use crate::config::host::Host;
use crate::remote::link::{DataChannels, Link, hello};
use crate::remote::serve::{Acknowledgements, OUTGOING_MAX};
use crate::remote::shell::Shell;
use crate::remote::{RemoteError, RemoteErrorKind, Version};
use crate::transport::{Program, Transport};

const READY: &str = "whether a pipe can be written to";

/// How much may be printed before a pipe is ready, in bytes: start-up files of login shells do.
const BANNER_MAX: usize = 64 << 10;

/// How to open it.
#[derive(Debug, Clone, Copy)]
pub struct BlockOptions {
    /// Limit for everything.
    pub connect: Duration,
    /// How long the host may be silent later on while an acknowledgement is due.
    pub silence: Duration,
    /// The version that another connection to the host has agreed on.
    pub version: Version,
    /// How many channels carry blocks beside the shell's own, which then carries none; 0 for the shell's alone. At most 6.
    pub pipes: usize,
}

/// A serve loop that may write and takes blocks. Used as [`WriteConnection`](crate::remote::WriteConnection) is.
pub struct BlockConnection {
    writer: BlockWriter,
    acknowledgements: Acknowledgements,
}

/// Makes such a connection of a shell, which is ended. `None` where the host lacks what is needed for it.
///
/// # Errors
/// When the host cannot be reached any more, refuses a channel, or nothing comes in time.
pub async fn open_blocks(
    shell: Shell,
    transport: &Arc<dyn Transport>,
    host: &Host,
    options: &BlockOptions,
) -> Result<Option<BlockConnection>, RemoteError> {
    let deadline = Instant::now() + options.connect;
    let taken = shell
        .take_blocks(host, options.pipes, options.connect)
        .await?;
    let Some(taken) = taken else {
        return Ok(None);
    };
    let mut opening = JoinSet::new();
    for pipe in 0..options.pipes {
        let (transport, host, options) = (transport.clone(), host.clone(), *options);
        let (script, ready) = taken.pipe_script(pipe);
        opening.spawn(async move {
            let link = open_pipe(&*transport, &host, &options, (script, ready), deadline).await;
            link.map(|link| (pipe, link))
        });
    }
    let mut links = Vec::new();
    while let Some(opened) = opening.join_next().await {
        // The panic hook has reported a panic.
        let Ok(opened) = opened else {
            return Ok(None);
        };
        let (pipe, Some(link)) = opened? else {
            return Ok(None);
        };
        links.push((pipe, link));
    }
    links.sort_by_key(|(pipe, _)| *pipe);
    let mut data = DataChannels::default();
    let mut channels: Vec<_> = links
        .into_iter()
        .map(|(_, link)| data.add(link, OUTGOING_MAX))
        .collect();
    if channels.is_empty() {
        channels.push(taken.link.output.writer(OUTGOING_MAX));
    } else {
        taken.link.output.send_bytes(b"\n".to_vec());
    }
    let mut writer = BlockWriter::new(channels);
    writer.begin(hello());
    Ok(Some(BlockConnection {
        writer,
        acknowledgements: Acknowledgements::of_blocks(taken.link, data, options.version),
    }))
}

/// A channel by which bytes go into a pipe; `None` when it cannot be opened there. Given are what its shell is to run, and what
/// that prints then.
async fn open_pipe(
    transport: &dyn Transport,
    host: &Host,
    options: &BlockOptions,
    (script, ready): (String, String),
    deadline: Instant,
) -> Result<Option<Link>, RemoteError> {
    let timed_out = || {
        let (program, after) = ("sh".to_owned(), options.connect);
        RemoteError::new(host, RemoteErrorKind::HandshakeTimedOut { program, after })
    };
    let channel = timeout_at(deadline, transport.open(host, Program::Shell))
        .await
        .map_err(|_| timed_out())??;
    let mut link = Link::new(host, channel, options.silence);
    link.output.send_bytes(script.into_bytes());
    let began = Instant::now();
    loop {
        let came = link.input.peek();
        if came.ends_with(ready.as_bytes()) {
            link.input.buffer().clear();
            return Ok(Some(link));
        }
        if came.len() > BANNER_MAX {
            return Ok(None);
        }
        match timeout_at(deadline, link.input.fill()).await {
            Ok(Ok(1..)) => {}
            Ok(end) => {
                let error = link.ended(READY, began, end.err()).await;
                log::debug!("{error}");
                return Ok(None);
            }
            Err(_) => return Err(timed_out()),
        }
    }
}

impl BlockConnection {
    /// The way out, and what comes back.
    #[must_use]
    pub fn split(self) -> (BlockWriter, Acknowledgements) {
        (self.writer, self.acknowledgements)
    }
}
