//! Readahead: what a caller is going to fetch is asked for before it does, from real `nix-store --serve` processes.

mod rig;
mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rig::{Fault, Link, setup, setup_over, setup_with, until};
use support::{DagOptions, Random, Store};

/// A store with a closure: all of its paths, references first.
fn closure(count: usize) -> (Store, Vec<String>) {
    let store = Store::new();
    let paths = store.dag(count, DagOptions::default()).paths;
    (store, paths)
}

fn second(first: &Store, count: usize) -> Store {
    let (store, paths) = closure(count);
    assert_eq!(first.all_paths(), store.all_paths());
    assert_eq!(paths.len(), count);
    store
}

#[tokio::test]
async fn nothing_is_read_ahead_for_a_caller_that_only_asks() {
    let (store, paths) = closure(10);
    let one = setup(&[(&store, 0.0, None)]);
    one.expect(&paths).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(one.dumps("one", &paths), []);
}

#[tokio::test]
async fn after_the_first_dump_the_rest_is_asked_for_references_first_and_once() {
    let (store, paths) = closure(60);
    let one = setup(&[(&store, 0.0, None)]);
    // From the root downwards, as Nix asks.
    let downwards: Vec<_> = paths.iter().rev().cloned().collect();
    one.expect(&downwards).await;
    one.fetch_right(&store, &paths[0]).await;
    until("all of it", || {
        one.dumps("one", &paths).len() == paths.len()
    })
    .await;

    let asked = one.dumps("one", &paths);
    let place: HashMap<_, _> = asked.iter().map(|(at, path)| (path.clone(), *at)).collect();
    for path in &paths[1..] {
        let references = store.references(path);
        for reference in references.iter().filter(|other| *other != path) {
            assert!(place[reference] < place[path], "{path} before {reference}");
        }
    }
    for path in &paths[1..] {
        one.fetch_right(&store, path).await;
    }
    // On a loaded machine one or two are asked for once more. Without readahead, all would be.
    let all = one.dumps("one", &paths);
    assert!(
        all.len() < paths.len() * 5 / 4,
        "each was asked for once: {all:?}"
    );
    // What was fetched is not expected again.
    one.expect(&paths).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(one.dumps("one", &paths), all);
}

#[tokio::test]
async fn any_order_of_fetching_is_served() {
    let (store, mut paths) = closure(40);
    let mut random = Random::new(3, "order");
    paths.sort_by_cached_key(|_| random.next());
    let one = setup(&[(&store, 0.0, None)]);
    one.expect(&paths).await;
    for path in &paths {
        one.fetch_right(&store, path).await;
    }
}

#[tokio::test]
async fn memory_is_bounded_and_freed_by_fetching() {
    let store = Store::new();
    let paths: Vec<_> = (0..12)
        .map(|number| store.big(&format!("part-{number:02}"), 300_000))
        .collect();
    let too_large = store.big("too-large", 700_000);
    let one = setup_with(&[(&store, 0.0, None)], 1 << 20);
    one.expect(&paths).await;
    one.expect(std::slice::from_ref(&too_large)).await;
    one.fetch_right(&store, &paths[0]).await;
    until("three", || one.dumps("one", &paths).len() == 4).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(one.dumps("one", &paths).len(), 4, "three more fit");
    one.fetch_right(&store, &paths[1]).await;
    until("one more", || one.dumps("one", &paths).len() == 5).await;
    for path in &paths[2..] {
        one.fetch_right(&store, path).await;
    }
    let too_large = [too_large];
    assert_eq!(one.dumps("one", &too_large), []);
    one.fetch_right(&store, &too_large[0]).await;
    assert_eq!(one.dumps("one", &paths).len(), paths.len());
}

#[tokio::test]
async fn both_hosts_take_part() {
    let store = Store::new();
    let paths: Vec<_> = (0..16)
        .map(|number| store.big(&format!("part-{number:02}"), 3 << 20))
        .collect();
    let twin = Store::new();
    for (number, path) in paths.iter().enumerate() {
        assert_eq!(twin.big(&format!("part-{number:02}"), 3 << 20), *path);
    }
    // At this rate one host alone would take two seconds, so that the other one has time to begin on a busy machine too.
    let links = [(); 2].map(|()| Arc::new(Link::slow(25_000_000)));
    let hosts = [(&store, &links[0]), (&twin, &links[1])];
    let both = setup_over(&hosts, 256 << 20, false);
    both.expect(&paths).await;
    for path in &paths {
        both.fetch_right(&store, path).await;
    }
    let shares = ["one", "two"].map(|host| both.dumps(host, &paths).len());
    // One that has fallen behind is relieved of some, so these may be asked for twice.
    assert!(shares.iter().all(|share| *share >= 1), "{shares:?}");
    assert!(shares.iter().sum::<usize>() >= paths.len(), "{shares:?}");
}

#[tokio::test]
async fn a_path_that_comes_wrongly_comes_from_elsewhere_and_the_rest_is_not_touched() {
    let (store, paths) = closure(30);
    let twin = second(&store, 30);
    store.corrupt(&paths[20]);
    let good = &twin;
    let both = setup(&[(&store, 0.0, None), (&twin, 5.0, None)]);
    both.expect(&paths).await;
    for path in &paths {
        let (nar, result) = both.fetch(path).await;
        assert!(result.is_ok(), "{path}");
        assert!(nar == good.nar(path));
    }
    assert_eq!(both.told.lock().unwrap().len(), 1, "{:?}", both.told);
}

#[tokio::test]
async fn what_breaks_anywhere_is_made_up_for() {
    let (store, paths) = closure(25);
    let twin = second(&store, 25);
    let mut random = Random::new(11, "faults");
    for _ in 0..12 {
        let at = random.next() % 60_000;
        let fault = match random.below(2) {
            0 => Fault::Cut(at),
            _ => Fault::Flip(at),
        };
        let both = setup(&[(&store, 0.0, Some(fault)), (&twin, 0.0, None)]);
        both.expect(&paths).await;
        for path in &paths {
            let (nar, result) = both.fetch(path).await;
            assert!(result.is_ok(), "{fault:?}: {path}: {:?}", result.err());
            assert!(nar == store.nar(path), "{fault:?}: {path}");
        }
    }
}

#[tokio::test]
async fn a_host_that_stops_in_the_middle_is_not_waited_for_when_another_one_has_it() {
    let store = Store::new();
    let paths: Vec<_> = (0..6)
        .map(|number| store.big(&format!("part-{number}"), 1 << 20))
        .collect();
    let twin = Store::new();
    twin.copy_from(&store, &paths);
    let fault = Some(Fault::Stall(2_500_000));
    let both = setup(&[(&store, 0.0, fault), (&twin, 0.0, None)]);
    both.expect(&paths).await;
    for path in &paths {
        both.fetch_right(&store, path).await;
    }
}
