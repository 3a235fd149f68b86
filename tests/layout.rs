//! The shape of the crate: which module may import which, no circles, the one place of each crate, who may print, how long
//! files get.
//!
//! The rules are the tables below, each with its reason. `layout/check.rs` applies them to one source file,
//! `layout/circles.rs` looks for circles among all.

#[path = "layout/check.rs"]
mod check;
#[path = "layout/circles.rs"]
mod circles;
#[path = "layout/made_up.rs"]
mod made_up;
#[path = "layout/scan.rs"]
mod scan;

use std::fs;
use std::path::{Path, PathBuf};

use check::{CrateUse, Module, Rules};

/// Imports point downwards only, so that each module can be understood and tested without those above it.
const MODULES: &[Module] = &[
    Module::new(
        "folder",
        &[],
        "what the file system says of folders: nothing of what is in them",
    ),
    Module::new(
        "hint",
        &[],
        "what an error says of its remedy: a trait, and nothing of any error of this crate",
    ),
    Module::new("model", &[], "plain values: everything rests on them"),
    Module::new(
        "sys",
        &[],
        "what systems do differently: nothing of what it is used for",
    ),
    Module::new(
        "watch",
        &[],
        "how tasks hear of changes: nothing of what changes",
    ),
    Module::new(
        "wire",
        &["model"],
        "codecs know values, not where bytes come from",
    ),
    Module::new(
        "config",
        &["hint", "model"],
        "one validated Config; nobody is called from here",
    ),
    Module::new(
        "transport",
        &["hint", "config::host", "folder", "sys"],
        "a host becomes bytes: nothing else is needed",
    ),
    Module::new(
        "remote",
        &["hint", "transport", "wire", "model", "config::host"],
        "one connection: no choice of hosts, no cache",
    ),
    Module::new(
        "pool",
        &["hint", "remote", "transport", "model", "config::host"],
        "hosts and failover: bytes are remote's",
    ),
    Module::new(
        "sqlite",
        &["folder"],
        "databases of ours that several processes use: nothing of what is in them",
    ),
    Module::new(
        "push_queue",
        &["hint", "model", "folder", "sqlite"],
        "what is to be sent: no host, no store",
    ),
    Module::new(
        "cache",
        &["hint", "model", "folder", "sqlite"],
        "remembers answers, whoever gave them",
    ),
    Module::new(
        "local_store",
        &["hint", "wire", "model"],
        "a store on this machine: no host is involved",
    ),
    Module::new(
        "resolver",
        &["hint", "cache", "pool", "model", "config::host", "watch"],
        "which paths there are: no bytes of theirs",
    ),
    Module::new(
        "transfer",
        &[
            "hint",
            "pool",
            "remote",
            "wire",
            "model",
            "watch",
            "config::host",
            "sys",
        ],
        "one path's bytes: no cache, no front end",
    ),
    Module::new(
        "push",
        &[
            "hint",
            "pool",
            "remote",
            "transfer::progress",
            "local_store",
            "wire",
            "model",
            "config::host",
        ],
        "paths of this machine to hosts: no configuration, no cache, no questions of others",
    ),
    Module::new(
        "engine",
        &[
            "hint",
            "config",
            "transport",
            "pool",
            "cache",
            "resolver",
            "transfer",
            "push",
            "push_queue",
            "folder",
            "backend",
            "serve",
            "ipc",
            "local_store",
            "wire",
            "model",
            "sys",
        ],
        "builds resolver, transfers and pool, and serves front ends over a socket: no stdin, no stdout",
    ),
    Module::new(
        "ipc",
        &[
            "hint",
            "config",
            "transport::runtime_dir",
            "folder",
            "wire",
            "sys",
        ],
        "how front ends reach their engine: nothing of what they say to each other",
    ),
    Module::new(
        "backend",
        &[
            "hint",
            "resolver",
            "transfer",
            "local_store",
            "ipc",
            "wire",
            "model",
        ],
        "answers requests: it does not know the protocol that the caller speaks",
    ),
    Module::new(
        "serve",
        &["hint", "backend", "transfer", "wire", "model", "sys"],
        "one protocol, over any backend and any stream",
    ),
    Module::new(
        "http",
        &["hint", "backend", "transfer", "wire", "model"],
        "a binary cache over any backend: it knows no ssh and no configuration",
    ),
    Module::new(
        "front",
        &[
            "hint", "backend", "serve", "transfer", "wire", "model", "sys",
        ],
        "front ends know no ssh: they decode requests and ask a backend",
    ),
    Module::new(
        "progress",
        &["transfer", "sys"],
        "draws the trait that transfer owns",
    ),
    Module::anything("commands", "what people do by hand touches every module"),
    Module::anything("app", "from the command line to a front end or a command"),
    Module::anything("main", "puts everything together"),
    Module::anything("lib", "the map of the crate"),
    Module::anything("cli", "raw values from the command line"),
    Module::new(
        "report",
        &["hint", "progress"],
        "what errors say becomes what people read",
    ),
];

/// Crates that only one place may name, so that replacing them touches that place alone.
const CRATES: &[CrateUse] = &[
    CrateUse::new(
        "clap",
        &["src/cli.rs", "src/cli/"],
        "parsing gives raw values",
    ),
    CrateUse::new(
        "indicatif",
        &["src/progress.rs", "src/progress/"],
        "bars are drawn in one place",
    ),
    CrateUse::new(
        "openssh",
        &["src/transport/openssh"],
        "everyone else sees byte streams",
    ),
    CrateUse::new(
        "rusqlite",
        &[
            "src/cache/disk",
            "src/local_store/",
            "src/push_queue/",
            "src/sqlite",
        ],
        "SQLite blocks: these modules fence it",
    ),
    CrateUse::new("hyper", &["src/http/"], "HTTP is spoken in one place"),
    CrateUse::new("hyper_util", &["src/http/"], "HTTP is spoken in one place"),
    CrateUse::new(
        "http_body_util",
        &["src/http/"],
        "HTTP is spoken in one place",
    ),
    CrateUse::new(
        "prometheus_client",
        &["src/http/metrics"],
        "numbers for others are put together in one place",
    ),
    CrateUse::new(
        "moka",
        &["src/cache/memory", "src/transfer/delivered"],
        "the memory tier, and NARs that are kept for others",
    ),
    CrateUse::new(
        "zstd",
        &[
            "src/commands/get/destination/binary_cache/pack",
            "src/backend/local/segments",
            "src/remote/inflater",
            "src/remote/blocks/encoder",
            "src/remote/shell/frame",
            "src/http/packer",
        ],
        "binary caches are compressed in one place and what is served over HTTP in one, parts of NARs in one, what is sent in one, and what hosts compress is decompressed in two: as it comes, and whole",
    ),
];

const RULES: Rules = Rules {
    modules: MODULES,
    crates: CRATES,
    // Codecs and policy are pure: they take slices and times, so that any caller and any test can drive them.
    no_tokio: &[
        "src/model/",
        "src/model.rs",
        "src/wire/",
        "src/wire.rs",
        "src/pool/health/circuit_breaker",
    ],
    // stdout carries protocol and nothing else.
    stdout: &["src/front/", "src/front.rs"],
    stderr: &["src/report", "src/progress", "src/main.rs", "src/front/"],
};

/// Import circles that are still there, each with its reason. `layout/circles.rs` has the rule.
const BORNE_CIRCLES: &[(&str, &str)] = &[];

/// Files stay under 400 lines; a few more are borne while somebody finds the second file that hides in there.
const LONGEST_FILE: usize = 420;

/// Paths and contents of all Rust files under `folders`, paths relative to the crate.
fn sources(folders: &[&str]) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pending: Vec<PathBuf> = folders
        .iter()
        .map(|folder| root.join(folder))
        .filter(|f| f.is_dir())
        .collect();
    let mut found = Vec::new();
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).expect("read a source folder") {
            let path = entry.expect("read an entry of a source folder").path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path
                    .strip_prefix(root)
                    .expect("inside the crate")
                    .to_str()
                    .expect("UTF-8 file names");
                found.push((
                    name.to_owned(),
                    fs::read_to_string(&path).expect("read a source file"),
                ));
            }
        }
    }
    found.sort();
    found
}

fn assert_none(offences: &[String]) {
    assert!(
        offences.is_empty(),
        "{} offences against the layout:\n{}",
        offences.len(),
        offences.join("\n")
    );
}

#[test]
fn sources_keep_to_the_layout() {
    let sources = sources(&["src"]);
    assert!(
        sources.iter().any(|(name, _)| name == "src/lib.rs"),
        "the sources were not found"
    );
    let offences: Vec<String> = sources
        .iter()
        .flat_map(|(name, text)| RULES.check(name, text))
        .collect();
    assert_none(&offences);
}

#[test]
fn files_stay_short() {
    let offences: Vec<String> = sources(&["src", "tests", "benches", "examples"])
        .iter()
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, lines)| *lines > LONGEST_FILE)
        .map(|(name, lines)| format!("{name}: {lines} lines; split it (the aim is under 400)"))
        .collect();
    assert_none(&offences);
}

#[test]
fn every_module_has_a_rule() {
    let modules: Vec<String> = sources(&["src"])
        .iter()
        .map(|(name, _)| check::module_of(name).to_owned())
        .collect();
    let offences: Vec<String> = modules
        .iter()
        .filter(|module| !MODULES.iter().any(|rule| rule.name == module.as_str()))
        .map(|module| format!("the module `{module}` is not in the table"))
        .collect();
    assert_none(&offences);
}

#[test]
fn modules_import_each_other_in_no_circle() {
    let found = circles::circles(&sources(&["src"]));
    let name = |circle: &String| circle.lines().next().unwrap_or_default().to_owned();
    let names: Vec<String> = found.iter().map(name).collect();
    let is_borne = |name: &str| BORNE_CIRCLES.iter().any(|(borne, _)| *borne == name);
    let mut offences = found;
    offences.retain(|circle| !is_borne(&name(circle)));
    let gone = BORNE_CIRCLES
        .iter()
        .filter(|(borne, _)| !names.iter().any(|name| name == borne));
    offences.extend(
        gone.map(|(borne, _)| format!("{borne}: no circle any more, take it off the list")),
    );
    assert_none(&offences);
}
