//! What other users have prepared where the private folders belong.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::{Host, NixEnv, SHORT, TempUser, is_root, run, run_with_input, tool};

/// A user, an environment of his, and one for a neighbour. `None` where no users can be made.
struct Town {
    env: NixEnv,
    user: TempUser,
    id: u32,
    neighbour: TempUser,
    host: Host,
    path: String,
    /// As `/tmp`: everybody may put something there.
    shared: PathBuf,
}

impl Town {
    fn new() -> Option<Self> {
        if !is_root() {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "skipped: only root can make users");
            return None;
        }
        let (env, host) = (NixEnv::new(), Host::new());
        let (user, neighbour) = (TempUser::new("sh"), TempUser::new("sh"));
        // He may read the key, as ssh wants it.
        let key = env.folder().join("key");
        fs::copy(host.sshd.client_key(), &key).expect("copy a key");
        set(&key, 0o600);
        let url = host.trusted().replace(
            &super::support::percent_encode(host.sshd.client_key().to_str().expect("UTF-8")),
            &super::support::percent_encode(key.to_str().expect("UTF-8")),
        );
        env.configure(&[url], "");
        user.give(env.folder());
        let shared = env.folder().join("shared");
        fs::create_dir(&shared).expect("make a folder");
        set(&shared, 0o1777);
        let mut command = Command::new(tool("id"));
        command.args(["-u", user.name()]);
        let id = run(command, SHORT).parse().expect("a user id");
        let path = host.store.add_text("path", "text", &[]);
        Some(Self {
            env,
            user,
            id,
            neighbour,
            host,
            path,
            shared,
        })
    }

    /// Asks which of the paths are there, as the user; whether it was found, and what was said.
    fn ask(&self, set: &[(&str, &Path)]) -> (bool, String) {
        let mut command = self.env.program();
        command.args(["--query", "-v"]).uid(self.id).gid(self.id);
        // No folder of his own but the shared one.
        command
            .env_remove("XDG_RUNTIME_DIR")
            .env("TMPDIR", &self.shared);
        command.env("SSH_SUBSTITUTER_CACHE_DIR", self.env.folder().join("cache"));
        command.envs(set.iter().copied());
        let input = format!("have {} \n", self.path);
        let output = run_with_input(command, input.as_bytes(), SHORT);
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        let lines: Vec<&str> = stdout.lines().collect();
        assert_eq!(lines.first().copied(), Some(""), "{stderr}");
        (lines.contains(&self.path.as_str()), stderr)
    }

    /// Where the private folder will be.
    fn runtime(&self) -> PathBuf {
        self.shared.join(format!("ssh-substituter-{}", self.id))
    }
}

fn set(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("set a mode");
}

fn entries(path: &Path) -> usize {
    fs::read_dir(path).expect("read a folder").count()
}

#[test]
fn a_runtime_folder_is_private_or_refused() {
    let Some(town) = Town::new() else { return };
    let runtime = town.runtime();
    let trap = town.env.folder().join("trap");
    fs::create_dir(&trap).expect("make a folder");
    set(&trap, 0o777);
    let planted = |what: &str| {
        let (found, told) = town.ask(&[]);
        assert!(!found, "{told}");
        let line = format!("the folder {} is refused: it is {what}", runtime.display());
        assert!(told.contains(&line), "{told}");
        assert_eq!((entries(&trap), town.host.sshd.logins()), (0, 0), "{told}");
    };
    // By a neighbour: a link, a folder, a file. By himself: one that is open.
    symlink(&trap, &runtime).expect("make a link");
    town.neighbour.give(&runtime);
    planted("a symbolic link");
    fs::remove_file(&runtime).expect("remove a link");
    // His own link does not do either.
    symlink(&trap, &runtime).expect("make a link");
    town.user.give(&runtime);
    planted("a symbolic link");
    fs::remove_file(&runtime).expect("remove a link");
    fs::create_dir(&runtime).expect("make a folder");
    town.neighbour.give(&runtime);
    planted("owned by another user");
    assert_eq!(entries(&runtime), 0);
    town.user.give(&runtime);
    for mode in [0o777, 0o770, 0o702] {
        set(&runtime, mode);
        planted("open to other users");
        assert_eq!(entries(&runtime), 0);
    }
    fs::remove_dir(&runtime).expect("remove a folder");
    fs::write(&runtime, "").expect("write a file");
    town.user.give(&runtime);
    planted("not a folder");
    fs::remove_file(&runtime).expect("remove a file");
    // Nothing prepared, and everything is well.
    let (found, told) = town.ask(&[]);
    assert!(found, "{told}");
    let meta = fs::metadata(&runtime).expect("a runtime folder");
    assert_eq!((meta.uid(), meta.mode() & 0o7777), (town.id, 0o700));
    for entry in fs::read_dir(&runtime).expect("read a folder") {
        let meta = entry.and_then(|entry| entry.metadata()).expect("metadata");
        assert_eq!((meta.uid(), meta.mode() & 0o077), (town.id, 0));
    }
    end_masters(&town, &runtime);
}

#[test]
fn a_folder_above_that_others_can_change_is_refused() {
    let Some(town) = Town::new() else { return };
    let above = town.env.folder().join("above");
    fs::create_dir(&above).expect("make a folder");
    let runtime = above.join("run");
    let ask = || town.ask(&[("SSH_SUBSTITUTER_RUNTIME_DIR", &runtime)]);
    let refused = || {
        let (found, told) = ask();
        assert!(!found, "{told}");
        let line = format!(
            "the folder {} is refused: other users can change what is in {}",
            runtime.display(),
            above.display()
        );
        assert!(told.contains(&line), "{told}");
        assert!(!runtime.exists());
    };
    town.user.give(&above);
    set(&above, 0o777);
    refused();
    // A neighbour's, however closed it looks.
    town.neighbour.give(&above);
    set(&above, 0o711);
    refused();
    town.user.give(&above);
    set(&above, 0o755);
    let (found, told) = ask();
    assert!(found, "{told}");
    end_masters(&town, &runtime);
}

#[test]
fn a_cache_folder_is_private_or_done_without() {
    let Some(town) = Town::new() else { return };
    let home = town.env.folder().join("home2");
    let (cache, folder) = (home.join(".cache"), home.join(".cache/ssh-substituter"));
    let ask = || {
        let mut run = vec![("HOME", home.as_path())];
        run.push(("SSH_SUBSTITUTER_CACHE_DIR", Path::new("")));
        let (found, told) = town.ask(&run);
        // It costs time only.
        assert!(found, "{told}");
        told
    };
    fs::create_dir_all(&cache).expect("make a folder");
    town.user.give(&home);
    let trap = town.env.folder().join("trap");
    fs::create_dir(&trap).expect("make a folder");
    town.neighbour.give(&trap);
    set(&trap, 0o777);
    symlink(&trap, &folder).expect("make a link");
    town.neighbour.give(&folder);
    let told = ask();
    assert!(
        told.contains("is refused: it is owned by another user"),
        "{told}"
    );
    fs::remove_file(&folder).expect("remove a link");
    symlink(&trap, &folder).expect("make a link");
    town.user.give(&folder);
    let told = ask();
    assert!(
        told.contains("is refused: it is a link to a folder of another user"),
        "{told}"
    );
    fs::remove_file(&folder).expect("remove a link");
    assert_eq!(entries(&trap), 0);
    fs::create_dir(&folder).expect("make a folder");
    town.user.give(&folder);
    set(&folder, 0o777);
    let told = ask();
    assert!(
        told.contains("is refused: it is open to other users"),
        "{told}"
    );
    set(&folder, 0o700);
    set(&cache, 0o777);
    let told = ask();
    assert!(
        told.contains("in a folder where other users can replace it"),
        "{told}"
    );
    assert_eq!(entries(&folder), 0);
    set(&cache, 0o755);
    set(&folder, 0o755);
    let told = ask();
    assert!(!told.contains("no disk cache"), "{told}");
    let mode = |path: &Path| fs::metadata(path).expect("metadata").mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&folder.join("cache.sqlite")), 0o600);
    end_masters(&town, &town.runtime());
}

fn end_masters(town: &Town, folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().extension().is_none() {
            let mut command = Command::new(tool("ssh"));
            command
                .args(["-F", "none", "-O", "exit", "-S"])
                .arg(entry.path())
                .arg("x");
            command.uid(town.id).gid(town.id);
            let _ = super::support::run_with_timeout(command, SHORT);
        }
    }
}
