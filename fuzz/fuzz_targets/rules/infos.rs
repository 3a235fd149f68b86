//! Rules of path infos and of what proves them. The input has lines:
//!
//! ```text
//! path
//! hash of the NAR
//! its size
//! content address
//! a reference, as often as wanted
//! (an empty line)
//! a public key or a signature, as often as wanted
//! ```
//!
//! 1. Paths, hashes and keys are shown as they were read, hashes in whatever spelling.
//! 2. From a fingerprint the info can be told: no two infos have the same.
//! 3. What a key signed counts, and that alone: not for another path, hash, size or reference, nor by a key of
//!    another name; and nothing that comes from outside counts without the secret key.
//! 4. A content address leads to one path only, in each spelling of its hash.

use ed25519_compact::{KeyPair, Seed};
use ssh_substituter::model::{
    AddressError, Content, NarHash, PathInfo, PublicKey, StorePath, verify,
};

use super::assert_plain;
use super::pieces::Random;

/// The name of the key that the rules sign with.
const NAME: &str = "rules-1";

/// All rules, for any bytes.
pub fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let lines: Vec<&str> = text.split('\n').collect();
    for line in &lines {
        path(line);
        hash(line);
        key(line);
    }
    let Some((info, proofs)) = info(&lines) else {
        return;
    };
    let mut random = Random::of(input);
    content(&info);
    if let Some(fingerprint) = info.fingerprint() {
        tells_the_info(&info, &fingerprint);
        signed(&info, &fingerprint, &proofs, &mut random);
    } else {
        assert!(info.nar_hash.is_none() || info.nar_size == 0);
    }
}

fn path(text: &str) {
    assert_eq!(
        StorePath::from_bytes(text.as_bytes()),
        StorePath::parse(text)
    );
    let path = match StorePath::parse(text) {
        Ok(path) => path,
        Err(error) => return assert_plain(&error.to_string()),
    };
    assert_plain(text);
    assert_eq!(path.as_str(), text);
    assert_eq!(path.to_string(), text);
    let parts = (path.store_dir(), path.hash_part(), path.name());
    assert_eq!(format!("{}/{}-{}", parts.0, parts.1, parts.2), text);
    assert!(!parts.0.split('/').any(|part| part == ".." || part == "."));
    assert!(!parts.2.contains('/') && parts.1.len() == 32);
    let first_part = parts.2.split('-').next();
    assert!(!matches!(first_part, Some("." | "..")), "{text}");
}

fn hash(text: &str) {
    let hash: NarHash = match text.parse() {
        Ok(hash) => hash,
        Err(error) => {
            let error: ssh_substituter::model::HashError = error;
            return assert_plain(&error.to_string());
        }
    };
    let base64 = data_encoding::BASE64.encode(hash.as_bytes());
    let spellings = [
        hash.to_string(),
        format!("sha256:{}", hash.base32()),
        format!("sha256:{}", hash.base16()),
        format!("sha256:{base64}"),
        format!("sha256-{base64}"),
    ];
    for spelling in &spellings {
        assert_eq!(spelling.parse(), Ok(hash));
    }
    let lower = text.to_ascii_lowercase();
    assert!(
        spellings
            .iter()
            .any(|spelling| spelling == text || *spelling == lower),
        "{text}"
    );
}

fn key(text: &str) {
    match text.parse::<PublicKey>() {
        Ok(key) => {
            assert_eq!(key.to_string(), text);
            assert!(!key.name().is_empty() && text.starts_with(key.name()));
        }
        // It may be a secret: nothing of it is told.
        Err(error) => assert!(error.to_string().len() < 60),
    }
}

/// The info, and what follows it.
fn info<'a>(lines: &[&'a str]) -> Option<(PathInfo, Vec<&'a str>)> {
    let [path, hash, size, ca, rest @ ..] = lines else {
        return None;
    };
    let end = rest
        .iter()
        .position(|line| line.is_empty())
        .unwrap_or(rest.len());
    let (references, proofs) = rest.split_at(end);
    let references = references.iter().map(|path| StorePath::parse(path));
    let info = PathInfo {
        path: StorePath::parse(path).ok()?,
        deriver: None,
        references: references.collect::<Result<_, _>>().ok()?,
        download_size: 0,
        nar_size: size.parse().unwrap_or(0),
        nar_hash: hash.parse().ok(),
        ca: (!ca.is_empty()).then(|| (*ca).to_owned()),
        sigs: Vec::new(),
    };
    Some((info, proofs.to_vec()))
}

fn tells_the_info(info: &PathInfo, fingerprint: &str) {
    let odd = |path: &StorePath| path.store_dir().contains([';', ',']);
    if odd(&info.path) || info.references.iter().any(odd) {
        // Nobody has a store there, and a host that names another store is refused.
        return;
    }
    let parts: Vec<&str> = fingerprint.split(';').collect();
    let [one, path, hash, size, references] = parts[..] else {
        panic!("{fingerprint}");
    };
    assert_eq!(one, "1");
    assert_eq!(path, info.path.as_str());
    assert_eq!(hash.parse().ok(), info.nar_hash);
    assert_eq!(size.parse(), Ok(info.nar_size));
    let told: Vec<&str> = references
        .split(',')
        .filter(|path| !path.is_empty())
        .collect();
    let want: Vec<&str> = info.references.iter().map(StorePath::as_str).collect();
    assert_eq!(told, want);
}

fn signed(info: &PathInfo, fingerprint: &str, proofs: &[&str], random: &mut Random) {
    let pair = KeyPair::from_seed(Seed::new([7; 32]));
    let text = |bytes: &[u8]| format!("{NAME}:{}", data_encoding::BASE64.encode(bytes));
    let key: PublicKey = text(&*pair.pk).parse().expect("a key");
    let ours = text(&*pair.sk.sign(fingerprint, None));
    assert!(key.is_named_in(&ours));

    // Without ours nothing counts, whatever keys come along.
    let foreign: Vec<String> = proofs.iter().map(|proof| (*proof).to_owned()).collect();
    let others: Vec<PublicKey> = proofs
        .iter()
        .filter_map(|proof| proof.parse().ok())
        .collect();
    let without = verify(std::slice::from_ref(&key), &foreign, fingerprint);
    assert_eq!(without.is_ok(), foreign.contains(&ours));
    let _ = verify(&others, &foreign, fingerprint);

    // With it the info counts, wherever it stands among a few others.
    let mut all: Vec<String> = foreign.into_iter().take(20).collect();
    all.insert(random.below(all.len() + 1), ours.clone());
    let mut keys: Vec<PublicKey> = others
        .into_iter()
        .filter(|key| key.name() != NAME)
        .collect();
    keys.truncate(1);
    keys.insert(random.below(keys.len() + 1), key.clone());
    assert_eq!(verify(&keys, &all, fingerprint), Ok(()));

    // For another info it does not.
    let mut other = info.clone();
    match random.below(4) {
        0 => other.path = StorePath::parse(&renamed(&info.path)).expect("a path"),
        1 => {
            let hash = info
                .nar_hash
                .map(|hash| *hash.as_bytes())
                .unwrap_or_default();
            let (mut hash, at) = (hash, random.below(32));
            hash[at] ^= 1 << random.below(8);
            other.nar_hash = Some(NarHash::new(hash));
        }
        2 => other.nar_size ^= 1u64 << random.below(64),
        _ => match other.references.pop() {
            Some(_) => {}
            None => other.references.push(info.path.clone()),
        },
    }
    if let Some(other) = other.fingerprint() {
        assert_ne!(other, fingerprint);
        assert!(
            verify(
                std::slice::from_ref(&key),
                std::slice::from_ref(&ours),
                &other
            )
            .is_err()
        );
    }
    // Nor under another name.
    let renamed = ours.replacen(NAME, "rules-2", 1);
    assert!(!key.is_named_in(&renamed));
    assert!(verify(&[key], &[renamed], fingerprint).is_err());
}

/// The same path with another name of the same length.
fn renamed(path: &StorePath) -> String {
    let (start, last) = path.as_str().split_at(path.as_str().len() - 1);
    format!("{start}{}", if last == "a" { "b" } else { "a" })
}

fn content(info: &PathInfo) {
    let content = match info.content() {
        Ok(content) => content,
        Err(error) => {
            assert_eq!(error == AddressError::None, info.ca.is_none());
            return assert_plain(&error.to_string());
        }
    };
    let address = info.ca.as_deref().unwrap_or_default();
    let (method, hash) = address
        .rsplit_once("sha256:")
        .expect("only SHA-256 proves something");
    let hash: NarHash = format!("sha256:{hash}").parse().expect("a hash");
    match content {
        Content::Nar => {
            assert_eq!(method, "fixed:r:");
            assert_eq!(info.nar_hash, Some(hash));
        }
        Content::NarWithoutSelf(bytes) => {
            assert_eq!(method, "fixed:r:");
            assert!(info.references.contains(&info.path) && bytes == *hash.as_bytes());
        }
        Content::File { hash: bytes, .. } => {
            assert!(["text:", "fixed:"].contains(&method) && bytes == *hash.as_bytes());
        }
    }
    let mut other = info.clone();
    for spelling in [hash.to_string(), format!("sha256:{}", hash.base16())] {
        other.ca = Some(format!("{method}{spelling}"));
        assert_eq!(other.content(), Ok(content));
    }
    let mut other = info.clone();
    other.path = StorePath::parse(&renamed(&info.path)).expect("a path");
    assert!(other.content().is_err());
    let mut bytes = *hash.as_bytes();
    bytes[0] ^= 1;
    let mut other = info.clone();
    other.ca = Some(format!("{method}{}", NarHash::new(bytes)));
    assert!(other.content().is_err());
}
