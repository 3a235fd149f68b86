//! Answers are byte for byte those of `nix-store --serve`.

use std::collections::BTreeSet;
use std::fs;

use ssh_substituter::local_store::{LocalStore, LocalStoreError, StoreLayout};
use ssh_substituter::model::{PathInfo, StorePath};
use ssh_substituter::wire::{Cursor, put_string, put_u64};

use crate::store::Store;

const UNKNOWN: &str = "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-unknown";

struct Fixture {
    store: Store,
    /// Everything that was made, and a path that was not.
    all: Vec<StorePath>,
    drv: StorePath,
    out: StorePath,
}

/// A store with every kind of path there is.
fn fixture() -> Fixture {
    let store = Store::new();
    let flat = store.dir().join("flat.txt");
    fs::write(&flat, "flat").unwrap();
    let flat = store.nix(
        "nix-store",
        &["--add-fixed", "sha256", flat.to_str().unwrap()],
    );
    let recursive = store.add("tree", |path| {
        fs::create_dir(path).unwrap();
        fs::write(path.join("file"), "x").unwrap();
    });
    // The derivation is text, and refers to another text.
    let drv = store.nix(
        "nix-instantiate",
        &[
            "-E",
            r#"derivation {
                name = "thing"; system = "x86_64-linux"; builder = "/bin/sh";
                outputs = [ "out" "dev" "doc" ]; src = builtins.toFile "text" "hello";
            }"#,
        ],
    );
    let drv = StorePath::parse(&drv).unwrap();
    // Outputs as a build would have left them; "doc" is not there.
    let outputs = store.nix("nix-store", &["-q", "--outputs", drv.as_str()]);
    let output = |suffix: &str| {
        let path = outputs.lines().find(|line| line.ends_with(suffix));
        StorePath::parse(path.unwrap()).unwrap()
    };
    let (out, dev) = (output("-thing"), output("-thing-dev"));
    for path in [&out, &dev] {
        fs::write(store.files(path), path.name()).unwrap();
    }
    store.register(&[
        (&out, drv.as_str(), &[&recursive, &out]),
        (&dev, drv.as_str(), &[&out]),
    ]);
    for name in ["z.example-1", "a.example-1", "m.example-2"] {
        let key = store.dir().join(name);
        let (secret, public) = (key.to_str().unwrap(), format!("{}.pub", key.display()));
        store.nix(
            "nix-store",
            &["--generate-binary-cache-key", name, secret, &public],
        );
        store.nix(
            "nix",
            &[
                "--extra-experimental-features",
                "nix-command",
                "store",
                "sign",
                "--key-file",
                secret,
                out.as_str(),
            ],
        );
    }
    let mut all = vec![StorePath::parse(UNKNOWN).unwrap()];
    let listed = fs::read_dir(store.root().join("nix/store")).unwrap();
    for entry in listed {
        let name = entry.unwrap().file_name().into_string().unwrap();
        all.extend(StorePath::parse(&format!("/nix/store/{name}")));
    }
    assert!(all.contains(&StorePath::parse(&flat).unwrap()));
    Fixture {
        store,
        all,
        drv,
        out,
    }
}

fn put_paths(out: &mut Vec<u8>, paths: &[StorePath]) {
    put_u64(out, paths.len() as u64);
    for path in paths {
        put_string(out, path.as_str().as_bytes());
    }
}

fn put_infos(out: &mut Vec<u8>, infos: &[PathInfo]) {
    for info in infos {
        put_string(out, info.path.as_str().as_bytes());
        let deriver = info.deriver.as_ref().map_or("", |path| path.as_str());
        put_string(out, deriver.as_bytes());
        put_paths(out, &info.references);
        put_u64(out, info.download_size);
        put_u64(out, info.nar_size);
        put_string(out, info.nar_hash.unwrap().to_string().as_bytes());
        put_string(out, info.ca.as_deref().unwrap_or_default().as_bytes());
        put_u64(out, info.sigs.len() as u64);
        for sig in &info.sigs {
            put_string(out, sig.as_bytes());
        }
    }
    put_string(out, b"");
}

#[test]
fn a_derivation_has_the_outputs_that_were_built() {
    let Fixture {
        store, drv, out, ..
    } = fixture();
    let ours = store.open();
    let names = |paths: Vec<StorePath>| paths.iter().map(|path| path.name().to_owned()).collect();
    let built: BTreeSet<String> = names(ours.outputs(&drv).unwrap());
    assert_eq!(built, ["thing", "thing-dev"].map(str::to_owned).into());
    assert_eq!(ours.outputs(&out).unwrap(), []);
    // Of one that was not built all are told, so that what is missing can be named.
    let expression =
        r#"derivation { name = "x"; system = "a"; builder = "/b"; outputs = [ "out" "dev" ]; }"#;
    let other = store.nix("nix-instantiate", &["-E", expression]);
    let other = StorePath::parse(&other).unwrap();
    let unbuilt: BTreeSet<String> = names(ours.outputs(&other).unwrap());
    assert_eq!(unbuilt, ["x", "x-dev"].map(str::to_owned).into());
}

#[test]
fn answers_are_those_of_nix() {
    let Fixture {
        store,
        all,
        drv,
        out,
    } = fixture();
    let ours = store.open();
    let (mut requests, mut want) = (Vec::new(), Vec::new());
    let ask_valid = |paths: &[StorePath], requests: &mut Vec<u8>, want: &mut Vec<u8>| {
        for number in [1, 0, 0] {
            put_u64(requests, number);
        }
        put_paths(requests, paths);
        put_paths(want, &ours.query_valid_paths(paths).unwrap());
    };
    let ask_infos = |paths: &[StorePath], requests: &mut Vec<u8>, want: &mut Vec<u8>| {
        put_u64(requests, 2);
        put_paths(requests, paths);
        put_infos(want, &ours.query_path_infos(paths).unwrap());
    };
    let twice = [&all[..], &all[..]].concat();
    for paths in [&[][..], &all[..], &twice, &all[..1]] {
        ask_valid(paths, &mut requests, &mut want);
        ask_infos(paths, &mut requests, &mut want);
    }
    let valid = ours.query_valid_paths(&all).unwrap();
    assert_eq!(valid.len(), all.len() - 1);
    let singles = valid.iter().map(std::slice::from_ref);
    for paths in singles.chain([&[][..], &valid[..]]) {
        for outputs in [false, true] {
            put_u64(&mut requests, 7);
            put_u64(&mut requests, outputs.into());
            put_paths(&mut requests, paths);
            put_paths(&mut want, &ours.query_closure(paths, outputs).unwrap());
        }
    }
    let got = store.serve(&requests);
    let at = got.iter().zip(&want).take_while(|(a, b)| a == b).count();
    let text = |bytes: &[u8]| bytes[at.saturating_sub(200)..].escape_ascii().to_string();
    assert_eq!(text(&got), text(&want), "differs at {at}");

    // The comparison was about what it should have been about.
    let infos = ours.query_path_infos(&all).unwrap();
    let kinds: BTreeSet<&str> = infos
        .iter()
        .filter_map(|info| info.ca.as_deref())
        .map(|ca| &ca[..ca.rfind(':').unwrap()])
        .collect();
    assert_eq!(
        kinds.into_iter().collect::<Vec<_>>(),
        ["fixed:r:sha256", "fixed:sha256", "text:sha256"]
    );
    let info = infos.iter().find(|info| info.path == out).unwrap();
    assert_eq!(info.sigs.len(), 3);
    assert_eq!(info.deriver.as_ref(), Some(&drv));
    assert!(info.references.contains(&out));
    let closure = ours.query_closure(&[drv], true).unwrap();
    assert!(closure.contains(&out));
}

#[test]
fn a_download_is_as_large_as_the_nar() {
    let store = Store::new();
    let path = store.add("file", |path| fs::write(path, "x").unwrap());
    let mut requests = Vec::new();
    put_u64(&mut requests, 2);
    put_paths(&mut requests, std::slice::from_ref(&path));
    let reply = store.serve(&requests);
    let mut cursor = Cursor::new(&reply);
    assert_eq!(cursor.text("path", 4096), Ok(path.as_str()));
    assert_eq!(cursor.text("deriver", 4096), Ok(""));
    assert_eq!(cursor.u64(), Ok(0));
    assert_eq!(cursor.u64(), Ok(120));
    assert_eq!(cursor.u64(), Ok(120));
}

#[test]
fn an_invalid_root_of_a_closure_is_an_error() {
    let store = Store::new();
    let unknown = StorePath::parse(UNKNOWN).unwrap();
    let error = store.open().query_closure(&[unknown], false).unwrap_err();
    assert!(matches!(&error, LocalStoreError::NotValid { .. }));
    let message = error.to_string();
    assert!(message.contains(UNKNOWN), "{message}");
    assert!(message.contains(store.root().to_str().unwrap()));
}

#[test]
fn a_path_without_its_files_has_its_info() {
    let store = Store::new();
    let path = store.add("file", |path| fs::write(path, "x").unwrap());
    fs::remove_file(store.files(&path)).unwrap();
    let infos = store.open().query_path_infos(&[path]).unwrap();
    assert_eq!(infos.len(), 1);
}

#[test]
fn opens_only_what_it_knows() {
    let dir = tempfile::tempdir().unwrap();
    let error = LocalStore::open(dir.path()).unwrap_err();
    assert!(matches!(error, LocalStoreError::Io { .. }), "{error}");

    let store = Store::new();
    let schema = store.root().join("nix/var/nix/db/schema");
    for text in ["9", "11", "", "ten"] {
        fs::write(&schema, text).unwrap();
        let message = LocalStore::open(&store.root()).unwrap_err().to_string();
        assert!(
            message.contains(&format!("expected 10, got {text:?}")),
            "{message}"
        );
        assert!(message.contains(schema.to_str().unwrap()), "{message}");
    }
    fs::write(&schema, "10").unwrap();
    fs::write(store.db(), "no database, but long enough to look at").unwrap();
    let error = LocalStore::open(&store.root()).unwrap_err();
    assert!(matches!(error, LocalStoreError::Database { .. }), "{error}");
    fs::remove_file(store.db()).unwrap();
    let error = LocalStore::open(&store.root()).unwrap_err();
    assert!(matches!(error, LocalStoreError::Io { .. }), "{error}");
}

/// `serve-local` says why: `tests/odd_stores.rs`.
#[test]
fn nonsense_in_a_row_costs_that_path_only() {
    let store = Store::new();
    let path = store.add("file", |path| fs::write(path, "x").unwrap());
    let other = store.add("other", |path| fs::write(path, "y").unwrap());
    let ours = store.open();
    let both = [path.clone(), other.clone()];
    let found = || {
        let infos = ours.query_path_infos(&both).unwrap();
        infos.into_iter().map(|info| info.path).collect::<Vec<_>>()
    };
    let mut sane = both.to_vec();
    sane.sort();
    let db = rusqlite::Connection::open(store.db()).unwrap();
    for (column_name, value) in [
        ("hash", "'md5:1'"),
        ("hash", "x'ff'"),
        ("hash", "cast(x'ff' as text)"),
        ("deriver", "'x'"),
        ("deriver", "7.5"),
        ("narSize", "-1"),
        ("narSize", "'many'"),
        ("sigs", "x'00'"),
        ("ca", "cast(x'c0' as text)"),
    ] {
        assert_eq!(found(), sane);
        let of_path = |query: &str| {
            let query = format!("{query} where path = ?1");
            db.execute(&query, [path.as_str()]).unwrap();
        };
        let column = |what: &str| {
            let query = format!("select {what} from ValidPaths where path = ?1");
            let value = db.query_row(&query, [path.as_str()], |row| row.get(0));
            value.unwrap()
        };
        let before: rusqlite::types::Value = column(column_name);
        of_path(&format!("update ValidPaths set {column_name} = {value}"));
        assert_eq!(
            found(),
            std::slice::from_ref(&other),
            "{column_name} = {value}"
        );
        db.execute(
            &format!("update ValidPaths set {column_name} = ?1 where path = ?2"),
            (before, path.as_str()),
        )
        .unwrap();
    }
}

#[test]
fn another_layout_is_found() {
    let store = Store::new();
    let path = store.add("file", |path| fs::write(path, "x").unwrap());
    fs::rename(store.root().join("nix/var/nix"), store.root().join("state")).unwrap();
    let layout = StoreLayout {
        state_dir: "/state".to_owned(),
        ..StoreLayout::default()
    };
    let ours = LocalStore::open_with(&store.root(), layout).unwrap();
    assert_eq!(
        ours.query_valid_paths(std::slice::from_ref(&path)).unwrap(),
        [path]
    );
}
