//! What comes over the line is less than what is fetched: from a folder that has an older version, or compressed.

use std::fs;

use super::Site;
use super::support::Random;

#[test]
fn a_folder_serves_what_it_has_as_older_versions() {
    let site = Site::new(1);
    site.configure("trusted=true&delta=always", "");
    let [old, new] = [1, 2].map(|number| site.store().build("tool-1.0", number));
    let folder = site.folder("out");
    let first = site.get_to(&folder, &[&old]).status(0);
    let said = first.stderr();
    assert!(!said.contains("as differences"), "{said}");
    let second = site.get_to(&folder, &[&new]).status(0);
    second.says(&["fetched 1 path,", " as differences (", " over the line)"]);
}

#[test]
fn the_bytes_on_the_line_are_told() {
    let site = Site::new(1);
    site.configure("trusted=true&compression=zstd", "download-speed = 2048");
    let path = Random::new(1, "digits").store_path("digits");
    let path = site.store().add_made(path, |folder| {
        let mut bytes = vec![0; 12 << 20];
        Random::new(1, "digits").fill(&mut bytes);
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("digits"), digits).unwrap();
    });
    let got = site.get_to(&site.folder("out"), &[&path]).status(0);
    let said = got.stderr();
    let is_progress = |line: &&str| line.contains("0 of 1 path: ") && line.contains(" left");
    let progress: Vec<&str> = said.lines().filter(is_progress).collect();
    // At first what was read ahead has come and is not delivered yet.
    let last = progress.last().expect("it takes longer than two seconds");
    assert!(last.contains("over the line"), "{said}");
    got.says(&["fetched 1 path,", " compressed (", " over the line)"]);
}
