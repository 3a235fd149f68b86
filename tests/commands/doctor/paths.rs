//! Store paths: accepted or not, and why.

use crate::machine::{ABSENT_PATH, Machine, name};
use crate::support::{Host, closed_port, program};

#[test]
fn each_reason_to_accept_or_to_refuse() {
    let host = Host::new();
    let text = host.store.add_text("text", "text", &[]);
    let [signed, unsigned, unknown] =
        ["signed", "unsigned", "unknown"].map(|name| host.store.big(name, 1000));
    let key = host.store.sign("test-1", &[&signed]);
    host.store.sign("test-2", &[&unknown]);
    let machine = Machine::new(&[host.url("")]);
    let host_name = name(&host.sshd);
    machine
        .env
        .configure(&[host.url("")], &format!("trusted-public-keys = {key}"));
    let well = machine.doctor(&[&text, &signed]).healthy();
    let by = |reason: &str| format!("{host_name} has it, accepted: {reason}");
    let addressed = well.has("ok", &by("it is content-addressed, text:sha256:"));
    assert_eq!(addressed["about"], *text);
    let by_key = well.has("ok", &by("it is signed by test-1 ("));
    assert_eq!(by_key["about"], *signed);

    let ill = machine
        .doctor(&[&unsigned, &unknown, ABSENT_PATH, "/nix/store/x"])
        .ill(3, 1);
    let refused = |reason: &str| format!("{host_name} has it, refused: {reason}");
    let sign = format!("nix store sign --key-file FILE --recursive {unsigned}'");
    ill.fixed_by(
        "error",
        &refused("it is not signed"),
        &[&sign, "trusted=true to the host's URL"],
    );
    let words = ["add it to trusted-public-keys as NAME:BASE64"];
    ill.fixed_by("error", &refused("it is signed by \"test-2\" only"), &words);
    let nobody = ill.fixed_by("warning", "no host that answers has it", &["copy it there"]);
    assert_eq!(nobody["about"], ABSENT_PATH);
    let wrong = ill.fixed_by(
        "error",
        "is not a store path",
        &["name it as /nix/store/HASH-NAME"],
    );
    assert_eq!(wrong["about"], "/nix/store/x");
}

#[test]
fn who_else_has_it_and_who_did_not_answer() {
    let (trusted, other) = (Host::new(), Host::new());
    let path = trusted.store.big("path", 1000);
    assert_eq!(other.store.big("path", 1000), path);
    let down = format!("u@127.0.0.1:{}", closed_port());
    let machine = Machine::new(&[other.url(""), trusted.trusted(), down.clone()]);
    let ill = machine.doctor(&[&path]).ill(1, 0);
    ill.has(
        "ok",
        &format!("{} has it, accepted: trusted=true", name(&trusted.sshd)),
    );
    // One is enough.
    ill.has(
        "note",
        &format!("{} has it, refused: it is not signed", name(&other.sshd)),
    );
    ill.has("note", &format!("gave no answer: {down}"));
}

#[test]
fn what_nix_itself_would_refuse() {
    let host = Host::new();
    let path = host.store.big("path", 1000);
    let machine = Machine::without_nix(&[host.url("")]);
    machine
        .env
        .configure(&[host.url("")], "require-sigs = false");
    let url = format!("ssh://localhost?remote-program={}", program().display());
    machine.env.add_conf(&format!("extra-substituters = {url}"));
    let ill = machine.doctor(&[&path]).ill(0, 2);
    ill.has("ok", "accepted: require-sigs is false (");
    let text = format!("Nix itself refuses what {} has", name(&host.sshd));
    ill.fixed_by(
        "warning",
        &text,
        &["add &trusted=true to the URL in Nix's substituters"],
    );
    ill.has(
        "warning",
        "so that require-sigs = false brings nothing that has none",
    );
}
