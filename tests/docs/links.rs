//! Links lead somewhere.

use std::path::{Component, Path, PathBuf};

use super::pages::{self, Page, crate_root};

/// The file that a link leads to, seen from a page's folder.
fn target(page: &Page, link: &str) -> PathBuf {
    let mut path = PathBuf::new();
    let folder = Path::new(&page.name).parent().expect("a file in a folder");
    for part in folder.join(link).components() {
        match part {
            Component::ParentDir => assert!(path.pop(), "{}: {link} leads out", page.name),
            part => path.push(part),
        }
    }
    path
}

#[test]
fn links_lead_to_files_and_headings_that_exist() {
    let pages = pages::all();
    let mut wrong = Vec::new();
    for page in &pages {
        for link in &page.links {
            if link.starts_with("https://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let path = match file {
                "" => PathBuf::from(&page.name),
                file => target(page, file),
            };
            if !crate_root().join(&path).exists() {
                wrong.push(format!("{}: no file {link}", page.name));
            } else if !anchor.is_empty() {
                let there = Page::open(path.to_str().expect("UTF-8"));
                if !there.anchors.iter().any(|heading| heading == anchor) {
                    wrong.push(format!("{}: no heading {link}", page.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_page_can_be_found_from_the_index() {
    let index = Page::open("docs/README.md");
    let linked: Vec<PathBuf> = index
        .links
        .iter()
        .map(|link| target(&index, link))
        .collect();
    let lost: Vec<String> = pages::files("docs", ".md")
        .into_iter()
        .filter(|name| name != "docs/README.md" && !linked.iter().any(|l| l == Path::new(name)))
        .collect();
    assert!(lost.is_empty(), "docs/README.md does not name {lost:?}");
    let readme = Page::open("README.md");
    assert!(readme.links.iter().any(|link| link == "docs/README.md"));
}
