//! Which other versions of paths the stores of this machine have.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::config::Config;
use crate::local_store::{Dump, LocalStore, StoreLayout};
use crate::model::{PathInfo, StorePath};
use crate::transfer::{BASES_MAX, Base, BaseLookup, BaseNar};

/// How long a list of all paths is used: new ones are not seen in between. It is dropped by the first question after that,
/// and made anew.
const INDEX_LIFETIME: Duration = Duration::from_secs(30);

/// How many paths a store may have, so that the list does not take more than some 100 MB.
const PATHS_MAX: usize = 1_000_000;

/// Looks for versions in the store of this machine, and in those of `delta-base`.
pub struct LocalBases {
    /// The folders that the store folder is below.
    roots: Vec<PathBuf>,
    store_dir: String,
    index: Mutex<Option<(Instant, Index)>>,
}

/// Paths by their names without versions, the newest first, each with the number of its store.
type Index = HashMap<String, Vec<(usize, StorePath)>>;

impl LocalBases {
    /// Nothing is opened yet.
    pub(super) fn new(config: &Config) -> Self {
        let mut roots = vec![PathBuf::from("/")];
        roots.extend(config.delta_bases.iter().cloned());
        Self::of(roots, &config.store_dir)
    }

    /// Of the stores below these folders, as in Nix's `local?root=`, which all have this store directory. Nothing is
    /// opened yet.
    #[must_use]
    pub fn of(roots: Vec<PathBuf>, store_dir: &str) -> Self {
        Self {
            roots,
            store_dir: store_dir.to_owned(),
            index: Mutex::new(None),
        }
    }

    fn store(&self, root: &Path) -> Option<LocalStore> {
        let layout = StoreLayout::with_store_dir(&self.store_dir);
        let store = LocalStore::open_with(root, layout);
        // Most machines without Nix have none.
        store.inspect_err(|error| log::debug!("{error}")).ok()
    }

    /// Where the files of store paths are below a root.
    fn files(&self, root: &Path) -> PathBuf {
        root.join(self.store_dir.trim_start_matches('/'))
    }

    fn make_index(&self) -> Index {
        let (mut index, mut count) = (Index::new(), 0);
        for (number, root) in self.roots.iter().enumerate() {
            let all = match self.store(root) {
                Some(store) => store.all_paths().unwrap_or_default(),
                None => self.listed(root),
            };
            for path in all {
                count += 1;
                if count > PATHS_MAX {
                    return index;
                }
                let same_name = index.entry(without_version(path.name())).or_default();
                same_name.push((number, path));
            }
        }
        index
    }

    /// What each store knows of these paths; `None` for one without a database.
    fn infos<'a>(
        &self,
        found: impl Iterator<Item = &'a (usize, StorePath)> + Clone,
    ) -> Vec<Option<HashMap<StorePath, PathInfo>>> {
        let roots = self.roots.iter().enumerate();
        let infos = roots.map(|(number, root)| {
            let store = self.store(root)?;
            let of_store = found.clone().filter(|(other, _)| *other == number);
            let paths: Vec<StorePath> = of_store.map(|(_, path)| path.clone()).collect();
            let infos = store.query_path_infos(&paths).unwrap_or_default();
            Some(
                infos
                    .into_iter()
                    .map(|info| (info.path.clone(), info))
                    .collect(),
            )
        });
        infos.collect()
    }

    /// What lies in a store folder without a database, such as one that `get --to` has filled.
    fn listed(&self, root: &Path) -> Vec<StorePath> {
        let Ok(entries) = std::fs::read_dir(self.files(root)) else {
            return Vec::new();
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let paths = names.map(|name| StorePath::parse(&format!("{}/{name}", self.store_dir)));
        paths.filter_map(Result::ok).collect()
    }
}

impl BaseLookup for LocalBases {
    fn may_find(&self, wanted: &StorePath) -> bool {
        // Somebody makes it.
        let Some(index) = self.index.try_lock() else {
            return true;
        };
        let fresh = index
            .as_ref()
            .filter(|(at, _)| at.elapsed() <= INDEX_LIFETIME);
        fresh.is_none_or(|(_, index)| index.contains_key(&without_version(wanted.name())))
    }

    fn find(&self, wanted: &[StorePath]) -> Vec<Vec<Base>> {
        let mut index = self.index.lock();
        if index
            .as_ref()
            .is_none_or(|(at, _)| at.elapsed() > INDEX_LIFETIME)
        {
            // Held meanwhile: others need the same list.
            *index = Some((Instant::now(), self.make_index()));
        }
        let versions = |path: &StorePath| {
            let of_name = index.as_ref()?.1.get(&without_version(path.name()))?;
            let mut of_name: Vec<_> = of_name.iter().filter(|(_, other)| other != path).collect();
            // Rebuilds first; sorting keeps the newest first among them.
            of_name.sort_by_key(|(_, other)| other.name() != path.name());
            of_name.truncate(BASES_MAX);
            Some(of_name.into_iter().cloned().collect::<Vec<_>>())
        };
        let found: Vec<Vec<_>> = wanted
            .iter()
            .map(|path| versions(path).unwrap_or_default())
            .collect();
        drop(index);
        let infos = self.infos(found.iter().flatten());
        let base = |(number, path): (usize, StorePath)| {
            let info = match &infos[number] {
                None => None,
                // Gone meanwhile.
                Some(infos) => Some(infos.get(&path)?.clone()),
            };
            Some(Base {
                files: self.files(&self.roots[number]).join(path.base_name()),
                path,
                info,
            })
        };
        let found = found.into_iter();
        found
            .map(|bases| bases.into_iter().filter_map(base).collect())
            .collect()
    }

    fn open_nar(&self, base: &Base) -> io::Result<Box<dyn BaseNar>> {
        let folder = base.files.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let size = base.info.as_ref().map_or(0, |info| info.nar_size);
        let dump = Dump::of_files(folder, &base.path, size);
        Ok(Box::new(OpenNar(dump.map_err(io::Error::other)?)))
    }
}

struct OpenNar(Dump);

impl BaseNar for OpenNar {
    fn next_chunk(&mut self, buf: &mut Vec<u8>) -> io::Result<bool> {
        self.0.next_chunk(buf).map_err(io::Error::other)
    }
}

/// The name of a package, with what is behind its version: `firefox-140.1-dev` becomes `firefox-dev`. As in Nix
/// (`DrvName`), the version begins at the first `-` that no letter follows.
fn without_version(name: &str) -> String {
    let mut words = name.split('-');
    let mut out = words.next().unwrap_or_default().to_owned();
    for word in words {
        let is_version = word.starts_with(|c: char| !c.is_ascii_alphabetic());
        if !is_version {
            out.push('-');
            out.push_str(word);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_left_out_of_names() {
        for (name, expected) in [
            ("firefox-140.1", "firefox"),
            ("firefox-esr-140.1-dev", "firefox-esr-dev"),
            ("source", "source"),
            ("gtk+3-3.24.38", "gtk+3"),
            ("linux-6.1.0-13-modules", "linux-modules"),
        ] {
            assert_eq!(without_version(name), expected);
        }
    }

    #[test]
    fn rebuilds_come_first_and_the_path_itself_never() {
        let root = tempfile::tempdir().unwrap();
        let path = |digit: char, name: &str| {
            let hash: String = std::iter::repeat_n(digit, 32).collect();
            StorePath::parse(&format!("/nix/store/{hash}-{name}")).unwrap()
        };
        for (digit, name) in [
            ('1', "a-1.0"),
            ('2', "a-2.0"),
            ('3', "a-1.0"),
            ('4', "b-1.0"),
        ] {
            let folder = root.path().join("nix/store");
            std::fs::create_dir_all(folder.join(path(digit, name).base_name())).unwrap();
        }
        let mut config = Config::without_hosts();
        config.delta_bases = vec![root.path().to_owned()];
        let bases = LocalBases::new(&config);
        assert!(bases.may_find(&path('9', "c")), "nothing is known yet");
        let found = bases.find(&[path('1', "a-1.0"), path('9', "c")]);
        assert!(bases.may_find(&path('1', "a-3.0")));
        assert!(!bases.may_find(&path('9', "c")));
        let names: Vec<_> = found[0].iter().map(|base| base.path.clone()).collect();
        assert_eq!(names, [path('3', "a-1.0"), path('2', "a-2.0")]);
        assert!(found[0][0].files.ends_with(path('3', "a-1.0").base_name()));
        assert_eq!(found[1], []);
    }
}
