//! What a front end asks its engine, and the replies to it.

use std::time::Duration;

use tokio::time::timeout;

use super::closed::Closed;
use crate::ipc::{Client, IpcError};
use crate::model::{PathInfo, StorePath};
use crate::wire::WireError;
use crate::wire::serve::engine::Frame;
use crate::wire::serve::{InfosDecoder, InfosStep, Request, SetDecoder, Version};

/// How long an engine may take to read a request. It reads them whatever it is at, and the longest is
/// some megabytes.
const TAKES_WITHIN: Duration = Duration::from_secs(10);

/// Sends a request. One that lists many paths is more than a socket holds, and an engine that is
/// stopped takes no more.
pub(super) async fn ask(client: &mut Client, request: &Request) -> Result<(), IpcError> {
    let sent = timeout(TAKES_WITHIN, client.ask(request)).await;
    sent.unwrap_or(Err(IpcError::Silent(TAKES_WITHIN)))
}

/// Waits for the reply to a request that has been sent; what users should know goes to the log.
async fn reply(client: &mut Client, closed: &Closed) -> Result<(), IpcError> {
    loop {
        match client.frame().await? {
            Frame::Reply => {
                closed.settle();
                return Ok(());
            }
            frame => aside(frame, closed)?,
        }
    }
}

/// Frames that may come at any time.
pub(super) fn aside(frame: Frame, closed: &Closed) -> Result<(), IpcError> {
    match frame {
        Frame::Closed(host, text) => {
            closed.note(host, text);
            Ok(())
        }
        Frame::Say(level, text) => {
            let level = log::Level::iter().find(|known| *known as u64 == level);
            log::log!(level.unwrap_or(log::Level::Debug), "{text}");
            Ok(())
        }
        Frame::Beat | Frame::From(_) => Ok(()),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(frame: &Frame) -> IpcError {
    let got = format!("{frame:?}").chars().take(100).collect::<String>();
    WireError::new("frame", "an answer to what was asked", got).into()
}

pub(super) async fn ask_infos(
    client: &mut Client,
    paths: &[StorePath],
    closed: &Closed,
) -> Result<Vec<PathInfo>, IpcError> {
    let paths = paths.to_vec();
    ask(client, &Request::QueryPathInfos { paths }).await?;
    reply(client, closed).await?;
    let (mut decoder, mut infos) = (InfosDecoder::new(Version::NEWEST), Vec::new());
    loop {
        match decoder.step(client.buffer())? {
            Some(InfosStep::Info(info)) => infos.push(info),
            // An engine passes on what it has read itself.
            Some(InfosStep::Unreadable(_)) => {}
            Some(InfosStep::End) => return Ok(infos),
            None => client.fill().await?,
        }
    }
}

pub(super) async fn ask_set(
    client: &mut Client,
    request: &Request,
    closed: &Closed,
) -> Result<Vec<StorePath>, IpcError> {
    ask(client, request).await?;
    reply(client, closed).await?;
    let mut decoder = SetDecoder::default();
    loop {
        let path = |bytes: &[u8]| Ok(StorePath::from_bytes(bytes).ok());
        match decoder.step(client.buffer(), path)? {
            Some(paths) => return Ok(paths),
            None => client.fill().await?,
        }
    }
}
