//! Closures that are fetched ahead: what reaches the hosts, behind which a real `nix-store --serve` answers.

mod query_support;
mod support;

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use query_support::{Recorder, Setup, parse, walk};
use ssh_substituter::config::host::Host;
use ssh_substituter::transport::{
    Channel, ProcessTransport, Program, Transport, TransportError, TransportErrorKind,
};
use support::{Dag, DagOptions, Store};
use tokio::io::AsyncWrite;
use tokio::time::sleep;

#[tokio::test]
async fn a_closure_that_is_asked_for_path_by_path_costs_a_few_questions() {
    let (store, recorder) = (Store::new(), Recorder::new());
    let dag = store.dag(50, DagOptions::default());
    let resolver = Setup::new(&[("a", &store, &recorder)], None).start();
    let found = walk(&resolver, &dag.root).await;
    assert_eq!(found.len(), 50);
    let infos = recorder.infos();
    let sizes: Vec<_> = infos.iter().map(Vec::len).collect();
    // The second question goes out with that for the closure.
    let references = store.references(&dag.root).len();
    let expected = [1, references, 49 - references];
    assert_eq!(sizes, expected, "the root, what it refers to, and the rest");
    assert_eq!(recorder.closures(), 1);
    assert_eq!(recorder.connections(), 1);
    // A part of it needs no prefetch of its own, and its closure is known.
    let part = resolver.closure(&found[3..4], false).await.unwrap();
    assert!(part.len() > 1 && part.len() < 50, "{}", part.len());
    assert_eq!(recorder.requests().len(), 4);
}

#[tokio::test]
async fn prefetched_infos_are_those_that_would_be_asked_for() {
    let (store, recorder) = (Store::new(), Recorder::new());
    let dag = store.dag(30, DagOptions::default());
    let ahead = Setup::new(&[("a", &store, &recorder)], None).start();
    walk(&ahead, &dag.root).await;
    let asked = Setup::new(&[("a", &store, &recorder)], None).start();
    asked.disable_prefetch();
    for path in &dag.paths {
        let path = [parse(path)];
        let (ahead, asked) = (ahead.find(&path).await, asked.find(&path).await);
        assert_eq!(ahead[0].info, asked[0].info);
        assert_eq!(ahead[0].holders, asked[0].holders);
    }
    assert_eq!(recorder.infos().len(), 33, "3, and each by itself");
}

#[tokio::test]
async fn nix_copy_asks_once_for_the_closure() {
    let (store, recorder) = (Store::new(), Recorder::new());
    let dag = store.dag(40, DagOptions::default());
    let resolver = Setup::new(&[("a", &store, &recorder)], None).start();
    let closure = resolver.closure(&[parse(&dag.root)], false).await.unwrap();
    let mut paths: Vec<_> = dag.paths.iter().map(|path| parse(path)).collect();
    paths.sort();
    assert_eq!(closure, paths);
    assert_eq!(walk(&resolver, &dag.root).await.len(), 40);
    let again = resolver.closure(&[parse(&dag.root)], false).await.unwrap();
    assert_eq!(again, paths);
    assert_eq!(recorder.closures(), 1);
}

#[tokio::test]
async fn all_holders_are_known_afterwards() {
    let stores = [Store::new(), Store::new()];
    let recorders = [Recorder::new(), Recorder::new()];
    let dags = [0, 1].map(|at| stores[at].dag(30, DagOptions::default()));
    let extra = stores[0].add_text("extra", "on one only", &[&dags[0].root]);
    let hosts = [
        ("a", &stores[0], &recorders[0]),
        ("b", &stores[1], &recorders[1]),
    ];
    let resolver = Setup::new(&hosts, None).start();
    assert_eq!(walk(&resolver, &dags[0].root).await.len(), 30);
    // Whoever is slower may still be telling.
    let started = Instant::now();
    for path in &dags[1].paths {
        let path = [parse(path)];
        while resolver.find(&path).await[0].holders.len() < 2 {
            assert!(started.elapsed() < Duration::from_secs(30), "{path:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }
    for recorder in &recorders {
        assert_eq!((recorder.infos().len(), recorder.closures()), (3, 1));
    }
    let found = resolver.find(&[parse(&extra)]).await;
    assert_eq!(found[0].holders.len(), 1);
}

#[tokio::test]
async fn a_slow_host_does_not_hold_up_what_another_has_answered() {
    let stores = [Store::new(), Store::new()];
    let recorders = [Recorder::new(), Recorder::new()];
    let dags = [0, 1].map(|at| stores[at].dag(30, DagOptions::default()));
    let hosts = [
        ("a", &stores[0], &recorders[0]),
        ("b", &stores[1], &recorders[1]),
    ];
    let mut setup = Setup::new(&hosts, None);
    setup.slow.insert("a", 20);
    let resolver = setup.start();
    let started = Instant::now();
    assert_eq!(walk(&resolver, &dags[1].root).await.len(), 30);
    let took = started.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
}

#[tokio::test]
async fn a_path_outside_the_closure_is_asked_for_by_itself() {
    let (store, recorder) = (Store::new(), Recorder::new());
    let dag = store.dag(30, DagOptions::default());
    let other = store.add_text("other", "nobody refers to it", &[]);
    let resolver = Setup::new(&[("a", &store, &recorder)], None).start();
    let (root, other) = (parse(&dag.root), parse(&other));
    resolver.find(&[root]).await;
    assert_eq!(resolver.find(std::slice::from_ref(&other)).await.len(), 1);
    assert!(recorder.infos().contains(&vec![other]));
    assert_eq!(walk(&resolver, &dag.root).await.len(), 30);
    assert_eq!(recorder.infos().len(), 4);
}

/// Its first connection takes one request, its second one is refused, the others serve.
struct Flaky {
    real: ProcessTransport,
    opened: AtomicUsize,
}

/// Takes one piece.
struct Once(Box<dyn AsyncWrite + Send + Unpin>, bool);

impl AsyncWrite for Once {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.1 {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = Pin::new(&mut self.0).poll_write(context, bytes);
        self.1 = written.is_ready();
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[async_trait::async_trait]
impl Transport for Flaky {
    async fn open(&self, host: &Host, program: Program) -> Result<Channel, TransportError> {
        let before = self.opened.fetch_add(1, Ordering::SeqCst);
        if before == 1 {
            return Err(TransportError::new(
                host,
                TransportErrorKind::SessionRefused,
            ));
        }
        let mut channel = self.real.open(host, program).await?;
        if before == 0 {
            channel.stdin = Box::new(Once(channel.stdin, false));
        }
        Ok(channel)
    }
}

#[tokio::test]
async fn what_could_not_be_fetched_ahead_once_is_fetched_ahead_later() {
    let (store, recorder) = (Store::new(), Recorder::new());
    let dag = store.dag(30, DagOptions::default());
    let setup = Setup::new(&[("a", &store, &recorder)], None);
    let transport = |real| {
        let opened = AtomicUsize::new(0);
        Arc::new(Flaky { real, opened }) as Arc<dyn Transport>
    };
    let (resolver, pool) = setup.start_over(transport);
    let root = parse(&dag.root);
    assert_eq!(resolver.find(std::slice::from_ref(&root)).await.len(), 1);
    let started = Instant::now();
    while pool.hosts_without_answer() == 0 {
        assert!(started.elapsed() < Duration::from_secs(20), "no prefetch");
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(recorder.closures(), 0);
    // Its task has a few steps left.
    sleep(Duration::from_millis(200)).await;
    // Somebody asks anew.
    let host = pool.hosts().next().expect("a host");
    assert!(pool.is_healthy(host));
    resolver.forget_at(host, &root);
    assert_eq!(walk(&resolver, &dag.root).await.len(), 30);
    assert_eq!(recorder.closures(), 1);
}

/// A small runtime: whatever takes long on its only thread holds up everything else.
#[tokio::test]
async fn signatures_are_not_looked_at_where_others_have_to_wait() {
    let store = Store::new();
    let dag = store.dag(400, DagOptions::default());
    let key = store.sign_all("key-1");
    // A loaded machine holds up the thread too, now and then. Signatures checked on it would hold it up each time, for nearly
    // all of the time.
    let mut seen = Vec::new();
    while seen.len() < 5 {
        let (longest, took) = longest_wait(&store, &dag, &key).await;
        if longest * 3 < took {
            return;
        }
        seen.push((longest, took));
    }
    panic!("longest wait and whole time: {seen:?}");
}

/// How long other tasks wait at most while all signatures of a closure are checked, and how long that takes.
async fn longest_wait(store: &Store, dag: &Dag, key: &str) -> (Duration, Duration) {
    let recorder = Recorder::new();
    let mut setup = Setup::new(&[("a", store, &recorder)], None);
    setup.require_sigs = true;
    setup.keys = vec![key.to_owned()];
    let resolver = setup.start();
    let paths: Vec<_> = dag.paths.iter().map(|path| parse(path)).collect();
    let root = parse(&dag.root);
    assert_eq!(resolver.find(std::slice::from_ref(&root)).await.len(), 1);
    // All infos have come, and nobody has looked at their signatures.
    let started = Instant::now();
    while recorder.infos().len() < 2 {
        assert!(started.elapsed() < Duration::from_secs(20), "no prefetch");
        sleep(Duration::from_millis(10)).await;
    }
    sleep(Duration::from_millis(1500)).await;
    let longest = Arc::new(Mutex::new(Duration::ZERO));
    let seen = longest.clone();
    let ticks = tokio::spawn(async move {
        loop {
            let began = Instant::now();
            sleep(Duration::from_millis(1)).await;
            let mut longest = seen.lock().expect("a duration");
            *longest = began.elapsed().max(*longest);
        }
    });
    sleep(Duration::from_millis(20)).await;
    let began = Instant::now();
    assert_eq!(resolver.find(&paths).await.len(), 400);
    let took = began.elapsed();
    // The last tick may have been held up all the time.
    sleep(Duration::from_millis(20)).await;
    ticks.abort();
    let longest = *longest.lock().expect("a duration");
    (longest, took)
}
