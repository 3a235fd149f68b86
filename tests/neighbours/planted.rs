//! What lies under a name of ours in a folder that is private by now: links, sockets and files of others.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::{Host, Masters, NixEnv, SHORT, end_masters, is_root, run_with_input};

struct Site {
    host: Host,
    env: NixEnv,
    path: String,
    _masters: Masters,
}

impl Site {
    fn new() -> Self {
        let (host, env) = (Host::new(), NixEnv::new());
        env.configure(&[host.trusted()], "");
        let path = host.store.add_text("path", "text", &[]);
        let _masters = env.masters();
        Self {
            host,
            env,
            path,
            _masters,
        }
    }

    fn runtime(&self) -> PathBuf {
        self.env.folder().join("run/ssh-substituter")
    }

    /// Asks for the path, with a cache of its own; whether it is there, and what was said.
    fn ask(&self, cache: &str) -> (bool, String) {
        let mut command = self.env.program();
        command.args(["--query", "-v"]);
        command.env("SSH_SUBSTITUTER_CACHE_DIR", self.env.folder().join(cache));
        let input = format!("have {} \n", self.path);
        let output = run_with_input(command, input.as_bytes(), SHORT);
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        (stdout.contains(&self.path), stderr)
    }

    /// The control socket that the program has made.
    fn socket(&self) -> PathBuf {
        let entries = fs::read_dir(self.runtime())
            .expect("a runtime folder")
            .flatten();
        let mut sockets =
            entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
        sockets.next().expect("a control socket").path()
    }
}

/// Something that must stay as it is.
fn precious(env: &NixEnv) -> PathBuf {
    let file = env.folder().join("precious");
    fs::write(&file, "precious").expect("write a file");
    fs::set_permissions(&file, Permissions::from_mode(0o666)).expect("set a mode");
    file
}

#[track_caller]
fn untouched(file: &Path) {
    assert_eq!(fs::read(file).expect("read a file"), b"precious");
}

#[test]
fn a_control_socket_of_another_user_is_never_used() {
    let site = Site::new();
    assert!(site.ask("one").0);
    let socket = site.socket();
    end_masters(&site.runtime());
    assert!(!socket.exists());
    let elsewhere = site.env.folder().join("elsewhere");
    let away = site.env.folder().join("away");
    let mut plants: Vec<(&str, UnixListener)> = Vec::new();
    let listener = UnixListener::bind(&elsewhere).expect("bind a socket");
    symlink(&elsewhere, &socket).expect("make a link");
    plants.push(("a link to a socket", listener));
    if is_root() {
        plants.push((
            "a socket of another user",
            UnixListener::bind(&away).expect("bind a socket"),
        ));
        lchown(&away, Some(65_534), Some(65_534)).expect("give a socket away");
    } else {
        let _ = writeln!(
            std::io::stderr(),
            "skipped in part: only root can make a socket another user's"
        );
    }
    for (number, (what, listener)) in plants.iter().enumerate() {
        if number == 1 {
            end_masters(&site.runtime());
            fs::rename(&away, &socket).expect("rename a socket");
        }
        listener.set_nonblocking(true).expect("do not wait");
        let (found, told) = site.ask(what);
        assert!(found, "{what}: {told}");
        let knocked = listener.accept();
        let nobody = matches!(&knocked, Err(error) if error.kind() == ErrorKind::WouldBlock);
        assert!(nobody, "{what}: {knocked:?}");
        let meta = fs::symlink_metadata(&socket).expect("a socket");
        assert!(meta.file_type().is_socket(), "{what}");
        assert_eq!(meta.uid(), rustix::process::geteuid().as_raw(), "{what}");
        assert_eq!(site.host.sshd.logins(), number + 2, "{what}");
    }
}

#[test]
fn links_beside_a_control_socket_lead_nowhere() {
    let site = Site::new();
    assert!(site.ask("one").0);
    let socket = site.socket();
    end_masters(&site.runtime());
    let precious = precious(&site.env);
    let name = socket
        .file_name()
        .and_then(|name| name.to_str())
        .expect("UTF-8")
        .to_owned();
    let beside = |name: String| {
        let path = socket.with_file_name(name);
        let _ = fs::remove_file(&path);
        symlink(&precious, &path).expect("make a link");
        path
    };
    let short = name.trim_end_matches("-0");
    let replaced = [
        format!("{name}.log"),
        format!("{short}.known"),
        format!("{name}.new"),
    ]
    .map(beside);
    let (found, told) = site.ask("two");
    assert!(found, "{told}");
    for path in &replaced {
        assert!(!path.is_symlink(), "{}", path.display());
    }
    untouched(&precious);
    // A lock cannot be replaced: somebody may hold it.
    end_masters(&site.runtime());
    beside(format!("{name}.lock"));
    let (found, told) = site.ask("three");
    assert!(!found, "{told}");
    assert!(
        told.contains("cannot open the lock of the connection"),
        "{told}"
    );
    untouched(&precious);
}

#[test]
fn links_in_the_cache_folder_lead_nowhere() {
    let site = Site::new();
    let precious = precious(&site.env);
    for name in [
        "cache.sqlite",
        "cache.sqlite-wal",
        "cache.sqlite-shm",
        "cache.lock",
    ] {
        let folder = site.env.folder().join(name.replace('.', "-"));
        fs::create_dir(&folder).expect("make a folder");
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).expect("set a mode");
        symlink(&precious, folder.join(name)).expect("make a link");
        // So that the lock is needed.
        if name == "cache.lock" {
            fs::write(folder.join("cache.sqlite"), "no database").expect("write a file");
        }
        let (found, told) = site.ask(folder.to_str().expect("UTF-8"));
        assert!(found, "{name}: {told}");
        untouched(&precious);
        let set_aside = name == "cache.sqlite";
        assert_eq!(
            folder.join("cache.sqlite.foreign").is_symlink(),
            set_aside,
            "{name}: {told}"
        );
        let is_off = told.contains("no disk cache");
        match name {
            "cache.sqlite" => assert!(!is_off, "{told}"),
            "cache.lock" => assert!(is_off, "{told}"),
            // SQLite's own business: it follows none.
            _ => {}
        }
        // The same beside a database that is there.
        if name.ends_with("-wal") {
            let _ = fs::remove_file(folder.join(name));
            symlink(&precious, folder.join(name)).expect("make a link");
            let (found, told) = site.ask(folder.to_str().expect("UTF-8"));
            assert!(found, "{told}");
            untouched(&precious);
        }
    }
    if is_root() {
        // A file of somebody else's is not believed.
        let folder = site.env.folder().join("theirs");
        assert!(site.ask("theirs").0);
        lchown(folder.join("cache.sqlite"), Some(65_534), None).expect("give a file away");
        let (found, told) = site.ask("theirs");
        assert!(found && told.contains("is foreign: moved aside"), "{told}");
    }
}

#[test]
fn nothing_is_restored_through_a_link() {
    let site = Site::new();
    let store = site.env.folder().join("dest");
    fs::create_dir(&store).expect("make a folder");
    let precious = precious(&site.env);
    let restore = |dest: &Path, prepare: &str| {
        // The shell's number is the program's then, so that its temporary names are known beforehand.
        let mut command: Command = site.env.command("sh");
        let script = format!("cd {}; {prepare}; exec \"$@\"", store.display());
        command
            .args(["-c", &script, "sh"])
            .arg(super::support::program());
        command.args(["--substitute", &site.path]).arg(dest);
        run_with_input(command, b"", SHORT)
    };
    for name in ["path", "path.tmp"] {
        for target in [precious.as_path(), site.env.folder(), Path::new("/nowhere")] {
            let dest = store.join(name);
            symlink(target, &dest).expect("make a link");
            let output = restore(&dest, ":");
            assert_eq!(output.stdout, b"\n");
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                told.contains(&format!("{} exists", dest.display())) || told.contains("exist"),
                "{told}"
            );
            assert_eq!(fs::read_link(&dest).expect("a link"), target);
            fs::remove_file(&dest).expect("remove a link");
            untouched(&precious);
        }
        assert_eq!(fs::read_dir(&store).expect("read a folder").count(), 0);
        // Prepared under the temporary names: others are taken.
        let links = format!(
            "for l in {name}.chroot .{name}.tmp-$$-0 .{name}.tmp-$$-1; do ln -s {p} $l; done",
            p = precious.display()
        );
        let output = restore(&store.join(name), &links);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(fs::read(store.join(name)).expect("read a file"), b"text");
        untouched(&precious);
        let links = fs::read_dir(&store)
            .expect("read a folder")
            .flatten()
            .filter(|entry| entry.path().is_symlink());
        assert_eq!(links.count(), 3);
        for entry in fs::read_dir(&store).expect("read a folder").flatten() {
            fs::remove_file(entry.path()).expect("remove a file");
        }
    }
}

/// Not a socket of ours at the place of an engine: see also `tests/engine/isolation.rs`.
#[test]
fn what_lies_in_the_place_of_an_engine_is_not_used() {
    let site = Site::new();
    let engines = site.env.configure_with_engine(&[site.host.trusted()], "");
    assert!(site.ask("one").0);
    let path = engines.status()[0]["socket"]
        .as_str()
        .map(PathBuf::from)
        .expect("a socket");
    let precious = precious(&site.env);
    for name in [path.clone(), path.with_extension("lock")] {
        engines.stop();
        let _ = fs::remove_file(&name);
        symlink(&precious, &name).expect("make a link");
        // The same cache, since with another one it is another engine.
        let (found, told) = site.ask("one");
        assert!(found, "{told}");
        untouched(&precious);
        if name == path {
            assert!(!path.is_symlink() && engines.pids().len() == 1, "{told}");
        } else {
            assert!(told.contains("works without an engine: "), "{told}");
            assert!(engines.pids().is_empty(), "{told}");
        }
    }
}
