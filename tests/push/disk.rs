//! A host whose disk is full.

use super::support::{Host, Tiny};
use super::{Site, parts, verified};

#[test]
fn a_full_disk_is_told_once_and_what_has_come_stays() {
    let host = Host::new();
    let folder = host.store.root().join("nix");
    let Some(tiny) = Tiny::new(folder.clone(), "40m") else {
        return;
    };
    std::fs::create_dir_all(folder.join("store")).unwrap();
    let site = Site::of(vec![host]);
    let dag = parts(&site.store, 40, 3_000_000);
    let got = site.push(&[&dag.root]).status(4);
    let said = got.stderr();
    assert_eq!(said.matches("takes no paths: ").count(), 1, "{said}");
    assert!(said.contains("make room there"), "{said}");
    assert!(said.lines().count() < 8, "{said}");
    tiny.grow("400m");
    let there = verified(site.there()).len();
    assert!(there < 41);
    let got = site.push(&[&dag.root]).status(0);
    got.says(&[&format!("; {there} were there")]);
    assert_eq!(verified(site.there()), site.store.all_paths());
}
