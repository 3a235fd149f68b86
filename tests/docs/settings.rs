//! `docs/settings.md` tells of all settings, parameters and variables, with the values that the code has.

use std::collections::BTreeSet;

use ssh_substituter::config::{Host, Key};

use super::pages::{self, Page};

/// The rows of the table whose head begins with this word.
fn table(page: &Page, head: &str) -> Vec<Vec<String>> {
    let mut rows = page.rows.iter().skip_while(|row| row[0] != head);
    let columns = rows.next().expect("the table is there").len();
    let heads = ["setting", "parameter", "variable"];
    rows.take_while(|row| row.len() == columns && !heads.contains(&row[0].as_str()))
        .cloned()
        .collect()
}

fn default(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

#[test]
fn all_settings_stand_there_with_their_defaults() {
    let page = Page::open("docs/settings.md");
    let told: Vec<(String, String)> = table(&page, "setting")
        .into_iter()
        .map(|row| (row[0].clone(), row[1].clone()))
        .collect();
    for key in Key::ALL {
        let rows = told.iter().filter(|(name, _)| name == key.name());
        let values: Vec<&str> = rows.map(|(_, value)| value.as_str()).collect();
        assert_eq!(values, [default(key.default_value())], "{}", key.name());
    }
    assert_eq!(
        told.len(),
        Key::ALL.len(),
        "a setting that does not exist: {told:?}"
    );
}

#[test]
fn all_parameters_of_hosts_stand_there_with_their_defaults() {
    let error = Host::parse("ssh://a?no-such-thing=1")
        .expect_err("unknown")
        .to_string();
    let (_, known) = error.rsplit_once("expected one of ").expect("a list");
    let known: BTreeSet<&str> = known.split(", ").collect();
    let page = Page::open("docs/settings.md");
    let rows = table(&page, "parameter");
    let told: BTreeSet<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(told, known);
    assert_eq!(rows.len(), known.len());
    // A host with the defaults as they stand there is one without parameters.
    let with = |row: &Vec<String>| match row[1].as_str() {
        "none" => None,
        value => Some(format!("{}={value}", row[0])),
    };
    let spelled: Vec<String> = rows.iter().filter_map(with).collect();
    let spelled = Host::parse(&format!("ssh://a?{}", spelled.join("&"))).expect("a host");
    let plain = Host::parse("a").expect("a host");
    assert_eq!(spelled.priority, Some(0));
    assert_eq!(
        Host {
            priority: None,
            ..spelled
        },
        plain
    );
}

#[test]
fn what_is_ignored_is_ignored() {
    let text = pages::read("docs/settings.md");
    let (_, list) = text
        .split_once("taken and ignored")
        .expect("the sentence is there");
    let (list, _) = list.split_once("Any other").expect("its end is there");
    let names: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    assert!(names.len() > 5, "{names:?}");
    for name in names {
        let host = Host::parse(&format!("ssh://a?{name}=1"));
        assert_eq!(host, Host::parse("a"), "{name}");
    }
}

/// Names of environment variables in the sources: string literals in capitals. The command line's placeholders are some, too.
fn variables() -> BTreeSet<String> {
    let short = ["HOME", "PATH", "TERM", "TMPDIR"];
    let mut found = BTreeSet::new();
    for file in pages::files("src", ".rs") {
        if file.starts_with("src/cli") || file.contains("/tests") {
            continue;
        }
        for literal in pages::read(&file).split('"') {
            let capitals = |c: char| c.is_ascii_uppercase() || c == '_';
            let is_name =
                literal.chars().all(capitals) && literal.contains('_') && literal.len() > 4;
            if (is_name || short.contains(&literal)) && !literal.starts_with("CARGO_") {
                found.insert(literal.to_owned());
            }
        }
    }
    found
}

#[test]
fn all_variables_stand_there() {
    let page = Page::open("docs/settings.md");
    let mut told: BTreeSet<String> = table(&page, "variable")
        .into_iter()
        // Of some only the beginning counts.
        .map(|mut row| row.remove(0).trim_end_matches('…').to_owned())
        .collect();
    // They are told of below the table: they are set, not read.
    for name in ["SSH_ASKPASS", "SSH_ASKPASS_REQUIRE"] {
        assert!(page.spans.iter().any(|span| span == name));
        told.insert(name.to_owned());
    }
    assert_eq!(told, variables());
}
