//! Our own disk is full: the front end of Nix 1.x restores paths itself, and Nix 2 has its store on such a disk.

use std::fs;
use std::path::Path;

use crate::hosts::World;
use crate::run::Caller;
use crate::support::{SHORT, Scratch, Tiny, program, run_with_timeout};

/// `--substitute PATH DEST`, as Nix 1.x calls it; with a limit in KiB for each file in place of a full disk.
fn substitute(
    caller: &Caller,
    path: &str,
    dest: &Path,
    limit: Option<u64>,
) -> (bool, String, String) {
    // Ignored, the signal becomes an error of the write.
    let blocks = limit.map_or("unlimited".to_owned(), |kib| (2 * kib).to_string());
    let script = r#"trap "" XFSZ; ulimit -f "$0"; exec "$@""#;
    let mut command = caller.nix.store().env().command("/bin/sh");
    command
        .env("SSH_SUBSTITUTER_RUNTIME_DIR", caller.runtime())
        .args(["-c", script, &blocks])
        .arg(program())
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
    let caller = Caller::new(&world.urls(), None);
    let mut cases = 0;
    for path in [&world.closure.small[4], &world.closure.large[0]] {
        // One file and its folder. A page is the smallest room, and the folders of tmpfs take none.
        let whole = world.size(path) / 1024;
        for kib in [4, whole / 2, whole - 8] {
            let scratch = Scratch::new();
            let tiny = Tiny::new(scratch.folder("tiny"), &format!("{kib}k"));
            let folder = scratch.path().join("tiny");
            let dest = folder.join("dest");
            let limit = tiny.is_none().then_some(kib);
            let (success, stdout, stderr) = substitute(&caller, path, &dest, limit);
            assert!(!success, "{path} into {kib} KiB:\n{stderr}");
            assert_eq!(stdout, "\n", "one line, so that Nix goes on elsewhere");
            let full = ["File too large", "No space left"][usize::from(tiny.is_some())];
            assert!(stderr.contains(full), "{stderr}");
            assert_eq!(entries(&folder), 0, "{path} into {kib} KiB: left-overs");
            if let Some(tiny) = &tiny {
                tiny.grow("64m");
            }
            let (success, stdout, stderr) = substitute(&caller, path, &dest, None);
            assert!(success, "{stderr}");
            assert!(stdout.starts_with("\nsha256:"), "{stdout}");
            assert!(dump(&caller, &dest) == world.hosts[0].store.nar(path));
            cases += 1;
        }
    }
    hang_up(world);
    cases
}

/// Nix's own store is on the full disk: Nix fails, and once there is room it succeeds. Whether it could be tried.
pub fn fills_up_under_nix(world: &World) -> bool {
    let caller = Caller::new(&world.urls(), None);
    let root = caller.nix.store().root().to_owned();
    let targets = [&world.closure.small[..], &world.closure.large].concat();
    let Some(tiny) = Tiny::new(root.clone(), "5m") else {
        return false;
    };
    fs::create_dir_all(root.join("nix/store")).expect("make the folder of a store");
    let ran = caller.realise(&targets);
    assert!(!ran.success());
    assert!(ran.stderr().contains("No space left"), "{}", ran.stderr());
    tiny.grow("64m");
    let ran = caller.realise(&targets);
    assert!(ran.success(), "{}", ran.stderr());
    let hashes: Vec<String> = targets.iter().map(|path| world.hash(path)).collect();
    caller.has(&targets, &hashes).expect("all is there");
    hang_up(world);
    true
}

fn hang_up(world: &World) {
    for host in &world.hosts {
        host.hang_up();
    }
}
