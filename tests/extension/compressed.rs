//! Whole NARs as one frame, and parts of NARs as their differences.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use ssh_substituter::remote::{DumpsStep, ExtensionChannel, decompress};
use ssh_substituter::wire::serve::extension::{MAX_DELTA, NarRange};

use super::rig::{Account, Link, setup_ours};
use super::support::{DagOptions, Random, Store};
use super::{MIB, Narrow, list, open, parse, process};

fn range(path: &str, start: u64, len: u64) -> NarRange {
    let path = parse(path);
    NarRange { path, start, len }
}

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

#[tokio::test(flavor = "multi_thread")]
async fn a_part_comes_as_its_differences_from_what_both_have() {
    let store = Store::new();
    let [old, new] = [1, 2].map(|number| store.build("tool-1.0", number));
    let (old_nar, new_nar) = (store.nar(&old), store.nar(&new));
    let size = new_nar.len() as u64;
    let (real, narrow) = (process(&store), Narrow(store.root().to_owned(), 64));
    for mut channel in [open(&real).await, open(&narrow).await] {
        assert_eq!(list(&mut channel, &new).await.nar_size(), size);
        let mut wire = 0;
        for part in [4 * MIB, size] {
            for start in (0..size).step_by(part as usize) {
                let len = part.min(size - start);
                let base_len = len.min(old_nar.len() as u64 - start);
                channel.request_delta(range(&new, start, len), range(&old, start, base_len), 3);
            }
            for start in (0..size as usize).step_by(part as usize) {
                let frame = channel.delta().await.unwrap().unwrap();
                let end = (start + part as usize).min(new_nar.len());
                let base = &old_nar[start..end.min(old_nar.len())];
                let got = decompress(&frame, base, end - start).unwrap();
                assert!(got == new_nar[start..end]);
                wire += frame.len();
            }
        }
        // Twice some changed bytes in files of which 200 kB are like nothing else.
        assert!(wire < 600_000, "{wire}");
        // Against nothing it is only compressed.
        channel.request_delta(range(&new, 0, 1000), range(&old, 0, 0), 1);
        let frame = channel.delta().await.unwrap().unwrap();
        assert_eq!(decompress(&frame, b"", 1000).unwrap(), new_nar[..1000]);
        // What cannot be had costs that reply only.
        let missing = Random::new(1, "missing").store_path("missing");
        for (part, base) in [
            (range(&new, size, 1), range(&old, 0, 1)),
            (range(&new, 0, 1), range(&old, u64::MAX, 1)),
            (range(&new, 0, MAX_DELTA + 1), range(&old, 0, 1)),
            (range(&new, 0, 1), range(&old, 0, MAX_DELTA + 1)),
            (range(&missing, 0, 1), range(&old, 0, 1)),
            (range(&new, 0, 1), range(&missing, 0, 1)),
        ] {
            channel.request_delta(part, base, 3);
            assert!(channel.delta().await.unwrap().is_none());
        }
        channel.request_delta(range(&new, 0, 9), range(&old, 0, 9), 0);
        channel.request_delta(range(&new, 0, 9), range(&old, 0, 9), 19);
        assert!(channel.delta().await.unwrap().is_none());
        assert!(channel.delta().await.unwrap().is_some());
        assert!(channel.is_clean());
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
        let (nar, result) = one.fetch(path).await;
        assert_eq!(result.is_ok(), number != 60, "{path}");
        assert!(
            number == 60 || nar == store.nar(path),
            "{path}: wrong content"
        );
    }
    assert!(one.was_asked_for_nars("one"));
}
