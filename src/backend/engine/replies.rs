//! Requests to the engine, and its replies.

use std::time::Duration;

use tokio::time::timeout;

use super::refusing_hosts::RefusingHosts;
use crate::ipc::{Client, IpcError};
use crate::model::{PathInfo, StorePath};
use crate::wire::WireError;
use crate::wire::serve::engine::Frame;
use crate::wire::serve::{InfosDecoder, InfosStep, Request, SetDecoder, Version};

/// How long an engine may take to read a request of some megabytes. It reads while it works.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends a request. A long list of paths does not fit into the socket's buffer: a stopped engine would block it for ever.
pub(super) async fn send(client: &mut Client, request: &Request) -> Result<(), IpcError> {
    let sent = timeout(SEND_TIMEOUT, client.ask(request)).await;
    sent.unwrap_or(Err(IpcError::Silent(SEND_TIMEOUT)))
}

/// Waits for the reply to a request that has been sent. Messages for the user go to the log.
async fn await_reply(client: &mut Client, refusing_hosts: &RefusingHosts) -> Result<(), IpcError> {
    loop {
        match client.frame().await? {
            Frame::Reply => {
                refusing_hosts.log_pending();
                return Ok(());
            }
            frame => handle_side_frame(frame, refusing_hosts)?,
        }
    }
}

/// Handles a frame that may come at any time.
pub(super) fn handle_side_frame(
    frame: Frame,
    refusing_hosts: &RefusingHosts,
) -> Result<(), IpcError> {
    match frame {
        Frame::Closed(host, text) => {
            refusing_hosts.record(host, text);
            Ok(())
        }
        Frame::Log(level, text) => {
            let level = log::Level::iter().find(|known| *known as u64 == level);
            log::log!(level.unwrap_or(log::Level::Debug), "{text}");
            Ok(())
        }
        Frame::Heartbeat | Frame::Source(_) => Ok(()),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(frame: &Frame) -> IpcError {
    let got = format!("{frame:?}").chars().take(100).collect::<String>();
    WireError::new("frame", "an answer to what was asked", got).into()
}

pub(super) async fn query_infos(
    client: &mut Client,
    paths: &[StorePath],
    refusing_hosts: &RefusingHosts,
) -> Result<Vec<PathInfo>, IpcError> {
    let paths = paths.to_vec();
    send(client, &Request::QueryPathInfos { paths }).await?;
    await_reply(client, refusing_hosts).await?;
    let (mut decoder, mut infos) = (InfosDecoder::new(Version::NEWEST), Vec::new());
    loop {
        match decoder.step(client.buffer())? {
            Some(InfosStep::Info(info)) => infos.push(info),
            // The engine sends only infos that it has read itself.
            Some(InfosStep::Unreadable(_)) => {}
            Some(InfosStep::End) => return Ok(infos),
            None => client.fill().await?,
        }
    }
}

pub(super) async fn query_set(
    client: &mut Client,
    request: &Request,
    refusing_hosts: &RefusingHosts,
) -> Result<Vec<StorePath>, IpcError> {
    send(client, request).await?;
    await_reply(client, refusing_hosts).await?;
    let mut decoder = SetDecoder::default();
    loop {
        let path = |bytes: &[u8]| Ok(StorePath::from_bytes(bytes).ok());
        match decoder.step(client.buffer(), path)? {
            Some(paths) => return Ok(paths),
            None => client.fill().await?,
        }
    }
}
