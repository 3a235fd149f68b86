//! A host whose disk is full.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::{Host, SHORT, run_with_timeout, tool};
use super::{Site, parts, verified};

/// A small file system of its own. Only root can make one, and not in every container.
struct Tiny(PathBuf);

impl Tiny {
    fn new(folder: PathBuf, mib: u64) -> Option<Self> {
        mount(&format!("size={mib}m"), &folder).then_some(Self(folder))
    }

    fn grow(&self) {
        assert!(mount("remount,size=400m", &self.0), "grow a file system");
    }
}

fn mount(options: &str, folder: &Path) -> bool {
    let mut command = Command::new(tool("mount"));
    command
        .args(["-t", "tmpfs", "-o", options, "tmpfs"])
        .arg(folder);
    run_with_timeout(command, SHORT).status.success()
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let mut command = Command::new(tool("umount"));
        command.arg("--lazy").arg(&self.0);
        let _ = run_with_timeout(command, SHORT);
    }
}

#[test]
fn a_full_disk_is_told_once_and_what_has_come_stays() {
    let host = Host::new();
    let folder = host.store.root().join("nix");
    let Some(tiny) = Tiny::new(folder.clone(), 40) else {
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
    tiny.grow();
    let there = verified(site.there()).len();
    assert!(there < 41);
    let got = site.push(&[&dag.root]).status(0);
    got.says(&[&format!("; {there} were there")]);
    assert_eq!(verified(site.there()), site.store.all_paths());
}
