//! Builds of a package that differ in few bytes, and texts, which get smaller.

use std::fs;
use std::process::Command;

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

    /// One build of a package of about `size` bytes that holds hashes of its dependencies and its own, as Nix registers them: in
    /// contents, in names, in a symlink. `other` is what differs beside them, in one file.
    pub fn package(&self, number: u64, size: usize, other: &str) -> String {
        let letter = |digit| char::from(digit - b'0' + b'a');
        let letters: String = size.to_string().bytes().map(letter).collect();
        let name = format!("package-{letters}");
        let made = |name: &str| Random::new(number, name).store_path(name);
        let [own, first, second] = [made(&name), made("first"), made("second")];
        for dependency in [&first, &second] {
            if !self.all_paths().contains(dependency) {
                self.add_made(dependency.clone(), |file| {
                    fs::write(file, number.to_string()).unwrap();
                });
            }
        }
        let references = [&*own, &*first, &*second];
        self.add_made_with(own.clone(), &references, |folder| {
            fs::create_dir_all(folder.join("bin")).unwrap();
            let mut random = Random::new(1, &name);
            for (file, share) in [("bin/tool", 2), ("data", 4), ("more", 4)] {
                let mut bytes = vec![0; size / share];
                random.fill(&mut bytes);
                let hashes = references.map(|path| &path.as_bytes()["/nix/store/".len()..][..32]);
                // One of them where pieces of the NAR meet, wherever that is.
                for (index, at) in (0..bytes.len() - 100).step_by(4099).enumerate() {
                    bytes[at..at + 32].copy_from_slice(hashes[index % 3]);
                }
                if file == "data" {
                    bytes.extend_from_slice(other.as_bytes());
                }
                fs::write(folder.join(file), bytes).unwrap();
            }
            std::os::unix::fs::symlink(&first, folder.join("link")).unwrap();
            // Alone there: its place among others would depend on the hash.
            let named = format!("etc/{}.conf", &second["/nix/store/".len()..]);
            let named = folder.join(named);
            fs::create_dir(folder.join("etc")).unwrap();
            fs::write(named, "").unwrap();
        })
    }

    /// A version of a path with one file of `size` bytes, which holds 24 bytes of its own in each of so many places, and `insert`
    /// further ones before the last two thirds. Versions differ in nothing else.
    pub fn one_file(&self, number: u64, size: usize, (places, insert): (usize, usize)) -> String {
        let path = Random::new(number, "large").store_path("large-1.0");
        self.add_made(path, |folder| {
            let mut bytes = vec![0; size];
            Random::new(1, "large").fill(&mut bytes);
            let mut random = Random::new(number, "own");
            for place in 0..places {
                let at = size / places * place + 1000;
                random.fill(&mut bytes[at..at + 24]);
            }
            let mut own = vec![0; insert];
            random.fill(&mut own);
            let middle = size / 3;
            let bytes = [&bytes[..middle], &own, &bytes[middle..]].concat();
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("data"), bytes).unwrap();
        })
    }

    /// Changes a byte in each thousand of a file. The path stays registered.
    pub fn damage(&self, path: &str, file: &str) {
        let file = self.physical(path).join(file);
        let mut bytes = fs::read(&file).unwrap();
        for at in (0..bytes.len()).step_by(1000) {
            bytes[at] ^= 1;
        }
        fs::remove_file(&file).unwrap();
        fs::write(&file, bytes).unwrap();
    }

    /// Removes the files of a path, which stays registered.
    pub fn remove_files(&self, path: &str) {
        let gone = self.physical(path);
        let mut writable = Command::new("chmod");
        writable.args(["-R", "u+w"]).arg(&gone);
        assert!(writable.status().unwrap().success());
        fs::remove_dir_all(gone).unwrap();
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
