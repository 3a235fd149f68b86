//! `docs/architecture.md` names files and functions that exist, and all modules; `SECURITY.md` files, tests and constants.

use super::pages::{self, Page, crate_root};

/// `FILE.rs::NAME` taken apart; `None` for other code between words.
fn place(span: &str) -> Option<(String, Vec<&str>)> {
    let mut parts = span.split("::");
    let file = parts
        .next()
        .filter(|file| file.ends_with(".rs") || file.ends_with(".md"))?;
    let inside = format!("src/{file}");
    let file = if crate_root().join(&inside).exists() {
        inside
    } else {
        file.to_owned()
    };
    Some((file, parts.collect()))
}

/// Whether Rust code defines something of this name.
fn defines(code: &str, name: &str) -> bool {
    let kinds = ["fn", "struct", "enum", "trait", "const", "type", "static"];
    kinds.iter().any(|kind| {
        code.match_indices(&format!("{kind} {name}"))
            .any(|(at, found)| {
                let after = code[at + found.len()..].chars().next();
                let before = code[..at].chars().next_back();
                before.is_none_or(char::is_whitespace)
                    && after.is_some_and(|c| !c.is_alphanumeric() && c != '_')
            })
    })
}

#[test]
fn all_places_exist() {
    let page = Page::open("docs/architecture.md");
    let mut wrong = Vec::new();
    let mut count = 0;
    for span in &page.spans {
        let Some((file, names)) = place(span) else {
            continue;
        };
        if !crate_root().join(&file).is_file() {
            wrong.push(format!("no file {span}"));
            continue;
        }
        count += 1;
        let code = pages::read(&file);
        wrong.extend(
            names
                .iter()
                .filter(|name| !defines(&code, name))
                .map(|name| format!("no {name} in {file}")),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 80, "only {count} places were found");
}

/// Names of files are full, or those of tests of hostile hosts; a constant stands before the file that defines it.
#[test]
fn all_places_in_security_md_exist() {
    let hostile = "tests/hostile_remotes";
    let mut wrong = Vec::new();
    let mut counts = [0; 3];
    for line in pages::read("SECURITY.md").lines() {
        let spans: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
        let mut constants = Vec::new();
        for span in spans {
            let (file, name) = match span.split_once("::") {
                Some((file, name)) if file.ends_with(".rs") => (file, Some(name)),
                _ => (span, None),
            };
            let is_constant = |c: char| c.is_ascii_uppercase() || c == '_';
            if span.chars().all(is_constant) {
                constants.push(span);
                continue;
            }
            let is_in_tree = ["src/", "tests/", "docs/", "fuzz/"]
                .iter()
                .any(|top| file.starts_with(top));
            let file = match file.ends_with(".rs") && !is_in_tree {
                true => format!("{hostile}/{file}"),
                false if is_in_tree => file.to_owned(),
                false => continue,
            };
            counts[0] += 1;
            if !crate_root().join(&file).exists() {
                wrong.push(format!("no {file}"));
                continue;
            }
            let needed: Vec<&str> = constants.drain(..).chain(name).collect();
            if !needed.is_empty() {
                let code = pages::read(&file);
                counts[1 + usize::from(name.is_some())] += 1;
                let missing = needed.iter().filter(|name| !defines(&code, name));
                wrong.extend(missing.map(|name| format!("no {name} in {file}")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let [files, constants, tests] = counts;
    assert!(
        files > 60 && constants > 5 && tests > 20,
        "found {files} files, {constants} with constants, {tests} tests"
    );
}

#[test]
fn all_modules_are_named() {
    let page = Page::open("docs/architecture.md");
    let named: Vec<String> = page
        .spans
        .iter()
        .filter_map(|span| Some(place(span)?.0))
        .collect();
    for file in pages::files("src", ".rs") {
        let inside = file.trim_start_matches("src/");
        let module = inside
            .split('/')
            .next()
            .expect("a module")
            .trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let is_named = named.iter().any(|file| {
            let of_module = [format!("src/{module}.rs"), format!("src/{module}/mod.rs")];
            of_module.contains(file)
        });
        assert!(is_named, "the module {module} is missing");
    }
}

#[test]
fn definitions_are_found() {
    let code = "pub(super) async fn one(a: B) {}\nconst TWO: u8 = 2;\nstruct Three<'a>(&'a str);";
    assert!(
        ["one", "TWO", "Three"]
            .iter()
            .all(|name| defines(code, name))
    );
    assert!(
        !["on", "two", "Thre", "a"]
            .iter()
            .any(|name| defines(code, name))
    );
}
