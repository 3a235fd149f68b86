//! Closures with real references: what a package set looks like to a substituter.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::Store;
use super::store::Entry;
use super::trees::{Random, canonicalise};

/// The shape of a [`Dag`].
#[derive(Clone, Copy, Debug)]
pub struct DagOptions {
    /// Another seed gives other paths.
    pub seed: u64,
    /// Length of the longest chain of references, about.
    pub levels: usize,
    /// References of a path, at most; the root has more.
    pub fan_out: usize,
    /// Bytes of content in each path, besides its references.
    pub bytes: usize,
}

impl Default for DagOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            levels: 8,
            fan_out: 4,
            bytes: 200,
        }
    }
}

/// A closure: input-addressed paths that are all reachable from one root.
#[derive(Clone, Debug)]
pub struct Dag {
    /// The path that nothing refers to.
    pub root: String,
    /// All paths; what a path refers to stands before it (some refer to themselves). The root is the last.
    pub paths: Vec<String>,
}

impl Store {
    /// Adds a closure of `count` paths.
    pub fn dag(&self, count: usize, options: DagOptions) -> Dag {
        assert!(count > 0, "a closure has a root");
        let mut random = Random::new(options.seed, &format!("dag {count} {options:?}"));
        let paths: Vec<String> = (0..count)
            .map(|index| random.store_path(&format!("package-{index}")))
            .collect();
        let entries: Vec<Entry> = references(count, options, &mut random)
            .into_iter()
            .enumerate()
            .map(|(index, references)| {
                let mut references: Vec<String> = references
                    .into_iter()
                    .map(|other| paths[other].clone())
                    .collect();
                // As packages do that know where they are.
                if index % 7 == 2 {
                    references.push(paths[index].clone());
                }
                let physical = self.physical(&paths[index]);
                write_package(&physical, index, &references, &random.text(options.bytes));
                canonicalise(&physical);
                let deriver = index
                    .is_multiple_of(3)
                    .then(|| random.store_path(&format!("package-{index}.drv")));
                Entry {
                    path: paths[index].clone(),
                    references,
                    deriver,
                }
            })
            .collect();
        self.register(&entries);
        Dag {
            root: paths[count - 1].clone(),
            paths,
        }
    }
}

/// For each path the numbers of those that it refers to, all smaller than its own.
fn references(count: usize, options: DagOptions, random: &mut Random) -> Vec<Vec<usize>> {
    let width = count.div_ceil(options.levels.max(1)).max(1);
    let mut unused = vec![true; count];
    let mut all: Vec<Vec<usize>> = Vec::with_capacity(count);
    for index in 0..count {
        let level = index / width;
        let mut mine = Vec::new();
        if level > 0 {
            // The one right below, so that each is used; others of that level; now and then one from far below.
            mine.push(index - width);
            for _ in 1..options.fan_out {
                let lowest = if random.below(4) == 0 {
                    0
                } else {
                    (level - 1) * width
                };
                mine.push(lowest + random.below(level * width - lowest));
            }
        }
        if index + 1 == count {
            mine.extend((0..index).filter(|other| unused[*other]));
        }
        mine.sort_unstable();
        mine.dedup();
        for other in &mine {
            unused[*other] = false;
        }
        all.push(mine);
    }
    all
}

/// Writes the files of one package, in one of a few shapes. Each reference really stands in them.
fn write_package(path: &Path, index: usize, references: &[String], text: &str) {
    let listed: String = references
        .iter()
        .map(|reference| format!("{reference}\n"))
        .collect();
    let content = format!("{listed}{text}\n");
    if index % 5 == 1 {
        fs::write(path, content).expect("write a file");
        return;
    }
    fs::create_dir_all(path.join("bin")).expect("make a folder");
    let program = path.join("bin/program");
    fs::write(&program, format!("#!/bin/sh\n# {index}\n{content}")).expect("write a file");
    fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("make a file executable");
    if let Some(first) = references.first() {
        symlink(first, path.join("first")).expect("make a symlink");
    }
    if index.is_multiple_of(2) {
        fs::create_dir_all(path.join("share/doc")).expect("make a folder");
        fs::write(path.join("share/doc/README"), text).expect("write a file");
    }
}
