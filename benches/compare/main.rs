//! Ours beside Nix's own and plain ssh, in one run:
//! `cargo bench --bench compare [-- [RUNS] [--quick] [--ours] [--debian] [--nix PATH] [--only SUBSTRING]...]`.
//!
//! Brings up its own sshd, stores and latency on loopback; needs what the tests need (`./tests/run` installs it). Absolute
//! times differ from machine to machine, and from hour to hour: compare within a table.
//!
//! Each contender of a row goes over a link made in the same way: without latency ssh connects directly, otherwise through
//! [`delay_line`]. "Cold" has an empty cache and no connection, "warm" is the next command in the same environment, the
//! local store emptied again. Contenders that latency makes slow run once, whatever RUNS is (3 by default).
//!
//! Groups named "engine ..." have an engine behind all processes (`--only engine` for them alone); in all others each
//! process works alone (`engine = off`). There "cold" has no engine either, and "warm" is a later command with the engine
//! and its connections still there, into a new store. Nix 2.26 and later fetch over `max-connections` processes at once,
//! so `--nix` may name such a Nix where the installed one is older; a wrapper will do, as a script that starts it with
//! libraries of its own:
//!
//! ```text
//! #!/bin/sh
//! exec ROOT/lib64/ld-linux-x86-64.so.2 --library-path ROOT/usr/lib/x86_64-linux-gnu:ROOT/usr/lib/nix ROOT/usr/bin/nix "$@"
//! ```

mod debian;
mod delay_line;
mod engine;
mod generations;
mod http;
mod lab;
mod push;
mod realise;
mod restricted;
mod run;
mod serve;
mod stream;
#[path = "../../tests/support/mod.rs"]
mod support;
mod table;
mod text_protocol;
mod ways;

use std::process::ExitCode;
use std::time::Instant;

use lab::{Lab, Options};
use table::{Table, say, tell};

const USAGE: &str = "\
usage: cargo bench --bench compare -- [RUNS] [--quick] [--ours] [--debian] [--nix PATH] [--only SUBSTRING]...

RUNS              runs of each contender (3 by default)
--quick           one run, closures of a fifth of the size (the goals are meant for the full size)
--ours            without those who are slow at latency, beside whom nothing is then judged
--debian          with packages in two versions that apt-get downloads
--nix PATH        a `nix`, or what runs one, that calls in the groups \"engine dag500\" and \"engine memory\"
--only SUBSTRING  only groups of rows whose title holds it, as \"dag500, 20 ms\"; repeatable";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [first, rest @ ..] = &args[..] {
        let part = match first.as_str() {
            delay_line::NAME => Some(delay_line::run(rest).map_err(|error| error.to_string())),
            text_protocol::NAME => Some(text_protocol::run(rest)),
            _ => None,
        };
        match part {
            Some(Ok(())) => return ExitCode::SUCCESS,
            Some(Err(why)) => {
                tell(&why);
                return ExitCode::FAILURE;
            }
            None => {}
        }
    }
    let Some(options) = parse(args) else {
        tell(USAGE);
        return ExitCode::FAILURE;
    };
    let start = Instant::now();
    if options.scale > 1 {
        say("Closures of a fifth of the size: the goals are meant for the full size.");
    }
    let lab = Lab::new(options);
    let mut table = Table::default();
    measure(&lab, &mut table);
    if table.is_empty() {
        tell(&format!(
            "no title holds that; they are:\n  {}",
            lab.titles().join("\n  ")
        ));
        return ExitCode::FAILURE;
    }
    table.print();
    say(&format!("{:.0} s in all.", start.elapsed().as_secs_f64()));
    ExitCode::SUCCESS
}

fn parse(args: Vec<String>) -> Option<Options> {
    let mut options = Options {
        runs: 3,
        only: Vec::new(),
        scale: 1,
        ours: false,
        debian: false,
        nix: None,
    };
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            // cargo's own.
            "--bench" => {}
            "--quick" => (options.runs, options.scale) = (1, 5),
            "--ours" => options.ours = true,
            "--debian" => options.debian = true,
            // Commands run in folders of their own.
            "--nix" => options.nix = Some(std::path::absolute(args.next()?).ok()?),
            "--only" => options.only.push(args.next()?),
            number => options.runs = number.parse().ok().filter(|runs| *runs > 0)?,
        }
    }
    Some(options)
}

/// All rows, with their goals.
fn measure(lab: &Lab, table: &mut Table) {
    realise::dag(lab, table, 0, 1.0);
    realise::dag(lab, table, 20, 1.0 / 10.0);
    realise::dag(lab, table, 100, 1.0 / 30.0);
    realise::dag_ng(lab, table, 0);
    realise::dag_ng(lab, table, 20);
    realise::big(lab, table, 0, Some(1.0));
    realise::big(lab, table, 20, None);
    realise::big(lab, table, 100, Some(0.5));
    // 0.95 of its rate.
    stream::large(lab, table, 0, Some(1.0 / 0.95));
    stream::large(lab, table, 20, None);
    stream::large(lab, table, 100, Some(1.0 / 4.0));
    stream::restricted(lab, table, 100, 1.1);
    stream::restore(lab, table, "tiny50k", Lab::tiny, Some(1.0));
    stream::restore(lab, table, "420 MB restored", |lab| &lab.big()[0], None);
    stream::two_hosts(lab, table, 12);
    stream::two_hosts(lab, table, 1);
    for even in [true, false] {
        restricted::one_host(lab, table, 100, even);
        restricted::two_hosts(lab, table, even);
    }
    http::dag(lab, table, 0, 1.2);
    http::dag(lab, table, 100, 1.0 / 30.0);
    http::big(lab, table, 1.3);
    http::questions(lab, table, 100);
    generations::rebuilds(lab, table);
    ways::fast_lines(lab, table);
    ways::interrupted(lab, table);
    debian::packages(lab, table);
    text_protocol::cached(lab, table);
    // Nix 1.11 with its own agent took 146 and 30 s.
    text_protocol::front_end(lab, table, false, 0, 146.0 / 6.0);
    text_protocol::front_end(lab, table, true, 100, 30.0 / 6.0);
    push::small(lab, table, 0, 1.0);
    push::small(lab, table, 20, 1.0 / 8.0);
    push::small(lab, table, 100, 1.0 / 20.0);
    push::large(lab, table, 0, 1.0);
    push::large(lab, table, 100, 1.0 / 4.0);
    push::many(lab, table);
    engine::dag(lab, table);
    engine::text_protocol(lab, table);
    engine::first_answer(lab, table);
    engine::stream(lab, table);
    engine::memory(lab, table, 0);
    engine::memory(lab, table, 100);
}
