//! Two generations of a closure over a line of 100 Mbit/s: the new one is a rebuild of the old one, other hashes inside of
//! the same content, or an update, in which a part of each path is another one too.

use std::fs;

use crate::lab::{Lab, Line, Link};
use crate::realise::{Ours, theirs_with};
use crate::run::{Runs, Tried};
use crate::support::{Host, Random, Store};
use crate::table::{Goal, Row, Table};

/// 100 Mbit/s, and how far away, in milliseconds there and back.
const LINE: Line = Line {
    rtt: 20,
    rate: 12_500_000,
};

/// The sizes of paths, in turn: 20 kB to 2 MB, as in a system with mostly small packages.
const SIZES: [usize; 5] = [20_000, 60_000, 200_000, 600_000, 2_000_000];

/// How many different words a file has: `zstd -3` makes a third of it.
const WORDS: usize = 700;

/// How a generation differs from others.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    /// In hashes of a dependency.
    Rebuild,
    /// Also in one file of each path, which is another version.
    Update,
}

/// Makes one generation, unless the store has it; its root.
pub fn generation(store: &Store, count: usize, number: u64, kind: Kind) -> String {
    let dependency = Random::new(number, "dependency").store_path("dependency");
    let is_there = store.is_valid(&dependency);
    if !is_there {
        store.add_made(dependency.clone(), |file| {
            fs::write(file, format!("generation {number}\n")).expect("write a file");
        });
    }
    let of = |index: usize| Package {
        name: format!("package-{}", letters(index)),
        size: SIZES[index % 5],
        number,
        kind,
    };
    let packages = (0..count).map(|index| match is_there {
        true => of(index).path(),
        false => of(index).add_to(store, &dependency),
    });
    let paths: Vec<String> = packages.collect();
    let references: Vec<&str> = paths.iter().map(String::as_str).collect();
    store.add_text(
        &format!("generation-{number}"),
        &references.join("\n"),
        &references,
    )
}

/// A number as letters, which are part of a name and no version.
fn letters(number: usize) -> String {
    let digits = number.to_string();
    digits
        .bytes()
        .map(|digit| char::from(digit - b'0' + b'a'))
        .collect()
}

/// One package of one generation.
struct Package {
    name: String,
    size: usize,
    number: u64,
    kind: Kind,
}

impl Package {
    fn path(&self) -> String {
        Random::new(self.number, &self.name).store_path(&self.name)
    }

    /// Its files hold the hash of the dependency, which is what a rebuild changes; and that is registered, as Nix does.
    fn add_to(&self, store: &Store, dependency: &str) -> String {
        let Self {
            name, size, number, ..
        } = self;
        store.add_made_with(self.path(), &[dependency], |folder| {
            fs::create_dir(folder).expect("make a folder");
            for (index, share) in [2, 4, 8, 16, 32, 32].into_iter().enumerate() {
                let mut random = Random::new(7, &format!("{name}{index}"));
                let mut text = Vec::with_capacity(size / share + 8);
                while text.len() < size / share {
                    text.extend_from_slice(format!("{:x} ", random.below(WORDS)).as_bytes());
                }
                if self.kind == Kind::Update && index == 2 {
                    let at = text.len() / 3;
                    text.splice(at..at, format!("version {number} ").into_bytes());
                }
                let at = text.len() / 2;
                text[at..at + 32].copy_from_slice(&dependency.as_bytes()[11..43]);
                fs::write(folder.join(format!("file-{index}")), text).expect("write a file");
            }
        })
    }
}

/// A new generation, with nothing here and with the old one here.
pub fn rebuilds(lab: &Lab, table: &mut Table) {
    let count = lab.scaled(300) as usize;
    let of = |what: &str| format!("{what} of {count} paths, 100 Mbit/s, 20 ms");
    let [rebuild, update] = [of("rebuild"), of("update")];
    let wanted = [&rebuild, &update].map(|title| lab.wants(title));
    if wanted == [false; 2] {
        return;
    }
    let host = lab.host();
    let old = generation(&host.store, count, 1, Kind::Rebuild);
    if wanted[0] {
        let new = [generation(&host.store, count, 2, Kind::Rebuild)];
        rebuild_of(lab, table, &rebuild, (&old, &new));
    }
    if wanted[1] {
        let new = [generation(&host.store, count, 3, Kind::Update)];
        let mut runs = Runs::default();
        for _ in 0..lab.options.runs {
            runs.push("ours, old one here", with_old_one(host, &old, &new));
        }
        table.add(Row {
            name: format!("{update}: old generation here"),
            unit: "s",
            ours: runs.seconds(),
            peak: runs.peak(),
            trouble: runs.trouble(),
            ..Row::default()
        });
    }
}

/// Ours, with the old generation here.
fn with_old_one(host: &Host, old: &String, new: &[String]) -> Tried {
    let ours = Ours::new(&[host.trusted()], Link::to(&host.sshd, LINE));
    ours.begin_with(&[host.trusted()], &host.store, &[old]);
    ours.fetch(new)
}

fn rebuild_of(lab: &Lab, table: &mut Table, title: &str, (old, new): (&String, &[String])) {
    let host = lab.host();
    let mut runs: [Runs; 4] = Default::default();
    for run in 0..lab.options.runs {
        let ours = Ours::new(&[host.trusted()], Link::to(&host.sshd, LINE));
        runs[0].push("ours, nothing here", ours.fetch(new));
        runs[1].push("ours, old one here", with_old_one(host, old, new));
        if run < lab.their_runs(LINE.rtt) {
            for (runs, params) in runs[2..].iter_mut().zip(["", "&compress=true"]) {
                let tried = theirs_with("ssh", params, (&host.sshd, &host.store), LINE, new);
                runs.push("ssh://", tried);
            }
        }
    }
    let [nothing, old, raw, compressed] = &runs;
    for (name, ours, other, beside, goal) in [
        ("nothing here", nothing, raw, "ssh://", 0.42),
        (
            "nothing here",
            nothing,
            compressed,
            "ssh://, compress=true",
            1.0,
        ),
        ("old generation here", old, raw, "ssh://", 1.0 / 20.0),
    ] {
        table.add(Row {
            name: format!("{title}: {name}"),
            unit: "s",
            ours: ours.seconds(),
            other: other.seconds(),
            beside,
            goal: Some(Goal::Ratio(goal)),
            peak: ours.peak(),
            trouble: [ours.trouble(), other.trouble()].concat(),
        });
    }
}
