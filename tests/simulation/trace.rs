//! What happened in a run, in order: a hash of it always, its text on demand.

use std::fmt::{Arguments, Write};
use std::hash::Hasher;
use std::sync::Mutex;

use tokio::time::Instant;

/// Counts what happens.
pub struct Trace {
    start: Instant,
    state: Mutex<State>,
}

struct State {
    hash: u64,
    line: String,
    text: Option<String>,
}

impl Trace {
    pub fn new(start: Instant, keeps_text: bool) -> Self {
        Self {
            start,
            state: Mutex::new(State {
                hash: 0xcbf2_9ce4_8422_2325,
                line: String::new(),
                text: keeps_text.then(String::new),
            }),
        }
    }

    pub fn note(&self, what: Arguments<'_>) {
        let mut state = self.state.lock().expect("no test panics in there");
        let State { hash, line, text } = &mut *state;
        line.clear();
        let at = self.start.elapsed().as_micros();
        writeln!(line, "{at:>12} {what}").expect("strings take all");
        // The standard library's hasher with its fixed keys.
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write_u64(*hash);
        hasher.write(line.as_bytes());
        *hash = hasher.finish();
        if let Some(text) = text {
            text.push_str(line);
        }
    }

    pub fn hash(&self) -> u64 {
        self.state.lock().expect("no test panics in there").hash
    }

    pub fn text(&self) -> Option<String> {
        self.state
            .lock()
            .expect("no test panics in there")
            .text
            .take()
    }
}
