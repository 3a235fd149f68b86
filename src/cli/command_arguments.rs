//! The arguments of the commands for people.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Arguments of `get`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
--to DIR registers what is there in DIR/nix-path-registration, for 'nix-store --store DIR --load-db'. What is there and right
is not fetched again, what is wrong is replaced.

On standard output come those of the paths that are there in the end, one a line.

Exit status: 0 everything is there; 1 it could not begin, or what is fetched could not be put there; 2 the command line is
wrong; 3 no host that answered has some path, or something that it refers to; 4 a host has it, but it did not arrive. What did
arrive is kept: run it again to go on.")]
pub struct Get {
    /// Store paths, as /nix/store/HASH-NAME; also what lies in one, or a symlink that leads there (./result)
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<String>,

    /// Put them into a folder laid out as a store (DIR/nix/store), or with file:///DIR into a binary cache
    #[arg(long, value_name = "DIR", conflicts_with = "into_store")]
    pub to: Option<String>,

    /// Put them into this machine's Nix store, by the installed Nix
    #[arg(long, required_unless_present_any = ["to", "dry_run"])]
    pub into_store: bool,

    /// Only say what would be fetched, from where
    #[arg(long)]
    pub dry_run: bool,

    /// These paths alone, without what they refer to
    #[arg(long)]
    pub no_closure: bool,
}

/// Arguments of `push`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
A host needs nix-store --serve --write, as Nix's own copy to ssh:// does. What it has already is not sent again; run it again to
go on after an interruption.

On standard output come those of the paths given that all hosts have in the end (with --any: that one host has), one a line.

With --queue nothing is sent at once: the paths are written down, and the engine sends them in the background, again and again if
need be. 'push --wait' waits for that, 'status' shows it.

Exit status: 0 every host has everything (with --any: one host does; with --queue: all is written down); 1 it could not begin; 2
the command line is wrong; 3 the local store does not have some path; 4 some host could not be reached, or lacks something in
the end.")]
pub struct Push {
    /// Store paths, as /nix/store/HASH-NAME; also what lies in one, or a symlink that leads there (./result)
    #[arg(required_unless_present_any = ["stdin", "wait"], value_name = "PATH")]
    pub paths: Vec<String>,

    /// Send to this host instead of those in ssh-substituter-push-hosts; repeatable
    #[arg(long, value_name = "HOST")]
    pub to: Vec<String>,

    /// Also send the paths that stand on standard input, separated by white space
    #[arg(long)]
    pub stdin: bool,

    /// These paths alone, without what they refer to
    #[arg(long)]
    pub no_closure: bool,

    /// Also the derivations that built these paths, where they are here, with what those refer to
    #[arg(long)]
    pub derivers: bool,

    /// A derivation among these paths stands for its outputs that are here
    #[arg(long)]
    pub outputs: bool,

    /// Sign what is sent with the secret key in this file, instead of that in push-signing-key
    #[arg(long, value_name = "FILE")]
    pub sign: Option<String>,

    /// It is enough if one host has everything in the end
    #[arg(long)]
    pub any: bool,

    /// Only say what is missing where, and how large it is
    #[arg(long)]
    pub dry_run: bool,

    /// Root of the local store: a folder, or `local?root=FOLDER` as in Nix
    #[arg(long, value_name = "ROOT", default_value = "/")]
    pub store: String,

    /// As JSON
    #[arg(long)]
    pub json: bool,

    /// Only write down what is to be sent, and return at once
    #[arg(long, conflicts_with_all = ["no_closure", "derivers", "sign", "any", "dry_run", "json", "wait"])]
    pub queue: bool,

    /// Wait until all that was queued is sent
    #[arg(long, conflicts_with_all = ["paths", "stdin", "to", "no_closure", "derivers", "outputs", "sign", "any", "dry_run", "json"])]
    pub wait: bool,

    /// Wait no longer than so many seconds
    #[arg(long, value_name = "SECONDS", requires = "wait")]
    pub timeout: Option<u64>,
}

/// Arguments of commands that report.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "All hosts are asked, also those that failed lately. Exit status: 0 whatever was found; 1 the configuration \
is wrong; 2 the command line is wrong."
)]
pub struct Report {
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `doctor`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Exit status: 0 all is well, notes aside; 1 there are errors or warnings, each with its fix; 2 the command line is wrong."
)]
pub struct Doctor {
    /// Also say of these store paths who has them and whether they would be accepted
    #[arg(value_name = "PATH")]
    pub paths: Vec<String>,

    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// What to do with the answers that are kept on disk.
#[derive(Debug, Clone, Subcommand)]
pub enum CacheAction {
    /// Say how many answers of which host there are, and how large the file is
    Stats {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Forget all answers, or those of one host
    Clear {
        /// As it stands in the configuration
        host: Option<String>,
    },
    /// Print the path of the file
    Path,
}

/// What to do with the configuration.
#[derive(Debug, Clone, Subcommand)]
pub enum ConfigAction {
    /// Print all settings that are in force, and where each comes from
    Show {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// What to do with keys.
#[derive(Debug, Clone, Subcommand)]
pub enum KeyAction {
    /// Make a pair of keys in Nix's format: the secret one in FILE, the public one in FILE.pub and on standard output
    Generate {
        /// Its name, usually that of the cache and a number, as cache.example.org-1
        name: String,
        /// Where to put the secret key; nothing may be there
        file: PathBuf,
    },
}
