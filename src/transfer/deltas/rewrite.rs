//! Hashes of store paths that take the place of others: what a rebuild changes, and often all of it. Pure.

use std::collections::HashMap;

use crate::model::{PathInfo, StorePath};

/// The length of a hash in a store path, in bytes.
const HASH: usize = 32;

/// How many of the first two bytes there are.
const STARTS: usize = 1 << 16;

/// Which hash takes the place of which.
#[derive(Debug)]
pub(super) struct HashRewrites {
    new_of_old: HashMap<[u8; HASH], [u8; HASH]>,
    /// Whether an old one begins with these two bytes. Most that look like a hash do not.
    starts: Box<[bool]>,
}

impl HashRewrites {
    /// What makes the NAR of `old` that of `new`. `None` where the two cannot be the same but for hashes of store paths:
    /// sizes or names differ, or what they refer to.
    pub(super) fn between(old: &PathInfo, new: &PathInfo) -> Option<Self> {
        let is_similar = new.nar_size > 0
            && old.nar_size == new.nar_size
            && old.path.name() == new.path.name()
            && old.path.store_dir() == new.path.store_dir();
        let refers_to_itself = |info: &PathInfo| info.references.contains(&info.path);
        if !is_similar || refers_to_itself(old) != refers_to_itself(new) {
            return None;
        }
        let (ours, theirs) = (others(old, new), others(new, old));
        // Of two with the same name nobody knows which is which.
        let is_ambiguous = ours.windows(2).any(|two| two[0].name() == two[1].name());
        let names_differ = ours.iter().zip(&theirs).any(|(a, b)| a.name() != b.name());
        if ours.len() != theirs.len() || is_ambiguous || names_differ {
            return None;
        }
        let mut pairs: Vec<_> = ours.into_iter().zip(theirs).collect();
        if refers_to_itself(old) {
            pairs.push((&old.path, &new.path));
        }
        // Nothing would be replaced.
        let is_other = pairs.is_empty() && old.nar_hash != new.nar_hash;
        if is_other { None } else { Self::of(&pairs) }
    }

    /// What in files of `old` takes the place of what where they are the same in `new` but for hashes of store paths, as far
    /// as names tell. `None` where that is nothing.
    pub(super) fn likely(old: &PathInfo, new: &PathInfo) -> Option<Self> {
        let (ours, theirs) = (others(old, new), others(new, old));
        let only = |of: &[&'_ StorePath], name: &str| {
            let mut named = of.iter().filter(|path| path.name() == name);
            let first = named.next()?;
            named.next().is_none().then(|| (*first).clone())
        };
        let pair = |old: &&StorePath| Some((only(&ours, old.name())?, only(&theirs, old.name())?));
        let mut pairs: Vec<(StorePath, StorePath)> = ours.iter().filter_map(pair).collect();
        if old.path.name() == new.path.name() {
            pairs.push((old.path.clone(), new.path.clone()));
        }
        let pairs: Vec<_> = pairs.iter().map(|(old, new)| (old, new)).collect();
        if pairs.is_empty() {
            None
        } else {
            Self::of(&pairs)
        }
    }

    fn of(pairs: &[(&StorePath, &StorePath)]) -> Option<Self> {
        let hash = |path: &StorePath| <[u8; HASH]>::try_from(path.hash_part().as_bytes()).ok();
        let mut starts = vec![false; STARTS].into_boxed_slice();
        let mut new_of_old = HashMap::new();
        for (old, new) in pairs {
            let (old, new) = (hash(old)?, hash(new)?);
            starts[start(&old)] = true;
            new_of_old.insert(old, new);
        }
        Some(Self { new_of_old, starts })
    }

    /// Replaces what lies whole in `bytes`. Gives how many of them are final: what follows may be the beginning of a hash.
    pub(super) fn apply(&self, bytes: &mut [u8]) -> usize {
        if self.new_of_old.is_empty() {
            return bytes.len();
        }
        let mut at = 0;
        // How many bytes from there on can be in a hash.
        let mut known = 0;
        while let Some(window) = bytes.get_mut(at..at + HASH) {
            if let Some(last) = window[known..]
                .iter()
                .rposition(|byte| !IN_HASH[usize::from(*byte)])
            {
                at += known + last + 1;
                known = HASH - 1 - known - last;
                continue;
            }
            known = HASH - 1;
            let new = match self.starts[start(window)] {
                true => self.new_of_old.get(&*window),
                false => None,
            };
            match new {
                Some(new) => {
                    window.copy_from_slice(new);
                    (at, known) = (at + HASH, 0);
                }
                None => at += 1,
            }
        }
        at
    }
}

/// What one refers to and the other does not, beside itself, by name.
fn others<'a>(of: &'a PathInfo, beside: &PathInfo) -> Vec<&'a StorePath> {
    let is_other = |path: &&StorePath| **path != of.path && !beside.references.contains(path);
    let mut others: Vec<_> = of.references.iter().filter(is_other).collect();
    others.sort_by_key(|path| path.name());
    others
}

fn start(hash: &[u8]) -> usize {
    usize::from(hash[0]) << 8 | usize::from(hash[1])
}

/// Whether a byte may be in the hash of a store path: Nix's base32.
const IN_HASH: [bool; 256] = {
    let (mut is_in, mut at) = ([false; 256], 0);
    let digits = b"0123456789abcdfghijklmnpqrsvwxyz";
    while at < digits.len() {
        is_in[digits[at] as usize] = true;
        at += 1;
    }
    is_in
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NarHash;

    fn path(digit: char, name: &str) -> StorePath {
        let hash: String = std::iter::repeat_n(digit, HASH).collect();
        StorePath::parse(&format!("/nix/store/{hash}-{name}")).unwrap()
    }

    fn info(path: StorePath, references: &[StorePath]) -> PathInfo {
        PathInfo {
            nar_hash: Some(NarHash::new([path.hash_part().as_bytes()[0]; 32])),
            path,
            deriver: None,
            references: references.to_vec(),
            download_size: 0,
            nar_size: 1000,
            ca: None,
            sigs: Vec::new(),
        }
    }

    fn between(old: &[StorePath], new: &[StorePath]) -> Option<HashRewrites> {
        HashRewrites::between(&info(path('1', "a"), old), &info(path('2', "a"), new))
    }

    #[test]
    fn only_what_can_be_a_rebuild_is_taken_for_one() {
        let [a, b, c] = ['1', '2', '3'].map(|digit| path(digit, "a"));
        let [d4, d5, e] = [path('4', "d"), path('5', "d"), path('6', "e")];
        assert!(between(&[a.clone(), d4.clone()], &[b.clone(), d5.clone()]).is_some());
        for (old, new) in [
            // Nothing to replace, and another hash.
            (vec![], vec![]),
            (vec![e.clone()], vec![e.clone()]),
            (vec![a.clone()], vec![]),
            (vec![d4.clone()], vec![e.clone()]),
            (vec![d4.clone()], vec![d5.clone(), e.clone()]),
            (
                vec![d4.clone(), path('7', "d")],
                vec![d5.clone(), path('8', "d")],
            ),
        ] {
            assert!(between(&old, &new).is_none(), "{old:?} {new:?}");
        }
        let (old, new) = (info(a.clone(), &[a]), info(b.clone(), &[b]));
        assert!(HashRewrites::between(&old, &new).is_some());
        let others: [fn(&mut PathInfo); 3] = [
            |new| new.nar_size += 8,
            |new| new.nar_size = 0,
            |new| new.path = path('2', "b"),
        ];
        for change in others {
            let mut other = new.clone();
            change(&mut other);
            assert!(HashRewrites::between(&old, &other).is_none());
        }
        let same = |path: StorePath| PathInfo {
            nar_hash: None,
            ..info(path, &[])
        };
        let rewrites = HashRewrites::between(&same(c), &same(path('2', "a"))).unwrap();
        assert_eq!(rewrites.apply(&mut [b'3'; 100]), 100);
    }

    #[test]
    fn what_takes_whose_place_is_known_by_name() {
        let [a, b] = ['1', '2'].map(|digit| path(digit, "a"));
        let [d4, d5] = [path('4', "d"), path('5', "d")];
        let doubles = [path('6', "e"), path('7', "e")];
        let old = info(a, &[&[d4, path('c', "gone")], &doubles[..]].concat());
        let new = info(b, &[d5, path('8', "e"), path('9', "new")]);
        let rewrites = HashRewrites::likely(&old, &new).unwrap();
        let text = ['1', '4', '6', '7', 'c'].map(|digit| path(digit, "x").hash_part().to_owned());
        let mut bytes = text.join(" ").into_bytes();
        rewrites.apply(&mut bytes);
        let text = ['2', '5', '6', '7', 'c'].map(|digit| path(digit, "x").hash_part().to_owned());
        assert_eq!(String::from_utf8(bytes).unwrap(), text.join(" "));
        let other = PathInfo {
            path: path('2', "b"),
            ..new
        };
        let old = PathInfo {
            references: Vec::new(),
            ..old
        };
        assert!(HashRewrites::likely(&old, &other).is_none());
    }

    #[test]
    fn every_hash_is_replaced_wherever_it_begins() {
        let [d4, d5] = [path('4', "d"), path('5', "d")];
        let [f0, f1] = [
            "0123456789abcdfghijklmnpqrsvwxyz",
            "0123456789abcdfghijklmnpqrsvwxy0",
        ]
        .map(|hash| StorePath::parse(&format!("/nix/store/{hash}-f")).unwrap());
        let rewrites = between(&[d4.clone(), f0.clone()], &[d5.clone(), f1.clone()]).unwrap();
        let words = [
            "e",
            "0",
            "0123",
            d4.hash_part(),
            f0.hash_part(),
            "-",
            "4",
            "z",
            "44e",
        ];
        let mut number: u64 = 1;
        for _ in 0..2000 {
            let mut text = String::new();
            while text.len() < 150 {
                number = number
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                text.push_str(words[(number >> 33) as usize % words.len()]);
            }
            // From left to right, each byte in one hash at most.
            let (mut expected, mut at) = (text.clone().into_bytes(), 0);
            while at + HASH <= text.len() {
                let pairs = [(&d4, &d5), (&f0, &f1)];
                let found = pairs
                    .iter()
                    .find(|(old, _)| text[at..].starts_with(old.hash_part()));
                match found {
                    Some((_, new)) => {
                        expected[at..at + HASH].copy_from_slice(new.hash_part().as_bytes());
                        at += HASH;
                    }
                    None => at += 1,
                }
            }
            let mut whole = text.clone().into_bytes();
            let done = rewrites.apply(&mut whole);
            assert!(done + HASH > whole.len());
            assert_eq!(
                String::from_utf8(whole),
                String::from_utf8(expected.clone())
            );
            for cut in [1, 31, 32, 33, 77] {
                let (mut out, mut rest) = (Vec::new(), Vec::new());
                for piece in text.as_bytes().chunks(cut) {
                    rest.extend_from_slice(piece);
                    let done = rewrites.apply(&mut rest);
                    out.extend(rest.drain(..done));
                }
                out.append(&mut rest);
                assert_eq!(out, expected, "{cut}: {text}");
            }
        }
    }
}
