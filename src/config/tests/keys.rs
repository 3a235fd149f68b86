//! `trusted-public-keys`.

use super::{KEY, Machine};

const SECRET: &str = "test-1:T0eer70Sw2c0hjb3Czc/BmS0xVpgKU7nzL0KsCvHwqdOZJWpkTN2IbNH9VSY+8a3CBQ83dIgI3l7Vin0Fgb5ag==";

fn keys(machine: &Machine) -> (Vec<String>, Vec<String>) {
    let (config, warnings) = machine.load().unwrap();
    let keys = config.trusted_public_keys.iter();
    (keys.map(ToString::to_string).collect(), warnings)
}

#[test]
fn keys_come_from_all_sources_and_each_once() {
    let other = KEY.replace("test-1", "other");
    let machine = Machine::new()
        .file(
            "system/nix.conf",
            format!("trusted-public-keys = {KEY} {other}\n"),
        )
        .env("NIX_CONFIG", format!("extra-trusted-public-keys = {KEY}"));
    assert_eq!(keys(&machine), (vec![KEY.to_owned(), other], vec![]));
    let machine = machine.option("trusted-public-keys", "");
    assert_eq!(keys(&machine), (vec![], vec![]));
}

#[test]
fn what_is_no_key_costs_a_warning_and_nothing_else() {
    let unfit = "AAAA";
    for (word, said) in [
        (
            "k:v",
            "the key \"k\" is ignored: what follows the colon is not base64",
        ),
        (
            "k:AAAA",
            "the key \"k\" is ignored: it has 3 bytes instead of 32",
        ),
        ("k:", "the key \"k\" is ignored: it has 0 bytes"),
        (":AAAA", "a key without a name is ignored: it has no name"),
        (unfit, "a key without a name is ignored: it has no name"),
        ("\u{fffd}:AAAA", "the key \"\u{fffd}\" is ignored"),
        ("\u{1b}[2J:AAAA", "the key \"\\u{1b}[2J\" is ignored"),
    ] {
        let line = format!("# keys\ntrusted-public-keys = {word} {KEY}\n");
        let (found, warnings) = keys(&Machine::new().file("system/nix.conf", line));
        assert_eq!(found, [KEY], "{word}");
        let [warning] = &warnings[..] else {
            panic!("{word}: {warnings:?}")
        };
        assert!(warning.contains("/system/nix.conf:2: "), "{warning}");
        assert!(warning.contains("trusted-public-keys: "), "{warning}");
        assert!(warning.contains(said), "{warning}");
        assert!(warning.contains("expected NAME:BASE64"), "{warning}");
        assert!(!warning.contains("AAAA"), "{warning}");
    }
}

#[test]
fn a_secret_key_is_not_shown() {
    let machine = Machine::new().option("trusted-public-keys", SECRET);
    let (found, warnings) = keys(&machine);
    assert_eq!(found, [""; 0]);
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("as a secret key has"), "{warnings:?}");
    assert!(warnings[0].contains("must be replaced"), "{warnings:?}");
    assert!(!warnings[0].contains("T0eer70S"), "{warnings:?}");
}

#[test]
fn with_other_keys_another_engine_serves() {
    let identity = |keys: &str| {
        let machine = Machine::new().option("trusted-public-keys", keys);
        machine.config().identity()
    };
    let other = KEY.replace("TmSV", "TmSW");
    assert_ne!(other, KEY);
    assert_eq!(identity(KEY), identity(KEY));
    let renamed = KEY.replace("test-1", "test-2");
    for keys in [&other, &renamed, &format!("{KEY} {renamed}"), ""] {
        assert_ne!(identity(KEY), identity(keys), "{keys}");
    }
}
