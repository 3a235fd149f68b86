//! Ends a test program that hangs: a failure tells more than a run that never ends.

use std::sync::Once;
use std::thread;
use std::time::Duration;

use super::number;

/// How long one test program may run, in seconds: several times as long as the longest one takes.
const LIMIT: u64 = 20 * 60;

/// Starts the watchdog of this process. `TEST_PROGRAM_LIMIT` sets another limit, in seconds, for longer runs by hand.
pub fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let limit = number("TEST_PROGRAM_LIMIT", LIMIT);
        thread::spawn(move || {
            thread::sleep(Duration::from_secs(limit));
            super::show(&format!(
                "the tests still run after {limit} s: what 'has been running for over 60 seconds' above hangs\n"
            ));
            // Servers and their descendants watch this process, and end with it.
            std::process::abort();
        });
    });
}
