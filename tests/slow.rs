//! Slow callers, slow links, and links that break often: what is asked for again, and what is not.

mod rig;
mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rig::{Link, Setup, setup_as, setup_over};
use ssh_substituter::model::StorePath;
use ssh_substituter::transfer::progress::NoProgress;
use ssh_substituter::transfer::{FetchRequest, NarSink, Piece};
use support::Store;

const MIB: u64 = 1 << 20;

/// Until so many hosts are known to have all of it.
async fn all_have(setup: &Setup, paths: &[String], hosts: usize) {
    for path in paths {
        setup.find(path).await.expect("a host has it");
        let parsed = StorePath::parse(path).unwrap();
        let known = || {
            setup
                .resolver
                .holders(&parsed)
                .map_or(0, |holders| holders.len())
        };
        rig::until("both hosts to tell", || known() == hosts).await;
    }
}

/// Takes a NAR with one pause in it, or many short ones.
struct Slow {
    at: u64,
    pause: Duration,
    every: Duration,
    got: Vec<u8>,
}

#[async_trait]
impl NarSink for Slow {
    async fn write(&mut self, piece: Piece) -> std::io::Result<()> {
        let before = self.got.len() as u64;
        self.got.extend_from_slice(&piece.bytes);
        if before < self.at && self.got.len() as u64 >= self.at {
            tokio::time::sleep(self.pause).await;
        }
        tokio::time::sleep(self.every).await;
        Ok(())
    }
}

async fn fetch_slowly(setup: &Setup, path: &str, pause: Duration, every: Duration) -> Vec<u8> {
    let found = setup.find(path).await.expect("a host has it");
    let mut sink = Slow {
        at: 10 * MIB,
        pause,
        every,
        got: Vec::new(),
    };
    let wish = FetchRequest {
        info: &found.info,
        holders: &found.holders,
        caller: &setup.caller,
        resume: None,
        progress: &NoProgress,
    };
    let result = setup.transfers.fetch(wish, &mut sink).await;
    assert!(result.is_ok(), "{:?}", result.err());
    sink.got
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_ahead_in_parts_goes_on_from_where_it_broke() {
    let one = Store::new();
    let paths = [one.big("small", 1000), one.big("large", 60 * MIB)];
    for memory in [0, 512 * MIB] {
        let link = Arc::new(Link::far(Duration::from_millis(15)).cut([30 * MIB]));
        let alone = setup_over(&[(&one, &link)], memory, true);
        alone.expect(&paths).await;
        alone.fetch_right(&one, &paths[0]).await;
        // As fast as a disk takes it.
        let got = fetch_slowly(&alone, &paths[1], Duration::ZERO, Duration::from_millis(5)).await;
        assert!(got == one.nar(&paths[1]), "{memory} bytes of readahead");
        assert_eq!(link.breaks(), 1);
        let came = link.came.load(Ordering::SeqCst);
        assert!(came < 75 * MIB, "{came} bytes came for 60 MiB");
        let told = alone.told.lock().unwrap();
        assert!(!told.iter().any(|line| line.contains("wrong")), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_pauses_gets_the_rest_in_parts_too() {
    let (one, two) = (Store::new(), Store::new());
    let path = one.big("large", 120 * MIB);
    assert_eq!(two.big("large", 120 * MIB), path);
    let paths = [path.clone()];
    let both = setup_as(&[(&one, 0.0, None), (&two, 0.0, None)], 0, true);
    all_have(&both, &paths, 2).await;
    let pause = Duration::from_millis(2500);
    let got = fetch_slowly(&both, &path, pause, Duration::ZERO).await;
    assert!(got == one.nar(&path));
    let dumps = both.dumps("one", &paths).len() + both.dumps("two", &paths).len();
    assert_eq!(dumps, 0, "asked for again from its first byte");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_links_bring_nothing_twice() {
    let (one, two) = (Store::new(), Store::new());
    let paths: Vec<_> = (0..4)
        .map(|number| one.big(&format!("part-{number}"), 2 * MIB))
        .collect();
    two.copy_from(&one, &paths);
    let links = [0, 1].map(|_| Arc::new(Link::slow(400_000)));
    let both = setup_over(&[(&one, &links[0]), (&two, &links[1])], 256 * MIB, false);
    all_have(&both, &paths, 2).await;
    both.expect(&paths).await;
    let began = Instant::now();
    for path in &paths {
        both.fetch_right(&one, path).await;
    }
    let took = began.elapsed();
    let came = links
        .each_ref()
        .map(|link| link.came.load(Ordering::SeqCst));
    let sum: u64 = came.iter().sum();
    assert!(sum < 8 * MIB * 105 / 100, "{came:?} bytes came for 8 MiB");
    assert!(came.iter().all(|came| *came > 2 * MIB), "{came:?}");
    // 10.5 s over both links at a time, 21 s over one after the other.
    assert!(took < Duration::from_secs(19), "{took:?}");
    assert!(both.told.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_nar_comes_in_parts_over_slow_links_too() {
    let (one, two) = (Store::new(), Store::new());
    let path = one.big("large", 9 * MIB);
    assert_eq!(two.big("large", 9 * MIB), path);
    let paths = [path.clone()];
    let links = [0, 1].map(|_| Arc::new(Link::slow(400_000)));
    let both = setup_over(&[(&one, &links[0]), (&two, &links[1])], 0, true);
    all_have(&both, &paths, 2).await;
    both.fetch_right(&one, &path).await;
    let dumps = both.dumps("one", &paths).len() + both.dumps("two", &paths).len();
    assert_eq!(dumps, 0, "the first part takes longer than four seconds");
    let came: u64 = links
        .iter()
        .map(|link| link.came.load(Ordering::SeqCst))
        .sum();
    assert!(came < 9 * MIB * 110 / 100, "{came} bytes came for 9 MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_host_may_break_as_often_as_it_likes_while_bytes_come() {
    let one = Store::new();
    let path = one.big("large", 40 * MIB);
    for shells in [false, true] {
        // Straight through, each try begins anew: 4 MiB, then 8, 12, …
        let cuts: Vec<u64> = match shells {
            false => (1..=6).map(|n| 4 * MIB * n * (n + 1) / 2).collect(),
            true => (1..=6).map(|n| 6 * MIB * n).collect(),
        };
        let link = Arc::new(Link::far(Duration::from_millis(15)).cut(cuts));
        let alone = setup_over(&[(&one, &link)], 0, shells);
        alone.fetch_right(&one, &path).await;
        assert!(link.breaks() >= 5, "{} breaks", link.breaks());
        let came = link.came.load(Ordering::SeqCst);
        // At each break all channels lose the part that is on its way.
        assert!(!shells || came < 80 * MIB, "{came} bytes came for 40 MiB");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_always_breaks_at_the_same_byte_is_given_up() {
    let one = Store::new();
    let path = one.big("large", 40 * MIB);
    let link = Arc::new(Link::default().cut((1..50).map(|n| 4 * MIB * n)));
    let alone = setup_over(&[(&one, &link)], 0, false);
    let began = Instant::now();
    let (_, result) = alone.fetch(&path).await;
    assert!(result.is_err());
    assert!(began.elapsed() < Duration::from_secs(30));
}
