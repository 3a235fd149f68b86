//! Real packages in two versions, over a line of 20 Mbit/s: bytes on the line beside those of the NARs. `--debian` only, since
//! the packages are fetched by `apt-get download`, in whichever two versions apt offers.

use std::process::Command;
use std::time::Duration;

use crate::lab::{Lab, Line, Link};
use crate::realise::Ours;
use crate::run::Runs;
use crate::support::{Host, Random, Scratch, Store, run};
use crate::table::{Goal, Row, Table, tell};

/// 20 Mbit/s, and how far away, in milliseconds there and back.
const LINE: Line = Line {
    rtt: 20,
    rate: 2_500_000,
};

/// Packages of many kinds: libraries, programs of many files, archives of classes.
const PACKAGES: [&str; 9] = [
    "libwebkit2gtk-4.1-0",
    "git",
    "libc6",
    "samba-libs",
    "openjdk-17-jre-headless",
    "postgresql-15",
    "libpython3.11-stdlib",
    "nodejs",
    "firefox-esr",
];

/// How long apt and dpkg may take for one package.
const LIMIT: Duration = Duration::from_secs(300);

/// A package's file in two versions, the older first.
struct Package {
    name: &'static str,
    files: [std::path::PathBuf; 2],
}

/// Fetches each package twice over the line: with the old version here and at the host, and with it here only.
pub fn packages(lab: &Lab, table: &mut Table) {
    let title = "Debian packages, 20 Mbit/s, 20 ms";
    if !lab.options.debian || !lab.wants(title) {
        return;
    }
    let scratch = Scratch::new();
    let packages = PACKAGES.iter();
    let packages: Vec<_> = packages
        .filter_map(|name| download(&scratch, name))
        .collect();
    let (both, new_only) = (Host::new(), Host::new());
    for (where_else, host, goal) in [
        ("here and there", &both, 1.0 / 6.0),
        ("here only", &new_only, 0.35),
    ] {
        let (mut wire, mut raw, mut trouble, mut peak) = (0.0, 0.0, Vec::new(), 0);
        for package in &packages {
            let old = add(&both.store, package, 0);
            if std::ptr::eq(host, &both) {
                add(&host.store, package, 0);
            }
            let new = add(&host.store, package, 1);
            let mut runs = Runs::default();
            let ours = Ours::new(&[host.trusted()], Link::to(&host.sshd, LINE));
            ours.begin_with(&[host.trusted()], &both.store, &[&old]);
            runs.push("ours", ours.fetch(&[&new]));
            let nar = host.store.nar_size(&new) as f64 / 1e6;
            raw += nar;
            wire += runs.wire().unwrap_or(nar);
            peak = peak.max(runs.peak());
            trouble.extend(runs.trouble());
            table.add(Row {
                name: format!("{}: old one {where_else}", package.name),
                unit: "MB",
                ours: runs.wire(),
                other: Some(nar),
                beside: "raw",
                peak: runs.peak(),
                trouble: runs.trouble(),
                ..Row::default()
            });
        }
        table.add(Row {
            name: format!("{title}: old ones {where_else}"),
            unit: "MB",
            ours: Some(wire),
            other: Some(raw),
            beside: "raw",
            goal: Some(Goal::Ratio(goal)),
            peak,
            trouble,
        });
    }
}

/// The newest two versions of a package; `None` where apt has no two.
fn download(scratch: &Scratch, name: &'static str) -> Option<Package> {
    let mut madison = Command::new("apt-cache");
    madison.args(["madison", name]);
    let text = run(madison, LIMIT);
    let version = |line: &str| Some(line.split('|').nth(1)?.trim().to_owned());
    let mut versions: Vec<_> = text.lines().filter_map(version).collect();
    // The newest first, once for each archive that has it.
    versions.dedup();
    let [new, old, ..] = &versions[..] else {
        tell(&format!("{name}: apt offers {} versions", versions.len()));
        return None;
    };
    let file = |version: &String| {
        let folder = scratch.path().join(name).join(version.replace(':', "_"));
        std::fs::create_dir_all(&folder).expect("make a folder");
        let mut download = Command::new("apt-get");
        download.current_dir(&folder);
        // Root downloads as another user, who may not write here.
        download.args(["-q", "-o", "APT::Sandbox::User=root", "download"]);
        download.arg(format!("{name}={version}"));
        run(download, LIMIT);
        let entries = std::fs::read_dir(&folder).expect("read a folder");
        let mut files = entries.map(|entry| entry.expect("read an entry").path());
        files.next().expect("a package")
    };
    tell(&format!("{name}: {old} and {new}"));
    Some(Package {
        name,
        files: [file(old), file(new)],
    })
}

/// Adds the files of one version to a store.
fn add(store: &Store, package: &Package, at: usize) -> String {
    let version = ["1", "2"][at];
    let path =
        Random::new(at as u64, package.name).store_path(&format!("{}-{version}", package.name));
    if store.is_valid(&path) {
        return path;
    }
    store.add_made(path, |folder| {
        let mut extract = Command::new("dpkg-deb");
        extract.arg("-x").arg(&package.files[at]).arg(folder);
        run(extract, LIMIT);
    })
}
