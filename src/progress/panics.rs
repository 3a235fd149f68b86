//! Panics, reported on stderr as Rust does, but without waiting for its reader.

use std::backtrace::{Backtrace, BacktraceStatus};

use super::screen::stderr;

/// Installs the panic hook.
pub(super) fn install_hook() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("<unnamed>");
        let trace = Backtrace::capture();
        let mut text = format!("\nthread '{name}' {info}\n");
        match trace.status() {
            BacktraceStatus::Captured => text.push_str(&format!("{trace}\n")),
            _ => text.push_str("note: RUST_BACKTRACE=1 shows where it came from\n"),
        }
        stderr::write(&text);
    }));
}
