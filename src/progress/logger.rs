//! The `log` crate's messages, on the same screen as the bars.

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::screen::Screen;

/// What begins every message.
const NAME: &str = "ssh-substituter";
/// The crate's name as a log target.
const TARGET: &str = "ssh_substituter";

/// The level for so many `--verbose` flags, or `--quiet`.
#[must_use]
pub fn level(verbose: u8, quiet: bool) -> LevelFilter {
    match verbose {
        0 if quiet => LevelFilter::Error,
        0 => LevelFilter::Info,
        1 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    }
}

pub(super) fn install(screen: Screen, level: LevelFilter) {
    // It lives as long as the process, as loggers do.
    let logger = Box::leak(Box::new(Logger { screen, level }));
    if log::set_logger(logger).is_ok() {
        log::set_max_level(level);
    }
}

struct Logger {
    screen: Screen,
    level: LevelFilter,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        shown(self.level, metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let (level, kind) = (record.level(), kind(record.level()));
            let text = record.args().to_string();
            if !self.screen.should_show(level, &text) {
                return;
            }
            for line in lines(&text) {
                // Each line of a message has its beginning, so that none can pass for something else.
                self.screen.message(level, NAME, kind, line);
            }
        }
    }

    fn flush(&self) {}
}

fn shown(level: LevelFilter, metadata: &Metadata<'_>) -> bool {
    let ours = metadata.target().split("::").next() == Some(TARGET);
    metadata.level() <= level
        && (ours || metadata.level() <= Level::Warn || level == LevelFilter::Trace)
}

/// Most lines of one message.
const LINES: usize = 40;

fn lines(message: &str) -> impl Iterator<Item = &str> {
    message.lines().take(LINES)
}

/// What a message calls itself.
fn kind(level: Level) -> &'static str {
    match level {
        Level::Error => "error: ",
        Level::Warn => "warning: ",
        Level::Info | Level::Debug | Level::Trace => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_an_end() {
        let lines: Vec<&str> = lines("host a is down\r\nerror: fake").collect();
        assert_eq!(lines, ["host a is down", "error: fake"]);
        assert_eq!(super::lines(&"x\n".repeat(LINES + 1)).count(), LINES);
    }

    #[test]
    fn other_crates_are_quiet_below_warnings() {
        let shown = |filter, level, target| {
            let metadata = Metadata::builder().level(level).target(target).build();
            super::shown(filter, &metadata)
        };
        assert!(shown(
            LevelFilter::Debug,
            Level::Debug,
            "ssh_substituter::pool"
        ));
        assert!(!shown(
            LevelFilter::Debug,
            Level::Debug,
            "ssh_substituter_x"
        ));
        assert!(!shown(LevelFilter::Debug, Level::Debug, "openssh"));
        assert!(shown(LevelFilter::Debug, Level::Warn, "openssh"));
        assert!(shown(LevelFilter::Trace, Level::Debug, "openssh"));
        assert!(!shown(LevelFilter::Error, Level::Warn, "ssh_substituter"));
    }

    #[test]
    fn verbosity_becomes_a_level() {
        assert_eq!(level(0, true), LevelFilter::Error);
        assert_eq!(level(0, false), LevelFilter::Info);
        assert_eq!(level(1, false), LevelFilter::Debug);
        assert_eq!(level(9, true), LevelFilter::Trace);
    }
}
