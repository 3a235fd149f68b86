//! The command line: raw values, no IO.

mod command_arguments;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgGroup, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::progress;

pub use command_arguments::{CacheAction, ConfigAction, Doctor, Get, KeyAction, Push, Report};

/// Machines that you can ssh into, as one binary cache for Nix.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "ssh-substituter",
    version,
    about,
    arg_required_else_help = true
)]
#[command(group(ArgGroup::new("front_end").args(["query", "substitute", "serve"])))]
pub struct Cli {
    /// Answer "have" and "info" requests on stdin (the text protocol of Nix 1.7 to 1.11)
    #[arg(long)]
    pub query: bool,

    /// Fetch the store path PATH and restore it at DEST
    #[arg(long, num_args = 2, value_names = ["PATH", "DEST"])]
    pub substitute: Option<Vec<PathBuf>>,

    /// Speak the `nix-store --serve` protocol on stdin and stdout (Nix 2, Lix)
    #[arg(long)]
    pub serve: bool,

    /// Accepted, since Nix passes it; nothing is ever written
    #[arg(long, requires = "serve")]
    pub write: bool,

    /// Use these of the configured hosts (separated by commas or spaces)
    #[arg(long, value_name = "HOSTS", requires = "serve")]
    pub store: Option<String>,

    /// Use this host instead of the configured ones; repeatable
    #[arg(long = "host", value_name = "HOST", global = true)]
    pub hosts: Vec<String>,

    /// Set a configuration option, as in nix.conf
    #[arg(long, num_args = 2, value_names = ["NAME", "VALUE"], action = clap::ArgAction::Append, global = true)]
    pub option: Vec<String>,

    /// Say more; twice for everything
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,

    /// Say errors only
    #[arg(short, long, conflicts_with = "verbose", global = true)]
    pub quiet: bool,

    /// How progress and messages are shown: bars (on a terminal), plain lines, or as Nix does for other programs
    #[arg(long, value_name = "FORMAT", global = true)]
    pub log_format: Option<LogFormat>,

    /// What to do when no front end is asked for
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// How progress and messages are shown, with Nix's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Bars on a terminal, plain lines elsewhere
    Bar,
    /// Plain lines
    Raw,
    /// Lines of JSON after `@nix`, as Nix prints them
    InternalJson,
}

/// Commands for people and for the remote side.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Fetch store paths and all they refer to, with Nix or without
    Get(Get),

    /// Send store paths and all they refer to to hosts
    Push(Push),

    /// Say how the hosts, their connections and the cache are
    Status(Report),

    /// Check the whole set-up, and say how to fix what is wrong
    Doctor(Doctor),

    /// The answers that are kept on disk
    Cache {
        /// What to do with them
        #[command(subcommand)]
        action: CacheAction,
    },

    /// The configuration
    Config {
        /// What to do with it
        #[command(subcommand)]
        action: ConfigAction,
    },

    /// Serve a local store on stdin and stdout, read only, as `nix-store --serve` does
    ServeLocal {
        /// Root of the store: a folder, or `local?root=FOLDER` as in Nix
        #[arg(long, value_name = "ROOT", default_value = "/")]
        store: String,

        /// Accepted, so that this can be a host's remote-program
        #[arg(long, hide = true)]
        serve: bool,

        /// Accepted likewise; nothing is ever written
        #[arg(long, hide = true)]
        write: bool,
    },

    /// Serve store paths as a binary cache over HTTP, for 'substituters = http://127.0.0.1:5001' in nix.conf
    Http {
        /// Address and port to listen on; repeatable. Port 0 takes any that is free, and says which
        #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:5001")]
        listen: Vec<SocketAddr>,
    },

    /// Keys that sign store paths
    Key {
        /// What to do with them
        #[command(subcommand)]
        action: KeyAction,
    },

    /// Serve all processes of this user until nobody needs it; front ends start it by themselves
    Engine {
        /// What to do with the engines that run
        #[command(subcommand)]
        action: Option<EngineAction>,

        /// As for `--serve`, when a front end with that starts it
        #[arg(long = "among", value_name = "HOSTS", hide = true)]
        store: Option<String>,
    },
}

/// What to do with running engines.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum EngineAction {
    /// End all engines of this user; what they serve goes on without them
    Stop,
    /// Print how all engines of this user are, as a JSON list
    Status,
}

/// Parses the command line of this process; ends it with a message when it is wrong.
#[must_use]
pub fn parse() -> Cli {
    let parsed = Cli::try_parse().and_then(checked);
    parsed.unwrap_or_else(|error| end(&error))
}

/// Prints what is wrong, or what was asked for, and ends the process.
fn end(error: &clap::Error) -> ! {
    if !error.use_stderr() {
        error.exit();
    }
    // clap would block on a stderr that nobody reads.
    progress::write_and_drain(&error.render().to_string());
    std::process::exit(error.exit_code())
}

/// Refuses a front end together with a command. (clap could do so, but would also refuse `-v` before the command.)
fn checked(cli: Cli) -> Result<Cli, clap::Error> {
    let is_front_end = cli.query || cli.serve || cli.substitute.is_some();
    if is_front_end && cli.command.is_some() {
        let message = "--query, --serve and --substitute cannot be used with a command";
        let kind = clap::error::ErrorKind::ArgumentConflict;
        return Err(Cli::command().error(kind, message));
    }
    Ok(cli)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_may_stand_before_a_command_and_doors_may_not() {
        let parse = |words: &[&str]| Cli::try_parse_from(words).and_then(checked);
        for words in [
            &["x", "-v", "engine", "stop"][..],
            &["x", "engine", "-v"],
            &["x", "engine", "--host", "a", "status"],
        ] {
            let cli = parse(words).unwrap();
            assert!(
                matches!(cli.command, Some(Command::Engine { .. })),
                "{words:?}"
            );
        }
        for words in [
            &["x", "--serve", "engine"][..],
            &["x", "--query", "serve-local"],
            &["x", "--store", "a", "engine"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn what_nix_passes_is_understood() {
        let cli = Cli::try_parse_from(["x", "--serve", "--write", "--store", "a b"]).unwrap();
        assert!(cli.serve && cli.write && cli.store.as_deref() == Some("a b"));
        assert!(
            Cli::try_parse_from(["download-via-ssh", "--query"])
                .unwrap()
                .query
        );
        let cli = Cli::try_parse_from(["x", "--substitute", "/p", "/d"]).unwrap();
        assert_eq!(cli.substitute.unwrap().len(), 2);
        for wrong in [
            &["x", "--query", "--serve"][..],
            &["x", "--substitute", "/p"],
            &["x"],
        ] {
            assert!(Cli::try_parse_from(wrong).is_err(), "{wrong:?}");
        }
    }
}
