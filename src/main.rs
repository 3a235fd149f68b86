//! The binary: runtime, signals, exit code; nothing else.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ssh_substituter::progress::{Display, Mode, drain, level};
use ssh_substituter::transfer::unpack;
use ssh_substituter::{app, app::interrupted, cli, cli::LogFormat};

/// How long a restore that failed may take to remove what it made.
const CLEAN_UP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a process may take to end, and to remove what it made, after a signal.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(80);

/// The same for an engine and a server, which write their answers to disk first. No user waits for it.
const SERVER_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = cli::parse();
    let display = Arc::new(Display::new(mode(cli.log_format)));
    display.report_panics();
    if cli.quiet {
        display.set_mode(Mode::Off);
    }
    display.log_to_stderr(level(cli.verbose, cli.quiet));
    let restores = cli.substitute.is_some() || matches!(cli.command, Some(cli::Command::Get(_)));
    let is_server = matches!(
        cli.command,
        Some(cli::Command::Engine { action: None, .. } | cli::Command::Http { .. })
    );
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
    // In a task, so that the worker thread that sees an event also handles it. The main thread would have to be woken for
    // each event.
    let shown = display.clone();
    let mut work = runtime.spawn(async move { app::run(cli, &shown).await });
    let (code, clean_up) = runtime.block_on(async {
        tokio::select! {
            // The panic hook has reported a panic.
            code = &mut work => (code.unwrap_or(ExitCode::from(101)), CLEAN_UP_TIMEOUT),
            number = interrupted() => {
                let end = Instant::now() + if is_server { SERVER_SHUTDOWN_TIMEOUT } else { SHUTDOWN_TIMEOUT };
                unpack::leave_behind(end);
                if !is_server {
                    // Dropping the work ends its child processes.
                    work.abort();
                }
                let _ = tokio::time::timeout_at(end.into(), work).await;
                let left = end.saturating_duration_since(Instant::now());
                (ExitCode::from(128 + number), left)
            }
        }
    });
    display.close();
    if restores {
        // The thread that writes to disk removes what it made, once its channel is closed.
        runtime.shutdown_timeout(clean_up);
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
