//! The binary: runtime, signals, exit code; nothing else.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ssh_substituter::progress::{Display, Mode, level};
use ssh_substituter::{app, cli, cli::LogFormat};
use tokio::signal::unix::{SignalKind, signal};

/// How long an interrupted restore may take to remove what it made.
const CLEAN_UP: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let cli = cli::parse();
    let display = Arc::new(Display::new(mode(cli.log_format)));
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
            return ExitCode::FAILURE;
        }
    };
    // In a task: the thread that learns of what has come then goes on with it by itself. The main
    // thread would have to be woken each time.
    let shown = display.clone();
    let work = runtime.spawn(async move {
        tokio::select! {
            code = app::run(cli, &shown) => code,
            number = interrupted() => ExitCode::from(128 + number),
        }
    });
    // A panic has told of itself.
    let code = runtime.block_on(work).unwrap_or(ExitCode::from(101));
    display.close();
    if restores {
        // The thread that writes to disk removes what it made, once nobody feeds it any more.
        runtime.shutdown_timeout(CLEAN_UP);
    } else {
        // A read of standard input may block for ever.
        runtime.shutdown_background();
    }
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

/// Waits for SIGTERM or SIGINT; its number.
async fn interrupted() -> u8 {
    let wait = async |kind| match signal(kind) {
        Ok(mut signal) => signal.recv().await,
        // Without a handler the signal ends the process by itself.
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        _ = wait(SignalKind::terminate()) => 15,
        _ = wait(SignalKind::interrupt()) => 2,
    }
}
