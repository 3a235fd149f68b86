//! What counts as failure of a host, and what does not.

mod support;

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ssh_substituter::config::host::Host;
use ssh_substituter::hint::Hint;
use ssh_substituter::model::StorePath;
use ssh_substituter::pool::{Limits, Pool, RemoteErrorKind};
use ssh_substituter::resolver::{Resolver, Trust};
use ssh_substituter::transport::process::ProcessTransport;
use ssh_substituter::transport::{Channel, Program, Transport, TransportError, TransportErrorKind};
use support::Store;
use tokio::time::{sleep, timeout};

const GONE: &str = "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-gone";

/// A real store behind a server that opens only so many sessions at a time, as sshd's `MaxSessions` has it.
struct Limited {
    real: ProcessTransport,
    open: Arc<AtomicUsize>,
    most: usize,
    refusals: AtomicUsize,
}

/// Counts down when its program ends.
struct Counted(Box<dyn ssh_substituter::transport::Child>, Arc<AtomicUsize>);

#[async_trait]
impl ssh_substituter::transport::Child for Counted {
    async fn wait(self: Box<Self>) -> Option<i32> {
        None
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let _ = &self.0;
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Transport for Limited {
    async fn open(&self, host: &Host, program: Program) -> Result<Channel, TransportError> {
        if self.open.fetch_add(1, Ordering::SeqCst) >= self.most {
            self.open.fetch_sub(1, Ordering::SeqCst);
            self.refusals.fetch_add(1, Ordering::SeqCst);
            let error = TransportError::new(host, TransportErrorKind::SessionRefused);
            return Err(error.with_output("open failed".into()));
        }
        let channel = self.real.open(host, program).await?;
        Ok(Channel {
            child: Box::new(Counted(channel.child, self.open.clone())),
            ..channel
        })
    }
}

struct Setup {
    pool: Arc<Pool>,
    transport: Arc<Limited>,
    told: Arc<Mutex<Vec<String>>>,
}

fn setup(store: &Store, most: usize) -> Setup {
    let serve = store.serve(false);
    let words = std::iter::once(serve.get_program()).chain(serve.get_args());
    let words: Vec<_> = words.map(ToOwned::to_owned).collect();
    let env = serve.get_envs();
    let env: Vec<_> = env
        .map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned)))
        .collect();
    let real = ProcessTransport::new(move |_: &Host| {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        for (name, value) in &env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    });
    let transport = Arc::new(Limited {
        real,
        open: Arc::default(),
        most,
        refusals: AtomicUsize::new(0),
    });
    let limits = Limits {
        connect: Duration::from_secs(3),
        silence: Duration::from_secs(10),
        hedge: Duration::from_millis(300),
    };
    let host = format!("ssh://one?remote-store={}", store.remote_store_param());
    let hosts = vec![Host::parse(&host).expect("a host")];
    let told = Arc::<Mutex<Vec<String>>>::default();
    let tell = told.clone();
    let notify = Arc::new(move |error: &(dyn Hint + 'static)| {
        tell.lock().expect("what was told").push(error.to_string());
    });
    Setup {
        pool: Arc::new(Pool::new(hosts, transport.clone(), limits, notify, None)),
        transport,
        told,
    }
}

#[tokio::test]
async fn one_channel_too_many_is_no_failure_and_the_question_waits_for_another() {
    let store = Store::new();
    let path = StorePath::parse(&store.add_text("a", "a", &[])).expect("a path");
    let Setup {
        pool,
        transport,
        told,
    } = setup(&store, 1);
    let id = pool.hosts().next().expect("a host");
    let lease = pool.lease(id).await.expect("the first channel");

    let (asking, wanted) = (pool.clone(), path.clone());
    let asked = tokio::spawn(async move { asking.query_path_infos(id, &[wanted]).await });
    sleep(Duration::from_millis(500)).await;
    assert!(!asked.is_finished() && pool.is_healthy(id));
    drop(lease);
    let infos = asked.await.expect("a task").expect("an answer");
    assert_eq!(infos[0].path, path);

    // As long as that is the case, nobody asks for more than there is; and nobody waits without end.
    let _lease = pool.lease(id).await.expect("the channel");
    let asked = pool.query_path_infos(id, std::slice::from_ref(&path)).await;
    let error = asked.expect_err("there is no channel");
    assert!(
        matches!(error.kind, RemoteErrorKind::Busy { .. }),
        "{error}"
    );
    assert!(pool.is_healthy(id));
    assert_eq!(transport.refusals.load(Ordering::SeqCst), 1);
    let told = told.lock().expect("what was told").clone();
    assert_eq!(
        told, [""; 0],
        "that we hold its channels is no trouble of the host's"
    );
}

#[tokio::test]
async fn work_in_the_background_is_not_refused_for_ever() {
    let store = Store::new();
    let setup = setup(&store, 3);
    let id = setup.pool.hosts().next().expect("a host");
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(setup.pool.lease(id).await.expect("a channel"));
    }
    let pool = setup.pool.clone();
    let tasks: Vec<_> = (0..5)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.lease_in_background(id, None).await.is_ok() })
        })
        .collect();
    sleep(Duration::from_millis(300)).await;
    drop(held);
    for task in tasks {
        let came = timeout(Duration::from_secs(10), task).await;
        assert!(came.expect("in time").expect("a task"));
    }
    assert!(pool.is_healthy(id) && pool.background_limit(id) < 3);
}

#[tokio::test]
async fn a_path_that_has_gone_is_no_failure_of_the_host() {
    let store = Store::new();
    let Setup { pool, told, .. } = setup(&store, 99);
    let id = pool.hosts().next().expect("a host");
    let gone = StorePath::parse(GONE).expect("a path");
    let asked = pool.query_closure(id, std::slice::from_ref(&gone), false);
    let error = asked.await.expect_err("it is not there");
    assert!(
        matches!(&error.kind, RemoteErrorKind::Absent(path) if *path == gone),
        "{error}"
    );
    assert!(pool.is_healthy(id));
    assert_eq!(pool.hosts_without_answer(), 0);
    assert_eq!(*told.lock().expect("what was told"), [""; 0]);
}

/// Between the question about a path and that about its closure the collector has been there.
#[tokio::test]
async fn a_root_that_is_collected_meanwhile_costs_itself_alone() {
    let store = Store::new();
    let (stays, goes) = (
        store.add_text("stays", "a", &[]),
        store.add_text("goes", "b", &[]),
    );
    let Setup { pool, told, .. } = setup(&store, 99);
    let id = pool.hosts().next().expect("a host");
    let trust = Trust {
        require_sigs: false,
        keys: Arc::default(),
    };
    let resolver = Resolver::new(pool.clone(), trust);
    resolver.disable_prefetch();
    let [stays, goes] = [stays, goes].map(|path| StorePath::parse(&path).expect("a path"));
    let both = [stays.clone(), goes.clone()];
    assert_eq!(resolver.find(&both).await.len(), 2);
    // The program that has told of it goes on telling of it.
    pool.close_idle(id, 0);
    store.delete(&[goes.as_str()]);
    // With outputs: what is known of references does not answer that.
    let closure = resolver.closure(&both, true).await;
    assert_eq!(closure.expect("an answer"), [stays]);
    assert!(pool.is_healthy(id));
    assert_eq!(*told.lock().expect("what was told"), [""; 0]);
}
