//! Hosts whose shells lie: large paths are read in parts by them, from several hosts.

use std::cell::Cell;
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use ssh_substituter::model::StorePath;

use super::host::{Attack, Honest, Hostile, Io, Line, World, hello};
use super::scene::{BOTH, Door, Scene, User};
use super::support::tool;

/// Large enough for parts.
const LARGE: u64 = 20 << 20;

/// What makes a host seem far away.
const FAR: Duration = Duration::from_millis(60);

/// A host whose account has a shell, with these tools in place of the real ones. Its serve loop is honest.
struct Lies(PathBuf);

impl Lies {
    /// `tools` are names and scripts; `REAL` in them is the real one.
    fn new(folder: &Path, tools: &[(&str, &str)]) -> Self {
        let _ = fs::remove_dir_all(folder);
        fs::create_dir(folder).expect("make a folder");
        for (name, script) in tools {
            let real = tool(name).display().to_string();
            let path = folder.join(name);
            fs::write(
                &path,
                format!("#!/bin/bash\n{}\n", script.replace("REAL", &real)),
            )
            .expect("write a script");
            fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("make it executable");
        }
        Self(folder.to_owned())
    }
}

impl Attack for Lies {
    /// A host that is near is not asked for parts.
    fn hello(&self, line: &mut Line) -> Io {
        thread::sleep(FAR);
        line.out(&hello())
    }

    fn infos(&self, line: &mut Line, world: &World, asked: &[StorePath]) -> Io {
        thread::sleep(FAR);
        Honest.infos(line, world, asked)
    }

    fn begin(&self, line: &mut Line, command: &str) -> Io {
        if command != "sh" {
            return Ok(());
        }
        let path = std::env::var("PATH").expect("a PATH");
        let mut shell = Command::new("/bin/bash")
            .env("PATH", format!("{}:{path}", self.0.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut stdin = shell.stdin.take().expect("a pipe");
        let mut stdout = shell.stdout.take().expect("a pipe");
        let mut from = line.reader()?;
        let to = thread::spawn(move || {
            let mut piece = vec![0; 64 << 10];
            while let Ok(len @ 1..) = from.read(&mut piece) {
                if stdin.write_all(&piece[..len]).is_err() {
                    return;
                }
            }
        });
        let mut piece = vec![0; 64 << 10];
        while let Ok(len @ 1..) = stdout.read(&mut piece) {
            if line.out(&piece[..len]).is_err() {
                break;
            }
        }
        let _ = shell.kill();
        let _ = shell.wait();
        let ended = line.exit(0);
        let _ = to.join();
        ended
    }
}

/// Lies about what is below a path of the store, and tells the truth otherwise: see the proof of a shell.
fn find(lies: &str) -> String {
    format!("case \"$1\" in *-large) {lies};; *) exec REAL \"$@\";; esac")
}

/// The same with contents.
fn read(lies: &str) -> String {
    format!(
        "if [ -t 0 ] || [ $# = 0 ] || [[ \"$*\" = *skip=3* ]]; then exec REAL \"$@\"; fi; {lies}"
    )
}

struct Stage {
    scene: Scene,
    path: String,
    asked: PathBuf,
    /// How many lies were told.
    told: Cell<usize>,
}

impl Stage {
    fn new() -> Self {
        let mut scene = Scene::new();
        let store = &scene.good.store;
        let path = store.big("large", LARGE);
        let asked = store.env().folder().join("asked");
        scene.bad = Hostile::new(World::of(store));
        Self {
            scene,
            path,
            asked,
            told: Cell::new(0),
        }
    }

    /// On a busy machine one or the other comes without parts.
    #[track_caller]
    fn has_told_most(&self, lies: usize) {
        assert!(self.told.get() * 2 >= lies, "{} of {lies}", self.told.get());
    }

    /// The path comes all the same, by the serve loop of the same host.
    #[track_caller]
    fn survives(&self, tools: &[(&str, String)]) {
        self.each(tools, |user, door| {
            self.scene.fetch(user, door, &self.path, &[]);
        });
    }

    #[track_caller]
    fn each(&self, tools: &[(&str, String)], fetch: impl Fn(&User, Door)) {
        let folder = self.scene.good.store.env().folder().join("lies");
        let note = format!("echo $0 >> {}; ", self.asked.display());
        let tools: Vec<(&str, String)> = tools
            .iter()
            .map(|(name, script)| (*name, script.replace("TOLD;", &note)))
            .collect();
        let tools: Vec<(&str, &str)> = tools.iter().map(|(n, s)| (*n, s.as_str())).collect();
        for engine in [false, true] {
            for door in BOTH {
                self.scene.bad.attack(Lies::new(&folder, &tools));
                let user = User::new(&self.scene.alone(), engine);
                fetch(&user, door);
            }
        }
        let told = fs::remove_file(&self.asked).is_ok();
        self.told.set(self.told.get() + usize::from(told));
    }
}

#[test]
fn listings_that_lie() {
    let stage = Stage::new();
    let record = |record: &str| format!("printf '{record}\\0\\0'; ");
    let root = record("d 555 0 ");
    for lies in [
        // Sizes that add up beyond all numbers, or nearly.
        format!(
            "{root}{}{}",
            record("f 444 9223372036854775808 a"),
            record("f 444 9223372036854775808 b")
        ),
        format!("{root}{}", record("f 444 18446744073709551615 data")),
        format!("{root}{}", record("f 444 99999999999999999999999 data")),
        // Names that lead out.
        format!("{root}{}", record("f 444 20971520 ../data")),
        format!("{root}{}", record("f 444 20971520 /etc/passwd")),
        format!(
            "{root}{}{}",
            record("f 444 20971520 data"),
            record("f 444 20971520 data")
        ),
        // Without end.
        "yes 'f 444 1 a' | tr '\\n' '\\0'".to_owned(),
        "cat /dev/zero".to_owned(),
        "while :; do printf 'f 444 1 %s\\0\\0' $((n++)); done".to_owned(),
        // Nothing at all.
        "sleep 600".to_owned(),
        "while :; do printf x; sleep 0.2; done".to_owned(),
    ] {
        stage.survives(&[("find", find(&format!("TOLD; {lies}")))]);
    }
    stage.has_told_most(11);
}

#[test]
fn contents_that_lie() {
    let stage = Stage::new();
    for lies in [
        "cat /dev/zero",
        "printf short",
        "sleep 600",
        "while :; do printf x; sleep 0.2; done",
        "kill -9 $PPID",
    ] {
        let script = read(&format!("TOLD; {lies}"));
        stage.survives(&[("dd", script)]);
    }
    stage.has_told_most(5);
}

/// Nobody can tell before all of it is there, and by then most of it has been passed on.
#[test]
fn contents_of_the_right_length() {
    let stage = Stage::new();
    let lies = "TOLD; exec REAL \"$@\" | tr '\\0-\\377' '\\1-\\377\\0'";
    stage.each(&[("dd", read(lies))], |user, door| {
        if door == Door::Serve {
            stage.scene.fails_at_most_once(user, &stage.path);
        }
    });
    stage.has_told_most(1);
}
