//! Requests and their replies on a leased connection of one host.

use std::pin::Pin;
use std::sync::Arc;

use super::{HostPool, Lease};
use crate::model::{PathInfo, StorePath};
use crate::remote::{RemoteError, RemoteErrorKind, Request, Verdict, path_infos};

/// How many connections may turn out to be dead in one exchange. A host that has so many idle ones has lost
/// them all, and the last one is new.
const DEAD_CONNECTIONS_MAX: usize = 64;

/// The future of one exchange on a leased connection.
type Exchange<'a, T> = Pin<Box<dyn Future<Output = Result<T, RemoteError>> + Send + 'a>>;

impl HostPool {
    pub(in crate::pool) async fn query_path_infos(
        self: &Arc<Self>,
        paths: &Arc<[StorePath]>,
    ) -> Result<Vec<Arc<PathInfo>>, Arc<RemoteError>> {
        let requests: Vec<_> = path_infos(paths).collect();
        let exchange = self.exchange(&requests, |lease| {
            let paths = paths.clone();
            Box::pin(async move { lease.finish_path_infos(&paths).await })
        });
        Ok(exchange.await?.into_iter().map(Arc::new).collect())
    }

    /// An exchange with this host, which reads the replies to `requests`; once more when a used
    /// connection turns out to be dead.
    pub(in crate::pool) async fn exchange<T>(
        self: &Arc<Self>,
        requests: &[Request],
        exchange: impl for<'a> Fn(&'a mut Lease) -> Exchange<'a, T>,
    ) -> Result<T, Arc<RemoteError>> {
        let (mut again, mut restarted) = (0..DEAD_CONNECTIONS_MAX, false);
        loop {
            let (error, reused) = match self.lease(false, self.limits.connect, requests).await {
                Ok(mut lease) => match exchange(&mut lease).await {
                    Ok(value) => {
                        lease.give_back().await;
                        return Ok(value);
                    }
                    Err(error) => (Arc::new(error), lease.is_reused()),
                },
                Err(error) => (error, false),
            };
            let is_the_links = match error.verdict() {
                Verdict::Failed => reused,
                // Another ssh is started in its place.
                Verdict::Local => {
                    let is_it = matches!(error.kind, RemoteErrorKind::LinkStopped { .. });
                    is_it && !std::mem::replace(&mut restarted, true)
                }
                _ => false,
            };
            if !is_the_links || again.next().is_none() {
                self.record_failure(&error).await;
                return Err(error);
            }
            log::debug!("{error}; trying once more");
        }
    }
}
