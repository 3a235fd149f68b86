//! Opens a channel for parts of NARs on one host: a shell, or a serve loop that speaks the extension. Finds out which of them
//! its account has.
//!
//! A shell is looked for first: an account without one says so at once, and the question for the extension would cost all
//! others a round trip. Where the host's URL names our program it is the other way round.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::MutexGuard;
use tokio::time::Instant;

use super::HostPool;
use super::shells::{ChunksBy, ShellLease};
use crate::model::StorePath;
use crate::pool::health::Standing;
use crate::remote::{
    Connection, ExtensionChannel, RemoteError, RemoteErrorKind, Request, SegmentReader, Shell,
    ShellError, ShellOptions, Verdict, extension_question, open_shell,
};

/// The word by which a remote program is known to be ours.
const OUR_COMMAND: &str = "serve-local";

/// Whether there is a shell, or why there may be none.
enum ShellOutcome {
    Opened(Box<Shell>),
    /// Whether that is certain.
    None(bool),
}

impl HostPool {
    /// An idle channel or a new one; `None` when parts cannot be had from the host. With `even_if_resting` also while it
    /// rests.
    pub(in crate::pool) async fn shell(
        &self,
        even_if_resting: bool,
    ) -> Result<Option<ShellLease>, Arc<RemoteError>> {
        let began = Instant::now();
        let check = || match even_if_resting {
            // One that waited for others would fail as they did.
            true if self.has_failed_since(began) => Err(self.resting_error()),
            true => Ok(()),
            false => self.check_not_resting(),
        };
        check()?;
        let by = self.shells.by.lock().await;
        // The one that found out meanwhile may have failed.
        check()?;
        if *by == Some(ChunksBy::Nothing) {
            return Ok(None);
        }
        // Held until it is open, also where it is known: one opens after the other.
        let (known, finding_out) = match *by {
            Some(known) => (Some(known), None),
            None => (None, Some(by)),
        };
        let limit = self.limits.patience();
        let permit = self.channel_permit(true, limit).await?;
        let opened = match self.shells.take_idle() {
            Some(idle) => Some(idle),
            None => match (known, finding_out) {
                (Some(known), _) => self.open_as(known).await?,
                (None, Some(by)) => self.find_out(by).await?,
                (None, None) => None,
            },
        };
        Ok(opened.map(|opened| self.shells.lease(opened, &self.channels, permit)))
    }

    /// A new channel of the kind that the host is known to have.
    async fn open_as(&self, known: ChunksBy) -> Result<Option<SegmentReader>, Arc<RemoteError>> {
        let (opened, instead) = match known {
            ChunksBy::Extension => {
                let channel = self.ask_for_extension(false).await?;
                (channel.map(extension_reader), None)
            }
            ChunksBy::Shell => match self.open_shell().await? {
                ShellOutcome::Opened(shell) => (Some(SegmentReader::Shell(shell)), None),
                // The account may run our program by now.
                ShellOutcome::None(true) => (None, None),
                ShellOutcome::None(false) => (None, Some(ChunksBy::Nothing)),
            },
            ChunksBy::Nothing => (None, Some(ChunksBy::Nothing)),
        };
        if opened.is_none()
            && let Ok(mut by) = self.shells.by.try_lock()
        {
            *by = instead;
        }
        Ok(opened)
    }

    /// Tries both kinds, while others wait.
    async fn find_out(
        &self,
        mut by: MutexGuard<'_, Option<ChunksBy>>,
    ) -> Result<Option<SegmentReader>, Arc<RemoteError>> {
        let has_shell = self.persistence.has_shell(&self.health).await;
        if has_shell == Some(false) {
            *by = Some(ChunksBy::Nothing);
            return Ok(None);
        }
        let is_extended = self.persistence.has_extension(&self.health).await;
        let is_ours = self.host.remote_program.iter().any(|w| w == OUR_COMMAND);
        let order = match is_extended || is_ours {
            true => [ChunksBy::Extension, ChunksBy::Shell],
            false => [ChunksBy::Shell, ChunksBy::Extension],
        };
        let mut has_no_shell = false;
        for kind in order {
            if kind == ChunksBy::Extension {
                if let Some(channel) = self.ask_for_extension(true).await? {
                    *by = Some(ChunksBy::Extension);
                    self.persistence.set_has_extension(&self.health).await;
                    return Ok(Some(extension_reader(channel)));
                }
                continue;
            }
            match self.open_shell().await? {
                ShellOutcome::Opened(shell) => {
                    *by = Some(ChunksBy::Shell);
                    self.persistence.set_has_shell(&self.health, true).await;
                    return Ok(Some(SegmentReader::Shell(shell)));
                }
                ShellOutcome::None(is_certain) => has_no_shell = is_certain,
            }
        }
        *by = Some(ChunksBy::Nothing);
        if has_no_shell {
            self.persistence.set_has_shell(&self.health, false).await;
        }
        Ok(None)
    }

    async fn open_shell(&self) -> Result<ShellOutcome, Arc<RemoteError>> {
        let options = ShellOptions {
            connect: self.limits.connect,
            silence: self.limits.silence,
        };
        self.make_room_for_channel();
        let _opening = self.channels.opening();
        match open_shell(self.transport(), &self.host, &options).await {
            Ok(shell) => {
                self.record_latency(shell.latency());
                self.shells
                    .lacks_zstd
                    .store(!shell.has_zstd(), Ordering::Relaxed);
                Ok(ShellOutcome::Opened(Box::new(shell)))
            }
            Err(ShellError::NoShell(none)) => {
                log::debug!("{none}");
                Ok(ShellOutcome::None(none.is_certain))
            }
            Err(ShellError::Remote(error)) => Err(self.not_opened(error).await),
        }
    }

    /// A serve loop that speaks the extension; `None` where the host's program does not. `may_reuse`: an idle connection is
    /// asked first.
    async fn ask_for_extension(
        &self,
        may_reuse: bool,
    ) -> Result<Option<ExtensionChannel>, Arc<RemoteError>> {
        let store_dir = self.store_dir();
        let Some((feature, question)) = extension_question(&store_dir) else {
            return Ok(None);
        };
        if may_reuse
            && let Some(idle) = self.take_idle(std::slice::from_ref(&question))
            && let Ok(channel) = self.learn_extension(idle, &feature).await
        {
            return Ok(channel);
        }
        let connected = {
            let _opening = self.channels.opening();
            self.connect(&[question]).await
        };
        let learnt = match connected {
            Ok(connection) => self.learn_extension(connection, &feature).await,
            Err(error) => return Err(self.not_opened(error).await),
        };
        match learnt {
            Ok(channel) => Ok(channel),
            // Other programs than Nix's may take the question amiss.
            Err(error) if matches!(error.kind, RemoteErrorKind::Disconnected { .. }) => {
                log::debug!("{error}; taken for a program without the extension");
                Ok(None)
            }
            Err(error) => Err(self.not_opened(error).await),
        }
    }

    async fn learn_extension(
        &self,
        connection: Connection,
        feature: &StorePath,
    ) -> Result<Option<ExtensionChannel>, RemoteError> {
        match connection.finish_extension_question(feature).await? {
            Ok(channel) => {
                self.shells.lacks_zstd.store(false, Ordering::Relaxed);
                Ok(Some(channel))
            }
            Err(connection) => {
                self.idle.push(connection);
                Ok(None)
            }
        }
    }

    /// Takes into account that a channel could not be opened.
    async fn not_opened(&self, error: RemoteError) -> Arc<RemoteError> {
        let error = Arc::new(error);
        if self.verdict(&error) == Verdict::Refused {
            self.channels.shrink();
        }
        // A shell that merely ends may be the account's own doing.
        if !matches!(error.kind, RemoteErrorKind::Disconnected { .. }) {
            self.record_failure(&error).await;
        }
        error
    }

    /// The store directory of the paths that the host was asked about.
    fn store_dir(&self) -> String {
        let known = self.asked_store_dir.lock().clone();
        known.unwrap_or_else(|| DEFAULT_STORE_DIR.to_owned())
    }

    /// Remembers the store directory of the paths in these requests.
    pub(super) fn record_store_dir(&self, requests: &[Request]) {
        let paths = requests.iter().find_map(|request| match request {
            Request::DumpStorePath { path } => Some(path),
            Request::QueryValidPaths { paths, .. }
            | Request::QueryPathInfos { paths }
            | Request::QueryClosure { paths, .. } => paths.first(),
        });
        if let Some(path) = paths {
            let mut known = self.asked_store_dir.lock();
            if known.as_deref() != Some(path.store_dir()) {
                *known = Some(path.store_dir().to_owned());
            }
        }
    }

    /// Whether parts are not known to be out of reach.
    pub(in crate::pool) fn may_have_shell(&self) -> bool {
        self.shells.may_exist()
    }

    /// Whether the host is not known to be unable to compress parts.
    pub(in crate::pool) fn may_have_zstd(&self) -> bool {
        self.shells.may_exist() && !self.shells.lacks_zstd.load(Ordering::Relaxed)
    }

    /// Whether it is known that our program takes the place of a shell.
    pub(in crate::pool) fn is_known_to_run_ours(&self) -> bool {
        self.shells.are_by_extension()
    }

    fn check_not_resting(&self) -> Result<(), Arc<RemoteError>> {
        match self.standing() {
            Standing::Healthy | Standing::HalfOpen => Ok(()),
            Standing::Resting | Standing::JustFailed => Err(self.resting_error()),
        }
    }
}

/// Where store paths are unless something else is known.
const DEFAULT_STORE_DIR: &str = "/nix/store";

fn extension_reader(channel: ExtensionChannel) -> SegmentReader {
    SegmentReader::Extension(Box::new(channel))
}
