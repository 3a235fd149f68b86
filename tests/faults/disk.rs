//! Our own disk is full: the door of Nix 1.x restores paths itself, and Nix 2 has its store on such a disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::hosts::World;
use crate::run::Caller;
use crate::support::{SHORT, Scratch, is_root, program, run, run_with_timeout, tool};

/// A small file system of its own. Only root can make one.
struct Tiny(PathBuf);

impl Tiny {
    fn new(folder: PathBuf, kib: u64) -> Self {
        mount(&format!("size={kib}k"), &folder);
        Self(folder)
    }

    fn grow(&self) {
        mount("remount,size=64m", &self.0);
    }
}

fn mount(options: &str, folder: &Path) {
    let mut command = Command::new(tool("mount"));
    command
        .args(["-t", "tmpfs", "-o", options, "tmpfs"])
        .arg(folder);
    run(command, SHORT);
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let mut command = Command::new(tool("umount"));
        command.arg("--lazy").arg(&self.0);
        let _ = run_with_timeout(command, SHORT);
    }
}

/// `--substitute PATH DEST`, as Nix 1.x calls it.
fn substitute(caller: &Caller, path: &str, dest: &Path) -> (bool, String, String) {
    let mut command = caller.nix.store().env().command(program());
    command
        .env("SSH_SUBSTITUTER_RUNTIME_DIR", caller.runtime())
        .args(["--substitute", path])
        .arg(dest);
    let output = run_with_timeout(command, SHORT);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (
        output.status.success(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// The NAR of what was restored.
fn dump(caller: &Caller, dest: &Path) -> Vec<u8> {
    let mut command = caller.nix.store().env().command("nix-store");
    command.arg("--dump").arg(dest);
    run_with_timeout(command, SHORT).stdout
}

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).expect("read a folder").count()
}

/// Restores small and large paths where there is room for only the first bytes, the half, all but the last bytes; gives
/// how many cases there were.
pub fn fills_up_at_every_place(world: &World) -> usize {
    assert!(is_root(), "only root can mount a small file system");
    let caller = Caller::new(&world.urls(), None);
    let mut cases = 0;
    for path in [&world.closure.small[4], &world.closure.large[0]] {
        // One file and its folder. A page is the smallest room, and the folders of tmpfs take none.
        let whole = world.size(path) / 1024;
        for kib in [4, whole / 2, whole - 8] {
            let scratch = Scratch::new();
            let tiny = Tiny::new(scratch.folder("tiny"), kib);
            let dest = tiny.0.join("dest");
            let (success, stdout, stderr) = substitute(&caller, path, &dest);
            assert!(!success, "{path} into {kib} KiB:\n{stderr}");
            assert_eq!(stdout, "\n", "one line, so that Nix goes on elsewhere");
            assert!(stderr.contains("No space left"), "{stderr}");
            assert_eq!(entries(&tiny.0), 0, "{path} into {kib} KiB: left-overs");
            tiny.grow();
            let (success, stdout, stderr) = substitute(&caller, path, &dest);
            assert!(success, "{stderr}");
            assert!(stdout.starts_with("\nsha256:"), "{stdout}");
            assert!(dump(&caller, &dest) == world.hosts[0].store.nar(path));
            cases += 1;
        }
    }
    hang_up(world);
    cases
}

/// Nix's own store is on the full disk: Nix fails, and once there is room it succeeds.
pub fn fills_up_under_nix(world: &World) {
    let caller = Caller::new(&world.urls(), None);
    let root = caller.nix.store().root().to_owned();
    let targets = [&world.closure.small[..], &world.closure.large].concat();
    let tiny = Tiny::new(root.clone(), 5 << 10);
    fs::create_dir_all(root.join("nix/store")).expect("make the folder of a store");
    let ran = caller.realise(&targets);
    assert!(!ran.success());
    assert!(ran.stderr().contains("No space left"), "{}", ran.stderr());
    tiny.grow();
    let ran = caller.realise(&targets);
    assert!(ran.success(), "{}", ran.stderr());
    let hashes: Vec<String> = targets.iter().map(|path| world.hash(path)).collect();
    caller.has(&targets, &hashes).expect("all is there");
    hang_up(world);
}

fn hang_up(world: &World) {
    for host in &world.hosts {
        host.hang_up();
    }
}
