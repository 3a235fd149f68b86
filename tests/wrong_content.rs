//! Hosts that promise a NAR which belies the content address of its path, and send just that: hash and size are right, the
//! content is not what the path's name follows from.

mod rig;
mod support;

use rig::{Setup, setup, setup_as};
use ssh_substituter::report;
use ssh_substituter::transfer::TransferError;
use support::{Random, Store};

/// A flat path of so many bytes, the same in each store.
fn flat(stores: &[&Store], bytes: usize) -> String {
    let contents = Random::new(1, "flat").bytes(bytes);
    let mut paths = stores.iter().map(|store| {
        let source = store.env().folder().join("flat");
        std::fs::write(&source, &contents).unwrap();
        store.add_flat(&source)
    });
    let path = paths.next().unwrap();
    assert!(paths.all(|other| other == path));
    path
}

/// It fails, the host is blamed, and what was passed on has no end.
async fn is_refused(setup: &Setup, store: &Store, path: &str) {
    let (nar, result) = setup.fetch(path).await;
    let failed = result.unwrap_err();
    assert!(
        matches!(failed.error, TransferError::Nobody { .. }),
        "{failed:?}"
    );
    assert!((nar.len() as u64) < store.nar_size(path), "{}", nar.len());
    let told = setup.told.lock().unwrap();
    let words = format!("one: sent {path} with the wrong content: expected a file whose contents");
    assert!(told.iter().any(|line| line.starts_with(&words)), "{told:?}");
}

#[tokio::test]
async fn no_host_with_that_nar_is_believed_or_asked_twice() {
    let (one, two) = (Store::new(), Store::new());
    let path = flat(&[&one, &two], 1000);
    for store in [&one, &two] {
        store.falsify(&path, None, "evil");
    }
    let both = setup(&[(&one, 0.0, None), (&two, 0.0, None)]);
    is_refused(&both, &one, &path).await;
    is_refused(&both, &one, &path).await;
    let paths = [path];
    for host in ["one", "two"] {
        assert_eq!(both.dumps(host, &paths).len(), 1, "{host}");
    }
}

#[tokio::test]
async fn what_is_read_ahead_is_checked_too() {
    let one = Store::new();
    let path = flat(&[&one], 1000);
    one.falsify(&path, None, "evil");
    let other = one.add_text("other", "text", &[]);
    let alone = setup(&[(&one, 0.0, None)]);
    let paths = [other, path];
    alone.expect(&paths).await;
    let (_, result) = alone.fetch(&paths[0]).await;
    assert!(result.is_ok(), "{:?}", result.err());
    is_refused(&alone, &one, &paths[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_ones_are_checked_before_their_end() {
    for shells in [false, true] {
        let one = Store::new();
        let path = flat(&[&one], 20 << 20);
        one.falsify(&path, None, vec![7; 20 << 20]);
        let alone = setup_as(&[(&one, 0.0, None)], 0, shells);
        is_refused(&alone, &one, &path).await;
    }
}

#[tokio::test]
async fn the_reason_stays_with_the_host_that_is_not_asked_again() {
    let one = Store::new();
    let path = flat(&[&one], 1000);
    one.falsify(&path, None, "evil");
    let other = one.add_text("other", "text", &[]);
    let alone = setup(&[(&one, 0.0, None)]);
    let paths = [other, path];
    alone.expect(&paths).await;
    let (_, result) = alone.fetch(&paths[0]).await;
    assert!(result.is_ok(), "{:?}", result.err());
    // Readahead meets it first, the command itself only later, and others after that.
    for _ in 0..2 {
        let (_, result) = alone.fetch(&paths[1]).await;
        let line = report::line(&result.unwrap_err().error);
        for words in [
            "one: sent ",
            "with the wrong content: expected a file whose contents",
            ", got ",
            "not asked for it again",
            "(hint: ",
            "nix-store --repair-path ",
        ] {
            assert!(line.contains(words), "{words}: {line}");
        }
    }
    assert_eq!(alone.dumps("one", &paths[1..]).len(), 1);
}
