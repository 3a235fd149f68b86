//! Files as Nix keeps them in a store, with seeded content: the same calls give the same bytes.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

/// Digits of Nix's base32.
const DIGITS: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// Seeded pseudo-random numbers (SplitMix64).
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed and name.
    pub fn new(seed: u64, name: &str) -> Self {
        // FNV-1a.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(hash ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("below a usize")
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            let length = word.len();
            word.copy_from_slice(&self.next().to_le_bytes()[..length]);
        }
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.fill(&mut bytes);
        bytes
    }

    /// Printable text that can't hold a store path.
    pub fn text(&mut self, length: usize) -> String {
        (0..length)
            .map(|_| char::from(b'A' + self.bytes(1)[0] % 26))
            .collect()
    }

    /// A store path of that name, with a hash part that looks like any other.
    pub fn store_path(&mut self, name: &str) -> String {
        let hash: String = (0..32)
            .map(|_| char::from(DIGITS[self.below(DIGITS.len())]))
            .collect();
        format!("/nix/store/{hash}-{name}")
    }
}

/// Writes one file of `length` pseudo-random bytes, never holding much of it in memory.
pub fn write_random(path: &Path, length: u64, random: &mut Random) {
    let mut file = File::create(path).expect("make a file");
    let mut buffer = vec![0; 1 << 20];
    let mut left = length;
    while left > 0 {
        let size = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        random.fill(&mut buffer[..size]);
        file.write_all(&buffer[..size]).expect("write a file");
        left -= size as u64;
    }
}

/// Fills a folder with `count` small files in nested folders, and with all that a NAR can hold besides.
pub fn write_many(root: &Path, count: usize, random: &mut Random) {
    fs::create_dir_all(root.join("empty")).expect("make a folder");
    for index in 0..count {
        let folder = root.join(format!("d{}/e{}", index / 500, index / 50 % 10));
        if index.is_multiple_of(50) {
            fs::create_dir_all(&folder).expect("make a folder");
        }
        let path = folder.join(format!("f{index}"));
        // Lengths around the padding to 8 bytes, and empty files.
        fs::write(&path, random.bytes(index % 67)).expect("write a file");
        if index % 10 == 3 {
            fs::set_permissions(&path, Permissions::from_mode(0o755))
                .expect("make a file executable");
        }
        if index % 25 == 7 {
            symlink(format!("f{index}"), folder.join(format!("link{index}")))
                .expect("make a symlink");
        }
    }
    let odd = root.join("odd");
    fs::create_dir_all(&odd).expect("make a folder");
    let longest = "n".repeat(255);
    // The last one is not UTF-8.
    let names: [&[u8]; 12] = [
        b"with space",
        b" leading",
        b"trailing ",
        b"new\nline",
        b"quote'\"",
        b"back\\slash",
        b"-dash",
        b"*?[$",
        "gr\u{fc}\u{df}e \u{65e5}\u{672c}".as_bytes(),
        longest.as_bytes(),
        b".hidden",
        b"\xff\xfe",
    ];
    for name in names {
        fs::write(odd.join(OsStr::from_bytes(name)), name).expect("write a file with an odd name");
    }
    for (name, target) in [
        ("dangling", "nowhere"),
        ("up", ".."),
        ("absolute", "/etc/passwd"),
        ("self", "self"),
    ] {
        symlink(target, odd.join(name)).expect("make a symlink");
    }
    // Names whose order differs between bytes and words of a language.
    for name in ["a", "B", "a.b", "a-b", "a_b", "aB"] {
        fs::create_dir(odd.join(format!("order {name}"))).expect("make a folder");
    }
}

/// Gives a tree the modes and times that Nix gives to store paths.
pub fn canonicalise(path: &Path) {
    let kind = fs::symlink_metadata(path).expect("look at a file");
    if kind.is_dir() {
        for entry in fs::read_dir(path).expect("read a folder") {
            canonicalise(&entry.expect("read an entry").path());
        }
    }
    if !kind.is_symlink() {
        let executable = kind.is_dir() || kind.permissions().mode() & 0o100 != 0;
        let mode = if executable { 0o555 } else { 0o444 };
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("set the mode of a file");
    }
    let second_one = Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: second_one,
        last_modification: second_one,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("set the times of a file");
}

/// Size of the NAR of a tree.
pub fn nar_size(path: &Path) -> u64 {
    string(13) + node_size(path)
}

/// A string in a NAR: its length, its bytes, padding.
fn string(length: u64) -> u64 {
    8 + length.next_multiple_of(8)
}

fn words(words: &[&str]) -> u64 {
    words.iter().map(|word| string(word.len() as u64)).sum()
}

fn node_size(path: &Path) -> u64 {
    let kind = fs::symlink_metadata(path).expect("look at a file");
    let outside = words(&["(", "type", ")"]);
    if kind.is_symlink() {
        let target = fs::read_link(path).expect("read a symlink");
        return outside + words(&["symlink", "target"]) + string(target.as_os_str().len() as u64);
    }
    if kind.is_dir() {
        let entries = fs::read_dir(path).expect("read a folder").map(|entry| {
            let entry = entry.expect("read an entry");
            let name = string(entry.file_name().len() as u64);
            words(&["entry", "(", "name", "node", ")"]) + name + node_size(&entry.path())
        });
        return outside + words(&["directory"]) + entries.sum::<u64>();
    }
    let executable = if kind.permissions().mode() & 0o100 != 0 {
        words(&["executable", ""])
    } else {
        0
    };
    outside + words(&["regular", "contents"]) + executable + string(kind.len())
}
