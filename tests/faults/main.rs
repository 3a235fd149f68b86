//! What a user may rely on when hosts fail: with one good host left, everything arrives and is right; what no host can
//! deliver fails alone; nothing hangs.
//!
//! Three real hosts (sshd, `nix-store --serve`) serve the same closure to a real Nix, and a relay before each `nix-store`
//! makes go wrong what a seeded plan says. `FAULT_SEED` chooses another plan, `FAULT_COUNT` the number of faults,
//! `FAULT_ENGINE=1` puts an engine between Nix's processes and the hosts in the long run too, `FAULT_HTTP_COUNT` is the
//! number of faults behind a server over HTTP. `FAULT_WAYS_RUNS` is the number of runs in which paths come compressed and
//! as differences.

mod disk;
mod engine;
mod hosts;
mod liar;
mod plan;
mod plan_folder;
mod proxy;
mod relay;
mod run;
mod single;
mod suite;
#[path = "../support/mod.rs"]
mod support;
mod ways;

use std::path::{Path, PathBuf};
use std::time::Instant;

use suite::Between;
use support::{number, show};

/// Where the table of a run is kept.
const TABLE: &str = "faults.txt";
const ENGINE_TABLE: &str = "faults-engine.txt";
const HTTP_TABLE: &str = "faults-http.txt";

/// Faults in the run with an engine that every `cargo test` has, and in that over HTTP.
const WITH_ENGINE: u64 = 60;
const OVER_HTTP: u64 = 60;

/// No test: the other life of this program, see `relay.rs`.
#[test]
#[ignore = "started by the tests, as the remote program of their hosts"]
fn relay_main() {
    if let Some(folder) = std::env::var_os(relay::FOLDER) {
        relay::main(&PathBuf::from(folder));
    }
}

#[test]
fn hundreds_of_faults_cost_time_only() {
    let between = match number("FAULT_ENGINE", 0) {
        0 => Between::Nothing,
        _ => Between::Engine,
    };
    account(number("FAULT_COUNT", 300), between, TABLE);
}

#[test]
fn faults_with_an_engine_in_between_that_fails_too_cost_time_only() {
    account(WITH_ENGINE, Between::Engine, ENGINE_TABLE);
}

#[test]
fn faults_behind_a_server_over_http_cost_time_only() {
    account(
        number("FAULT_HTTP_COUNT", OVER_HTTP),
        Between::Http,
        HTTP_TABLE,
    );
}

/// Has so many faults happen, and says what came of it.
fn account(count: u64, between: Between, file: &str) {
    let seed = number("FAULT_SEED", 1);
    show(&format!(
        "FAULT_SEED={seed}, {count} faults, between Nix and hosts: {between:?}\n"
    ));
    let started = Instant::now();
    let count = usize::try_from(count).expect("a number");
    let tally = suite::run(seed, count, between);
    let table = tally.table(seed, started.elapsed());
    show(&table);
    std::fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join(file), &table)
        .expect("write the table");
    assert!(
        tally.problems.is_empty(),
        "seed {seed}:\n{}\n{table}",
        tally.problems.join("\n\n")
    );
    assert!(tally.fired >= count, "too few fired:\n{table}");
    assert!(
        count < 300 || tally.unseen().is_empty(),
        "{:?}",
        tally.unseen()
    );
    assert!(
        between != Between::Engine || tally.engines_hit > 0,
        "no engine was hit:\n{table}"
    );
}

#[test]
fn a_full_disk_fails_the_path_and_leaves_nothing() {
    let world = hosts::World::new();
    let cases = disk::fills_up_at_every_place(&world);
    let under_nix = disk::fills_up_under_nix(&world);
    show(&format!(
        "disk full: {cases} places; under Nix: {under_nix} (needs a small file system to be mounted)\n"
    ));
}

#[test]
fn a_full_disk_beside_differences_fails_the_path_or_costs_time() {
    let beside = disk::Beside::new();
    let cases = beside.destination_fills_up();
    let cache = beside.cache_is_full();
    show(&format!(
        "disk full beside differences: {cases} places; the cache folder: {cache} (needs a small file system to be mounted)\n"
    ));
}

#[test]
fn what_fails_while_paths_come_compressed_and_as_differences_costs_time_only() {
    let (seed, runs) = (number("FAULT_SEED", 1), number("FAULT_WAYS_RUNS", 10));
    let tally = ways::go(seed, runs);
    let table = tally.table(seed, runs);
    show(&table);
    let problems = tally.problems.join("\n\n");
    assert!(problems.is_empty(), "seed {seed}:\n{problems}\n{table}");
    assert!(
        tally.happened() as u64 > 2 * runs,
        "too little happened:\n{table}"
    );
}

#[test]
fn nix_store_killed_in_the_middle_of_400_mb() {
    single::killed_in_the_middle(400 << 20);
}

#[test]
fn a_host_that_never_answers_is_left_behind() {
    single::first_host_is_dead();
}
