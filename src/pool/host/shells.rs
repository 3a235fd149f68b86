//! The channels by which parts of NARs come from one host: by what they can be had there, and those that lie idle.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::pool::channels::{ChannelPermit, ChannelPermits};
use crate::pool::idle_list::IdleList;
use crate::remote::SegmentReader;

/// By what parts of NARs can be had from a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChunksBy {
    /// Its account has a shell with the usual tools.
    Shell,
    /// Its serve program speaks the extension.
    Extension,
    /// By neither.
    Nothing,
}

/// What is known of the shells of one host, and of serve loops that take their place.
pub(super) struct Shells {
    /// By what parts can be had. Locked by the caller that finds out; others wait for the outcome.
    pub(super) by: tokio::sync::Mutex<Option<ChunksBy>>,
    /// The shell that was opened last had no `zstd`.
    pub(super) lacks_zstd: AtomicBool,
    idle: Arc<IdleList<SegmentReader>>,
}

/// A shell, or a serve loop that takes its place, that is lent to one user. When it is dropped it goes back to its host if
/// nothing is outstanding, and is closed otherwise.
pub struct ShellLease {
    // Taken only by drop and `into_parts`.
    shell: Option<SegmentReader>,
    idle: Arc<IdleList<SegmentReader>>,
    channels: Arc<ChannelPermits>,
    // Taken only by drop and `into_parts`.
    permit: Option<ChannelPermit>,
}

impl Shells {
    pub(super) fn new() -> Self {
        Self {
            by: tokio::sync::Mutex::default(),
            lacks_zstd: AtomicBool::new(false),
            idle: IdleList::new(),
        }
    }

    /// Lends a shell, or what takes its place.
    pub(super) fn lease(
        &self,
        shell: SegmentReader,
        channels: &Arc<ChannelPermits>,
        permit: ChannelPermit,
    ) -> ShellLease {
        ShellLease {
            shell: Some(shell),
            idle: self.idle.clone(),
            channels: channels.clone(),
            permit: Some(permit),
        }
    }

    /// How many lie idle.
    pub(super) fn idle(&self) -> usize {
        self.idle.len()
    }

    /// By what parts can be had is found out anew, unless that is under way.
    pub(super) fn forget(&self) {
        if let Ok(mut by) = self.by.try_lock() {
            *by = None;
        }
    }

    /// Whether parts may be had, as far as is known.
    pub(super) fn may_exist(&self) -> bool {
        // Locked while somebody finds out.
        let by = self.by.try_lock();
        by.map_or(true, |by| *by != Some(ChunksBy::Nothing))
    }

    /// Whether our program is known to take their place.
    pub(super) fn are_by_extension(&self) -> bool {
        let by = self.by.try_lock();
        by.is_ok_and(|by| *by == Some(ChunksBy::Extension))
    }

    pub(super) fn close_one(&self) {
        self.idle.pop();
    }

    pub(super) fn take_idle(&self) -> Option<SegmentReader> {
        while let Some(mut shell) = self.idle.pop() {
            if !shell.is_closed_by_remote() {
                return Some(shell);
            }
        }
        None
    }
}

impl ShellLease {
    /// Takes it for good, with the permit for its channel.
    pub(super) fn into_parts(mut self) -> (SegmentReader, ChannelPermit) {
        let shell = self.shell.take().expect("only drop takes it");
        (shell, self.permit.take().expect("only drop takes it"))
    }

    /// Whether somebody waits for a channel to this host, except for work in the background.
    #[must_use]
    pub fn has_waiters(&self) -> bool {
        self.channels.has_waiters()
    }

    /// Where to record that bytes come; may be kept while the shell is in use.
    #[must_use]
    pub fn activity(&self) -> Activity {
        Activity(self.channels.clone())
    }
}

/// Records what comes by a shell: those who wait for its channel see that it is in use.
pub struct Activity(Arc<ChannelPermits>);

impl Activity {
    /// Bytes came.
    pub fn record_byte(&self) {
        self.0.record_byte();
    }
}

impl Deref for ShellLease {
    type Target = SegmentReader;

    fn deref(&self) -> &SegmentReader {
        self.shell.as_ref().expect("only drop takes it")
    }
}

impl DerefMut for ShellLease {
    fn deref_mut(&mut self) -> &mut SegmentReader {
        self.shell.as_mut().expect("only drop takes it")
    }
}

impl Drop for ShellLease {
    fn drop(&mut self) {
        if let Some(mut shell) = self.shell.take()
            && shell.is_clean()
        {
            shell.leave_path();
            self.idle.push(shell);
        }
    }
}
