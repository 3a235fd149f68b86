//! What a run of the program gave.

use std::process::Output;

/// What a run gave.
pub struct Got(pub Output);

impl Got {
    /// Panics, with what was printed, unless it ended with this status.
    #[track_caller]
    pub fn status(self, status: i32) -> Self {
        assert_eq!(self.0.status.code(), Some(status), "{}", self.stderr());
        self
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    /// Panics unless stderr holds all of these.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr().contains(word), "{word:?}: {}", self.stderr());
        }
        self
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout())
            .unwrap_or_else(|error| panic!("{error}: {}", self.stdout()))
    }
}
