//! Hosts that stop in the middle, or send just enough not to be silent.

use std::thread;
use std::time::Duration;

use ssh_substituter::model::{PathInfo, StorePath};
use ssh_substituter::wire::serve::put_set;

use super::host::{Attack, Io, Line, World, hello, infos_reply};
use super::scene::{BOTH, Scene, User};

/// Far more often than hosts may be silent in these tests.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Copy)]
enum How {
    /// Half of it, then nothing.
    Stops,
    /// Half of it, then the end.
    Ends,
    /// Half of it, then byte after byte.
    Trickles,
}

impl How {
    fn send(self, line: &mut Line, bytes: &[u8]) -> Io {
        let (begin, rest) = bytes.split_at(bytes.len() / 2);
        line.out(begin)?;
        match self {
            Self::Stops => line.hold(),
            Self::Ends => line.exit(0),
            Self::Trickles => line.trickle(rest, PAUSE),
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Stops => "silent for 3 s while reading ",
            Self::Ends => "the connection ended while reading ",
            Self::Trickles => "too slow: ",
        }
    }
}

/// All of them at once, each with hosts of its own: most of the time is waiting.
fn all(check: impl Fn(How, &Scene) + Sync) {
    thread::scope(|scope| {
        for how in [How::Stops, How::Ends, How::Trickles] {
            let check = &check;
            scope.spawn(move || check(how, &Scene::new()));
        }
    });
}

struct Hello(How);

impl Attack for Hello {
    fn hello(&self, line: &mut Line) -> Io {
        self.0.send(line, &hello())
    }
}

struct Infos(How);

impl Attack for Infos {
    fn infos(&self, line: &mut Line, world: &World, asked: &[StorePath]) -> Io {
        let known = asked.iter().filter_map(|path| world.0.get(path));
        let infos: Vec<_> = known.map(|(info, _)| info).collect();
        self.0.send(line, &infos_reply(infos))
    }
}

struct Closures(How);

impl Attack for Closures {
    fn closure(&self, line: &mut Line, _: &World, asked: &[StorePath]) -> Io {
        let mut out = Vec::new();
        put_set(&mut out, asked);
        self.0.send(line, &out)
    }
}

struct Dumps(How);

impl Attack for Dumps {
    fn dump(&self, line: &mut Line, _: &PathInfo, nar: &[u8]) -> Io {
        self.0.send(line, nar)
    }
}

#[test]
fn in_the_handshake() {
    all(|how, scene| match how {
        // Eight bytes of it in as many pauses would come in time.
        How::Trickles => {
            scene.bad.attack(Slow);
            let user = User::new(&scene.alone(), false);
            scene.gets_nothing(&user, &scene.small, &["no handshake from "]);
        }
        How::Stops => scene.survives(|| Hello(how), &scene.small, &["no handshake from "]),
        How::Ends => scene.survives(|| Hello(how), &scene.small, &["ended before the handshake"]),
    });
}

/// Says hello for longer than anybody waits.
struct Slow;

impl Attack for Slow {
    fn hello(&self, line: &mut Line) -> Io {
        line.trickle(&hello(), Duration::from_secs(2))
    }
}

#[test]
fn in_an_answer() {
    all(|how, scene| {
        let words = [how.words(), "the reply to QueryPathInfos"];
        scene.survives(|| Infos(how), &scene.small, &words);
    });
}

/// It is asked for ahead of what callers need.
#[test]
fn in_a_closure() {
    all(|how, scene| {
        scene.bad.attack(Closures(how));
        for engine in [false, true] {
            for protocol in BOTH {
                let user = User::new(&scene.both(), engine);
                scene.fetch(&user, protocol, &scene.small, &[]);
            }
        }
    });
}

#[test]
fn in_a_small_archive() {
    all(|how, scene| {
        let words = [how.words(), &*scene.small];
        scene.survives(|| Dumps(how), &scene.small, &words);
    });
}

#[test]
fn in_a_large_archive() {
    all(|how, scene| {
        let words = [how.words(), &*scene.large];
        scene.survives(|| Dumps(how), &scene.large, &words);
    });
}
