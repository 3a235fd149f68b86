//! Several callers of one engine at the same time, and transfers that go on where another one broke off: in one process,
//! from real `nix-store --serve` processes.

mod rig;
mod support;

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rig::{Fault, Link, Setup, setup, setup_as, setup_over, setup_with, until};
use ssh_substituter::model::NarHash;
use ssh_substituter::transfer::progress::NoProgress;
use ssh_substituter::transfer::{Caller, FetchRequest, NarSink, Piece, ResumePoint};
use support::{DagOptions, Random, Store};

const MIB: u64 = 1 << 20;

async fn fetch_all(setup: &Setup, caller: &Caller, store: &Store, paths: &[String]) {
    for path in paths {
        setup.fetch_right_for(caller, store, path).await;
    }
}

fn parts(store: &Store, count: usize, bytes: u64) -> Vec<String> {
    let name = |number| format!("part-{number:02}");
    (0..count)
        .map(|number| store.big(&name(number), bytes))
        .collect()
}

#[tokio::test]
async fn what_two_callers_want_is_asked_for_once() {
    let store = Store::new();
    let paths = store.dag(60, DagOptions::default()).paths;
    let one = setup(&[(&store, 0.0, None)]);
    let (a, b) = (&one.caller, &one.transfers.caller());
    one.expect_for(a, &paths).await;
    one.expect_for(b, &paths).await;
    // Nothing is read ahead before the first fetch, so that one goes its own way.
    one.fetch_right_for(a, &store, &paths[0]).await;
    one.fetch_right_for(b, &store, &paths[0]).await;
    let rest = &paths[1..];
    let size: u64 = rest.iter().map(|path| store.nar_size(path)).sum();
    until("both have room for all of it", || {
        one.transfers.memory().0 >= 2 * size
    })
    .await;
    tokio::join!(
        fetch_all(&one, a, &store, rest),
        fetch_all(&one, b, &store, rest)
    );
    // On a loaded machine a worker falls behind, and one or two are asked for once more. Without sharing, all would be.
    let asked = one.dumps("one", rest).len();
    assert!(
        (rest.len()..rest.len() * 5 / 4).contains(&asked),
        "{asked} for {}",
        rest.len()
    );
    until("nothing is held", || one.transfers.memory().0 == 0).await;
}

#[tokio::test]
async fn what_is_read_along_is_read_ahead_again_when_the_other_caller_goes() {
    let store = Store::new();
    let paths = parts(&store, 4, 100_000);
    // Each connection brings one, and stalls in the middle of the next.
    let one = setup(&[(&store, 0.0, Some(Fault::Stall(150_000)))]);
    let (first, second) = (one.transfers.caller(), one.transfers.caller());
    one.expect_for(&first, &paths).await;
    one.expect_for(&second, &paths).await;
    let rest = &paths[1..];
    let room: u64 = 3 * 100_000;
    one.fetch_right_for(&first, &store, &paths[0]).await;
    until("the first has room", || one.transfers.memory().0 > room).await;
    // On a connection of its own.
    one.fetch_right_for(&second, &store, &paths[0]).await;
    until("both have room", || one.transfers.memory().0 > 2 * room).await;
    drop(first);
    until("one has gone", || one.transfers.memory().0 < 2 * room).await;
    let before = one.dumps("one", rest).len();
    one.fetch_right_for(&second, &store, &rest[0]).await;
    until("the rest is asked for again", || {
        one.dumps("one", rest).len() >= before + rest.len()
    })
    .await;
    fetch_all(&one, &second, &store, &rest[1..]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_begin_together_get_everything_right() {
    let store = Store::new();
    let mut paths = store.dag(80, DagOptions::default()).paths;
    paths.extend(parts(&store, 2, 6 * MIB));
    let one = setup(&[(&store, 0.0, None)]);
    let others = [(); 3].map(|()| one.transfers.caller());
    let mut backwards = paths.clone();
    backwards.reverse();
    for caller in others.iter().chain([&one.caller]) {
        one.expect_for(caller, &paths).await;
    }
    tokio::join!(
        fetch_all(&one, &one.caller, &store, &paths),
        fetch_all(&one, &others[0], &store, &paths),
        fetch_all(&one, &others[1], &store, &paths),
        fetch_all(&one, &others[2], &store, &backwards),
    );
    until("nothing is held", || one.transfers.memory().0 == 0).await;
}

#[tokio::test]
async fn a_caller_that_never_fetches_leaves_the_other_its_share() {
    let store = Store::new();
    let paths = parts(&store, 12, 300_000);
    let one = setup_with(&[(&store, 0.0, None)], 2 << 20);
    let lazy = one.transfers.caller();
    one.expect_for(&lazy, &paths).await;
    one.expect_for(&one.caller, &paths).await;
    one.fetch_right_for(&lazy, &store, &paths[0]).await;
    until("the lazy one holds its share", || {
        one.transfers.memory().0 > 900_000
    })
    .await;
    for (number, path) in paths.iter().enumerate() {
        one.fetch_right_for(&one.caller, &store, path).await;
        let next = &paths[(number + 1).min(paths.len() - 1)..][..1];
        until(&format!("{} is read ahead", next[0]), || {
            !one.dumps("one", next).is_empty()
        })
        .await;
    }
    let asked = one.dumps("one", &paths[1..]);
    assert_eq!(asked.len(), paths.len() - 1, "each once: {asked:?}");
    let (held, total) = one.transfers.memory();
    assert!(held <= total, "{held} of {total}");
    drop(lazy);
    until("what it held is dropped", || one.transfers.memory().0 == 0).await;
}

/// A sink that tells how much it has got.
#[derive(Default, Clone)]
struct Counting {
    bytes: Arc<Mutex<Vec<u8>>>,
    count: Arc<AtomicU64>,
}

#[async_trait]
impl NarSink for Counting {
    async fn write(&mut self, piece: Piece) -> std::io::Result<()> {
        let mut bytes = self.bytes.lock().unwrap();
        bytes.extend_from_slice(&piece.bytes);
        self.count.store(bytes.len() as u64, Ordering::SeqCst);
        Ok(())
    }
}

/// Two hosts, the first of which stops in the middle of the large path; a caller for whom that is being read ahead by now.
async fn in_the_middle<'a>(one: &'a Store, two: &'a Store, small: &str, large: &str) -> Setup {
    let stalls = Some(Fault::Stall(8 * MIB));
    // On a loaded machine the first one may take more than a second to answer: then the other one would be asked.
    let both = setup_with(&[(one, 0.0, stalls), (two, 5.0, None)], 256 << 20);
    let paths = [small.to_owned(), large.to_owned()];
    both.expect(&paths).await;
    both.fetch_right_for(&both.caller, one, small).await;
    until("the large one is asked for", || {
        !both.dumps("one", &paths[1..]).is_empty()
    })
    .await;
    both
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_in_the_middle_leaves_the_nar_to_who_reads_along() {
    let (one, two) = (Store::new(), Store::new());
    let (small, large) = (one.big("small", 1000), one.big("large", 20 * MIB));
    two.copy_from(&one, &[&small, &large]);
    let mut both = in_the_middle(&one, &two, &small, &large).await;
    let third = both.transfers.caller();
    let first = std::mem::replace(&mut both.caller, third);
    let found = both.find(&large).await.unwrap();
    let (second, mut sink) = (both.transfers.caller(), Counting::default());
    let (bytes, count) = (sink.bytes.clone(), sink.count.clone());
    let wish = FetchRequest {
        info: &found.info,
        holders: &found.holders,
        caller: &second,
        resume: None,
        progress: &NoProgress,
    };
    let large = [large];
    let fetching = both.transfers.fetch(wish, &mut sink);
    let going = async {
        until("half of it", || count.load(Ordering::SeqCst) > 2 * MIB).await;
        assert_eq!(both.dumps("one", &large).len(), 1, "it reads along");
        drop(first);
    };
    let (result, ()) = tokio::join!(fetching, going);
    assert!(result.is_ok(), "{:?}", result.err());
    assert!(*bytes.lock().unwrap() == one.nar(&large[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_reads_along_may_go_in_the_middle() {
    let (one, two) = (Store::new(), Store::new());
    let (small, large) = (one.big("small", 1000), one.big("large", 20 * MIB));
    two.copy_from(&one, &[&small, &large]);
    let both = in_the_middle(&one, &two, &small, &large).await;
    let found = both.find(&large).await.unwrap();
    let (second, mut sink) = (both.transfers.caller(), Counting::default());
    let count = sink.count.clone();
    let wish = FetchRequest {
        info: &found.info,
        holders: &found.holders,
        caller: &second,
        resume: None,
        progress: &NoProgress,
    };
    tokio::select! {
        _ = both.transfers.fetch(wish, &mut sink) => panic!("the host stops before"),
        () = until("some of it", || count.load(Ordering::SeqCst) > 2 * MIB) => {}
    }
    let large = [large];
    assert_eq!(both.dumps("one", &large).len(), 1, "it reads along");
    drop(second);
    both.fetch_right_for(&both.caller, &one, &large[0]).await;
    until("nothing is held", || both.transfers.memory().0 == 0).await;
}

/// A sink that keeps all, and where it could have broken off.
#[derive(Default)]
struct Marked {
    bytes: Vec<u8>,
    resumes: Vec<ResumePoint>,
}

#[async_trait]
impl NarSink for Marked {
    async fn write(&mut self, piece: Piece) -> std::io::Result<()> {
        self.bytes.extend_from_slice(&piece.bytes);
        let at = self.bytes.len() as u64;
        self.resumes.extend(
            piece
                .checkpoint
                .map(|checkpoint| ResumePoint { at, checkpoint }),
        );
        Ok(())
    }
}

/// The NAR of a path, and some places where it may break off: the first, the last, and others.
async fn places(setup: &Setup, path: &str, count: usize) -> (Vec<u8>, Vec<ResumePoint>) {
    let found = setup.find(path).await.expect("a host has it");
    let mut sink = Marked::default();
    let wish = FetchRequest {
        info: &found.info,
        holders: &found.holders,
        caller: &setup.caller,
        resume: None,
        progress: &NoProgress,
    };
    let result = setup.transfers.fetch(wish, &mut sink).await;
    assert!(result.is_ok(), "{:?}", result.err());
    let mut all = sink.resumes;
    assert!(all.len() > count, "pieces: {}", all.len());
    let mut random = Random::new(7, "places");
    let mut chosen = vec![all.remove(0), all.pop().expect("more than one")];
    while chosen.len() < count {
        chosen.push(all.swap_remove(random.below(all.len())));
    }
    (sink.bytes, chosen)
}

/// 300 files of all lengths up to 80,000 bytes: tokens of every kind lie at the borders of pieces.
fn tree(store: &Store) -> String {
    let mut random = Random::new(3, "tree");
    store.add_made(random.store_path("tree"), |folder| {
        for number in 0..300 {
            let file = folder.join(format!("{}/file-{number}", number % 7));
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            let length = random.below(80_000);
            fs::write(file, random.bytes(length)).unwrap();
        }
    })
}

#[tokio::test]
async fn only_the_rest_comes_of_what_broke_off_anywhere() {
    let store = Store::new();
    for path in [tree(&store), store.big("large", 10 * MIB)] {
        let one = setup(&[(&store, 0.0, None)]);
        let (nar, places) = places(&one, &path, 12).await;
        assert!(nar == store.nar(&path));
        for place in places {
            let at = usize::try_from(place.at).unwrap();
            let (rest, result) = one.fetch_for(&one.caller, &path, Some(place)).await;
            assert!(result.is_ok(), "{at}: {:?}", result.err());
            assert!(rest == nar[at..], "{at}: {} bytes", rest.len());
        }
    }
}

#[tokio::test]
async fn the_rest_comes_from_another_host_when_the_first_fails_again() {
    let (one, two) = (Store::new(), Store::new());
    let path = tree(&one);
    assert_eq!(tree(&two), path);
    let well = setup(&[(&one, 0.0, None)]);
    let (nar, places) = places(&well, &path, 6).await;
    // Before the place, and behind it.
    for place in places {
        for cut in [place.at / 2 + 100, place.at + 50_000] {
            let fault = Some(Fault::Cut(cut));
            let both = setup(&[(&one, 0.0, fault), (&two, 0.5, None)]);
            let at = usize::try_from(place.at).unwrap();
            let resume = Some(place.clone());
            let (rest, result) = both.fetch_for(&both.caller, &path, resume).await;
            assert!(result.is_ok(), "{at}, {cut}: {:?}", result.err());
            assert!(rest == nar[at..], "{at}, {cut}: {} bytes", rest.len());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_may_come_in_parts() {
    let (one, two) = (Store::new(), Store::new());
    let path = one.big("large", 30 * MIB);
    two.copy_from(&one, std::slice::from_ref(&path));
    let both = setup_as(&[(&one, 0.0, None), (&two, 0.0, None)], 0, true);
    both.find(&path).await.expect("a host has it");
    let parsed = ssh_substituter::model::StorePath::parse(&path).unwrap();
    until("both have it", || {
        let holders = both.resolver.holders(&parsed);
        holders.is_some_and(|holders| holders.len() == 2)
    })
    .await;
    let (nar, places) = places(&both, &path, 5).await;
    for place in places {
        let at = usize::try_from(place.at).unwrap();
        let (rest, result) = both.fetch_for(&both.caller, &path, Some(place)).await;
        assert!(result.is_ok(), "{at}: {:?}", result.err());
        assert!(rest == nar[at..], "{at}: {} bytes", rest.len());
    }
    assert!(both.chunks("one") + both.chunks("two") > 30);
}

#[tokio::test]
async fn nothing_comes_of_another_nar_than_the_one_that_broke_off() {
    let store = Store::new();
    let path = tree(&store);
    let one = setup(&[(&store, 0.0, None)]);
    let (_, places) = places(&one, &path, 4).await;
    for place in &places {
        let mut wrong = place.clone();
        wrong.checkpoint.hash = NarHash::new([7; 32]);
        let (rest, result) = one.fetch_for(&one.caller, &path, Some(wrong)).await;
        let failed = result.expect_err("nobody has it");
        assert!(rest.is_empty(), "{}: {} bytes", place.at, rest.len());
        assert_eq!(failed.rest, place.checkpoint.rest);
        // The hash is right, and the place is none where a token ends.
        let mut elsewhere = place.clone();
        elsewhere.at += 3;
        let (rest, result) = one.fetch_for(&one.caller, &path, Some(elsewhere)).await;
        assert!(rest.is_empty(), "{}: {} bytes", place.at, rest.len());
        let failed = result.expect_err("nobody has it");
        assert_eq!(failed.rest, place.checkpoint.rest);
    }
    // It is not held against the host that nobody has what was asked for.
    let (nar, result) = one.fetch(&path).await;
    assert!(result.is_ok(), "{:?}", result.err());
    assert!(nar == store.nar(&path));
}

/// Whether the account has a shell shows only when one is tried.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_nar_of_a_far_host_without_a_shell_is_read_ahead() {
    let (store, link) = (Store::new(), Arc::new(Link::far(Duration::from_millis(40))));
    let (small, large) = (store.big("small", 1000), store.big("large", 20 * MIB));
    let far = setup_over(&[(&store, &link)], 256 << 20, false);
    let paths = [small.clone(), large];
    far.expect(&paths).await;
    far.fetch_right_for(&far.caller, &store, &small).await;
    until("the large one is asked for", || {
        !far.dumps("one", &paths[1..]).is_empty()
    })
    .await;
}
