//! What is in a path: its NAR is read for that, once it is verified, and not passed on.

use std::io;

use async_trait::async_trait;
use bytes::BytesMut;

use super::Client;
use crate::backend::DeliveryError;
use crate::model::HashPart;
use crate::transfer::{NarSink, Piece};
use crate::wire::nar::Listing;

/// How much a listing may take while it is made, in bytes: some 200,000 files.
const LISTING_MAX: usize = 32 << 20;

/// The listing of the path with this hash part, as JSON; `None` where no host delivers it now, or it is too long.
pub(super) async fn of(hash: HashPart, client: &dyn Client) -> Option<String> {
    let backend = client.backend();
    let info = backend.info_by_hash(hash).await;
    let info = info.map_err(|error| log::error!("{error}")).ok()??;
    let mut sink = ListingSink {
        listing: Listing::new(info.nar_size, LISTING_MAX),
        rest: BytesMut::new(),
    };
    let delivered = backend.deliver(&info.path, &mut sink).await;
    match delivered.map_err(|undelivered| undelivered.error) {
        Ok(()) => sink.listing.text(),
        Err(DeliveryError::Sink(error)) => {
            log::warn!("{} is not listed: {error}", info.path);
            None
        }
        Err(error) => {
            log::error!("{error}");
            None
        }
    }
}

struct ListingSink {
    listing: Listing,
    /// The beginning of what more bytes are needed for.
    rest: BytesMut,
}

#[async_trait]
impl NarSink for ListingSink {
    async fn write(&mut self, piece: Piece) -> io::Result<()> {
        let taken = match self.rest.is_empty() {
            true => self.listing.take(&piece.bytes).map(|taken| {
                self.rest.extend_from_slice(&piece.bytes[taken..]);
            }),
            false => {
                self.rest.extend_from_slice(&piece.bytes);
                let taken = self.listing.take(&self.rest);
                taken.map(|taken| drop(self.rest.split_to(taken)))
            }
        };
        taken.map_err(io::Error::other)
    }
}
