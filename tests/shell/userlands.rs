//! Hosts whose tools are not GNU's: busybox, as in Alpine Linux, and what BSD's manual pages say of theirs.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::site::{Site, list, parse};
use super::support::{Scratch, Sshd, Store, tool};
use super::{MIB, read, reads_all};

/// What is asked of a host's tools.
const TOOLS: [&str; 13] = [
    "cat",
    "dd",
    "find",
    "head",
    "ls",
    "mkfifo",
    "mktemp",
    "printf",
    "readlink",
    "sha256sum",
    "stat",
    "tail",
    "xargs",
];

/// A folder with busybox under these names, its shell among them, and zstd.
fn busybox(without: &[&str]) -> Scratch {
    let folder = Scratch::new();
    for name in TOOLS.iter().chain(&["sh"]) {
        if !without.contains(name) {
            symlink(tool("busybox"), folder.path().join(name)).unwrap();
        }
    }
    symlink(tool("zstd"), folder.path().join("zstd")).unwrap();
    folder
}

fn site(tools: &Scratch) -> Site {
    Site::new(Sshd::builder().env("PATH", tools.path().to_str().unwrap()))
}

/// Replaces a tool.
fn put_script(folder: &Path, name: &str, script: &str) {
    let file = folder.join(name);
    let _ = fs::remove_file(&file);
    fs::write(&file, format!("#!{}\n{script}\n", tool("sh").display())).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
}

/// Paths come in parts, with their digests; their names are found; what cannot be in a NAR is refused.
async fn does_all(site: &Site) {
    let path = site.odd();
    reads_all(site, &path).await;
    let mut shell = site.shell().await;
    assert!(!shell.can_compare());
    let layout = list(&mut shell, &path).await;
    shell.request_digest(&layout.segment(0, u64::MAX));
    assert!(shell.digest().await.unwrap().is_some());
    let hashes = [(&parse(&path)).into()];
    let names = shell.names("/nix/store", &hashes);
    assert_eq!(names.await.unwrap(), [parse(&path)]);
    let sample = shell.sample("/nix/store").await.unwrap();
    let sampled = sample
        .iter()
        .any(|(_, paths)| paths.contains(&parse(&path)));
    assert!(sampled, "{sample:?}");
    links_alone(&site.store, &mut shell).await;
}

/// A path that is a link, one that has gone, and a pipe.
async fn links_alone(store: &Store, shell: &mut ssh_substituter::remote::Shell) {
    let mut random = super::Random::new(5, "links");
    let (link, pipe) = (random.store_path("link"), random.store_path("pipe"));
    store.add_made(link.clone(), |to| symlink("a\nb c", to).unwrap());
    let layout = list(shell, &link).await;
    assert!(read(shell, &layout, MIB, 1).await == store.nar(&link));
    let absent = parse("/nix/store/00000000000000000000000000000000-absent");
    assert!(shell.list(&absent).await.unwrap().is_none());
    let mut mkfifo = std::process::Command::new(tool("mkfifo"));
    mkfifo.arg(store.physical(&pipe));
    super::support::run(mkfifo, super::support::SHORT);
    assert!(shell.list(&parse(&pipe)).await.unwrap().is_none());
    assert!(shell.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn busybox_will_do() {
    does_all(&site(&busybox(&[]))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_will_what_bsd_has() {
    let tools = busybox(&["dd"]);
    // stat(1) of FreeBSD and macOS: `-f FORMAT`, where `%Xp` is the mode in hexadecimal and `%z` the size.
    let real = tool("stat");
    let script = format!(
        "[ \"$1$2\" = '-f%Xp %z' ]||exit 1\nshift 2\nexec {} -c '%f %s' \"$@\"",
        real.display()
    );
    put_script(tools.path(), "stat", &script);
    // find(1) there has no -printf; dd(1) of macOS no iflag.
    put_script(
        tools.path(),
        "dd",
        "echo 'dd: unknown operand iflag' >&2\nexit 1",
    );
    does_all(&site(&tools)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_neither_is_none() {
    for missing in ["stat", "xargs", "find", "head", "cat"] {
        let reason = site(&busybox(&[missing])).none().await;
        assert!(reason.contains("busybox's"), "{missing}: {reason}");
    }
}
