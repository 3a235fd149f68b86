//! Hosts whose shells lie: large paths are read in parts by them, from several hosts.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use super::far::far_away;
use super::host::{Attack, Hostile, Io, Line, World};
use super::scene::{Protocol, Scene, Turns, User};
use super::support::tool;

/// Large enough for parts.
const LARGE: u64 = 20 << 20;

/// How late all is from and to a host that is far away.
const FAR: Duration = Duration::from_millis(20);

/// How often a lie is waited for.
const TRIES: usize = 4;

/// How many hosts lie at the same time.
const AT_ONCE: usize = 3;

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
    /// The hostile host, at the end of a long way: a near one is not asked for parts.
    far: [String; 1],
    path: String,
    /// Has a line for each lie that was told.
    asked: PathBuf,
    turns: Turns,
}

impl Stage {
    fn new() -> Self {
        let mut scene = Scene::new();
        let store = &scene.good.store;
        let path = store.big("large", LARGE);
        let asked = store.env().folder().join("asked");
        scene.bad = Hostile::new(World::of(store));
        let near = scene.bad.sshd.port();
        let port = |port: u16| format!("@127.0.0.1:{port}?");
        let far = scene.alone().remove(0);
        let far = far.replace(&port(near), &port(far_away(near, FAR)));
        Self {
            scene,
            far: [far],
            path,
            asked,
            turns: Turns::default(),
        }
    }

    /// The path comes all the same, by the serve loop of the same host.
    #[track_caller]
    fn survives(&self, tools: &[(&str, String)]) {
        self.is_told(tools, |user, protocol| {
            self.scene.fetch(user, protocol, &self.path, &[]);
        });
    }

    /// The host tells the lie. On a busy machine its shell may not answer before the serve loop is asked instead: then it
    /// is tried again.
    #[track_caller]
    fn is_told(&self, tools: &[(&str, String)], fetch: impl Fn(&User, Protocol)) {
        let folder = self.scene.good.store.env().folder().join("lies");
        let note = format!("echo $0 >> {}; ", self.asked.display());
        let tools: Vec<(&str, String)> = tools
            .iter()
            .map(|(name, script)| (*name, script.replace("TOLD;", &note)))
            .collect();
        let tools: Vec<(&str, &str)> = tools.iter().map(|(n, s)| (*n, s.as_str())).collect();
        for _ in 0..TRIES {
            let (engine, protocol) = self.turns.next();
            self.scene.bad.attack(Lies::new(&folder, &tools));
            fetch(&User::new(&self.far, engine), protocol);
            if fs::remove_file(&self.asked).is_ok() {
                return;
            }
        }
        panic!("never told: {tools:?}");
    }
}

/// All of these at once, since most of the time is waiting.
fn survives_each(lies: &[(&str, String)]) {
    let at_once = lies.len().div_ceil(AT_ONCE);
    thread::scope(|scope| {
        for lies in lies.chunks(at_once) {
            scope.spawn(move || {
                let stage = Stage::new();
                lies.iter()
                    .for_each(|lie| stage.survives(std::slice::from_ref(lie)));
            });
        }
    });
}

#[test]
fn listings_that_lie() {
    let record = |record: &str| format!("printf '{record}\\0\\0'; ");
    let root = record("d 555 0 ");
    let lies = [
        // Without end.
        "yes 'f 444 1 a' | tr '\\n' '\\0'".to_owned(),
        "cat /dev/zero".to_owned(),
        "while :; do printf 'f 444 1 %s\\0\\0' $((n++)); done".to_owned(),
        // Nothing at all.
        "sleep 600".to_owned(),
        "while :; do printf x; sleep 0.2; done".to_owned(),
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
    ];
    survives_each(&lies.map(|lies| ("find", find(&format!("TOLD; {lies}")))));
}

#[test]
fn contents_that_lie() {
    let lies = [
        "cat /dev/zero",
        "printf short",
        "sleep 600",
        "while :; do printf x; sleep 0.2; done",
        "kill -9 $PPID",
    ];
    survives_each(&lies.map(|lies| ("dd", read(&format!("TOLD; {lies}")))));
}

/// Nobody can tell before all of it is there, and by then most of it has been passed on.
#[test]
fn contents_of_the_right_length() {
    let stage = Stage::new();
    let lies = read("TOLD; exec REAL \"$@\" | tr '\\0-\\377' '\\1-\\377\\0'");
    stage.is_told(&[("dd", lies)], |user, _| {
        stage.scene.fails_at_most_once(user, &stage.path);
    });
}
