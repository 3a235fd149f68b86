//! What is remembered of hosts' answers, in one process and from process to process; behind the hosts a real
//! `nix-store --serve` answers.

mod query_support;
mod support;

use std::sync::Arc;
use std::time::Duration;

use query_support::{Recorder, Setup, age, disk, parse, set_lifetimes, walk};
use ssh_substituter::cache::Lifetimes;
use ssh_substituter::cache::disk::{CacheWrite, CachedAnswer, unix_seconds};
use ssh_substituter::model::{NarHash, PathInfo};
use ssh_substituter::pool::HostId;
use ssh_substituter::resolver::Resolver;
use support::{DagOptions, SHORT, Scratch, Store};
use tokio::time::{sleep, timeout};

const MISSING: &str = "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-missing";

async fn holders(resolver: &Resolver, path: &str) -> Vec<usize> {
    let found = resolver.find(&[parse(path)]).await.pop();
    found.map_or(Vec::new(), |found| {
        found.holders.iter().map(|host| host.index()).collect()
    })
}

/// Waits until these hosts are known to have the path.
async fn until(resolver: &Resolver, path: &str, hosts: &[usize]) {
    let wait = async {
        while holders(resolver, path).await != hosts {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SHORT, wait).await.expect("it comes about");
}

async fn best_holder(resolver: &Resolver, path: &str) -> HostId {
    resolver.find(&[parse(path)]).await[0].holders[0]
}

#[tokio::test]
async fn with_lifetimes_that_the_user_has_set_a_later_process_connects_to_nobody() {
    let (store, recorder, home) = (Store::new(), Recorder::new(), Scratch::new());
    let dag = store.dag(50, DagOptions::default());
    let mut setup = Setup::new(&[("a", &store, &recorder)], Some(home.path()));
    setup.lifetimes = set_lifetimes();
    let first = setup.start();
    assert_eq!(walk(&first, &dag.root).await.len(), 50);
    assert!(holders(&first, MISSING).await.is_empty());
    first.flush().await;
    let asked = recorder.requests().len();

    let second = setup.start();
    assert_eq!(walk(&second, &dag.root).await.len(), 50);
    assert_eq!(
        second
            .closure(&[parse(&dag.root)], false)
            .await
            .unwrap()
            .len(),
        50
    );
    assert!(holders(&second, MISSING).await.is_empty());
    for path in &dag.paths {
        let path = [parse(path)];
        assert_eq!(
            first.find(&path).await[0].info,
            second.find(&path).await[0].info
        );
    }
    assert_eq!(
        (recorder.requests().len(), recorder.connections()),
        (asked, 1)
    );
}

#[tokio::test]
async fn identical_questions_are_asked_once_and_others_together() {
    let (store, recorder) = (Store::new(), Recorder::new());
    let paths = ["x", "y", "z"].map(|name| parse(&store.add_text(name, "text", &[])));
    let resolver = Setup::new(&[("a", &store, &recorder)], None).start();
    let [x, y, z] = &paths;
    let (one, two, three) = tokio::join!(
        resolver.find(std::slice::from_ref(x)),
        resolver.find(&paths[..2]),
        resolver.find(&paths[1..]),
    );
    assert_eq!((one.len(), two.len(), three.len()), (1, 2, 2));
    let mut asked = recorder.infos();
    asked.iter_mut().for_each(|paths| paths.sort());
    let mut all = vec![x.clone(), y.clone(), z.clone()];
    all.sort();
    assert_eq!(asked, [all]);
    // Who gives up does not take the answer from those who wait for the same.
    let resolver = Setup::new(&[("a", &store, &recorder)], None).start();
    tokio::select! {
        biased;
        _ = resolver.find(std::slice::from_ref(x)) => panic!("too soon"),
        () = tokio::task::yield_now() => {}
    }
    assert_eq!(resolver.find(std::slice::from_ref(x)).await.len(), 1);
    assert_eq!(recorder.infos().len(), 2);
}

#[tokio::test]
async fn that_a_path_is_missing_is_believed_for_its_lifetime() {
    let (store, recorder, home) = (Store::new(), Recorder::new(), Scratch::new());
    let mut setup = Setup::new(&[("a", &store, &recorder)], Some(home.path()));
    let first = setup.start();
    for _ in 0..3 {
        assert!(holders(&first, MISSING).await.is_empty());
    }
    first.flush().await;
    assert!(holders(&setup.start(), MISSING).await.is_empty());
    assert_eq!(recorder.infos().len(), 1);
    setup.lifetimes.negative = Duration::ZERO;
    let third = setup.start();
    for _ in 0..2 {
        assert!(holders(&third, MISSING).await.is_empty());
    }
    assert_eq!(recorder.infos().len(), 3);
}

#[tokio::test]
async fn only_hosts_that_said_nothing_are_asked() {
    let stores = [Store::new(), Store::new()];
    let recorders = [Recorder::new(), Recorder::new()];
    let path = stores[1].add_text("late", "text", &[]);
    let home = Scratch::new();
    let one = ("a", &stores[0], &recorders[0]);
    let two = ("b", &stores[1], &recorders[1]);
    let alone = Setup::new(&[one], Some(home.path())).start();
    assert!(holders(&alone, &path).await.is_empty());
    alone.flush().await;
    let both = Setup::new(&[one, two], Some(home.path())).start();
    assert_eq!(holders(&both, &path).await, [1]);
    assert_eq!(
        (recorders[0].infos().len(), recorders[1].infos().len()),
        (1, 1)
    );
    both.flush().await;
    // And a path that one is known to have is not asked for at the other.
    let other = Recorder::new();
    let three = ("c", &stores[0], &other);
    let all = Setup::new(&[three, two], Some(home.path())).start();
    assert_eq!(holders(&all, &path).await, [1]);
    assert_eq!(other.connections(), 0);
}

#[tokio::test]
async fn a_path_that_has_gone_from_one_host_is_forgotten_for_that_host() {
    let stores = [Store::new(), Store::new()];
    let recorders = [Recorder::new(), Recorder::new()];
    let [path, _] = [0, 1].map(|at| stores[at].add_text("there", "text", &[]));
    let home = Scratch::new();
    let hosts = [
        ("a", &stores[0], &recorders[0]),
        ("b", &stores[1], &recorders[1]),
    ];
    let mut setup = Setup::new(&hosts, Some(home.path()));
    setup.lifetimes = set_lifetimes();
    let first = setup.start();
    until(&first, &path, &[0, 1]).await;
    first.flush().await;
    stores[0].delete(&[&path]);
    let second = setup.start();
    assert_eq!(holders(&second, &path).await, [0, 1], "it cannot know");
    let gone = best_holder(&second, &path).await;
    second.forget_at(gone, &parse(&path));
    assert_eq!(holders(&second, &path).await, [1], "without asking");
    second.flush().await;
    assert_eq!(holders(&setup.start(), &path).await, [1]);
    assert_eq!(recorders[0].infos().len(), 1);

    stores[1].delete(&[&path]);
    second.forget_at(best_holder(&second, &path).await, &parse(&path));
    assert!(holders(&second, &path).await.is_empty(), "asked afresh");
    assert_eq!(recorders[0].infos().len() + recorders[1].infos().len(), 4);
}

#[tokio::test]
async fn what_is_forgotten_is_asked_afresh_at_all_hosts() {
    let (store, recorder, home) = (Store::new(), Recorder::new(), Scratch::new());
    let path = store.add_text("there", "text", &[]);
    let setup = Setup::new(&[("a", &store, &recorder)], Some(home.path()));
    let first = setup.start();
    assert_eq!(holders(&first, &path).await, [0]);
    first.flush().await;
    let second = setup.start();
    assert_eq!(holders(&second, &path).await, [0]);
    store.delete(&[&path]);
    // At once, although the disk cannot hear of it.
    let other = rusqlite::Connection::open(home.path().join("cache.sqlite")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    second.forget(&parse(&path));
    assert!(holders(&second, &path).await.is_empty());
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(recorder.infos().len(), 2);
}

#[tokio::test]
async fn old_answers_are_checked_again_once_downloads_begin() {
    let (store, recorder, home) = (Store::new(), Recorder::new(), Scratch::new());
    let paths = ["stays", "goes"].map(|name| store.add_text(name, "text", &[]));
    let mut setup = Setup::new(&[("a", &store, &recorder)], Some(home.path()));
    setup.lifetimes = set_lifetimes();
    let first = setup.start();
    for path in &paths {
        assert_eq!(holders(&first, path).await, [0]);
    }
    first.flush().await;
    let [stays, goes] = &paths;
    store.delete(&[goes]);

    // What was checked lately is left alone.
    let second = setup.start();
    assert_eq!(holders(&second, goes).await, [0]);
    second.download_begins();
    sleep(Duration::from_millis(400)).await;
    assert_eq!(recorder.infos().len(), 2);

    age(home.path(), &[stays, goes], 7200);
    let third = setup.start();
    assert_eq!(holders(&third, goes).await, [0]);
    assert_eq!(holders(&third, stays).await, [0]);
    third.download_begins();
    third.download_begins();
    until(&third, goes, &[]).await;
    assert_eq!(holders(&third, stays).await, [0]);
    let mut sizes: Vec<_> = recorder.infos().iter().map(Vec::len).collect();
    sizes.sort_unstable();
    assert_eq!(
        sizes,
        [1, 1, 1, 2],
        "in one batch, and the lost one once more"
    );
}

#[tokio::test]
async fn what_comes_from_the_disk_is_trusted_no_more_than_what_is_asked() {
    let (store, recorder, home) = (Store::new(), Recorder::new(), Scratch::new());
    // Neither signed nor content-addressed.
    let path = store.big("unsigned", 100);
    let mut setup = Setup::new(&[("a", &store, &recorder)], Some(home.path()));
    let first = setup.start();
    assert_eq!(holders(&first, &path).await, [0]);
    first.flush().await;
    setup.require_sigs = true;
    assert!(holders(&setup.start(), &path).await.is_empty());
    setup.require_sigs = false;
    assert_eq!(holders(&setup.start(), &path).await, [0]);
    assert_eq!(
        recorder.infos().len(),
        2,
        "what is refused may have been signed since, so the host is asked"
    );
}

#[tokio::test]
async fn another_list_of_keys_counts_at_once() {
    let (store, recorder, home) = (Store::new(), Recorder::new(), Scratch::new());
    let path = store.big("signed", 100);
    let key = store.sign("test-1", &[&path]);
    let mut setup = Setup::new(&[("a", &store, &recorder)], Some(home.path()));
    setup.require_sigs = true;
    let without = setup.start();
    assert!(holders(&without, &path).await.is_empty());
    without.flush().await;
    setup.keys = vec![key];
    assert_eq!(holders(&setup.start(), &path).await, [0]);
    assert_eq!(recorder.infos().len(), 1, "the disk knows the signature");
    setup.keys.clear();
    assert!(holders(&setup.start(), &path).await.is_empty());
    assert_eq!(recorder.infos().len(), 2);
}

#[tokio::test]
async fn what_was_signed_since_is_found() {
    let (store, recorder, home) = (Store::new(), Recorder::new(), Scratch::new());
    let dag = store.dag(20, DagOptions::default());
    let mut setup = Setup::new(&[("a", &store, &recorder)], Some(home.path()));
    setup.require_sigs = true;
    let first = setup.start();
    assert_eq!(walk(&first, &dag.root).await, []);
    first.flush().await;
    let key = store.sign("test-1", &dag.paths);
    setup.keys = vec![key];
    assert_eq!(walk(&setup.start(), &dag.root).await.len(), 20);
}

#[tokio::test]
async fn who_asks_later_is_not_refused_for_what_was_so_before() {
    let (store, recorder) = (Store::new(), Recorder::new());
    let path = store.big("signed", 100);
    let key = store.sign("test-1", &[&path]);
    let signature = store.claim(&path, "sigs");
    store.set_claim(&path, "sigs", "");
    let mut setup = Setup::new(&[("a", &store, &recorder)], None);
    (setup.require_sigs, setup.keys) = (true, vec![key]);
    let resolver = setup.start();
    for _ in 0..2 {
        assert!(holders(&resolver, &path).await.is_empty());
    }
    assert_eq!(recorder.infos().len(), 1);
    store.set_claim(&path, "sigs", &signature);
    assert!(holders(&resolver, &path).await.is_empty());
    resolver.tell_again();
    assert_eq!(holders(&resolver, &path).await, [0]);
    assert_eq!(recorder.infos().len(), 2);
}

#[tokio::test]
async fn what_somebody_wrote_to_the_disk_proves_nothing() {
    let (store, recorder, home) = (Store::new(), Recorder::new(), Scratch::new());
    let path = store.big("signed", 100);
    let key = store.sign("test-1", &[&path]);
    let mut setup = Setup::new(&[("a", &store, &recorder)], Some(home.path()));
    (setup.require_sigs, setup.keys) = (true, vec![key]);
    let first = setup.start();
    let real = first.find(&[parse(&path)]).await.remove(0).info;
    first.flush().await;
    let mut forged = PathInfo::clone(&real);
    forged.nar_hash = Some(NarHash::new([7; 32]));
    let said = CachedAnswer {
        path: parse(&path),
        info: Some(Arc::new(forged)),
        checked_at: unix_seconds(),
    };
    let news = [CacheWrite::Answer("a".into(), said)];
    disk(home.path()).remember(&news, Lifetimes::default(), unix_seconds());
    let found = setup.start().find(&[parse(&path)]).await.remove(0);
    assert_eq!(found.info, real);
    assert_eq!(recorder.infos().len(), 2);
}

#[tokio::test]
async fn a_closure_is_not_asked_of_a_host_that_lost_its_root() {
    let (store, recorder, home) = (Store::new(), Recorder::new(), Scratch::new());
    let path = store.add_text("goes", "text", &[]);
    let setup = Setup::new(&[("a", &store, &recorder)], Some(home.path()));
    let first = setup.start();
    assert_eq!(holders(&first, &path).await, [0]);
    first.flush().await;
    store.delete(&[&path]);
    let second = setup.start();
    let closure = second.closure(&[parse(&path)], true).await.unwrap();
    assert_eq!(closure, []);
    assert_eq!(recorder.closures(), 0);
}
