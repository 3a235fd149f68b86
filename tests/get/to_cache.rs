//! Into a binary cache, which the real Nix then substitutes from.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::support::{DagOptions, Nix};
use super::{Site, names, text};

fn url(folder: &Path) -> String {
    format!("file://{}", folder.display())
}

/// Fields of a narinfo.
fn narinfo(folder: &Path, path: &str) -> BTreeMap<String, String> {
    let hash = &path.rsplit('/').next().unwrap()[..32];
    let text = fs::read_to_string(folder.join(format!("{hash}.narinfo"))).unwrap();
    let field = |line: &str| {
        let (name, value) = line.split_once(": ").expect("NAME: VALUE");
        (name.to_owned(), value.to_owned())
    };
    text.lines().map(field).collect()
}

#[test]
fn nix_substitutes_from_it_with_signatures_required() {
    let site = Site::new(1);
    let dag = site.store().dag(40, DagOptions::default());
    let big = site.store().big("big", 9 << 20);
    let key = site.store().sign_all("cache.example.org-1");
    site.configure("", &format!("trusted-public-keys = {key}"));
    let folder = site.folder("cache");
    let got = site
        .get(&["--to", &url(&folder), &dag.root, &big])
        .status(0);
    assert_eq!(got.stdout(), format!("{}\n{big}\n", dag.root));
    got.says(&["fetched 41 paths"]);
    let info = fs::read_to_string(folder.join("nix-cache-info")).unwrap();
    assert_eq!(info, "StoreDir: /nix/store\nWantMassQuery: 1\n");
    let fields = narinfo(&folder, &dag.root);
    assert_eq!(fields["Compression"], "zstd");
    assert_eq!(fields["NarHash"], site.store().nar_hash(&dag.root));
    assert_eq!(
        names(&folder)
            .iter()
            .filter(|name| name.starts_with('.'))
            .count(),
        0
    );

    let nix = Nix::new().substituters(&url(&folder)).trust(&key);
    nix.realise(&[&dag.root, &big]).ok();
    nix.store().verify();
    for path in &dag.paths {
        assert!(nix.store().is_valid(path));
        assert_eq!(nix.store().references(path), site.store().references(path));
    }
    let copied = Nix::new().trust(&key);
    copied
        .copy_from(&url(&folder), &[&dag.root, &big], &[])
        .ok();
    copied.store().verify();
    // Nix itself checks: with another key it takes nothing.
    let other = Nix::new().substituters(&url(&folder));
    other.realise(&[&dag.root]).failed();
}

#[test]
fn what_proves_itself_needs_no_signature() {
    let site = Site::new(1);
    let store = site.store();
    let text = store.add_text("text", "some text", &[]);
    let with_reference = store.add_text("with-reference", "more", &[&text]);
    let source = store.env().folder().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    let [dir, flat] = [store.add_dir(&source), store.add_flat(&source.join("file"))];
    site.configure("", "");
    let folder = site.folder("cache");
    let paths = [with_reference.as_str(), &dir, &flat];
    let to = url(&folder);
    let args = [&["--to", &to], &paths[..]].concat();
    site.get(&args).status(0);
    for path in paths {
        assert!(narinfo(&folder, path).contains_key("CA"), "{path}");
    }
    let nix = Nix::new().substituters(&url(&folder));
    nix.realise(&paths).ok();
    nix.store().verify();
}

#[test]
fn what_is_there_is_not_fetched_again_and_what_is_broken_is() {
    let site = Site::new(1);
    let dag = site.store().dag(20, DagOptions::default());
    let folder = site.folder("cache");
    let to = url(&folder);
    site.get(&["--to", &to, &dag.paths[10]]).status(0);
    // An administrator's own words stay.
    let own = "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 10\n";
    fs::write(folder.join("nix-cache-info"), own).unwrap();
    let before = names(&folder).len();
    site.get(&["--to", &to, &dag.root]).status(0);
    assert!(names(&folder).len() > before);
    assert_eq!(
        fs::read_to_string(folder.join("nix-cache-info")).unwrap(),
        own
    );

    site.hosts[0].sshd.freeze();
    let got = site.get(&["--to", &to, &dag.root]).status(0);
    assert_eq!(got.stdout(), format!("{}\n", dag.root));
    got.says(&["fetched 0 paths", "; 20 were there"]);
    site.hosts[0].sshd.thaw();

    // A file of the wrong size, one that is gone, a narinfo that is cut.
    let nar = |index: usize| folder.join(&narinfo(&folder, &dag.paths[index])["URL"]);
    fs::write(nar(3), "x").unwrap();
    fs::remove_file(nar(4)).unwrap();
    let hash = &dag.paths[5].rsplit('/').next().unwrap()[..32];
    fs::write(folder.join(format!("{hash}.narinfo")), "StorePath: ").unwrap();
    // What a run that was killed may leave.
    fs::write(folder.join(".ssh-substituter-1-2"), "x").unwrap();
    fs::write(folder.join("nar/.ssh-substituter-1-2"), "x").unwrap();
    let got = site.get(&["--to", &to, &dag.root]).status(0);
    got.says(&["fetched 3 paths", "; 17 were there"]);
    for folder in [&folder, &folder.join("nar")] {
        assert!(names(folder).iter().all(|name| !name.starts_with('.')));
    }
    let nix = Nix::new().substituters(&to).option("require-sigs", "false");
    nix.realise(&[&dag.root]).ok();
    nix.store().verify();
}

#[test]
fn a_cache_for_another_store_is_left_alone() {
    let site = Site::new(1);
    let path = site.store().add_text("text", "text", &[]);
    let folder = site.folder("cache");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("nix-cache-info"), "StoreDir: /gnu/store\n").unwrap();
    let got = site.get(&["--to", &url(&folder), &path]).status(1);
    got.says(&["is a binary cache for paths in /gnu/store: expected /nix/store"]);
    assert_eq!(names(&folder.join("nar")), [""; 0]);
    let got = site
        .get(&["--to", "https://cache.example.org", &path])
        .status(2);
    got.says(&["expected a folder or file:///FOLDER"]);
    assert!(!Path::new(text(&site.env.folder().join("https:"))).exists());
}
