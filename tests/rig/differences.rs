//! What tests of paths that come as differences share.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Account, Link, Setup};
use crate::support::Store;

/// A line of 5 MB/s, 20 ms away.
pub fn slow_line() -> Arc<Link> {
    Arc::new(slow_link())
}

/// The same to be changed first.
pub fn slow_link() -> Link {
    let mut link = Link::slow(5_000_000);
    link.latency = Duration::from_millis(20);
    link
}

/// A host with two builds of a package, a store here with the first one, and the second one's path.
pub fn builds() -> (Store, Store, String) {
    let (remote, local) = (Store::new(), Store::new());
    remote.build("tool-1.0", 1);
    local.build("tool-1.0", 1);
    let new = remote.build("tool-1.0", 2);
    (remote, local, new)
}

impl Account {
    /// One for which these stores hold other versions.
    pub fn with_bases(bases: &[&Store]) -> Self {
        Self {
            bases: bases.iter().map(|store| store.root().to_owned()).collect(),
            ..Self::default()
        }
    }
}

impl Setup {
    /// Fetches the path, which is expected first and must come as it is. Gives how many bytes came over the link.
    pub async fn fetch_counted(&self, link: &Link, store: &Store, path: &str) -> u64 {
        let before = link.came.load(Ordering::SeqCst);
        self.expect(&[path.to_owned()]).await;
        self.fetch_right(store, path).await;
        link.came.load(Ordering::SeqCst) - before
    }

    /// Nobody was told of anything.
    pub fn assert_told_nothing(&self) {
        assert_eq!(*self.told.lock().unwrap(), [] as [String; 0]);
    }
}
