//! One engine behind all processes: what it saves, what the extra hop costs, what it holds.

mod bytes;
mod front_ends;
mod nix;

pub use bytes::{memory, stream};
pub use front_ends::{first_answer, text_protocol};
pub use nix::dag;

use std::thread;
use std::time::{Duration, Instant};

use crate::lab::{Line, Link};
use crate::run::{Run, Tried, high_water};
use crate::support::{Engines, Host, NixEnv};

/// How long one run may take.
const LIMIT: Duration = Duration::from_secs(200);

/// An environment where all processes share an engine. At first nothing is cached, none runs, and nothing is connected.
struct Shared {
    // Dropped in this order: the engine ends before the link that it uses goes.
    engines: Engines,
    link: Link,
    env: NixEnv,
}

impl Shared {
    fn new(host: &Host, line: Line) -> Self {
        let env = NixEnv::new();
        Self {
            engines: env.configure_with_engine(&[host.trusted()], ""),
            link: Link::to(&host.sshd, line),
            env,
        }
    }

    /// What the only engine tells about itself; an error where there is none or more than one.
    fn status(&self) -> Result<serde_json::Value, String> {
        let mut all = self.engines.status();
        match all.len() {
            0 => Err("no engine runs".to_owned()),
            1 => Ok(all.remove(0)),
            count => Err(format!("{count} engines run")),
        }
    }

    fn pid(&self) -> Result<u32, String> {
        let pid = self.status()?["pid"].as_u64();
        pid.and_then(|pid| pid.try_into().ok())
            .ok_or_else(|| "no pid".to_owned())
    }

    /// Runs something that must bring so many NARs through the engine. The peak is the engine's, since its start.
    fn counted(&self, paths: u64, action: impl FnOnce() -> Tried) -> Tried {
        let delivered = |status: serde_json::Value| status["delivered"]["paths"].as_u64();
        // The first command starts the engine.
        let before = self.status().ok().and_then(delivered).unwrap_or(0);
        let run = action()?;
        let end = Instant::now();
        loop {
            let after = delivered(self.status()?).unwrap_or(0);
            if after >= before + paths {
                break;
            }
            // The front end had the last bytes before the engine could count them.
            if end.elapsed() > Duration::from_secs(2) {
                let came = after.saturating_sub(before);
                return Err(format!("{came} of {paths} paths came through the engine"));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Run {
            peak: high_water(self.pid()?),
            ..run
        })
    }
}
