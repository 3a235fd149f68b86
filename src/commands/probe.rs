//! Probes all hosts at the same time: log in as always, handshake, ask, look for what sends parts of NARs.
//!
//! The result counts like that of any connection: later commands know of a host that failed, or is back,
//! or whose account has a shell now.

mod files;

use std::sync::Arc;
use std::time::Duration;

pub(super) use files::StoreFiles;

use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use crate::cache::Disk;
use crate::config::{Config, Host};
use crate::engine::{
    Engine, record_extension, record_shell, recorded_failures, ssh_settings, ssh_transport,
};
use crate::hint::Hint;
use crate::model::{HealthRecord, PathInfo, StorePath};
use crate::pool::{HostId, RemoteError, RemoteErrorKind};
use crate::remote::{self, NoShell, ShellError, ShellOptions, open_shell};
use crate::transport::{self, Program, Transport};
use crate::wire::serve::Version;

/// The base name of a path that no store has.
const ABSENT_PATH: &str = "7rjj86a15146cq1d3qy068lml7n7ykzm-nobody-has-this";

/// How long reading or writing the disk cache may take.
const DISK_TIMEOUT: Duration = Duration::from_secs(2);

/// Probes hosts.
pub(super) struct Prober {
    pub(super) config: Arc<Config>,
    pub(super) engine: Engine,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) disk: Arc<Disk>,
}

/// The result for one host.
pub(super) struct Probed {
    pub(super) host: Host,
    /// As earlier processes recorded them; `None` if it was well.
    pub(super) failures_before: Option<HealthRecord>,
    /// How many ssh connections were open already.
    pub(super) masters: usize,
    pub(super) reached: Result<Reached, Arc<RemoteError>>,
}

/// A host that answers.
pub(super) struct Reached {
    pub(super) version: Version,
    /// What was printed before the handshake.
    pub(super) banner: String,
    /// The shortest time of an answer.
    pub(super) latency: Option<Duration>,
    /// How its program has to be asked for.
    pub(super) program: Program,
    /// What it has of the paths in question; an error when it gives no answer.
    pub(super) infos: Result<Vec<PathInfo>, Arc<RemoteError>>,
    pub(super) shell: Shell,
}

/// Whether large paths can come in chunks.
pub(super) enum Shell {
    /// None is needed, and none was looked for: the host runs this program, which sends chunks by itself.
    NotNeeded,
    Yes {
        files: StoreFiles,
        /// Whether it can compress what it sends.
        has_zstd: bool,
    },
    No(NoShell),
    /// It could not be found out.
    Failed(Arc<RemoteError>),
}

impl Prober {
    pub(super) fn new(config: Config, disk: Arc<Disk>) -> Self {
        let transport = ssh_transport(&config);
        // The caller reports the result.
        let notify = Arc::new(|error: &(dyn Hint + 'static)| log::debug!("{error}"));
        let engine = Engine::new(&config, transport.clone(), notify, Some(disk.clone()));
        Self {
            config: Arc::new(config),
            engine,
            transport,
            disk,
        }
    }

    /// Probes all hosts; the results are in their order. Each is asked for these paths too.
    pub(super) async fn all(self: &Arc<Self>, paths: &[StorePath]) -> Vec<Probed> {
        let mut probes = JoinSet::new();
        for id in self.engine.pool().hosts() {
            let (prober, paths) = (self.clone(), paths.to_vec());
            probes.spawn(async move { (id, prober.one(id, &paths).await) });
        }
        let mut probed = probes.join_all().await;
        probed.sort_by_key(|(id, _)| id.index());
        probed.into_iter().map(|(_, probed)| probed).collect()
    }

    async fn one(&self, id: HostId, paths: &[StorePath]) -> Probed {
        let host = self.engine.pool().host(id).clone();
        let failures_before = self.failures_before(&host).await;
        let settings = ssh_settings(&self.config);
        let masters = transport::count_masters(&host, &settings)
            .await
            .unwrap_or(0);
        let reached = self.reach(id, &host, paths).await;
        Probed {
            host,
            failures_before,
            masters,
            reached,
        }
    }

    async fn failures_before(&self, host: &Host) -> Option<HealthRecord> {
        let (config, disk, host) = (self.config.clone(), self.disk.clone(), host.clone());
        let job = spawn_blocking(move || recorded_failures(&config, &disk, &host));
        timeout(DISK_TIMEOUT, job)
            .await
            .ok()
            .and_then(Result::ok)
            .unwrap_or_default()
    }

    async fn reach(
        &self,
        id: HostId,
        host: &Host,
        paths: &[StorePath],
    ) -> Result<Reached, Arc<RemoteError>> {
        let pool = self.engine.pool();
        let mut lease = pool.lease(id).await?;
        let version = lease.version();
        let banner = String::from_utf8_lossy(lease.banner()).into_owned();
        let mut asked = self.absent_path();
        asked.extend_from_slice(paths);
        let mut infos = self.ask(id, host, &mut lease, &asked).await;
        // With the first question the program opened the store; the second one shows the latency.
        if infos.is_ok()
            && let Err(error) = self.ask(id, host, &mut lease, &self.absent_path()).await
        {
            infos = Err(error);
        }
        let latency = lease.latency().shortest();
        let is_extended = infos.is_ok() && self.is_extended(&mut lease).await;
        drop(lease);
        let shell = match is_extended {
            true => {
                self.record(host, record_extension).await;
                Shell::NotNeeded
            }
            false => self.shell(id, host).await,
        };
        Ok(Reached {
            version,
            banner,
            latency,
            program: pool.program(id),
            infos,
            shell,
        })
    }

    /// Whether the host runs this program. What ends or is silent at such a question does not.
    async fn is_extended(&self, lease: &mut crate::pool::Lease) -> bool {
        let asked = lease.has_extension(&self.config.store_dir);
        match timeout(self.config.connect_timeout, asked).await {
            Ok(Ok(is_extended)) => is_extended,
            Ok(Err(error)) => {
                log::debug!("{error}");
                false
            }
            Err(_) => false,
        }
    }

    /// Lets later commands know.
    async fn record(
        &self,
        host: &Host,
        record: impl FnOnce(&Config, &Arc<Disk>, &Host) + Send + 'static,
    ) {
        let (config, disk, host) = (self.config.clone(), self.disk.clone(), host.clone());
        let job = spawn_blocking(move || record(&config, &disk, &host));
        let _ = timeout(DISK_TIMEOUT, job).await;
    }

    /// A path in our store directory that no host has.
    fn absent_path(&self) -> Vec<StorePath> {
        let path = format!("{}/{ABSENT_PATH}", self.config.store_dir);
        StorePath::parse(&path).into_iter().collect()
    }

    async fn ask(
        &self,
        id: HostId,
        host: &Host,
        lease: &mut crate::pool::Lease,
        paths: &[StorePath],
    ) -> Result<Vec<PathInfo>, Arc<RemoteError>> {
        let limit = self.config.connect_timeout;
        match timeout(limit, lease.query_path_infos(paths)).await {
            Ok(Ok(infos)) => Ok(infos),
            Ok(Err(error)) => {
                let error = Arc::new(error);
                self.engine.pool().record_failure(id, &error).await;
                Err(error)
            }
            // No failure of the host: callers with a longer timeout may get an answer.
            Err(_) => Err(silent(host, "the reply to QueryPathInfos", limit)),
        }
    }

    /// Probes the shell again, whatever earlier processes found: the account may have been changed.
    async fn shell(&self, id: HostId, host: &Host) -> Shell {
        let limit = self.config.connect_timeout;
        let options = ShellOptions {
            connect: limit,
            silence: limit,
        };
        let opened = open_shell(&*self.transport, host, &options).await;
        let known = match &opened {
            Ok(_) => Some(true),
            Err(ShellError::NoShell(none)) if none.is_certain => Some(false),
            Err(_) => None,
        };
        if let Some(known) = known {
            let record =
                move |config: &_, disk: &_, host: &_| record_shell(config, disk, host, known);
            self.record(host, record).await;
        }
        match opened {
            Ok(mut shell) => self.files(id, host, &mut shell).await,
            Err(ShellError::NoShell(none)) => Shell::No(none),
            Err(ShellError::Remote(error)) => Shell::Failed(Arc::new(error)),
        }
    }

    async fn files(&self, id: HostId, host: &Host, shell: &mut remote::Shell) -> Shell {
        let (pool, limit) = (self.engine.pool(), self.config.connect_timeout);
        let found = files::find(pool, id, shell, &self.config.store_dir);
        let found = timeout(limit, found).await;
        match found {
            Ok(Ok(files)) => Shell::Yes {
                files,
                has_zstd: shell.has_zstd(),
            },
            Ok(Err(error)) => Shell::Failed(error),
            Err(_) => Shell::Failed(silent(host, "where the files of its store are", limit)),
        }
    }
}

fn silent(host: &Host, doing: &'static str, after: Duration) -> Arc<RemoteError> {
    let kind = RemoteErrorKind::Silent { doing, after };
    Arc::new(RemoteError::new(host, kind))
}

/// Which Nix speaks that version of the serve protocol.
pub(super) fn nix_of(version: Version) -> &'static str {
    let number = version.number();
    match (number >> 8, number & 0xff) {
        (2, 0) => "Nix 1.8 or 1.9",
        (2, 1) => "Nix 1.10",
        (2, 2 | 3) => "Nix 1.11",
        (2, 4) => "Nix 2.0 or 2.1",
        (2, 5 | 6) => "Nix 2.2 or 2.3",
        (2, 7) => "Nix 2.4 to 2.34",
        (2, 8..) => "Nix 2.35 or later",
        _ => "an unknown Nix",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_tells_which_nix_it_is() {
        assert_eq!(nix_of(Version::OLDEST), "Nix 1.8 or 1.9");
        assert_eq!(nix_of(Version::new(2, 7)), "Nix 2.4 to 2.34");
        assert_eq!(nix_of(Version::NEWEST), "Nix 2.35 or later");
    }

    #[test]
    fn nobodys_path_is_a_store_path() {
        for dir in ["/nix/store", "/elsewhere"] {
            StorePath::parse(&format!("{dir}/{ABSENT_PATH}")).unwrap();
        }
    }
}
