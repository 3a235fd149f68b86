//! Shells on the hosts: which accounts have one, and those that lie idle.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::health::Standing;
use super::idle::Idle;
use super::keeper::patiently;
use super::places::{Place, Places};
use super::slot::Slot;
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
    slot: Arc<Slot>,
    _place: Place,
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
        self.shell_if(id, Slot::check_rest).await
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
        may_use: fn(&Slot) -> Result<(), Arc<RemoteError>>,
    ) -> Result<Option<ShellLease>, Arc<RemoteError>> {
        self.load().await;
        let slot = &self.slots[id.0];
        may_use(slot)?;
        let mut has = slot.shells.has.lock().await;
        // Who found out before may have failed.
        may_use(slot)?;
        if has.is_none() && self.remembered(slot).await == Some(false) {
            *has = Some(false);
        }
        if *has == Some(false) {
            return Ok(None);
        }
        // Known to have one: several may be opened at a time.
        let finding_out = has.is_none().then_some(has);
        let lease = |shell, place| {
            Ok(Some(ShellLease {
                shell: Some(shell),
                slot: slot.clone(),
                _place: place,
            }))
        };
        let limit = self.limits.connect + self.limits.silence;
        let place = slot.place(true, limit).await?;
        if let Some(shell) = slot.shells.take_idle() {
            return lease(shell, place);
        }
        let options = ShellOptions {
            connect: self.limits.connect,
            silence: self.limits.silence,
        };
        slot.make_room();
        let opening = slot.places.opening();
        let opened = open_shell(slot.transport(), &slot.host, &options).await;
        match opened {
            Ok(shell) => {
                drop(opening);
                slot.learn(shell.latency());
                if let Some(mut has) = finding_out {
                    *has = Some(true);
                    self.remember(slot, true).await;
                }
                lease(shell, place)
            }
            Err(ShellError::NoShell(none)) => {
                log::debug!("{none}");
                let has = match finding_out {
                    Some(has) => Some(has),
                    None => slot.shells.has.try_lock().ok(),
                };
                if let Some(mut has) = has {
                    *has = Some(false);
                }
                if none.is_certain {
                    self.remember(slot, false).await;
                }
                Ok(None)
            }
            Err(ShellError::Remote(error)) => {
                let error = Arc::new(error);
                if slot.verdict(&error) == Verdict::Refused {
                    slot.places.shrink();
                }
                // A shell that merely ends may be the account's own doing.
                if !matches!(*error, RemoteError::Disconnected { .. }) {
                    slot.failed(&error).await;
                }
                Err(error)
            }
        }
    }

    /// Whether the account is not known to have no shell.
    #[must_use]
    pub fn may_have_shell(&self, id: HostId) -> bool {
        let has = self.slots[id.0].shells.has.try_lock();
        // Locked while somebody finds out.
        has.map_or(true, |has| *has != Some(false))
    }

    async fn remembered(&self, slot: &Slot) -> Option<bool> {
        let (store, key) = (self.shell_store.clone()?, slot.kept.key().to_owned());
        patiently(NOTE, move || store.load(&key)).await?
    }

    async fn remember(&self, slot: &Slot, has_shell: bool) {
        let Some(store) = self.shell_store.clone() else {
            return;
        };
        let key = slot.kept.key().to_owned();
        let note = move || {
            if store.load(&key) != Some(has_shell) {
                store.save(&key, has_shell);
            }
        };
        patiently(NOTE, note).await;
    }
}

impl Slot {
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
        self.slot.places.are_needed()
    }

    /// To be told what comes; may be kept while the shell is in use.
    #[must_use]
    pub fn movement(&self) -> Movement {
        Movement(self.slot.places.clone())
    }
}

/// What comes by a shell, for those who wait for a channel: they see that this one is of use.
pub struct Movement(Arc<Places>);

impl Movement {
    /// Something has come.
    pub fn came(&self) {
        self.0.bytes_came();
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
            self.slot.shells.idle.push(shell);
        }
    }
}
