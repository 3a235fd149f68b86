//! The rules of the fuzz targets (`fuzz/README.md`), without a fuzzer: over the committed corpora and a few
//! thousand mutations of each, the same in every run.
//!
//! `UPDATE_FUZZ_CORPUS=1 cargo test --test fuzz_corpus` writes the corpora anew. Whatever else a fuzzer leaves
//! there is checked too.

#[path = "fuzz_corpus/nars.rs"]
mod nars;
#[path = "fuzz_corpus/parts.rs"]
mod parts;
#[path = "../fuzz/fuzz_targets/rules/mod.rs"]
mod rules;
#[path = "fuzz_corpus/seeds.rs"]
mod seeds;
#[path = "fuzz_corpus/texts.rs"]
mod texts;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use std::sync::{Mutex, PoisonError};

use rules::pieces::Random;

/// Inputs of one target, each with its name.
type Group = Vec<(&'static str, Vec<u8>)>;

/// How many mutations of the seeds of a target are checked.
const MUTATIONS: usize = 2000;
/// Most bytes of all corpora together.
const MOST_BYTES: usize = 200_000;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

/// Names and bytes of a target's inputs, in the order of their names.
fn inputs(target: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(corpus().join(target)).expect("read a corpus");
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read(entry.path()).unwrap())
    };
    entries.map(read).collect()
}

#[test]
fn the_corpora_are_what_the_generator_makes() {
    let seeds = seeds::all();
    let bytes: usize = seeds.iter().map(|(_, _, bytes)| bytes.len()).sum();
    assert!(bytes < MOST_BYTES, "{bytes} bytes");
    let update = std::env::var_os("UPDATE_FUZZ_CORPUS").is_some();
    for (target, name, bytes) in &seeds {
        let file = corpus().join(target).join(name);
        if update {
            fs::create_dir_all(corpus().join(target)).unwrap();
            fs::write(&file, bytes).unwrap();
        }
        let committed = fs::read(&file).unwrap_or_default();
        assert!(
            committed == *bytes,
            "{} is not what the generator makes: UPDATE_FUZZ_CORPUS=1 writes it anew",
            file.display()
        );
    }
    for (target, _) in rules::ALL {
        assert!(
            seeds.iter().any(|(of, ..)| *of == target),
            "{target} has no seeds"
        );
    }
}

/// Changes an input in a few places, as fuzzers do.
fn mutate(input: &mut Vec<u8>, others: &[&Vec<u8>], random: &mut Random) {
    const WORDS: [u64; 8] = [0, 1, 7, 8, 255, 4096, 1 << 63, u64::MAX];
    for _ in 0..=random.below(3) {
        let at = random.below(input.len() + 1);
        let len = random.below(16).min(input.len() - at);
        match random.below(8) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next() as u8,
            2 => drop(input.drain(at..at + len)),
            3 => input.truncate(at),
            4 => {
                let copy = input[at..at + len].to_vec();
                input.splice(at..at, copy);
            }
            // A number of the protocol, at its proper place or not.
            5 => {
                let word = WORDS[random.below(WORDS.len())].to_le_bytes();
                let at = if random.below(2) == 0 { at & !7 } else { at };
                let end = (at + 8).min(input.len());
                input.splice(at..end, word);
            }
            6 => {
                let other = others[random.below(others.len())];
                let from = random.below(other.len() + 1);
                let len = random.below(200).min(other.len() - from);
                input.splice(at..at, other[from..from + len].iter().copied());
            }
            _ => input.insert(at, b"\0\n %=:/@;-~2"[random.below(12)]),
        }
    }
}

/// Checks a rule, and shows the input when it does not hold.
fn holds(target: &str, rule: rules::Rule, input: &[u8], what: &str) {
    let outcome = std::panic::catch_unwind(|| rule(input));
    let hex: String = input.iter().map(|b| format!("{b:02x}")).collect();
    assert!(
        outcome.is_ok(),
        "{target}: the rules do not hold for {what}: {hex}"
    );
}

fn short_run(target: &str) {
    // One after the other: the memory that a rule measures is that of the whole process.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, rule) = rules::ALL
        .into_iter()
        .find(|(name, _)| *name == target)
        .unwrap();
    let inputs = inputs(target);
    for (name, input) in &inputs {
        holds(target, rule, input, name);
    }
    let seeds: Vec<&Vec<u8>> = inputs.values().collect();
    let mut random = Random::of(target.as_bytes());
    for number in 0..MUTATIONS {
        let mut input = seeds[random.below(seeds.len())].clone();
        mutate(&mut input, &seeds, &mut random);
        holds(target, rule, &input, &format!("mutation {number}"));
    }
    holds(target, rule, b"", "nothing");
}

macro_rules! short_runs {
    ($($target:ident)*) => {
        $(#[test]
        fn $target() {
            short_run(stringify!($target));
        })*

        #[test]
        fn no_target_is_left_out() {
            let run = [$(stringify!($target)),*];
            assert_eq!(rules::ALL.map(|(name, _)| name), run);
        }
    };
}

short_runs!(nar serve_client serve_server engine extension differences text nix_conf hosts infos);
