//! The memory tier, which lives as long as the process.

use moka::ops::compute::Op;
use moka::sync::Cache;

use crate::model::StorePath;

/// A bounded map from store paths to values; the least used entries go first. Values are cloned out.
pub struct MemoryCache<V: Clone + Send + Sync + 'static> {
    cache: Cache<StorePath, V>,
}

impl<V: Clone + Send + Sync + 'static> MemoryCache<V> {
    /// A cache of entries with a total weight of at most `most`, by `weigh`.
    #[must_use]
    pub fn weighed(most: u64, weigh: impl Fn(&V) -> u32 + Send + Sync + 'static) -> Self {
        let cache = Cache::builder().max_capacity(most);
        Self {
            cache: cache.weigher(move |_, value| weigh(value)).build(),
        }
    }

    /// The value of a path.
    #[must_use]
    pub fn get(&self, path: &StorePath) -> Option<V> {
        self.cache.get(path)
    }

    /// Replaces the value of a path by what `change` makes of it, atomically.
    pub fn update(&self, path: &StorePath, change: impl FnOnce(Option<V>) -> V) {
        let entry = self.cache.entry_by_ref(path);
        entry.and_compute_with(|old| Op::Put(change(old.map(|old| old.into_value()))));
    }

    /// Changes the value of a path, if there is one, atomically.
    pub fn change(&self, path: &StorePath, change: impl FnOnce(&mut V)) {
        let entry = self.cache.entry_by_ref(path);
        entry.and_compute_with(|old| match old {
            None => Op::Nop,
            Some(old) => {
                let mut value = old.into_value();
                change(&mut value);
                Op::Put(value)
            }
        });
    }

    /// Forgets a path.
    pub fn forget(&self, path: &StorePath) {
        self.cache.invalidate(path);
    }

    /// All entries, in no particular order.
    pub fn all(&self) -> impl Iterator<Item = (StorePath, V)> + '_ {
        self.cache
            .iter()
            .map(|(path, value)| ((*path).clone(), value))
    }
}

#[cfg(test)]
mod tests {
    use super::MemoryCache;
    use crate::model::StorePath;

    #[test]
    fn remembers_and_forgets() {
        let path = StorePath::parse("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-a").unwrap();
        let cache = MemoryCache::weighed(10, |_| 1);
        assert_eq!(cache.get(&path), None);
        cache.update(&path, |_| 7);
        assert_eq!(cache.get(&path), Some(7));
        cache.update(&path, |old| old.unwrap() + 1);
        assert_eq!(cache.all().collect::<Vec<_>>(), [(path.clone(), 8)]);
        cache.forget(&path);
        assert_eq!(cache.get(&path), None);
        cache.update(&path, |old| old.map_or(1, |_| 2));
        assert_eq!(cache.get(&path), Some(1));
        cache.change(&path, |value| *value += 1);
        assert_eq!(cache.get(&path), Some(2));
        cache.forget(&path);
        cache.change(&path, |_| panic!("there is nothing to change"));
        assert_eq!(cache.get(&path), None);
    }

    #[test]
    fn what_is_weighed_stays_within_its_weight() {
        let cache = MemoryCache::weighed(100, |weight: &u32| *weight);
        for number in 0..50 {
            let path = format!("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-{number}");
            cache.update(&StorePath::parse(&path).unwrap(), |_| 30);
        }
        cache.cache.run_pending_tasks();
        let kept = cache.all().count();
        assert!((1..=3).contains(&kept), "{kept}");
    }
}
