use super::*;
use crate::model::NarHash;
use crate::model::samples::{KEY, bare, path};

// Made and signed by Nix 2.8.0.
const SIGNATURE: &str = "test-1:c4FvMaqckz8f0DmW2bkhY8NlexYb77K9EigKVUgffcEaUVA6pGaKtKVH7IzBjMiCbmp50WK140jX2TsNdwwVDg==";
const ADDRESS: &str = "text:sha256:00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq";

fn info(ca: Option<&str>, sigs: &[&str]) -> PathInfo {
    PathInfo {
        nar_size: 120,
        nar_hash: "sha256-HDfQGvQL4ugGkd48w99EN3ppmvuxfGjwgJZLL9Bx/BM="
            .parse()
            .ok(),
        ca: ca.map(str::to_owned),
        sigs: sigs.iter().map(|sig| (*sig).to_owned()).collect(),
        ..bare(path("q3laishhmk84vl44j1973qpzkyhmr90c-text"))
    }
}

fn trust(require_sigs: bool, keys: &[&str]) -> Trust {
    let keys = keys.iter().map(|key| key.parse().unwrap()).collect();
    Trust { require_sigs, keys }
}

fn host(spec: &str) -> Host {
    Host::parse(spec).unwrap()
}

/// The message for a host without trust, or that there is none.
fn refusal(trust: &Trust, info: &PathInfo) -> Option<String> {
    let error = trust.check(&host("h"), info).err()?;
    let text = error.to_string();
    assert!(text.starts_with("h: has /nix/store/q3la"), "{text}");
    assert!(
        text.ends_with(": such paths from there are not used"),
        "{text}"
    );
    Some(text)
}

#[test]
fn any_one_of_the_four_is_enough() {
    let nothing = info(None, &[]);
    let strict = trust(true, &[KEY]);
    assert!(refusal(&strict, &nothing).is_some());
    assert!(
        strict
            .check(&host("ssh://h?trusted=true"), &nothing)
            .is_ok()
    );
    assert!(
        strict
            .check(&host("ssh://h?trusted=false"), &nothing)
            .is_err()
    );
    assert_eq!(refusal(&trust(false, &[]), &nothing), None);
    assert_eq!(refusal(&strict, &info(None, &[SIGNATURE])), None);
    assert_eq!(refusal(&trust(true, &[]), &info(Some(ADDRESS), &[])), None);
}

#[test]
fn one_good_reason_outweighs_what_is_wrong_besides() {
    let strict = trust(true, &[KEY]);
    let forged = SIGNATURE.replace("c4Fv", "c4Fw");
    assert_eq!(refusal(&strict, &info(None, &[&forged, SIGNATURE])), None);
    assert_eq!(
        refusal(&strict, &info(Some("nonsense"), &[SIGNATURE])),
        None
    );
    assert_eq!(refusal(&strict, &info(Some(ADDRESS), &[&forged])), None);
}

#[test]
fn the_reason_is_told() {
    let strict = trust(true, &[KEY]);
    let forged = SIGNATURE.replace("c4Fv", "c4Fw");
    let other = |name: &str| SIGNATURE.replace("test-1:", &format!("{name}:"));
    let escape = other("\u{1b}]0;\u{202e}x");
    let others: Vec<String> = (0..9).map(|n| other(&format!("k{n}"))).collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    let long = other(&"k".repeat(500));
    let sha1 = "fixed:sha1:pplp5izjnj9j7sbk2hwv7dkbswqf61yj";
    let mut reasons = std::collections::HashSet::new();
    for (info, answer) in [
        (info(None, &[]), "it is not signed: "),
        (
            info(None, &[&forged]),
            "its signature by \"test-1\" is wrong",
        ),
        (
            info(None, &[&escape]),
            "signed by \"\\u{1b}]0;\\u{202e}x\" only",
        ),
        (
            info(None, &others),
            "signed by \"k0\", \"k1\", \"k2\", 6 more only",
        ),
        (
            info(None, &[&long]),
            "kkk\" only, which trusted-public-keys",
        ),
        (info(None, &["test-1:"]), "its signature cannot be read"),
        (
            info(Some(sha1), &[]),
            "it is not signed, and its content address is not",
        ),
        (
            info(Some(&ADDRESS.replace("aq", "bq")), &[]),
            "it is not signed, and its content address gives another name: ",
        ),
    ] {
        let text = refusal(&strict, &info).unwrap();
        assert!(text.contains(answer), "{text}");
        assert!(text.len() < 400, "{text}");
        reasons.insert(strict.check(&host("h"), &info).unwrap_err().reason());
    }
    assert_eq!(reasons.len(), 6, "unknown keys are one reason");
}

#[test]
fn what_is_not_told_cannot_be_signed() {
    let strict = trust(true, &[KEY]);
    let mut sizeless = info(None, &[SIGNATURE]);
    sizeless.nar_size = 0;
    let text = refusal(&strict, &sizeless).unwrap();
    assert!(text.contains("does not tell the size"), "{text}");
    sizeless.sigs.clear();
    let text = refusal(&strict, &sizeless).unwrap();
    assert!(text.contains("it is not signed"), "{text}");
    let mut old = info(Some(ADDRESS), &[SIGNATURE]);
    old.nar_hash = None;
    for trust in [strict, trust(false, &[])] {
        let text = refusal(&trust, &old).unwrap();
        assert!(text.contains("is too old to tell its NAR hash"), "{text}");
        assert!(trust.check(&host("ssh://h?trusted=true"), &old).is_ok());
    }
}

#[test]
fn a_signature_is_for_one_content_only() {
    let mut other = info(None, &[SIGNATURE]);
    other.nar_hash = Some(NarHash::new([7; 32]));
    let text = refusal(&trust(true, &[KEY]), &other).unwrap();
    assert!(text.contains("is wrong"), "{text}");
}
