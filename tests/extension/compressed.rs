//! Whole NARs as one frame.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use ssh_substituter::remote::{DumpsStep, ExtensionChannel};

use super::rig::{Account, Link, setup_ours};
use super::support::{DagOptions, Random, Store};
use super::{Narrow, open, parse, process};

/// What comes next as one, and how many bytes came for it.
async fn nars(channel: &mut ExtensionChannel) -> (BytesMut, u64) {
    let (mut out, mut wire_len) = (BytesMut::new(), 0);
    while let DumpsStep::More { wire_len: more } = channel.nars(&mut out).await.unwrap() {
        wire_len += more;
    }
    (out, wire_len)
}

#[tokio::test(flavor = "multi_thread")]
async fn nars_come_one_behind_the_other_up_to_one_that_is_not_there() {
    let store = Store::new();
    let paths = store.dag(60, DagOptions::default()).paths;
    let (real, narrow) = (process(&store), Narrow(store.root().to_owned(), 64));
    for mut channel in [open(&real).await, open(&narrow).await] {
        let want: Vec<u8> = paths.iter().flat_map(|path| store.nar(path)).collect();
        let parsed: Vec<_> = paths.iter().map(|path| parse(path)).collect();
        let len = want.len() as u64;
        for (level, most) in [(0, len), (3, len / 2)] {
            channel.request_nars(parsed.clone(), len, level);
            channel.request_nars(parsed[..2].to_vec(), len, level);
            let (all, wire_len) = nars(&mut channel).await;
            assert!(all == want);
            assert!(wire_len <= most, "{wire_len} of {len}");
            let (two, _) = nars(&mut channel).await;
            assert!(two == [store.nar(&paths[0]), store.nar(&paths[1])].concat());
            // What follows one that is not there does not come, and nothing else suffers.
            let mut missing = parsed.clone();
            missing[1] = parse(&Random::new(1, "missing").store_path("missing"));
            channel.request_nars(missing, len, level);
            let (first, _) = nars(&mut channel).await;
            assert!(first == store.nar(&paths[0]));
            assert!(channel.is_clean());
        }
        assert_eq!(nars(&mut channel).await, (BytesMut::new(), 0));
    }
}

/// Small texts, and the size of their NARs.
fn texts(store: &Store) -> (Vec<String>, u64) {
    let text = |number: usize| store.words(&format!("text-{number}"), 20_000 + 100 * number);
    let paths: Vec<_> = (0..120).map(text).collect();
    let size = paths.iter().map(|path| store.nar_size(path)).sum();
    (paths, size)
}

#[tokio::test(flavor = "multi_thread")]
async fn small_paths_come_compressed_whatever_breaks_or_goes() {
    let store = Store::new();
    let (paths, raw) = texts(&store);
    for (params, cuts) in [
        ("&compression=zstd", vec![]),
        ("&compression=zstd", vec![150_000]),
        ("&compression=none", vec![]),
    ] {
        let mut link = Link::slow(5_000_000).cut(cuts.clone());
        link.latency = Duration::from_millis(20);
        let link = Arc::new(link);
        let account = Account {
            params,
            ours: &["one"],
            ..Account::default()
        };
        let hosts = [(&store, 0.0, None)];
        let one = setup_ours(&hosts, std::slice::from_ref(&link), 64 << 20, &account);
        one.expect(&paths).await;
        for path in &paths {
            one.fetch_right(&store, path).await;
        }
        let (came, compressed) = (link.came.load(Ordering::SeqCst), params.ends_with("zstd"));
        assert_eq!(one.was_asked_for_nars("one"), compressed);
        assert_eq!(came < raw * 2 / 3, compressed, "{came} of {raw}");
        assert_eq!(link.breaks(), cuts.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_has_gone_costs_no_other_one_behind_it() {
    let store = Store::new();
    let (paths, _) = texts(&store);
    let mut link = Link::slow(5_000_000);
    link.latency = Duration::from_millis(20);
    let link = Arc::new(link);
    let account = Account {
        params: "&compression=zstd",
        ours: &["one"],
        ..Account::default()
    };
    let hosts = [(&store, 0.0, None)];
    let one = setup_ours(&hosts, std::slice::from_ref(&link), 64 << 20, &account);
    one.expect(&paths).await;
    store.delete(&paths[60..61]);
    for (number, path) in paths.iter().enumerate() {
        // That it has gone is known by then where the others took long.
        if number == 60 && one.find(path).await.is_none() {
            continue;
        }
        let (nar, result) = one.fetch(path).await;
        assert_eq!(result.is_ok(), number != 60, "{path}");
        assert!(
            number == 60 || nar == store.nar(path),
            "{path}: wrong content"
        );
    }
    assert!(one.was_asked_for_nars("one"));
}
