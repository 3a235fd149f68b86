//! Questions for which the serve protocol has no words: which paths have these hash parts (a shell looks into the folder of
//! the store, our program into its database), and how a derivation was built (a shell runs `nix-store --read-log`).

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::timeout;

use super::{HostId, Pool, RemoteError, ShellLease};
use crate::model::{HashPart, StorePath};

/// How many hash parts a host is asked about at a time: its shell compares each with each name in the store.
pub const NAMES_AT_ONCE: usize = 64;

/// What a shell is asked.
#[async_trait]
trait Question: Sync {
    type Answer;

    async fn ask(&self, lease: &mut ShellLease) -> Result<Self::Answer, RemoteError>;
}

struct NamesOf<'a> {
    store_dir: &'a str,
    hashes: &'a [HashPart],
}

#[async_trait]
impl Question for NamesOf<'_> {
    type Answer = Vec<StorePath>;

    async fn ask(&self, lease: &mut ShellLease) -> Result<Vec<StorePath>, RemoteError> {
        lease.names(self.store_dir, self.hashes).await
    }
}

struct LogOf<'a> {
    store: Option<&'a str>,
    derivation: &'a StorePath,
    max: usize,
}

#[async_trait]
impl Question for LogOf<'_> {
    type Answer = Option<Vec<u8>>;

    async fn ask(&self, lease: &mut ShellLease) -> Result<Option<Vec<u8>>, RemoteError> {
        lease.build_log(self.store, self.derivation, self.max).await
    }
}

impl Pool {
    /// The paths in the store of a host that have one of these hash parts, at most [`NAMES_AT_ONCE`]. What a shell names may
    /// not be valid. `None` where the account gives no names: it runs `nix-store --serve` and nothing else, or takes longer than
    /// connecting may take.
    ///
    /// # Errors
    /// When the host rests after failures, cannot be connected to, or does not answer.
    pub async fn names(
        &self,
        host: HostId,
        store_dir: &str,
        hashes: &[HashPart],
    ) -> Result<Option<Vec<StorePath>>, Arc<RemoteError>> {
        self.ask_shell(host, &NamesOf { store_dir, hashes }).await
    }

    /// The log of how this derivation was built, as a host has it; of what is longer than `max` bytes, the beginning. `None` where it
    /// has none, or the account gives no logs: only one with a shell does.
    ///
    /// # Errors
    /// As [`Pool::names`].
    pub async fn build_log(
        &self,
        host: HostId,
        derivation: &StorePath,
        max: usize,
    ) -> Result<Option<Vec<u8>>, Arc<RemoteError>> {
        let question = LogOf {
            store: self.host(host).remote_store.as_deref(),
            derivation,
            max,
        };
        Ok(self.ask_shell(host, &question).await?.flatten())
    }

    /// Asks a shell, or our program. `None` where the account has neither, or takes longer than connecting may take.
    async fn ask_shell<Q: Question>(
        &self,
        host: HostId,
        question: &Q,
    ) -> Result<Option<Q::Answer>, Arc<RemoteError>> {
        let mut is_second = false;
        loop {
            let Some(mut lease) = self.shell(host).await? else {
                return Ok(None);
            };
            match timeout(self.limits.connect, question.ask(&mut lease)).await {
                Ok(Ok(answer)) => return Ok(Some(answer)),
                // It may have lain idle for long. That a shell ends is no failure of the host.
                Ok(Err(error)) if is_second => return Err(Arc::new(error)),
                Ok(Err(error)) => log::debug!("{error}; trying once more"),
                Err(_) => {
                    log::debug!("{}: no answer within the time for connecting", lease.host());
                    return Ok(None);
                }
            }
            is_second = true;
        }
    }
}
