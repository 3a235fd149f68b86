//! The binary: runtime, signals, exit code; nothing else.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ssh_substituter::progress::{Display, Mode, drain, level};
use ssh_substituter::transfer::unpack;
use ssh_substituter::{app, cli, cli::LogFormat};
use tokio::signal::unix::{SignalKind, signal};

/// How long a restore that is given up may take to remove what it made.
const CLEAN_UP: Duration = Duration::from_secs(10);

/// How long what runs may take to end once the process is told to: child processes are ended then.
const LAST_STEPS: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let cli = cli::parse();
    let display = Arc::new(Display::new(mode(cli.log_format)));
    display.report_panics();
    if cli.quiet {
        display.set_mode(Mode::Off);
    }
    display.log_to_stderr(level(cli.verbose, cli.quiet));
    let restores = cli.substitute.is_some() || matches!(cli.command, Some(cli::Command::Get(_)));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            log::error!("cannot start: {error}");
            drain();
            return ExitCode::FAILURE;
        }
    };
    // In a task: the thread that learns of what has come then goes on with it by itself. The main
    // thread would have to be woken each time.
    let shown = display.clone();
    let mut work = runtime.spawn(async move { app::run(cli, &shown).await });
    let (code, told) = runtime.block_on(async {
        tokio::select! {
            // A panic has told of itself.
            code = &mut work => (code.unwrap_or(ExitCode::from(101)), false),
            number = interrupted() => {
                // Whoever waits for the end waits for nothing else.
                unpack::leave_behind();
                work.abort();
                let _ = tokio::time::timeout(LAST_STEPS, work).await;
                (ExitCode::from(128 + number), true)
            }
        }
    });
    display.close();
    if restores && !told {
        // The thread that writes to disk removes what it made, once nobody feeds it any more.
        runtime.shutdown_timeout(CLEAN_UP);
    } else {
        // A read of standard input may block for ever.
        runtime.shutdown_background();
    }
    drain();
    code
}

fn mode(format: Option<LogFormat>) -> Mode {
    match format {
        None => Mode::Auto,
        Some(LogFormat::Bar) => Mode::Bar,
        Some(LogFormat::Raw) => Mode::Plain,
        Some(LogFormat::InternalJson) => Mode::Json,
    }
}

/// Waits for SIGTERM, SIGINT or SIGHUP; its number.
async fn interrupted() -> u8 {
    let ignored = ignored();
    let wait = async |kind: SignalKind| {
        let number = kind.as_raw_value();
        // nohup(1), and a shell in the background, have a signal ignored by all that they start.
        if ignored & (1 << (number - 1)) == 0
            && let Ok(mut signal) = signal(kind)
        {
            signal.recv().await;
            return number.unsigned_abs() as u8;
        }
        // Without a handler the signal ends the process by itself.
        std::future::pending().await
    };
    tokio::select! {
        number = wait(SignalKind::terminate()) => number,
        number = wait(SignalKind::interrupt()) => number,
        number = wait(SignalKind::hangup()) => number,
    }
}

/// The signals that this process ignores, the first one in the lowest bit (`SigIgn` of proc(5)); none where the system
/// does not tell.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}
