//! A pool over made-up hosts, and a store that stands for the disk tier.

mod fake;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::health::Now;
use super::*;
use crate::model::HealthRecord;
use fake::{CONNECT, Does, Fake, FakeStore, any_path, ask, together};

fn with_store(hosts: &[(&str, Does)]) -> (Fake, Arc<FakeStore>) {
    (Fake::new(hosts), FakeStore::new())
}

/// A pool of hosts that never answer.
pub(crate) fn silent_hosts(names: &[&str]) -> Pool {
    let hosts: Vec<_> = names.iter().map(|name| (*name, Does::Hang)).collect();
    Fake::new(&hosts).pool(None)
}

/// A pool without a store, and its only host.
fn one_host(does: Does) -> (Fake, Pool, HostId) {
    let fake = Fake::new(&[("a", does)]);
    let pool = fake.pool(None);
    let host = pool.hosts().next().unwrap();
    (fake, pool, host)
}

#[tokio::test]
async fn many_questions_at_once_cost_one_connect() {
    let fake = Fake::new(&[("a", Does::Hang)]);
    let pool = Arc::new(fake.pool(None));
    let started = Instant::now();
    let failed = together(500, || {
        let pool = pool.clone();
        async move { ask(&pool).await.failed }
    })
    .await;
    assert!(started.elapsed() < CONNECT * 2 + fake::GRACE);
    assert_eq!(failed, [1; 500]);
    assert_eq!(fake.opens("a"), 1);
    ask(&pool).await;
    assert_eq!(fake.opens("a"), 1, "it has just failed");
    assert_eq!(fake.told().len(), 1, "{:?}", fake.told());
}

#[tokio::test]
async fn the_first_connection_is_made_once_and_then_as_many_as_are_used() {
    let (fake, pool, host) = one_host(Does::Serve);
    let (first, second) = tokio::join!(pool.lease(host), pool.lease(host));
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(fake.opens("a"), 2, "both are held, so two are needed");
    drop((first, second));
    ask(&pool).await;
    assert_eq!(fake.opens("a"), 2);
}

#[tokio::test]
async fn questions_are_under_way_before_the_host_has_said_hello() {
    let (fake, pool, host) = one_host(Does::WaitForRequest);
    // On a new connection, then on a used one.
    for _ in 0..2 {
        assert_eq!(ask(&pool).await.failed, 0);
        assert!(pool.query_closure(host, &[], false).await.is_ok());
    }
    assert_eq!(fake.opens("a"), 1);
    for opens in [1, 2] {
        let lease = pool.lease_for_dump(host, &any_path()).await;
        assert!(!lease.ok().unwrap().is_clean());
        assert_eq!(fake.opens("a"), opens, "one that owes is not used again");
    }
    let lease = pool.lease_in_background(host, Some(&any_path())).await;
    assert!(lease.is_ok());
}

#[tokio::test]
async fn work_in_the_background_leaves_a_connection_to_questions() {
    let fake = Fake::new(&[
        ("a", Does::Serve),
        ("ssh://b?max-connections=1", Does::Serve),
    ]);
    let pool = fake.pool(None);
    let hosts: Vec<_> = pool.hosts().collect();
    for (host, places) in [(hosts[0], 15), (hosts[1], 1)] {
        assert_eq!(pool.background_limit(host), places);
        let mut held = Vec::new();
        for _ in 0..places {
            held.push(pool.lease_in_background(host, None).await.ok().unwrap());
        }
        let further = timeout(CONNECT, pool.lease_in_background(host, None)).await;
        assert!(further.is_err(), "it has to wait");
        let foreground = timeout(CONNECT, pool.lease(host)).await;
        assert_eq!(foreground.is_ok(), places > 1);
        drop(foreground);
        held.pop();
        assert!(pool.lease_in_background(host, None).await.is_ok());
    }
}

#[tokio::test]
async fn latency_is_that_of_an_exchange_once_there_was_one() {
    let (_fake, pool, host) = one_host(Does::Serve);
    assert_eq!(pool.latency(host), None);
    ask(&pool).await;
    let handshake = pool.latency(host);
    assert!(handshake.is_some());
    // The question went ahead of the handshake, the next one did not.
    ask(&pool).await;
    assert!(pool.latency(host).is_some_and(|took| took > Duration::ZERO));
    assert_ne!(pool.latency(host), handshake);
}

#[tokio::test]
async fn when_a_known_host_stops_answering_those_in_the_queue_do_not_try_in_turn() {
    let fake = Fake::new(&[("a", Does::ServeOnce)]);
    let pool = Arc::new(fake.pool(None));
    let host = pool.hosts().next().unwrap();
    let Ok(_held) = pool.lease(host).await else {
        panic!("it answers once");
    };
    let failed = together(20, || {
        let pool = pool.clone();
        async move { pool.lease(host).await.is_err() }
    })
    .await;
    assert_eq!(failed, [true; 20]);
    let at_a_time = pool.host(host).max_connections as usize;
    assert_eq!(fake.opens("a"), at_a_time, "one serves, the rest tried");
}

#[tokio::test]
async fn a_lease_shares_the_failure_that_others_have_just_met() {
    let (fake, pool, host) = one_host(Does::Refuse);
    for _ in 0..5 {
        assert!(pool.lease(host).await.is_err());
    }
    assert_eq!(fake.opens("a"), 1);
}

#[tokio::test]
async fn a_later_process_leaves_a_dead_host_alone() {
    let (fake, store) = with_store(&[("a", Does::Hang), ("b", Does::Serve)]);
    ask(&fake.pool(Some(store.clone()))).await;
    assert_eq!((fake.opens("a"), fake.opens("b")), (1, 1));
    assert_eq!(store.failures("a"), 1);
    let later = fake.pool(Some(store.clone()));
    let started = Instant::now();
    assert_eq!(ask(&later).await.failed, 1);
    assert!(started.elapsed() < CONNECT / 2);
    assert_eq!((fake.opens("a"), fake.opens("b")), (1, 2));
    assert_eq!(fake.told().len(), 1, "{:?}", fake.told());
}

#[tokio::test]
async fn with_all_hosts_down_a_later_process_says_so_once_and_at_once() {
    let (fake, store) = with_store(&[("a", Does::Refuse), ("b", Does::Refuse)]);
    ask(&fake.pool(Some(store.clone()))).await;
    assert_eq!(fake.told().len(), 2);
    let later = fake.pool(Some(store));
    for _ in 0..10 {
        assert_eq!(ask(&later).await.failed, 2);
    }
    assert_eq!((fake.opens("a"), fake.opens("b")), (1, 1));
    assert_eq!(fake.told().len(), 3, "{:?}", fake.told());
    assert!(fake.told()[2].contains("a, b"));
}

#[tokio::test]
async fn one_question_probes_a_host_whose_pause_is_over() {
    let (fake, store) = with_store(&[("a", Does::Hang), ("b", Does::Serve)]);
    store.put("a", 1, -20_000, -1_000);
    let pool = Arc::new(fake.pool(Some(store.clone())));
    let took = together(10, || {
        let pool = pool.clone();
        async move {
            let started = Instant::now();
            ask(&pool).await;
            started.elapsed()
        }
    })
    .await;
    let slow = took.iter().filter(|took| **took >= CONNECT).count();
    assert_eq!(slow, 1, "{took:?}");
    assert_eq!(fake.opens("a"), 1);
    assert_eq!(store.failures("a"), 2, "the pause has grown");
}

#[tokio::test]
async fn a_probe_that_is_given_up_leaves_the_host_to_others() {
    let (fake, store) = with_store(&[("a", Does::Serve), ("b", Does::Serve)]);
    store.put("a", 1, -20_000, -1_000);
    let pool = fake.pool(Some(store));
    pool.load().await;
    drop(pool.hosts[0].health.probe().unwrap());
    assert!(pool.hosts[0].health.probe().is_some());
}

#[tokio::test]
async fn success_closes_the_breaker_for_all() {
    let (fake, store) = with_store(&[("a", Does::Serve)]);
    store.put("a", 3, -20_000, -1_000);
    let pool = fake.pool(Some(store.clone()));
    assert_eq!(ask(&pool).await.failed, 0);
    assert_eq!(store.failures("a"), 0);
    assert_eq!(store.writes(), 1);
    for _ in 0..10 {
        ask(&pool).await;
    }
    assert_eq!(store.writes(), 1, "nothing is written in a healthy state");
}

#[tokio::test]
async fn the_only_host_is_tried_although_it_rests() {
    let (fake, store) = with_store(&[("a", Does::Serve)]);
    store.put("a", 7, -10_000, 250_000);
    assert_eq!(ask(&fake.pool(Some(store))).await.failed, 0);
    assert_eq!(fake.opens("a"), 1);
}

#[tokio::test]
async fn resting_hosts_come_last() {
    let names = ["a", "b", "c", "d"].map(|name| (name, Does::Serve));
    let (fake, store) = with_store(&names);
    store.put("a", 2, -1_000, 9_000);
    store.put("b", 7, -20_000, 200_000);
    let pool = fake.pool(Some(store));
    let hosts: Vec<HostId> = pool.hosts().collect();
    pool.load().await;
    let order = pool.in_order_of_health(&hosts);
    let order: Vec<_> = order.iter().map(|host| host.index()).collect();
    assert_eq!(order, [2, 3, 1, 0]);
}

#[tokio::test]
async fn a_store_that_is_stuck_costs_little() {
    let (fake, store) = with_store(&[("a", Does::Refuse)]);
    store.be_slow(Duration::from_secs(2));
    let started = Instant::now();
    ask(&fake.pool(Some(store))).await;
    // Once for reading, once for writing.
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_new_command_finds_out_at_once_that_a_host_is_back() {
    let (fake, store) = with_store(&[("a", Does::RefuseOnce), ("b", Does::Serve)]);
    let pool = fake.pool(Some(store.clone()));
    for _ in 0..3 {
        assert_eq!(ask(&pool).await.failed, 1);
    }
    assert_eq!(fake.opens("a"), 1);
    assert_eq!(pool.present_failures().len(), 1);
    let told = pool.present_failures()[0].to_string();
    assert!(
        told.contains("a: not tried") && told.contains("left alone since 0 s"),
        "{told}"
    );
    pool.new_command();
    assert_eq!(ask(&pool).await.failed, 0);
    assert_eq!((fake.opens("a"), store.failures("a")), (2, 0));
    assert!(pool.present_failures().is_empty());
    // By a lease too: who has only this one to ask.
    let (fake, pool, host) = one_host(Does::RefuseOnce);
    for _ in 0..2 {
        assert!(pool.lease(host).await.is_err());
    }
    let error = pool.lease(host).await.err().unwrap();
    assert!(
        matches!(error.kind, RemoteErrorKind::Resting { why: Some(_), .. }),
        "{error}"
    );
    pool.new_command();
    assert!(pool.lease(host).await.is_ok());
    assert_eq!(fake.opens("a"), 2);
}

#[tokio::test]
async fn a_new_command_probes_a_dead_host_once_and_is_not_held_up_for_long() {
    let (fake, store) = with_store(&[("a", Does::Refuse), ("b", Does::Refuse)]);
    store.put("a", 3, -2_000, 20_000);
    store.put("b", 3, -9_000, 20_000);
    let pool = fake.pool(Some(store.clone()));
    pool.new_command();
    for _ in 0..3 {
        assert_eq!(ask(&pool).await.failed, 2);
    }
    assert_eq!(fake.opens("a"), 1, "a new command's probe");
    assert_eq!(store.failures("a"), 3, "which makes no pause longer");
    assert_eq!(fake.told().len(), 2, "{:?}", fake.told());
}

#[tokio::test]
async fn a_probe_that_hangs_holds_up_nobody_for_long() {
    let (fake, store) = with_store(&[("a", Does::Hang), ("b", Does::Serve)]);
    store.put("a", 3, -2_000, 20_000);
    let limits = Limits {
        connect: Duration::from_secs(60),
        silence: Duration::from_secs(60),
        hedge: Duration::from_millis(50),
    };
    let pool = fake.pool_with(limits, Some(store));
    pool.new_command();
    let began = Instant::now();
    for _ in 0..3 {
        assert_eq!(ask(&pool).await.failed, 1);
    }
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(fake.opens("a"), 1);
}

/// A line that broke hides no path, although another question probes the host when its pause is over.
#[tokio::test]
async fn a_question_joins_the_probe_of_a_host_that_had_worked_before() {
    let fake = Fake::new(&[("a", Does::Serve), ("b", Does::Serve)]);
    let pool = fake.pool(None);
    assert_eq!(ask(&pool).await.failed, 0);
    let now = Now::read();
    let over = HealthRecord {
        failures: 1,
        last_failure: now.unix - 20_000,
        rest_until: now.unix - 1_000,
    };
    let health = &pool.hosts[0].health;
    health.breaker.lock().merge(&over, now);
    let probe = health.probe();
    assert!(probe.is_some());
    assert_eq!(ask(&pool).await.failed, 0, "it joins that probe");
}

#[tokio::test]
async fn faults_of_this_machine_are_not_kept() {
    let (fake, store) = with_store(&[("a", Does::FailHere)]);
    assert_eq!(ask(&fake.pool(Some(store.clone()))).await.failed, 1);
    assert_eq!(store.writes(), 0);
}

#[tokio::test]
async fn a_failure_that_is_reported_twice_counts_once() {
    let (fake, store) = with_store(&[("a", Does::Refuse)]);
    let pool = fake.pool(Some(store.clone()));
    let host = pool.hosts().next().unwrap();
    let Err(error) = pool.lease(host).await else {
        panic!("it refuses");
    };
    pool.record_failure(host, &error).await;
    pool.record_failure(host, &error).await;
    sleep(Duration::from_millis(20)).await;
    assert_eq!((store.failures("a"), store.writes()), (1, 1));
    assert_eq!(fake.told().len(), 1);
}

#[tokio::test]
async fn a_host_that_fails_is_asked_for_a_shell_once_and_then_rests() {
    let (fake, store) = with_store(&[("a", Does::Refuse)]);
    let pool = Arc::new(fake.pool(Some(store.clone())));
    let host = pool.hosts().next().unwrap();
    let errors = together(9, || {
        let pool = pool.clone();
        async move { pool.shell(host).await.err().unwrap() }
    })
    .await;
    let rests = |error: &&Arc<RemoteError>| matches!(error.kind, RemoteErrorKind::Resting { .. });
    assert_eq!(errors.iter().filter(rests).count(), 8);
    assert_eq!((fake.opens("a"), store.failures("a")), (1, 1));
}
