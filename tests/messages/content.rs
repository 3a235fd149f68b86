//! Hosts that send what they should not.

use super::caller::{Caller, name, scripted, ssh, url};
use super::support::{Sshd, Store};

#[test]
fn a_wrong_hash() {
    let (sshd, store) = (Sshd::start(), Store::new());
    let path = store.add_text("text", "text", &[]);
    store.corrupt(&path);
    let run = Caller::of(&url(&sshd, &store)).substitute(&path);
    run.fails_with(
        &name(&sshd),
        &format!("sent {path} with the wrong content: expected sha256:"),
        &[&format!("'{}nix-store --repair-path {path}'", ssh(&sshd))],
    );
}

/// Passes everything on, with one word of NARs replaced by one of the same length.
const OTHER_WORD: &str = r#"nix-store "$@" | perl -e '
    while (sysread(STDIN, $b, 65536)) { $b =~ s/nix-archive-1/nix-archive-X/; syswrite(STDOUT, $b) }'"#;

#[test]
fn a_malformed_nar() {
    let (sshd, store) = (Sshd::start(), Store::new());
    let path = store.add_text("text", "text", &[]);
    let run = Caller::of(&scripted(&sshd, &store, OTHER_WORD)).substitute(&path);
    run.fails_with(
        &name(&sshd),
        &format!("sent {path} wrongly: "),
        &[&format!("'{}nix-store --verify-path {path}'", ssh(&sshd))],
    );
}

/// Passes on so many bytes and no more.
const BEGINNING: &str = r#"nix-store "$@" | perl -e '
    $n = 100000; while ($n > 0 && ($r = sysread(STDIN, $b, $n))) { syswrite(STDOUT, $b); $n -= $r }'"#;

#[test]
fn a_program_that_ends_in_the_middle() {
    let (sshd, store) = (Sshd::start(), Store::new());
    let path = store.big("random", 300_000);
    let script = format!("{BEGINNING}; printf 'out of \\033[5mpaper\\n' >&2");
    let run = Caller::of(&scripted(&sshd, &store, &script)).substitute(&path);
    run.fails_with(
        &name(&sshd),
        "the connection ended while reading a NAR; it said: out of [5mpaper (hint",
        &[&format!("'{}true'", ssh(&sshd))],
    );
}
