//! What reaches the hosts, behind which a real `nix-store --serve` answers: one that has a memory of its own.

use std::sync::Arc;
use std::time::Duration;

use ssh_substituter::resolver::Resolver;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::LATER;
use super::query_support::{Recorder, Setup, age, parse, walk};
use super::support::{DagOptions, Scratch, Store};

async fn holders(resolver: &Resolver, path: &str) -> Vec<usize> {
    let found = resolver.find(&[parse(path)]).await.pop();
    found.map_or(Vec::new(), |found| {
        found.holders.iter().map(|host| host.index()).collect()
    })
}

#[tokio::test]
async fn what_is_remembered_of_a_closure_costs_one_request() {
    let (store, recorder, home) = (Store::new(), Recorder::new(), Scratch::new());
    let dag = store.dag(500, DagOptions::default());
    let setup = Setup::new(&[("a", &store, &recorder)], Some(home.path()));
    let first = setup.start();
    assert_eq!(walk(&first, &dag.root).await.len(), 500);
    first.flush().await;
    let (asked, connections) = (recorder.requests().len(), recorder.connections());

    let second = setup.start();
    assert_eq!(walk(&second, &dag.root).await.len(), 500);
    let sizes = || recorder.checks().iter().map(Vec::len).collect::<Vec<_>>();
    // One, as long as the disk gives all of it in the time that it has for that.
    let cold = sizes().len();
    assert!((1..=3).contains(&cold), "{:?}", sizes());
    assert_eq!(recorder.requests().len(), asked + cold);
    assert_eq!(recorder.connections(), connections + 1);

    // On a warm connection, with many questions at once.
    sleep(LATER).await;
    let second = Arc::new(second);
    let mut questions = JoinSet::new();
    for path in [&dag.root].into_iter().chain(&dag.paths) {
        let (second, path) = (second.clone(), parse(path));
        questions.spawn(async move { second.find(&[path]).await.len() });
    }
    let found = questions.join_all().await;
    assert!(found.iter().all(|found| *found == 1), "{found:?}");
    let warm = sizes();
    assert_eq!(warm.len(), cold + 1, "{warm:?}");
    assert_eq!(warm.last(), Some(&500));
    assert_eq!(recorder.requests().len(), asked + cold + 1);
    assert_eq!(recorder.connections(), connections + 1);
}

#[tokio::test]
async fn what_has_gone_is_not_promised() {
    let stores = [Store::new(), Store::new()];
    let recorders = [Recorder::new(), Recorder::new()];
    let [path, _] = [0, 1].map(|at| stores[at].add_text("there", "text", &[]));
    let home = Scratch::new();
    let hosts = [
        ("a", &stores[0], &recorders[0]),
        ("b", &stores[1], &recorders[1]),
    ];
    let setup = Setup::new(&hosts, Some(home.path()));
    let first = setup.start();
    while holders(&first, &path).await != [0, 1] {
        sleep(Duration::from_millis(10)).await;
    }
    first.flush().await;

    stores[0].delete(&[&path]);
    let second = setup.start();
    assert_eq!(holders(&second, &path).await, [1]);
    second.flush().await;
    stores[1].delete(&[&path]);
    assert!(holders(&setup.start(), &path).await.is_empty());

    // A process that goes on, and whose hosts' programs remember what they have said.
    sleep(LATER).await;
    assert!(holders(&second, &path).await.is_empty());
    assert!(holders(&first, &path).await.is_empty());
    for recorder in &recorders {
        assert_eq!(recorder.infos().len(), 1);
    }
}

#[tokio::test]
async fn what_has_appeared_is_found() {
    let (store, recorder, home) = (Store::new(), Recorder::new(), Scratch::new());
    let (elsewhere, options) = (Store::new(), DagOptions::default());
    let dag = elsewhere.dag(40, options);
    let setup = Setup::new(&[("a", &store, &recorder)], Some(home.path()));
    let first = setup.start();
    for path in &dag.paths {
        assert!(holders(&first, path).await.is_empty());
    }
    first.flush().await;
    store.copy_from(&elsewhere, &[&dag.root]);

    let asked = recorder.requests().len();
    let paths: Vec<&str> = dag.paths.iter().map(String::as_str).collect();
    age(home.path(), &paths, 60);
    assert_eq!(walk(&setup.start(), &dag.root).await.len(), 40);
    let cost = recorder.requests().len() - asked;
    assert_eq!(cost, 4, "a check, an info, a closure, the other infos");

    // A process that goes on, and whose host's program remembers what it has said.
    sleep(LATER).await;
    assert_eq!(walk(&first, &dag.root).await.len(), 40);
    let cost = recorder.requests().len() - asked;
    assert_eq!(cost, 8);
}

#[tokio::test]
async fn who_cannot_be_asked_promises_nothing() {
    let stores = [Store::new(), Store::new()];
    let recorders = [Recorder::new(), Recorder::new()];
    let [both, _] = [0, 1].map(|at| stores[at].add_text("both", "text", &[]));
    let first_only = stores[0].add_text("first", "text", &[]);
    let home = Scratch::new();
    let hosts = [
        ("a", &stores[0], &recorders[0]),
        ("b", &stores[1], &recorders[1]),
    ];
    let setup = Setup::new(&hosts, Some(home.path()));
    let first = setup.start();
    // Of the second host it is remembered that it lacks this one; of the other nothing, or that it has it.
    assert_eq!(holders(&first, &first_only).await, [0]);
    assert!(holders(&first, &both).await.starts_with(&[0]));
    first.flush().await;

    recorders[0].remove();
    let second = setup.start();
    assert!(holders(&second, &first_only).await.is_empty());
    assert_eq!(holders(&second, &both).await, [1]);
    assert_eq!(
        second.not_found(&parse(&first_only)).to_string(),
        format!("no host that answered has {first_only}, but 1 of 2 hosts gave no answer")
    );
    // What was checked just now does not count any more once the host has failed.
    recorders[1].remove();
    let third = setup.start();
    assert!(holders(&third, &both).await.is_empty());
    assert_eq!(
        third.not_found(&parse(&both)).to_string(),
        format!("cannot tell whether a host has {both}: 2 of 2 hosts gave no answer")
    );
}
