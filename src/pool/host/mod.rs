//! One host: its connection pool, its shells, and its health.

mod exchange;
mod failures;
mod lease;
mod open_shell;
mod reports;
mod reuse;
mod shells;
mod write_lease;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::channels::{ChannelPermit, ChannelPermits};
use super::health::{HostHealth, HostPersistence, Standing};
use super::idle_list::IdleList;
use super::single_flight::SingleFlight;
use super::{HostId, Limits, Notify};
use crate::config::host::Host;
use crate::remote::{Connection, Latency, LearntProgram, RemoteError, RemoteErrorKind};
use crate::transport::{Program, Transport};
pub(super) use failures::EARLY_PROBE_TIMEOUT;
pub use lease::Lease;
pub use reports::{Banner, SkippedPath};
use reports::{FailureReports, SkippedPathReports};
use shells::Shells;
pub use shells::{Activity, ShellLease};
pub use write_lease::{BlockLease, WriteLease, WriteReplies};

/// The connection pool of one host.
pub(super) struct HostPool {
    pub(super) id: HostId,
    pub(super) host: Host,
    transport: Arc<dyn Transport>,
    pub(super) limits: Limits,
    pub(super) notify: Notify,
    channels: Arc<ChannelPermits>,
    single_flight: SingleFlight,
    persistence: HostPersistence,
    pub(super) health: Arc<HostHealth>,
    shells: Shells,
    idle: Arc<IdleList<Connection>>,
    failure_reports: Mutex<FailureReports>,
    latency: Mutex<Latency>,
    program: LearntProgram,
    /// The same for connections that write.
    write_program: LearntProgram,
    is_banner_reported: AtomicBool,
    skipped_path_reports: SkippedPathReports,
    /// Whether it ever connected.
    was_connected: AtomicBool,
    /// Connections that are lent.
    held: AtomicUsize,
    /// A new command may probe it while it rests.
    may_probe_early: AtomicBool,
    /// The store directory of the paths that it was asked about last.
    asked_store_dir: Mutex<Option<String>>,
    /// It has done what was asked, and was not probed early since.
    worked_before: AtomicBool,
    /// When the right to an early probe was taken last.
    may_join_since: Mutex<Option<Instant>>,
    /// It gave no answer when it was asked last, which did not count as a failure.
    is_without_answer: AtomicBool,
    /// Replies in a row that could not be read.
    unreadable_replies: AtomicU32,
    /// How many bytes a second it took, where those were few, and when.
    pub(super) slow_upload: Mutex<Option<(u64, Instant)>>,
}

impl HostPool {
    pub(super) fn new(
        id: HostId,
        host: Host,
        transport: Arc<dyn Transport>,
        limits: Limits,
        notify: Notify,
        persistence: HostPersistence,
    ) -> Self {
        Self {
            id,
            channels: ChannelPermits::new(&host),
            single_flight: SingleFlight::default(),
            persistence,
            health: Arc::new(HostHealth::new(&host)),
            shells: Shells::new(),
            host,
            transport,
            limits,
            notify,
            idle: IdleList::new(),
            failure_reports: Mutex::default(),
            latency: Mutex::default(),
            program: LearntProgram::default(),
            write_program: LearntProgram::default(),
            is_banner_reported: AtomicBool::new(false),
            skipped_path_reports: SkippedPathReports::default(),
            was_connected: AtomicBool::new(false),
            held: AtomicUsize::new(0),
            may_probe_early: AtomicBool::new(false),
            asked_store_dir: Mutex::default(),
            worked_before: AtomicBool::new(false),
            may_join_since: Mutex::default(),
            is_without_answer: AtomicBool::new(false),
            unreadable_replies: AtomicU32::new(0),
            slow_upload: Mutex::default(),
        }
    }

    pub(super) fn program(&self) -> Program {
        self.program.get()
    }

    pub(super) fn standing(&self) -> Standing {
        self.health.breaker.lock().standing(Instant::now())
    }

    /// It took longer than the hedge delay. Further questions do not wait for it until it answers in time.
    /// While it never connected, neither do those of later processes.
    pub(super) async fn record_slow(&self) {
        self.health.slow.store(true, Ordering::Relaxed);
        if !self.was_connected.load(Ordering::Relaxed)
            && !self.health.in_doubt.swap(true, Ordering::Relaxed)
        {
            // Waited for: this process may end with its next answer.
            self.persistence.save(&self.health).await;
        }
    }

    /// Whether answers of hosts behind it in the order wait for this one.
    pub(super) fn may_delay_answers(&self) -> bool {
        !self.health.slow.load(Ordering::Relaxed) && self.standing() == Standing::Healthy
    }

    pub(super) fn transport(&self) -> &dyn Transport {
        &*self.transport
    }

    /// Takes in how quickly it answered.
    pub(super) fn record_latency(&self, latency: Latency) {
        self.latency.lock().merge(latency);
    }

    /// The shortest time in which it answered.
    pub(super) fn latency(&self) -> Option<Duration> {
        self.latency.lock().shortest()
    }

    /// How many channels work in the background may have.
    pub(super) fn background_limit(&self) -> usize {
        self.channels.background_limit()
    }

    /// A permit for a channel; `limit` as in [`ChannelPermits::acquire`].
    pub(super) async fn channel_permit(
        &self,
        in_background: bool,
        limit: Duration,
    ) -> Result<ChannelPermit, RemoteError> {
        let permit = self.channels.acquire(in_background, limit).await;
        permit.map_err(|after| {
            let channels = self.channels.limit();
            RemoteError::new(&self.host, RemoteErrorKind::Busy { channels, after })
        })
    }

    /// How many channels there are, idle ones included.
    pub(super) fn connections(&self) -> usize {
        self.channels.used() + self.shells.idle() + self.idle.len()
    }

    /// To be called before a channel is opened: idle ones count too, and are closed, shells first.
    pub(super) fn make_room_for_channel(&self) {
        while self.connections() > self.channels.limit() && self.close_one_idle() {}
    }
}
