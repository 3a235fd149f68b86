//! Parts of NARs through shells: real sshd, real login shells, real stores.

#[path = "shell/digests.rs"]
mod digests;
#[path = "shell/moved.rs"]
mod moved;
#[path = "shell/site.rs"]
mod site;
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use site::{OPTIONS, Site, list, parse, read};
use ssh_substituter::config::host::Host as Spec;
use ssh_substituter::hint::Hint;
use ssh_substituter::pool::{HostStore, Limits, Pool};
use ssh_substituter::remote::{RemoteErrorKind, Shell, ShellError, open_shell};
use ssh_substituter::transport::ProcessTransport;
use support::{Random, RuntimeDir, Sshd, SshdBuilder, Store, TempUser, tool};

const MIB: u64 = 1 << 20;

async fn reads_all(site: &Site, path: &str) {
    let mut shell = site.shell().await;
    let want = site.store.nar(path);
    for (len, ahead) in [(4 * MIB, 3), (1_000_003, 1), (u64::MAX, 1)] {
        let layout = list(&mut shell, path).await;
        assert_eq!(layout.nar_size(), site.store.nar_size(path));
        let got = read(&mut shell, &layout, len, ahead).await;
        assert!(got == want, "differs in parts of {len}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_names_and_a_large_file_come_as_nix_dumps_them() {
    let site = Site::new(Sshd::builder());
    let path = site.odd();
    reads_all(&site, &path).await;
    // Small enough that parts begin and end anywhere in the framing.
    let small = site.store.many_files(60);
    let mut shell = site.shell().await;
    let layout = list(&mut shell, &small).await;
    let got = read(&mut shell, &layout, 101, 8).await;
    assert!(got == site.store.nar(&small));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_can_be_a_single_file_or_a_symlink_or_empty() {
    let site = Site::new(Sshd::builder());
    let mut random = Random::new(1, "single");
    let file = random.store_path("file");
    let link = random.store_path("link");
    let (folder, empty) = (random.store_path("folder"), random.store_path("empty"));
    let bytes = random.bytes(300_000);
    site.store
        .add_made(file.clone(), |to| fs::write(to, bytes).unwrap());
    site.store.add_made(link.clone(), |to| {
        std::os::unix::fs::symlink("/etc/passwd", to).unwrap();
    });
    site.store
        .add_made(folder.clone(), |to| fs::create_dir(to).unwrap());
    site.store
        .add_made(empty.clone(), |to| fs::write(to, "").unwrap());
    let mut shell = site.shell().await;
    for path in [&file, &link, &folder, &empty] {
        let layout = list(&mut shell, path).await;
        let got = read(&mut shell, &layout, 100_000, 2).await;
        assert!(got == site.store.nar(path), "{path}");
    }
    let absent = parse("/nix/store/00000000000000000000000000000000-absent");
    assert!(shell.list(&absent).await.unwrap().is_none());
    // Nothing that a NAR can hold.
    let pipe = random.store_path("pipe");
    let mut mkfifo = std::process::Command::new(tool("mkfifo"));
    mkfifo.arg(site.store.physical(&pipe));
    support::run(mkfifo, support::SHORT);
    assert!(shell.list(&parse(&pipe)).await.unwrap().is_none());
    assert!(shell.is_clean());
    list(&mut shell, &file).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn login_shells_of_all_kinds_will_do_and_may_print() {
    for (shell, start_up) in [
        ("bash", ".bashrc"),
        ("fish", ".config/fish/config.fish"),
        ("tcsh", ".tcshrc"),
    ] {
        let user = TempUser::new(shell);
        fs::create_dir_all(user.home().join(".config/fish")).unwrap();
        user.write(start_up, "echo 'Welcome to n=$n; =x'\n");
        let site = Site::new(Sshd::builder().user(&user));
        let path = site.store.many_files(200);
        site.store.give_to(&user);
        let mut open = site.shell().await;
        let layout = list(&mut open, &path).await;
        let got = read(&mut open, &layout, 5000, 4).await;
        assert!(got == site.store.nar(&path), "{shell}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bash_that_is_called_sh_will_do() {
    let site = Site::new(Sshd::builder());
    let path = site.odd();
    let bin = site.sshd.home().join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(tool("bash"), bin.join("sh")).unwrap();
    let transport = ProcessTransport::new(|_| unreachable!())
        .with_shell(move |_| std::process::Command::new(bin.join("sh")));
    let mut shell = open_shell(&transport, &site.spec(), &OPTIONS)
        .await
        .unwrap();
    let layout = list(&mut shell, &path).await;
    let got = read(&mut shell, &layout, 4 * MIB, 3).await;
    assert!(got == site.store.nar(&path));
}

fn forced(command: &str) -> SshdBuilder {
    Sshd::builder().line(format!("ForceCommand {command}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forced_is_no_shell() {
    let nix_store = tool("nix-store");
    let serve = format!("{} --serve --store dummy://", nix_store.display());
    for command in [
        serve.as_str(),
        "/bin/false",
        "internal-sftp",
        "echo no logins today",
        "sh -c 'head -c 200; echo; exit 3'",
    ] {
        let reason = Site::new(forced(command)).none().await;
        assert!(reason.starts_with("no shell: exit status"), "{reason}");
    }
    // Other commands' output is no proof, nor is an endless banner.
    let reason = Site::new(forced("yes")).none().await;
    assert!(reason.contains("too much"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_without_the_tools_is_none() {
    for missing in ["dd", "head", "cat", "find"] {
        let tools = support::Scratch::new();
        for name in ["sh", "dd", "head", "cat", "find"] {
            if name != missing {
                std::os::unix::fs::symlink(tool(name), tools.path().join(name)).unwrap();
            }
        }
        let path = tools.path().to_str().unwrap();
        let site = Site::new(Sshd::builder().env("PATH", path));
        let reason = site.none().await;
        assert!(reason.contains("not like GNU's"), "{missing}: {reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_files_may_be_anywhere_is_not_even_connected_to() {
    let site = Site::new(Sshd::builder());
    let spec = Spec {
        remote_store: Some("unix:///run/nix/socket".into()),
        ..site.spec()
    };
    let error = open_shell(&site.ssh(), &spec, &OPTIONS)
        .await
        .err()
        .unwrap();
    assert!(matches!(error, ShellError::NoShell(none) if none.is_certain));
    assert_eq!(site.sshd.logins(), 0);
}

async fn fails(shell: &mut Shell, path: &str) -> String {
    loop {
        let next = tokio::time::timeout(Duration::from_secs(10), shell.segment());
        match next.await.expect("it hangs") {
            Ok(segment) => assert!(!segment.bytes.is_empty(), "no failure"),
            Err(error) => {
                assert!(!shell.is_clean());
                assert!(shell.segment().await.is_err());
                assert!(
                    matches!(&error.kind, RemoteErrorKind::NotAsListed { path: p, .. } if p.as_str() == path),
                    "{error}"
                );
                return error.to_string();
            }
        }
    }
}

/// What happens to a file.
type Change<'a> = (&'a str, &'a dyn Fn(&Path));

#[tokio::test(flavor = "multi_thread")]
async fn files_that_change_after_the_listing_fail_at_once() {
    let site = Site::new(Sshd::builder());
    let cut = |file: &Path, len| {
        let opened = fs::OpenOptions::new().write(true).open(file).unwrap();
        opened.set_len(len).unwrap();
    };
    let changes: [Change<'_>; 5] = [
        ("shorter", &|file| cut(file, 9 * MIB)),
        ("empty", &|file| cut(file, 0)),
        ("gone", &|file| fs::remove_file(file).unwrap()),
        ("folder", &|file| {
            fs::remove_file(file).unwrap();
            fs::create_dir(file).unwrap();
        }),
        ("collected", &|file| {
            fs::remove_dir_all(file.parent().unwrap()).unwrap();
        }),
    ];
    // Before anything is read, and in the middle; as it is, and compressed.
    for (already, level) in [(0, None), (1, None), (0, Some(1)), (1, Some(1))] {
        for (name, change) in changes {
            let size = 20 * MIB + already + u64::from(level.unwrap_or(0)) * 2;
            let path = site.store.big(name, size);
            let file = site.store.physical(&path).join("data");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
            fs::set_permissions(file.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
            let mut shell = site.shell().await;
            let layout = list(&mut shell, &path).await;
            let mut segments = layout.segments(0, 4 * MIB);
            for segment in segments.by_ref().take(usize::try_from(already).unwrap()) {
                shell.request(&segment, level);
                shell.segment().await.unwrap();
            }
            change(&file);
            for segment in segments {
                shell.request(&segment, level);
            }
            let message = fails(&mut shell, &path).await;
            assert!(message.contains("changed while it was read"), "{message}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_grows_and_a_link_that_is_cut_fail_too() {
    let site = Site::new(Sshd::builder());
    let path = site.store.many_files(300);
    let grows = site.store.physical(&path).join("d0/e0/f20");
    fs::set_permissions(&grows, fs::Permissions::from_mode(0o644)).unwrap();
    let mut shell = site.shell().await;
    let layout = list(&mut shell, &path).await;
    fs::write(&grows, "now it is longer than it was before").unwrap();
    shell.request(&layout.segment(0, u64::MAX), None);
    let message = fails(&mut shell, &path).await;
    assert!(message.contains("other lengths"), "{message}");

    let big = site.store.big("big", 40 * MIB);
    let mut shell = site.shell().await;
    let layout = list(&mut shell, &big).await;
    shell.request(&layout.segment(0, u64::MAX), None);
    let meter = shell.meter();
    tokio::time::timeout(Duration::from_millis(1), shell.segment())
        .await
        .ok();
    site.sshd.cut_connections();
    let error = shell.segment().await.unwrap_err();
    assert!(
        matches!(error.kind, RemoteErrorKind::Disconnected { .. }),
        "{error}"
    );
    assert_eq!(meter.load(Ordering::Relaxed), shell.received());
}

#[derive(Default)]
struct Memory {
    has: Mutex<Option<bool>>,
    saved: AtomicUsize,
}

impl HostStore for Memory {
    fn has_shell(&self, _: &str) -> Option<bool> {
        *self.has.lock().unwrap()
    }

    fn set_has_shell(&self, _: &str, has_shell: bool) {
        self.saved.fetch_add(1, Ordering::SeqCst);
        *self.has.lock().unwrap() = Some(has_shell);
    }
}

fn pool(site: &Site, store: Option<Arc<Memory>>) -> Arc<Pool> {
    let limits = Limits {
        connect: Duration::from_secs(20),
        silence: Duration::from_secs(20),
        hedge: Duration::from_secs(20),
    };
    let notify = Arc::new(|error: &(dyn Hint + 'static)| panic!("{error}"));
    let store = store.map(|store| store as Arc<dyn HostStore>);
    let hosts = vec![site.spec()];
    let pool = Pool::new(hosts, Arc::new(site.ssh()), limits, notify, store);
    Arc::new(pool)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_keeps_shells_and_remembers_who_has_one() {
    let site = Site::new(Sshd::builder());
    let path = site.store.add_text("text", "text", &[]);
    let memory = Arc::new(Memory::default());
    let pool = pool(&site, Some(memory.clone()));
    let id = pool.hosts().next().unwrap();
    let (one, two) = tokio::join!(pool.shell(id), pool.shell(id));
    let (mut one, mut two) = (one.unwrap().unwrap(), two.unwrap().unwrap());
    let listed = one
        .list(&ssh_substituter::model::StorePath::parse(&path).unwrap())
        .await;
    let layout = listed.unwrap().expect("a listing");
    two.request(&layout.segment(0, u64::MAX), Some(3));
    // Dropped with something owed: it is closed.
    drop(two);
    drop(one);
    let sessions = site.sshd.sessions();
    let again = pool.shell(id).await.unwrap().unwrap();
    assert_eq!(site.sshd.sessions(), sessions);
    let _second = pool.shell(id).await.unwrap().unwrap();
    assert_eq!(site.sshd.sessions(), sessions + 1);
    drop(again);
    assert_eq!(memory.has_shell(""), Some(true));
    assert_eq!(memory.saved.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_serve_loop_is_asked_once_and_goes_on_serving() {
    let store = Store::new();
    let path = store.add_text("text", "text", &[]);
    let nix_store = tool("nix-store");
    let serve = format!("{} --serve --store '{}'", nix_store.display(), store.uri());
    let site = Site {
        sshd: forced(&serve).start(),
        store,
        runtime: RuntimeDir::new(),
    };
    let memory = Arc::new(Memory::default());
    let first = pool(&site, Some(memory.clone()));
    let id = first.hosts().next().unwrap();
    let all = tokio::join!(first.shell(id), first.shell(id), first.shell(id));
    for none in [all.0, all.1, all.2] {
        assert!(none.unwrap().is_none());
    }
    // One for the shell, and one that asks whether our program is there; its connection is used further.
    assert_eq!(site.sshd.sessions(), 2);
    let answers = first.ask(&[parse(&path)], |_, _| true).await;
    assert_eq!((answers.holders.len(), answers.failed), (1, 0));
    let sessions = site.sshd.sessions();
    assert_eq!(sessions, 2);
    // A later process need not ask.
    let later = pool(&site, Some(memory));
    assert!(later.shell(id).await.unwrap().is_none());
    assert_eq!(site.sshd.sessions(), sessions);
}
