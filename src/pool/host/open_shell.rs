//! Opens a shell on one host, and finds out whether its account has one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::HostPool;
use super::shells::ShellLease;
use crate::pool::health::Standing;
use crate::remote::{RemoteError, RemoteErrorKind, ShellError, ShellOptions, Verdict, open_shell};

impl HostPool {
    /// An idle shell or a new one; `None` when the account has none. With `even_if_resting` also while the
    /// host rests.
    pub(in crate::pool) async fn shell(
        &self,
        even_if_resting: bool,
    ) -> Result<Option<ShellLease>, Arc<RemoteError>> {
        let check = || match even_if_resting {
            true => Ok(()),
            false => self.check_not_resting(),
        };
        check()?;
        let mut has = self.shells.has.lock().await;
        // The one that found out meanwhile may have failed.
        check()?;
        if has.is_none() && self.persistence.has_shell(&self.health).await == Some(false) {
            *has = Some(false);
        }
        if *has == Some(false) {
            return Ok(None);
        }
        // Known to have one: several may be opened at a time.
        let finding_out = has.is_none().then_some(has);
        let limit = self.limits.connect + self.limits.silence;
        let permit = self.channel_permit(true, limit).await?;
        let lease = |shell| Ok(Some(self.shells.lease(shell, &self.channels, permit)));
        if let Some(shell) = self.shells.take_idle() {
            return lease(shell);
        }
        let options = ShellOptions {
            connect: self.limits.connect,
            silence: self.limits.silence,
        };
        self.make_room_for_channel();
        let opening = self.channels.opening();
        match open_shell(self.transport(), &self.host, &options).await {
            Ok(shell) => {
                drop(opening);
                self.record_latency(shell.latency());
                self.shells
                    .lacks_zstd
                    .store(!shell.has_zstd(), Ordering::Relaxed);
                if let Some(mut has) = finding_out {
                    *has = Some(true);
                    self.persistence.set_has_shell(&self.health, true).await;
                }
                lease(shell)
            }
            Err(ShellError::NoShell(none)) => {
                log::debug!("{none}");
                let has = match finding_out {
                    Some(has) => Some(has),
                    None => self.shells.has.try_lock().ok(),
                };
                if let Some(mut has) = has {
                    *has = Some(false);
                }
                if none.is_certain {
                    self.persistence.set_has_shell(&self.health, false).await;
                }
                Ok(None)
            }
            Err(ShellError::Remote(error)) => {
                let error = Arc::new(error);
                if self.verdict(&error) == Verdict::Refused {
                    self.channels.shrink();
                }
                // A shell that merely ends may be the account's own doing.
                if !matches!(error.kind, RemoteErrorKind::Disconnected { .. }) {
                    self.record_failure(&error).await;
                }
                Err(error)
            }
        }
    }

    /// Whether the account is not known to have no shell.
    pub(in crate::pool) fn may_have_shell(&self) -> bool {
        self.shells.may_exist()
    }

    /// Whether the account is not known to have no `zstd` in a shell.
    pub(in crate::pool) fn may_have_zstd(&self) -> bool {
        self.shells.may_exist() && !self.shells.lacks_zstd.load(Ordering::Relaxed)
    }

    fn check_not_resting(&self) -> Result<(), Arc<RemoteError>> {
        match self.standing() {
            Standing::Healthy | Standing::HalfOpen => Ok(()),
            Standing::Resting | Standing::JustFailed => Err(self.resting_error()),
        }
    }
}
