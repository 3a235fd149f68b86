//! Connections of one host that write. Each is new, and none is used again: see [`WriteConnection`].

use std::sync::Arc;
use std::time::Duration;

use super::HostPool;
use crate::model::StorePath;
use crate::pool::channels::ChannelPermit;
use crate::remote::Version;
use crate::remote::{
    Acknowledgements, BlockConnection, BlockOptions, BlockWriter, ConnectOptions, RemoteError,
    Request, SegmentReader, Verdict, WriteConnection, Writer, connect_for_writing, open_blocks,
};

impl HostPool {
    /// As [`Pool::lease_for_writing`](crate::pool::Pool::lease_for_writing); `limit` as in `ChannelPermits::acquire`.
    pub(in crate::pool) async fn lease_for_writing(
        self: &Arc<Self>,
        in_background: bool,
        limit: Duration,
        ahead: &[Request],
    ) -> Result<WriteLease, Arc<RemoteError>> {
        let permit = self.channel_permit(in_background, limit).await?;
        let opening = self.channels.opening();
        let options = ConnectOptions {
            connect: self.limits.connect,
            silence: self.limits.silence,
            program: &self.write_program,
        };
        self.make_room_for_channel();
        let connect = || connect_for_writing(&*self.transport, &self.host, &options, ahead);
        let mut connected = connect().await;
        let refused = |error: &RemoteError| error.verdict() == Verdict::Refused;
        // An idle connection, which is of no use here, may be the one too many.
        if connected.as_ref().is_err_and(refused) && self.close_one_idle() {
            connected = connect().await;
        }
        match connected {
            Ok(connection) => {
                self.record_connected(connection.connection());
                if self.record_success() {
                    self.persistence.save_later(&self.health);
                }
                Ok(WriteLease {
                    connection,
                    permit,
                    host_pool: self.clone(),
                })
            }
            // Whether it lets us write says nothing of what it has for readers, so its health stays as it is.
            Err(error) => {
                if self.verdict(&error) == Verdict::Refused {
                    self.channels.shrink();
                    drop(opening);
                }
                Err(Arc::new(error))
            }
        }
    }
}

/// A connection that writes, with the permit for its channel.
pub struct WriteLease {
    connection: WriteConnection,
    permit: ChannelPermit,
    host_pool: Arc<HostPool>,
}

impl WriteLease {
    /// The version both sides agreed on.
    #[must_use]
    pub fn version(&self) -> Version {
        self.connection.version()
    }

    /// As [`WriteConnection::finish_valid_paths`].
    ///
    /// # Errors
    /// As there.
    pub async fn finish_valid_paths(
        &mut self,
        paths: &[StorePath],
    ) -> Result<Vec<StorePath>, RemoteError> {
        self.connection.finish_valid_paths(paths).await
    }

    /// The way out, and what comes back.
    #[must_use]
    pub fn split(self) -> (Writer, WriteReplies) {
        let (writer, acknowledgements) = self.connection.split();
        let replies = WriteReplies {
            acknowledgements,
            _permits: vec![self.permit],
            host_pool: self.host_pool,
        };
        (writer, replies)
    }
}

impl HostPool {
    /// As [`Pool::lease_blocks`](crate::pool::Pool::lease_blocks); `limit` as in `ChannelPermits::acquire`.
    pub(in crate::pool) async fn lease_blocks(
        self: &Arc<Self>,
        (in_background, limit): (bool, Duration),
        version: Version,
        pipes: usize,
    ) -> Result<Option<BlockLease>, Arc<RemoteError>> {
        let Some(shell) = self.shell(true).await? else {
            return Ok(None);
        };
        let (SegmentReader::Shell(shell), permit) = shell.into_parts() else {
            return Ok(None);
        };
        let has_zstd = shell.has_zstd();
        if pipes == 0 && !has_zstd {
            return Ok(None);
        }
        let mut permits = vec![permit];
        for _ in 0..pipes {
            permits.push(self.channel_permit(in_background, limit).await?);
        }
        let _opening = self.channels.opening();
        self.make_room_for_channel();
        let options = BlockOptions {
            connect: self.limits.connect,
            silence: self.limits.silence,
            version,
            pipes,
        };
        let connection = open_blocks(*shell, &self.transport, &self.host, &options)
            .await
            .map_err(Arc::new)?;
        Ok(connection.map(|connection| BlockLease {
            connection,
            permits,
            has_zstd,
            host_pool: self.clone(),
        }))
    }
}

/// A connection that writes in blocks, with the permits for its channels.
pub struct BlockLease {
    connection: BlockConnection,
    permits: Vec<ChannelPermit>,
    has_zstd: bool,
    host_pool: Arc<HostPool>,
}

impl BlockLease {
    /// Whether blocks may be compressed.
    #[must_use]
    pub fn has_zstd(&self) -> bool {
        self.has_zstd
    }

    /// The way out, and what comes back.
    #[must_use]
    pub fn split(self) -> (BlockWriter, WriteReplies) {
        let (writer, acknowledgements) = self.connection.split();
        let replies = WriteReplies {
            acknowledgements,
            _permits: self.permits,
            host_pool: self.host_pool,
        };
        (writer, replies)
    }
}

/// The replies on a connection that writes. Dropping it closes the connection.
pub struct WriteReplies {
    acknowledgements: Acknowledgements,
    _permits: Vec<ChannelPermit>,
    host_pool: Arc<HostPool>,
}

impl WriteReplies {
    /// As [`Acknowledgements::next`]; callers that wait for a channel see that this one is in use.
    ///
    /// # Errors
    /// As there.
    pub async fn next(&mut self) -> Result<(), RemoteError> {
        let came = self.acknowledgements.next().await;
        self.host_pool.channels.record_byte();
        came
    }

    /// As [`Acknowledgements::ended`].
    pub async fn ended(&mut self) -> RemoteError {
        self.acknowledgements.ended().await
    }
}
