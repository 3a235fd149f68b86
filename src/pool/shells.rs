//! Shells on the hosts: which accounts have one, and those that lie idle.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::channels::{ChannelPermit, ChannelPermits};
use super::health::Standing;
use super::host_pool::HostPool;
use super::idle::Idle;
use super::persistence::call_store;
use super::{HostId, Pool};
use crate::remote::{RemoteError, Shell, ShellError, ShellOptions, Verdict, open_shell};

/// What the store is called for.
const NOTE: &str = "noting which accounts have a shell";

/// Remembers for later processes which accounts have a shell. Both calls may block.
pub trait ShellStore: Send + Sync {
    /// What is known of a host, under the same key as its health.
    fn load(&self, host_key: &str) -> Option<bool>;
    /// Notes whether it has a usable shell.
    fn save(&self, host_key: &str, has_shell: bool);
}

/// What is known of the shells of one host.
pub(super) struct Shells {
    /// Held by the one who finds out; the others wait for what becomes of it.
    has: tokio::sync::Mutex<Option<bool>>,
    idle: Arc<Idle<Shell>>,
}

/// A shell that is held by one user. It goes back to its host when it is dropped with nothing owed,
/// and is closed otherwise.
pub struct ShellLease {
    // Taken only by drop.
    shell: Option<Shell>,
    host_pool: Arc<HostPool>,
    _permit: ChannelPermit,
}

impl Pool {
    /// The same, with a memory of which accounts have a shell.
    #[must_use]
    pub fn with_shell_store(mut self, store: Arc<dyn ShellStore>) -> Self {
        self.shell_store = Some(store);
        self
    }

    /// A shell on a host, an idle one or a new one, for as long as it is held. `None` when its
    /// account has none: found out once, by one of those who ask at a time, and known from then on.
    ///
    /// # Errors
    /// When the host rests after failures, or cannot be connected to. That it has no shell, or that
    /// one ended, is no failure of the host.
    pub async fn shell(&self, id: HostId) -> Result<Option<ShellLease>, Arc<RemoteError>> {
        self.shell_if(id, HostPool::check_rest).await
    }

    /// As [`Pool::shell`], even while the host rests: for who has nobody else to ask.
    ///
    /// # Errors
    /// When the host cannot be connected to.
    pub async fn shell_nevertheless(
        &self,
        id: HostId,
    ) -> Result<Option<ShellLease>, Arc<RemoteError>> {
        self.shell_if(id, |_| Ok(())).await
    }

    async fn shell_if(
        &self,
        id: HostId,
        may_use: fn(&HostPool) -> Result<(), Arc<RemoteError>>,
    ) -> Result<Option<ShellLease>, Arc<RemoteError>> {
        self.load().await;
        let host_pool = &self.hosts[id.0];
        may_use(host_pool)?;
        let mut has = host_pool.shells.has.lock().await;
        // Who found out before may have failed.
        may_use(host_pool)?;
        if has.is_none() && self.remembered(host_pool).await == Some(false) {
            *has = Some(false);
        }
        if *has == Some(false) {
            return Ok(None);
        }
        // Known to have one: several may be opened at a time.
        let finding_out = has.is_none().then_some(has);
        let lease = |shell, permit| {
            Ok(Some(ShellLease {
                shell: Some(shell),
                host_pool: host_pool.clone(),
                _permit: permit,
            }))
        };
        let limit = self.limits.connect + self.limits.silence;
        let permit = host_pool.channel_permit(true, limit).await?;
        if let Some(shell) = host_pool.shells.take_idle() {
            return lease(shell, permit);
        }
        let options = ShellOptions {
            connect: self.limits.connect,
            silence: self.limits.silence,
        };
        host_pool.make_room_for_channel();
        let opening = host_pool.channels.opening();
        let opened = open_shell(host_pool.transport(), &host_pool.host, &options).await;
        match opened {
            Ok(shell) => {
                drop(opening);
                host_pool.learn(shell.latency());
                if let Some(mut has) = finding_out {
                    *has = Some(true);
                    self.remember(host_pool, true).await;
                }
                lease(shell, permit)
            }
            Err(ShellError::NoShell(none)) => {
                log::debug!("{none}");
                let has = match finding_out {
                    Some(has) => Some(has),
                    None => host_pool.shells.has.try_lock().ok(),
                };
                if let Some(mut has) = has {
                    *has = Some(false);
                }
                if none.is_certain {
                    self.remember(host_pool, false).await;
                }
                Ok(None)
            }
            Err(ShellError::Remote(error)) => {
                let error = Arc::new(error);
                if host_pool.verdict(&error) == Verdict::Refused {
                    host_pool.channels.shrink();
                }
                // A shell that merely ends may be the account's own doing.
                if !matches!(*error, RemoteError::Disconnected { .. }) {
                    host_pool.failed(&error).await;
                }
                Err(error)
            }
        }
    }

    /// Whether the account is not known to have no shell.
    #[must_use]
    pub fn may_have_shell(&self, id: HostId) -> bool {
        let has = self.hosts[id.0].shells.has.try_lock();
        // Locked while somebody finds out.
        has.map_or(true, |has| *has != Some(false))
    }

    async fn remembered(&self, host_pool: &HostPool) -> Option<bool> {
        let (store, key) = (self.shell_store.clone()?, host_pool.health.key().to_owned());
        call_store(NOTE, move || store.load(&key)).await?
    }

    async fn remember(&self, host_pool: &HostPool, has_shell: bool) {
        let Some(store) = self.shell_store.clone() else {
            return;
        };
        let key = host_pool.health.key().to_owned();
        let note = move || {
            if store.load(&key) != Some(has_shell) {
                store.save(&key, has_shell);
            }
        };
        call_store(NOTE, note).await;
    }
}

impl HostPool {
    fn check_rest(&self) -> Result<(), Arc<RemoteError>> {
        match self.standing() {
            Standing::Healthy | Standing::HalfOpen => Ok(()),
            Standing::Resting | Standing::JustFailed => Err(self.rests()),
        }
    }
}

impl Shells {
    pub(super) fn new() -> Self {
        Self {
            has: tokio::sync::Mutex::default(),
            idle: Idle::new(),
        }
    }

    /// How many lie idle.
    pub(super) fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Whether the account has a shell is found out anew, unless somebody is at it.
    pub(super) fn forget(&self) {
        if let Ok(mut has) = self.has.try_lock() {
            *has = None;
        }
    }

    pub(super) fn close_one(&self) {
        self.idle.pop();
    }

    fn take_idle(&self) -> Option<Shell> {
        while let Some(mut shell) = self.idle.pop() {
            if !shell.is_gone() {
                return Some(shell);
            }
        }
        None
    }
}

impl ShellLease {
    /// Whether somebody waits for a channel to this host who does not work in the background.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        self.host_pool.channels.has_waiters()
    }

    /// To be told what comes; may be kept while the shell is in use.
    #[must_use]
    pub fn movement(&self) -> Movement {
        Movement(self.host_pool.channels.clone())
    }
}

/// What comes by a shell, for those who wait for a channel: they see that this one is of use.
pub struct Movement(Arc<ChannelPermits>);

impl Movement {
    /// Something has come.
    pub fn came(&self) {
        self.0.record_byte();
    }
}

impl Deref for ShellLease {
    type Target = Shell;

    fn deref(&self) -> &Shell {
        self.shell.as_ref().expect("only drop takes it")
    }
}

impl DerefMut for ShellLease {
    fn deref_mut(&mut self) -> &mut Shell {
        self.shell.as_mut().expect("only drop takes it")
    }
}

impl Drop for ShellLease {
    fn drop(&mut self) {
        if let Some(mut shell) = self.shell.take()
            && shell.is_clean()
        {
            shell.rest();
            self.host_pool.shells.idle.push(shell);
        }
    }
}
