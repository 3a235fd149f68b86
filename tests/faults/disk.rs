//! Our own disk is full: the front end of Nix 1.x restores paths itself, and Nix 2 has its store on such a disk.

use std::fs;
use std::path::Path;

use crate::hosts::World;
use crate::run::Caller;
use crate::support::{Host, Masters, NixEnv, SHORT, Scratch, Tiny, program, run_with_timeout};

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

/// The ways in which paths come that are not whole: as differences, compressed, made from what is here.
pub struct Beside {
    host: Host,
    env: NixEnv,
    _masters: Masters,
    /// Each with an older version, the smaller one first.
    paths: Vec<(String, String)>,
}

impl Beside {
    pub fn new() -> Self {
        let (host, env) = (Host::new(), NixEnv::new());
        let store = &host.store;
        let built = [1, 2].map(|number| store.build("tool-1.0", number));
        let rebuilt = [1, 2].map(|number| store.package(number, 12_000_000, ""));
        let ways = "trusted=true&compression=zstd&delta=always";
        env.configure(&[host.url(ways)], "");
        Self {
            _masters: env.masters(),
            paths: [built, rebuilt].map(Into::into).to_vec(),
            host,
            env,
        }
    }

    /// `get --to FOLDER PATH`: whether it succeeded, and what it said.
    fn get(&self, folder: &Path, path: &str) -> (bool, String) {
        let mut command = self.env.program();
        command.args(["get", "--to"]).arg(folder).arg(path);
        let output = run_with_timeout(command, SHORT);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    }

    fn is_right(&self, folder: &Path, path: &str) -> bool {
        let mut command = self.env.command("nix-store");
        command.arg("--dump");
        command.arg(folder.join(path.trim_start_matches('/')));
        run_with_timeout(command, SHORT).stdout == self.host.store.nar(path)
    }

    /// The disk of the destination fills up beside the older version; gives how many cases there were.
    pub fn destination_fills_up(&self) -> usize {
        let mut cases = 0;
        for (old, new) in &self.paths {
            let size = self.host.store.nar_size(new) / 1024;
            for room in [64, size / 2, size - 64] {
                let scratch = Scratch::new();
                let folder = scratch.folder("tiny");
                // As much again for folders, locks and what is rounded up.
                let Some(tiny) = Tiny::new(folder.clone(), "64m") else {
                    return cases;
                };
                let (success, said) = self.get(&folder, old);
                assert!(success, "{said}");
                let used = used(&folder);
                tiny.grow(&format!("{}k", used + room));
                let (success, said) = self.get(&folder, new);
                assert!(!success, "{new} into {room} KiB: {said}");
                assert!(said.contains("No space left"), "{said}");
                assert!(!folder.join(new.trim_start_matches('/')).exists());
                let left = self::used(&folder) - used;
                assert!(
                    left <= 32,
                    "{new} into {room} KiB: {left} KiB are left over"
                );
                assert!(self.is_right(&folder, old), "the older one is as it was");
                tiny.grow("64m");
                let (success, said) = self.get(&folder, new);
                assert!(success, "{said}");
                assert!(self.is_right(&folder, new));
                cases += 1;
            }
        }
        cases
    }

    /// The disk of the cache folder is full from the beginning, or fills up with what is written there: nothing is lost but
    /// time. Whether it could be tried.
    pub fn cache_is_full(&self) -> bool {
        for size in ["16k", "200k", "3m"] {
            let scratch = Scratch::new();
            let (cache, out) = (scratch.folder("cache"), scratch.path().join("out"));
            let Some(_tiny) = Tiny::new(cache.clone(), size) else {
                return false;
            };
            for (old, new) in &self.paths {
                for path in [old, new] {
                    let mut command = self.env.program();
                    command.env("SSH_SUBSTITUTER_CACHE_DIR", cache.join("own"));
                    command.args(["get", "--to"]).arg(&out).arg(path);
                    let output = run_with_timeout(command, SHORT);
                    let said = String::from_utf8_lossy(&output.stderr);
                    assert!(output.status.success(), "{size}: {said}");
                    assert!(self.is_right(&out, path), "{size}: {path}");
                }
            }
        }
        true
    }
}

/// How much of a file system is used, in KiB.
fn used(folder: &Path) -> u64 {
    let stat = rustix::fs::statvfs(folder).expect("look at a file system");
    (stat.f_blocks - stat.f_bfree) * stat.f_frsize / 1024
}

fn hang_up(world: &World) {
    for host in &world.hosts {
        host.hang_up();
    }
}
