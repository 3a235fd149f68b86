//! The ssh process of this machine that holds a connection is stopped, as by Ctrl-Z or a debugger: nothing ends, and
//! nothing comes. A real ssh, a real sshd and a real `nix-store --serve`.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ssh_substituter::config::host::Host;
use ssh_substituter::engine::ResolverLookup;
use ssh_substituter::hint::Hint;
use ssh_substituter::model::StorePath;
use ssh_substituter::pool::{HostId, Limits, Pool};
use ssh_substituter::resolver::{Resolver, Trust};
use ssh_substituter::transfer::progress::NoProgress;
use ssh_substituter::transfer::{FetchRequest, NarSink, Piece, Transfers};
use ssh_substituter::transport::{OpenSsh, SshSettings};
use support::{RuntimeDir, SHORT, Sshd, Store, run_with_timeout, tool};

/// As long as a host may be silent.
const SILENCE: Duration = Duration::from_secs(300);

/// Far less than that, and enough for a loaded machine.
const NOTICED_WITHIN: Duration = Duration::from_secs(40);

/// The masters whose sockets are in that folder.
fn masters(folder: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir(folder).expect("the runtime folder");
    let sockets = entries.map(|entry| entry.expect("an entry").path());
    let pid = |socket: PathBuf| {
        let mut command = Command::new(tool("ssh"));
        command.args(["-F", "none", "-O", "check", "-S"]);
        command.arg(socket).arg("x");
        let output = run_with_timeout(command, SHORT);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let (_, rest) = text.split_once("pid=")?;
        rest.split(')').next()?.parse().ok()
    };
    let sockets = sockets.filter(|path| path.extension().is_none());
    sockets.filter_map(pid).collect()
}

fn signal(name: &str, pid: u32) {
    let mut command = Command::new("kill");
    command.args([&format!("-{name}"), &pid.to_string()]);
    assert!(run_with_timeout(command, SHORT).status.success());
}

/// Stopped until this is dropped.
struct Stopped(u32);

impl Stopped {
    fn new(pid: u32) -> Self {
        signal("STOP", pid);
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal("CONT", self.0);
    }
}

struct Setup {
    sshd: Sshd,
    store: Store,
    run: RuntimeDir,
}

impl Setup {
    fn new() -> Self {
        Self {
            sshd: Sshd::start(),
            store: Store::new(),
            run: RuntimeDir::new(),
        }
    }

    /// A pool as a process of its own has it, and what it tells the user.
    fn pool(&self) -> (Arc<Pool>, Arc<Mutex<Vec<String>>>) {
        let store = self.store.remote_store_param();
        let url = self.sshd.store_url(&format!("remote-store={store}"));
        let settings = SshSettings {
            ssh_options: ["-F", "none"].map(str::to_owned).to_vec(),
            runtime_dir: Some(self.run.path().to_owned()),
            ..SshSettings::default()
        };
        let limits = Limits {
            connect: SHORT,
            silence: SILENCE,
            hedge: SHORT,
        };
        let told = Arc::<Mutex<Vec<String>>>::default();
        let tell = told.clone();
        let notify = Arc::new(move |error: &(dyn Hint + 'static)| {
            tell.lock().expect("what was told").push(error.to_string());
        });
        let hosts = vec![Host::parse(&url).expect("a host")];
        let pool = Pool::new(
            hosts,
            Arc::new(OpenSsh::new(settings)),
            limits,
            notify,
            None,
        );
        (Arc::new(pool), told)
    }

    fn stop(&self) -> Stopped {
        let masters = masters(self.run.path());
        assert_eq!(masters.len(), 1, "{masters:?}");
        Stopped::new(masters[0])
    }
}

/// Stops the master once so much has come.
struct Stops<'a> {
    setup: &'a Setup,
    after: u64,
    bytes: u64,
    stopped: Option<(Stopped, Instant)>,
}

#[async_trait::async_trait]
impl NarSink for Stops<'_> {
    async fn write(&mut self, piece: Piece) -> std::io::Result<()> {
        self.bytes += piece.bytes.len() as u64;
        if self.bytes >= self.after && self.stopped.is_none() {
            self.stopped = Some((self.setup.stop(), Instant::now()));
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_goes_on_over_another_connection() {
    let setup = Setup::new();
    let path = setup.store.big("big", 48 << 20);
    let path = StorePath::parse(&path).expect("a store path");
    let (pool, told) = setup.pool();
    let answers = pool.ask(std::slice::from_ref(&path), |_, _| true).await;
    let info = answers.holders[&path][0].info.clone();
    let trust = Trust {
        require_sigs: false,
        keys: Arc::default(),
    };
    let answers = Box::new(ResolverLookup(Arc::new(Resolver::new(pool.clone(), trust))));
    let transfers = Transfers::new(pool.clone(), 0, answers);
    let holders: Vec<HostId> = pool.hosts().collect();
    let mut sink = Stops {
        setup: &setup,
        after: 8 << 20,
        bytes: 0,
        stopped: None,
    };
    let wish = FetchRequest {
        info: &info,
        holders: &holders,
        caller: &transfers.caller(),
        resume: None,
        progress: &NoProgress,
    };
    let size = transfers.fetch(wish, &mut sink).await;
    assert_eq!(size.expect("it came"), info.nar_size);
    // Each byte once.
    assert_eq!(sink.bytes, info.nar_size);
    let (_stopped, since) = sink.stopped.take().expect("it was stopped");
    assert!(since.elapsed() < NOTICED_WITHIN, "{:?}", since.elapsed());
    let told = told.lock().expect("what was told").clone();
    assert!(
        told.len() == 1 && told[0].contains("on this machine does not answer"),
        "{told:?}"
    );
    assert!(
        pool.is_healthy(holders[0]),
        "the host has done nothing wrong"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_asked_over_another_connection() {
    let setup = Setup::new();
    let path = setup.store.add_text("there", "there", &[]);
    let path = StorePath::parse(&path).expect("a store path");
    let (pool, told) = setup.pool();
    let host = pool.hosts().next().expect("a host");
    let ask = || pool.query_path_infos(host, std::slice::from_ref(&path));
    assert_eq!(ask().await.expect("an answer").len(), 1);
    let stopped = setup.stop();
    let began = Instant::now();
    assert_eq!(ask().await.expect("an answer").len(), 1);
    assert!(began.elapsed() < NOTICED_WITHIN, "{:?}", began.elapsed());
    assert!(told.lock().expect("what was told").is_empty() && pool.is_healthy(host));
    drop(stopped);
}
