//! Builds of a package that differ in few bytes, and texts, which get smaller.

use std::fs;

use super::store::Store;
use super::trees::Random;

impl Store {
    /// One build of a package: a program with hashes of its dependencies in it, a large library, small files of which most do
    /// not change, and one that nothing else is like.
    pub fn build(&self, name: &str, number: usize) -> String {
        let path = Random::new(number as u64, name).store_path(name);
        self.add_made(path, |folder| {
            for (file, size) in [
                ("bin/tool", 3 << 20),
                ("lib/libtool.so.1.2", 6 << 20),
                ("share/icon", 40_000),
            ] {
                let mut bytes = vec![0; size];
                Random::new(7, &format!("{name}{file}")).fill(&mut bytes);
                // What a rebuild changes.
                for at in [1000, size / 2, size - 1000] {
                    let mut hash = [0; 24];
                    Random::new(number as u64, file).fill(&mut hash);
                    bytes[at..at + 24].copy_from_slice(&hash);
                }
                let file = folder.join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, bytes).unwrap();
            }
            for small in 0..50_usize {
                let changes = small.is_multiple_of(10);
                let mut random = Random::new(
                    if changes { number as u64 } else { 0 },
                    &format!("{name}{small}"),
                );
                let mut bytes = vec![0; 9000];
                random.fill(&mut bytes);
                fs::write(folder.join(format!("share/- it's {small}")), bytes).unwrap();
            }
            let mut data = vec![0; 2 << 20];
            Random::new(0, name).fill(&mut data);
            fs::write(folder.join("share/data"), data).unwrap();
            let mut unlike = vec![0; 100_000];
            Random::new(number as u64, "unlike").fill(&mut unlike);
            fs::write(folder.join("share/unlike"), unlike).unwrap();
        })
    }

    /// A path with a text of many words, of so many bytes: `zstd -3` makes a third of it.
    pub fn words(&self, name: &str, size: usize) -> String {
        let mut random = Random::new(size as u64, name);
        let path = random.store_path(name);
        let mut text = Vec::with_capacity(size + 8);
        while text.len() < size {
            text.extend_from_slice(format!("{:x} ", random.below(5000)).as_bytes());
        }
        self.add_made(path, |folder| {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("text"), &text[..size]).unwrap();
        })
    }
}
