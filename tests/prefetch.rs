//! Closures that are fetched ahead: what reaches the hosts, behind which a real `nix-store --serve` answers.

mod query_support;
mod support;

use std::time::{Duration, Instant};

use query_support::{Recorder, Setup, parse, walk};
use support::{DagOptions, Store};
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
    assert_eq!(sizes, [1, 49], "the root, and the rest");
    assert_eq!(recorder.closures(), 1);
    assert_eq!(recorder.connections(), 1);
    // A part of it needs no prefetch of its own, and its closure is known.
    let part = resolver.closure(&found[3..4], false).await.unwrap();
    assert!(part.len() > 1 && part.len() < 50, "{}", part.len());
    assert_eq!(recorder.requests().len(), 3);
}

#[tokio::test]
async fn what_is_told_is_what_would_be_asked() {
    let (store, recorder) = (Store::new(), Recorder::new());
    let dag = store.dag(30, DagOptions::default());
    let ahead = Setup::new(&[("a", &store, &recorder)], None).start();
    walk(&ahead, &dag.root).await;
    let asked = Setup::new(&[("a", &store, &recorder)], None).start();
    asked.ask_no_more_than_needed();
    for path in &dag.paths {
        let path = [parse(path)];
        let (ahead, asked) = (ahead.find(&path).await, asked.find(&path).await);
        assert_eq!(ahead[0].info, asked[0].info);
        assert_eq!(ahead[0].holders, asked[0].holders);
    }
    assert_eq!(recorder.infos().len(), 32, "2, and each by itself");
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
        assert_eq!((recorder.infos().len(), recorder.closures()), (2, 1));
    }
    let found = resolver.find(&[parse(&extra)]).await;
    assert_eq!(found[0].holders.len(), 1);
}

#[tokio::test]
async fn a_slow_host_does_not_hold_up_what_another_has_told() {
    let stores = [Store::new(), Store::new()];
    let recorders = [Recorder::new(), Recorder::new()];
    let dags = [0, 1].map(|at| stores[at].dag(30, DagOptions::default()));
    let hosts = [
        ("a", &stores[0], &recorders[0]),
        ("b", &stores[1], &recorders[1]),
    ];
    let mut setup = Setup::new(&hosts, None);
    setup.slow.insert("a", 6);
    let resolver = setup.start();
    let started = Instant::now();
    assert_eq!(walk(&resolver, &dags[1].root).await.len(), 30);
    let took = started.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
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
    assert_eq!(recorder.infos().len(), 3);
}
