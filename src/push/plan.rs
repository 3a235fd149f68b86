//! What is to be sent: the closure of the roots in the local store, references first.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use super::{PushError, PushOptions};
use crate::local_store::LocalStore;
use crate::model::{PathInfo, SecretKey, StorePath};

/// What is to be sent.
pub(super) struct Plan {
    /// References first. What refers to itself in a circle, which no Nix registers, stands in any order.
    pub(super) items: Vec<Item>,
    /// Roots that are not valid.
    pub(super) gone: Vec<StorePath>,
    /// Their paths, in the same order.
    pub(super) paths: Vec<StorePath>,
    key: Option<Arc<SecretKey>>,
}

/// One path.
pub(super) struct Item {
    info: PathInfo,
    signed: OnceLock<Arc<PathInfo>>,
    /// Places of its references that stand before it: itself and those outside of the plan are left out.
    pub(super) references: Vec<usize>,
}

impl Plan {
    /// Reads the closure. Blocks.
    pub(super) fn read(
        store: &LocalStore,
        roots: &[StorePath],
        options: &PushOptions,
    ) -> Result<Self, PushError> {
        let (roots, gone) = valid_roots(store, roots, options)?;
        let mut start = roots.clone();
        if options.derivers {
            let infos = store.query_path_infos(&roots)?;
            let derivers: Vec<_> = infos.into_iter().filter_map(|info| info.deriver).collect();
            start.extend(store.query_valid_paths(&derivers)?);
        }
        let paths = match options.closure {
            true => store.query_closure(&start, false)?,
            // Each once.
            false => start
                .into_iter()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
        };
        let mut infos: HashMap<_, _> = store
            .query_path_infos(&paths)?
            .into_iter()
            .map(|info| (info.path.clone(), info))
            .collect();
        // What the database holds nonsense about is told as a path without a hash.
        let infos = paths
            .into_iter()
            .map(|path| infos.remove(&path).unwrap_or_else(|| bare(path)));
        Ok(Self {
            items: in_order(infos.collect()),
            gone,
            paths: Vec::new(),
            key: options.key.clone(),
        }
        .with_paths())
    }

    fn with_paths(mut self) -> Self {
        self.paths = self
            .items
            .iter()
            .map(|item| item.info.path.clone())
            .collect();
        self
    }

    /// The info of a path as the local store has it.
    pub(super) fn info(&self, place: usize) -> &PathInfo {
        &self.items[place].info
    }

    /// The info that is sent: with the signature of the key of this push, where there is one.
    pub(super) fn signed_info(&self, place: usize) -> &Arc<PathInfo> {
        let item = &self.items[place];
        item.signed.get_or_init(|| {
            let mut info = item.info.clone();
            let signature = self.key.as_ref().and_then(|key| {
                let fingerprint = info.fingerprint()?;
                Some(key.sign(&fingerprint))
            });
            if let Some(signature) = signature
                && !info.sigs.contains(&signature)
            {
                info.sigs.push(signature);
                info.sigs.sort();
            }
            Arc::new(info)
        })
    }

    /// The size of all NARs together, in bytes.
    pub(super) fn nar_bytes(&self) -> u64 {
        self.items.iter().map(|item| item.info.nar_size).sum()
    }
}

fn valid_roots(
    store: &LocalStore,
    roots: &[StorePath],
    options: &PushOptions,
) -> Result<(Vec<StorePath>, Vec<StorePath>), PushError> {
    if !options.roots_may_be_gone {
        if !options.closure {
            // Only a closure says so of its roots.
            let valid = store.query_valid_paths(roots)?;
            if let Some(path) = roots.iter().find(|path| !valid.contains(path)) {
                return Err(PushError::NotValid(path.clone()));
            }
        }
        return Ok((roots.to_vec(), Vec::new()));
    }
    let valid: BTreeSet<_> = store.query_valid_paths(roots)?.into_iter().collect();
    Ok(roots.iter().cloned().partition(|path| valid.contains(path)))
}

fn bare(path: StorePath) -> PathInfo {
    PathInfo {
        path,
        deriver: None,
        references: Vec::new(),
        download_size: 0,
        nar_size: 0,
        nar_hash: None,
        ca: None,
        sigs: Vec::new(),
    }
}

/// The infos ordered by references, without recursion.
fn in_order(infos: Vec<PathInfo>) -> Vec<Item> {
    let place_of: HashMap<&StorePath, usize> = infos
        .iter()
        .enumerate()
        .map(|(place, info)| (&info.path, place))
        .collect();
    let references: Vec<Vec<usize>> = infos
        .iter()
        .map(|info| {
            let places = info.references.iter();
            places
                .filter_map(|path| place_of.get(path).copied())
                .collect()
        })
        .collect();
    let mut order = Vec::with_capacity(infos.len());
    let mut seen = vec![false; infos.len()];
    for root in 0..infos.len() {
        let mut open = vec![(root, 0)];
        if std::mem::replace(&mut seen[root], true) {
            continue;
        }
        while let Some((place, next)) = open.last_mut() {
            match references[*place].get(*next) {
                Some(reference) => {
                    *next += 1;
                    if !std::mem::replace(&mut seen[*reference], true) {
                        open.push((*reference, 0));
                    }
                }
                None => {
                    order.push(*place);
                    open.pop();
                }
            }
        }
    }
    let mut new_place = vec![0; infos.len()];
    for (place, old) in order.iter().enumerate() {
        new_place[*old] = place;
    }
    let mut items: Vec<_> = infos
        .into_iter()
        .zip(references)
        .enumerate()
        .map(|(old, (info, references))| {
            let place = new_place[old];
            let references = references.into_iter().map(|old| new_place[old]);
            let item = Item {
                info,
                signed: OnceLock::new(),
                references: references.filter(|reference| *reference < place).collect(),
            };
            (place, item)
        })
        .collect();
    items.sort_by_key(|(place, _)| *place);
    items.into_iter().map(|(_, item)| item).collect()
}

#[cfg(test)]
impl Plan {
    /// A plan of made-up paths: of each its NAR size and the places of its references, which may be later ones.
    pub(super) fn made_up(items: &[(u64, &[usize])]) -> Self {
        use crate::model::samples::bare;
        let digits = b"0123456789abcdfghijklmnpqrsvwxyz";
        let path = |place: usize| {
            let (a, b) = (digits[place / 32] as char, digits[place % 32] as char);
            let base = format!("/nix/store/{a}{b}{}-p{place}", "0".repeat(30));
            StorePath::parse(&base).unwrap()
        };
        let info = |(place, (size, references)): (usize, &(u64, &[usize]))| PathInfo {
            nar_size: *size,
            references: references.iter().map(|place| path(*place)).collect(),
            ..bare(path(place))
        };
        Self {
            items: in_order(items.iter().enumerate().map(info).collect()),
            gone: Vec::new(),
            paths: Vec::new(),
            key: None,
        }
        .with_paths()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(plan: &Plan) -> Vec<&str> {
        plan.paths.iter().map(StorePath::name).collect()
    }

    #[test]
    fn references_come_first() {
        let plan = Plan::made_up(&[(1, &[2, 1]), (1, &[3]), (1, &[3, 2]), (1, &[]), (1, &[0])]);
        assert_eq!(names(&plan), ["p3", "p2", "p1", "p0", "p4"]);
        let references: Vec<_> = plan.items.iter().map(|item| &item.references[..]).collect();
        assert_eq!(references, [&[][..], &[0], &[0], &[1, 2], &[3]]);
    }

    #[test]
    fn a_circle_is_harmless() {
        let plan = Plan::made_up(&[(1, &[1]), (1, &[2]), (1, &[0]), (1, &[1, 3])]);
        assert_eq!(plan.items.len(), 4);
        for (place, item) in plan.items.iter().enumerate() {
            assert!(item.references.iter().all(|reference| *reference < place));
        }
    }

    #[test]
    fn a_long_chain_needs_no_stack() {
        let chain: Vec<[usize; 1]> = (1..1024).map(|next| [next]).collect();
        let mut items: Vec<(u64, &[usize])> = chain.iter().map(|next| (1, &next[..])).collect();
        items.push((1, &[]));
        let plan = Plan::made_up(&items);
        assert_eq!(names(&plan)[..2], ["p1023", "p1022"]);
    }
}
