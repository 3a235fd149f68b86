//! The check itself, tried on made-up files: offenders must be reported, their innocent twins must not.

use crate::RULES;
use crate::circles::circles;

/// Fails unless the made-up file is reported exactly once, with `word` in the message.
fn reported(name: &str, text: &str, word: &str) {
    let found = RULES.check(name, text);
    assert_eq!(
        found.len(),
        1,
        "expected one offence in {name}:\n{text}\nfound: {found:#?}"
    );
    assert!(
        found[0].contains(word),
        "expected {word:?} in {:?}",
        found[0]
    );
}

/// Fails if the made-up file is reported.
fn accepted(name: &str, text: &str) {
    assert_eq!(
        RULES.check(name, text),
        Vec::<String>::new(),
        "in {name}:\n{text}"
    );
}

#[test]
fn imports_upwards_are_reported() {
    reported(
        "src/model/path.rs",
        "use crate::wire::nar;",
        "crate::wire::nar",
    );
    reported(
        "src/cache/mod.rs",
        "use crate::{\n    model::StorePath,\n    pool::{Pool},\n};",
        "src/cache/mod.rs",
    );
    reported(
        "src/wire/mod.rs",
        "fn f() -> crate::pool::Pool {}",
        "crate::pool::Pool",
    );
    reported(
        "src/pool/mod.rs",
        "use crate::config::Config;",
        "crate::config::Config",
    );
    reported(
        "src/pool/mod.rs",
        "use crate::config::{host::Host, Config};",
        "crate::config::Config",
    );
    reported(
        "src/pool/health/circuit_breaker.rs",
        "use super::super::super::cache::Cache;",
        "cache",
    );
    reported(
        "src/pool/mod.rs",
        "mod inner { fn f() { super::super::cache::g() } }",
        "cache",
    );
    reported(
        "src/transport/mod.rs",
        "pub(crate) use crate::remote::Remote as R;",
        "crate::remote",
    );
    reported(
        "src/front/mod.rs",
        "use crate::pool::*;",
        "front ends know no ssh",
    );
    reported("src/model/mod.rs", "use crate::*;", "crate::*");
    reported("src/model/mod.rs", "use crate as everything;", "crate");
    reported(
        "src/model/mod.rs",
        "macro_rules! m { () => { $crate::front::x() } }",
        "crate::front",
    );
    reported("src/model/mod.rs", "use ssh_substituter::front;", "front");
    reported(
        "src/model/mod.rs",
        "#[cfg(test)]\nmod tests { use crate::pool::Pool; }",
        "crate::pool",
    );
    reported(
        "src/pool/tests.rs",
        "use crate::cache::Cache;",
        "crate::cache",
    );
    reported(
        "src/model/mod.rs",
        "#[cfg(test)]\nmod tests { } use crate::wire::nar;",
        "crate::wire",
    );
}

#[test]
fn imports_downwards_are_accepted() {
    accepted(
        "src/wire/nar.rs",
        "use crate::model::{NarHash, StorePath};\nuse crate::wire::{self, Error};\nuse super::read;",
    );
    accepted(
        "src/pool/health/circuit_breaker.rs",
        "use super::{Slot, inner::Deep};\nuse crate::config::host::{Host, HostName};",
    );
    accepted(
        "src/pool/mod.rs",
        "mod inner { use super::Pool; mod deeper { use super::super::Pool; } }",
    );
    accepted("src/pool/mod.rs", "use crate::config::{host, host::Host};");
    accepted("src/main.rs", "use ssh_substituter::{cli, front, pool};");
    accepted("src/app.rs", "use crate::{pool, transfer::unpack::Error};");
    accepted(
        "src/cache/mod.rs",
        "#[cfg(test)]\nmod tests { use super::*; use crate::wire::text; }",
    );
    accepted("src/cache/tests.rs", "use super::*; use crate::wire::text;");
    accepted(
        "src/model/mod.rs",
        "//! [`crate::pool`]\n/* crate::pool /* nested */ crate::cache */\n\
         const A: &str = \"crate::pool\\\" crate::cache\";\nconst B: &str = r#\"\" crate::pool\"#;\n\
         fn f<'a>(c: &'a char) -> bool { *c == '\"' || *c == '\\'' }",
    );
}

#[test]
fn crates_are_named_in_their_place_only() {
    reported("src/main.rs", "use clap::Parser;", "clap");
    reported(
        "src/pool/mod.rs",
        "use {std::io, openssh::Session};",
        "openssh",
    );
    reported(
        "src/transport/process.rs",
        "fn f(s: ::openssh::Session) {}",
        "openssh",
    );
    reported("src/cache/memory.rs", "use rusqlite as sql;", "rusqlite");
    reported("src/cache/mod.rs", "extern crate moka;", "moka");
    reported(
        "src/front/mod.rs",
        "#[derive(clap::Parser)] struct Raw;",
        "clap",
    );
    reported(
        "src/front/mod.rs",
        "#[cfg(test)] mod tests { use indicatif::ProgressBar; }",
        "indicatif",
    );
    accepted("src/cli.rs", "use clap::{Args, Parser};");
    accepted("src/cache/disk.rs", "use rusqlite::Connection;");
    accepted("src/cache/disk/schema.rs", "use rusqlite::Connection;");
    accepted("src/local_store/db.rs", "use rusqlite::Connection;");
    accepted("src/transport/openssh.rs", "use openssh::Session;");
    accepted(
        "src/transport/mod.rs",
        "pub mod openssh;\npub use openssh::Master;\npub use self::openssh::Other;\nuse crate::transport::openssh::X;",
    );
}

#[test]
fn runtime_in_pure_rooms_is_reported() {
    reported("src/wire/nar.rs", "use tokio::io::AsyncRead;", "tokio");
    reported(
        "src/pool/health/circuit_breaker.rs",
        "fn now() { tokio::time::Instant::now(); }",
        "tokio",
    );
    reported(
        "src/model/mod.rs",
        "#[cfg(test)] mod tests { #[tokio::test] async fn t() {} }",
        "tokio",
    );
    accepted("src/pool/mod.rs", "use tokio::time;");
}

#[test]
fn printing_is_reported() {
    reported("src/pool/mod.rs", "fn f() { println!(\"x\"); }", "println!");
    reported("src/main.rs", "fn f() { std::print!(\"x\"); }", "print!");
    reported("src/report.rs", "use std::io::{self, stdout};", "stdout");
    reported(
        "src/main.rs",
        "fn f() { let out = tokio::io::stdout(); }",
        "stdout",
    );
    reported(
        "src/transport/mod.rs",
        "fn f() { eprintln!(\"x\"); }",
        "eprintln!",
    );
    reported("src/transport/mod.rs", "fn f() { io::stderr(); }", "stderr");
    accepted("src/front/serve.rs", "fn f() { io::stdout().lock(); }");
    accepted(
        "src/report.rs",
        "fn f() { eprintln!(\"x\"); writeln!(io::stderr(), \"y\"); }",
    );
    accepted(
        "src/transport/process.rs",
        "fn f(c: Command) { c.stdout(Stdio::piped()).stderr(Stdio::inherit()); }",
    );
}

/// The circles of a made-up crate.
fn circles_of(files: &[(&str, &str)]) -> Vec<String> {
    let own = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
    circles(&files.iter().map(own).collect::<Vec<_>>())
}

/// Fails unless the made-up crate has exactly one circle, and its text begins with `head` and names all `files`.
fn circle(crate_files: &[(&str, &str)], head: &str, files: &[&str]) {
    let found = circles_of(crate_files);
    assert_eq!(found.len(), 1, "expected one circle, found {found:#?}");
    assert_eq!(found[0].lines().next(), Some(head));
    for file in files {
        assert!(found[0].contains(file), "no {file} in {}", found[0]);
    }
}

const ROOT: (&str, &str) = ("src/lib.rs", "pub mod x;\npub mod y;");

#[test]
fn circles_between_files_are_reported() {
    let files = ["src/x/a.rs:1 imports", "src/x/b.rs:1 imports"];
    let parent = (
        "src/x/mod.rs",
        "mod a;\nmod b;\npub use a::A;\npub use b::B as C;",
    );
    let direct = [
        parent,
        ("src/x/a.rs", "use super::b::B; pub struct A;"),
        ("src/x/b.rs", "pub struct B; fn f() { super::a::A }"),
    ];
    circle(&[&[ROOT], &direct[..]].concat(), "src/x: a, b", &files);
    let by_the_parent = [
        parent,
        ("src/x/a.rs", "use super::C; pub struct A;"),
        ("src/x/b.rs", "pub struct B; fn f() -> crate::x::A {}"),
    ];
    circle(
        &[&[ROOT], &by_the_parent[..]].concat(),
        "src/x: a, b",
        &files,
    );
    let three = [
        ("src/x/mod.rs", "mod a; mod b; mod c; mod d;"),
        ("src/x/a.rs", "use super::b; fn a() { b::b() }"),
        ("src/x/b.rs", "use crate::x::{c::c, d::d}; fn b() {}"),
        ("src/x/c.rs", "use super::a::*; fn c() {}"),
        ("src/x/d.rs", "fn d() {}"),
    ];
    circle(&[&[ROOT], &three[..]].concat(), "src/x: a, b, c", &files);
}

#[test]
fn circles_between_folders_are_reported() {
    let files = [
        ROOT,
        ("src/x/mod.rs", "mod a; mod b;"),
        ("src/x/a.rs", "use crate::y::c::C; pub struct A;"),
        ("src/x/b.rs", "pub struct B;"),
        ("src/y/mod.rs", "mod c; mod d;"),
        ("src/y/c.rs", "pub struct C;"),
        ("src/y/d.rs", "fn f() { ssh_substituter::x::b::B }"),
    ];
    let imports = [
        "x -> y: src/x/a.rs:1 imports src/y/c.rs",
        "y -> x: src/y/d.rs:1",
    ];
    circle(&files, "src: x, y", &imports);
}

#[test]
fn imports_without_a_circle_are_accepted() {
    let files = [
        ROOT,
        // A parent uses its children, and they what it defines.
        (
            "src/x/mod.rs",
            "mod a; mod b; pub use a::A; use b::B; pub struct X(B);",
        ),
        // Other names for b, and what only tests use.
        (
            "src/x/a.rs",
            "use super::{X, B}; pub struct A; #[cfg(test)] mod tests { use crate::y::Y; }",
        ),
        ("src/x/b.rs", "use super::X; use std::io; pub struct B;"),
        ("src/x/tests.rs", "use crate::y::Y;"),
        // A module is named, not what is in it.
        ("src/y.rs", "use crate::x::{self, b}; pub struct Y(x::A);"),
    ];
    assert_eq!(circles_of(&files), Vec::<String>::new());
}
