//! All hosts as one: their connections, whom to ask, what to do when one fails.
//!
//! | module | what it does |
//! | --- | --- |
//! | `ask` | one question to all hosts, with hedging |
//! | `check` | whether hosts still have paths |
//! | `names` | which paths of a host have given hash parts |
//! | `host` | one host's connection pool: leases, shells, failures |
//! | `channels` | how many channels to a host there may be, and who gets one |
//! | `health` | the circuit breaker, and what later processes learn of it |
//! | `single_flight` | one caller tries a host that may not answer, the others wait |
//! | `idle_list` | connections that lie idle, for a limited time |

mod ask;
mod backoff;
mod channels;
mod check;
mod health;
mod host;
mod idle_list;
mod names;
mod single_flight;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;

pub use ask::{AllHostsResting, Answers, Holder, OnReply, OnReplyFuture, Question};
pub use backoff::exponential;
pub use check::Askable;
pub use health::HostStore;
pub use host::{
    Activity, Banner, BlockLease, Lease, ShellLease, SkippedPath, WriteLease, WriteReplies,
};
pub use names::NAMES_AT_ONCE;

use crate::config::host::{CompressionMode, Host};
use crate::hint::Hint;
use crate::model::StorePath;
pub use crate::remote::{RemoteError, RemoteErrorKind, Verdict};
use crate::remote::{Request, Version, dump};
use crate::transport::{Program, Transport};
use health::HostPersistence;
use host::HostPool;

/// How long it is remembered that a host took bytes slowly: its link may be another one later.
const SLOW_UPLOAD_KEPT: Duration = Duration::from_secs(600);

/// Tells the user of a failure that does not stop the work.
pub type Notify = Arc<dyn Fn(&(dyn Hint + 'static)) + Send + Sync>;

/// A host's index in the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(usize);

impl HostId {
    /// The index, from 0.
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }

    #[cfg(test)]
    pub(crate) fn at(place: usize) -> Self {
        Self(place)
    }
}

/// Time limits.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Limit for connecting to a host, handshake included.
    pub connect: Duration,
    /// How long a host may be silent while a reply is outstanding.
    pub silence: Duration,
    /// The hedge delay: how long a host may hold up an answer of a host behind it in the order.
    pub hedge: Duration,
}

impl Limits {
    /// Within this time a host that is asked for something has sent a first byte, or has failed.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.connect + self.silence
    }
}

/// The hosts, in order of preference.
pub struct Pool {
    hosts: Vec<Arc<HostPool>>,
    limits: Limits,
    notify: Notify,
    persistence: HostPersistence,
    /// Set once the hosts' health has been read from the store.
    loaded: OnceCell<()>,
    all_resting_reported: AtomicBool,
}

impl Pool {
    /// A pool of `hosts`, reached by `transport`. What `store` keeps of them is read before the first use,
    /// and written when a host fails or recovers. Nothing is connected yet.
    #[must_use]
    pub fn new(
        hosts: Vec<Host>,
        transport: Arc<dyn Transport>,
        limits: Limits,
        notify: Notify,
        store: Option<Arc<dyn HostStore>>,
    ) -> Self {
        let persistence = HostPersistence::new(store);
        let host_pool = |(id, host)| {
            let (transport, notify) = (transport.clone(), notify.clone());
            let persistence = persistence.clone();
            Arc::new(HostPool::new(
                HostId(id),
                host,
                transport,
                limits,
                notify,
                persistence,
            ))
        };
        Self {
            hosts: hosts.into_iter().enumerate().map(host_pool).collect(),
            limits,
            notify,
            persistence,
            loaded: OnceCell::new(),
            all_resting_reported: AtomicBool::new(false),
        }
    }

    /// The same with jitter that follows from a seed, for simulations that can be repeated.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        self.persistence.seed(seed);
        self
    }

    /// Reads the hosts' health from the store, once and before the first use of a host.
    pub async fn load(&self) {
        let load = || async {
            let all = self
                .hosts
                .iter()
                .map(|host_pool| host_pool.health.clone())
                .collect();
            self.persistence.load(all).await;
        };
        self.loaded.get_or_init(load).await;
    }

    /// All hosts, in order.
    pub fn hosts(&self) -> impl Iterator<Item = HostId> + use<> {
        (0..self.hosts.len()).map(HostId)
    }

    /// The host of that index.
    #[must_use]
    pub fn host(&self, id: HostId) -> &Host {
        &self.hosts[id.0].host
    }

    /// Within this time a host that is asked for something has sent a first byte, or has failed.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.limits.patience()
    }

    /// How many hosts give no answer: they rest, failed, or sent an unreadable reply.
    #[must_use]
    pub fn hosts_without_answer(&self) -> usize {
        let hosts = self.hosts.iter();
        hosts.filter(|host| host.is_without_answer()).count()
    }

    /// Why hosts are left alone at present, and for how long, where this process has seen them fail.
    #[must_use]
    pub fn present_failures(&self) -> Vec<Arc<RemoteError>> {
        let hosts = self.hosts.iter();
        hosts.filter_map(|host| host.present_failure()).collect()
    }

    /// Failing hosts that refused the login, and those that only an earlier process has seen fail.
    #[must_use]
    pub fn hosts_that_refuse_login(&self) -> Vec<HostId> {
        let hosts = self.hosts.iter();
        let refuse = hosts.filter(|host| host.may_refuse_login());
        refuse.map(|host_pool| host_pool.id).collect()
    }

    /// A new command asks: messages that are given once are given once more, and each resting host may be
    /// probed once before its pause is over, when nobody else has what is asked for.
    pub fn new_command(&self) {
        self.all_resting_reported.store(false, Ordering::Relaxed);
        self.hosts.iter().for_each(|host| host.new_command());
    }

    /// Tells the user.
    pub fn notify(&self, error: &(dyn Hint + 'static)) {
        (self.notify)(error);
    }

    /// A connection to a host, an idle one or a new one, for as long as it is held.
    ///
    /// # Errors
    /// When the host cannot be connected to, or another caller found that out meanwhile or a few seconds ago.
    /// Also when all channels are in use and, for as long as a host may be silent, none came back, no byte came
    /// on any, and none was blocked by its client.
    pub async fn lease(&self, id: HostId) -> Result<Lease, Arc<RemoteError>> {
        self.lease_with(id, false, None).await
    }

    /// As [`Pool::lease`] and [`start_dump`](crate::remote::Connection::start_dump) on it. On a new
    /// connection the request is under way before the host has said hello.
    ///
    /// # Errors
    /// As [`Pool::lease`].
    pub async fn lease_for_dump(
        &self,
        id: HostId,
        path: &StorePath,
    ) -> Result<Lease, Arc<RemoteError>> {
        self.lease_with(id, false, Some(path)).await
    }

    /// As [`Pool::lease`], or with a `dump` as [`Pool::lease_for_dump`], for work that nobody waits for yet: all such
    /// work together holds at most [`Pool::background_limit`] connections, so that other callers find a free one.
    ///
    /// # Errors
    /// As [`Pool::lease`].
    pub async fn lease_in_background(
        &self,
        id: HostId,
        dump: Option<&StorePath>,
    ) -> Result<Lease, Arc<RemoteError>> {
        self.lease_with(id, true, dump).await
    }

    /// A new connection that may write, on which these requests have been sent: one of its own, as it keeps what it
    /// locks from being collected for as long as it is held. Also while the host rests: no other host could take its
    /// place.
    ///
    /// # Errors
    /// When the host cannot be connected to, refuses one more channel (see [`RemoteError::verdict`]), or all channels are
    /// in use as in [`Pool::lease`].
    pub async fn lease_for_writing(
        &self,
        id: HostId,
        in_background: bool,
        ahead: &[Request],
    ) -> Result<WriteLease, Arc<RemoteError>> {
        self.load().await;
        let limit = self.limits.patience();
        let host = &self.hosts[id.0];
        host.lease_for_writing(in_background, limit, ahead).await
    }

    /// A new connection that may write and takes blocks, through a shell of the account: over so many channels beside the
    /// shell's own, or over that alone. For a host that another connection has agreed on `version` with. `None` when it has no
    /// shell, or lacks what is needed: of a shell's own channel alone, `zstd`.
    ///
    /// # Errors
    /// As [`Pool::lease_for_writing`].
    pub async fn lease_blocks(
        &self,
        id: HostId,
        in_background: bool,
        version: Version,
        pipes: usize,
    ) -> Result<Option<BlockLease>, Arc<RemoteError>> {
        self.load().await;
        let limit = self.limits.patience();
        let host = &self.hosts[id.0];
        host.lease_blocks((in_background, limit), version, pipes)
            .await
    }

    /// How many bytes a second a host took, where those were few, some minutes ago at most.
    #[must_use]
    pub fn slow_upload(&self, id: HostId) -> Option<u64> {
        let (rate, seen) = (*self.hosts[id.0].slow_upload.lock())?;
        (seen.elapsed() < SLOW_UPLOAD_KEPT).then_some(rate)
    }

    /// Remembers that a host takes that few bytes a second.
    pub fn record_slow_upload(&self, id: HostId, rate: u64) {
        *self.hosts[id.0].slow_upload.lock() = Some((rate, Instant::now()));
    }

    async fn lease_with(
        &self,
        id: HostId,
        in_background: bool,
        path: Option<&StorePath>,
    ) -> Result<Lease, Arc<RemoteError>> {
        let request = path.map(dump);
        self.load().await;
        // Longer than a host may be silent on a channel that is in use.
        let limit = self.limits.patience();
        let host = &self.hosts[id.0];
        host.lease(in_background, limit, request.as_slice()).await
    }

    /// A shell on a host, an idle one or a new one, for as long as it is held. `None` when its
    /// account has none: found out once, by one of those who ask at a time, and known from then on.
    ///
    /// # Errors
    /// When the host rests after failures, or cannot be connected to. That it has no shell, or that
    /// one ended, is no failure of the host.
    pub async fn shell(&self, id: HostId) -> Result<Option<ShellLease>, Arc<RemoteError>> {
        self.load().await;
        self.hosts[id.0].shell(false).await
    }

    /// As [`Pool::shell`], even while the host rests: for callers that have no other host to ask.
    ///
    /// # Errors
    /// When the host cannot be connected to.
    pub async fn shell_even_if_resting(
        &self,
        id: HostId,
    ) -> Result<Option<ShellLease>, Arc<RemoteError>> {
        self.load().await;
        self.hosts[id.0].shell(true).await
    }

    /// Whether the account is not known to have no shell.
    #[must_use]
    pub fn may_have_shell(&self, id: HostId) -> bool {
        self.hosts[id.0].may_have_shell()
    }

    /// Whether a host could compress what its shell sends: it may, as far as is known, and is meant to.
    #[must_use]
    pub fn may_compress(&self, id: HostId) -> bool {
        let host_pool = &self.hosts[id.0];
        host_pool.host.compression.mode != CompressionMode::None && host_pool.may_have_zstd()
    }

    /// As [`Pool::may_compress`], and by a shell: for what only shells do.
    #[must_use]
    pub fn may_compress_by_shell(&self, id: HostId) -> bool {
        self.may_compress(id) && !self.hosts[id.0].is_known_to_run_ours()
    }

    /// Closes idle shells and connections of a host, except for `keep` connections. A `nix-store` repeats its
    /// earlier answers as long as it lives; a new one looks into the store.
    pub fn close_idle(&self, id: HostId, keep: usize) {
        self.hosts[id.0].close_idle(keep);
    }

    /// Forgets that a host failed, was slow, or has no shell.
    pub fn forget_failures(&self, id: HostId) {
        self.hosts[id.0].forget_failures();
    }

    /// How the host's program has to be started, as far as is known.
    #[must_use]
    pub fn program(&self, id: HostId) -> Program {
        self.hosts[id.0].program()
    }

    /// How many connections to a host there are, idle ones included.
    #[must_use]
    pub fn connections(&self, id: HostId) -> usize {
        self.hosts[id.0].connections()
    }

    /// How many connections to a host work in the background may hold at a time: all except one, at
    /// least one, and no more than the host has been found to allow.
    #[must_use]
    pub fn background_limit(&self, id: HostId) -> usize {
        self.hosts[id.0].background_limit()
    }

    /// The shortest time in which a host answered a question, which is an upper bound of the link's
    /// round trip; the time of the handshake as long as no question was answered, and `None` before.
    #[must_use]
    pub fn latency(&self, id: HostId) -> Option<Duration> {
        self.hosts[id.0].latency()
    }

    /// The same hosts, resting ones last, otherwise in the order given.
    #[must_use]
    pub fn in_order_of_health(&self, hosts: &[HostId]) -> Vec<HostId> {
        let mut hosts = hosts.to_vec();
        hosts.sort_by_cached_key(|host| self.hosts[host.0].standing());
        hosts
    }

    /// To be called when an exchange with a host brought no answer. Its [`Verdict`] decides what follows. The
    /// user is told of the first failure in a row, later processes learn of it from the store. An error that
    /// several callers share counts once.
    pub async fn record_failure(&self, id: HostId, error: &Arc<RemoteError>) {
        self.hosts[id.0].record_failure(error).await;
    }
}

#[cfg(test)]
pub(crate) mod tests;
