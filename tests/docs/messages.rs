//! `docs/messages.md` tells of every message that people read, with every hint that the program gives.
//!
//! Messages and hints are taken from the sources: what stands between the values that are filled in has to stand in one row
//! of a table there, in the same order.

use super::pages::{self, Page};

/// A message or hint of the program.
struct Text {
    file: String,
    literal: String,
}

/// Whose messages nobody reads by themselves: they are quoted in others, or said with `-v` only.
const QUOTED: &[&str] = &[
    "src/wire/",
    "src/ipc/",
    "src/engine/",
    "src/cache/",
    "src/model/hash.rs",
    "src/model/hash_part.rs",
];

/// Where a message is put together from parts.
const COMPOSED: &[&str] = &["src/resolver/mod.rs", "src/resolver/trust.rs"];

/// String literals of Rust code without its tests, each with the code before it.
fn literals(code: &str) -> Vec<(&str, String)> {
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    let mut found = Vec::new();
    let mut chars = code.char_indices().peekable();
    let mut last = ' ';
    while let Some((at, c)) = chars.next() {
        let starts = |end: &str| code[at..].starts_with(end);
        if starts("//") {
            while chars.next_if(|(_, c)| *c != '\n').is_some() {}
        } else if starts("'\"'") || starts("'\\\"'") || starts("'\\''") {
            while chars
                .next_if(|(_, c)| *c != '\n' && *c != ',' && *c != ')' && *c != ' ')
                .is_some()
            {}
        } else if c == '"' && (last == 'r' || last == '#') {
            // Raw: ends with the same number of hashes; none of them is a message.
            while chars.next_if(|(_, c)| *c != '"').is_some() {}
            chars.next();
        } else if c == '"' {
            let mut text = String::new();
            while let Some((_, c)) = chars.next() {
                match c {
                    '"' => break,
                    '\\' => match chars.next().map(|(_, c)| c) {
                        Some('\n') => while chars.next_if(|(_, c)| c.is_whitespace()).is_some() {},
                        Some('n') => text.push(' '),
                        Some(c) => text.push(c),
                        None => break,
                    },
                    c => text.push(c),
                }
            }
            found.push((code[..at].trim_end(), text));
        }
        last = c;
    }
    found
}

/// Without what Markdown or a shell puts around words.
fn plain(text: &str) -> String {
    let text: String = text.chars().filter(|c| !"`'\"*\\".contains(*c)).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What stands between the values, as far as it is long enough to be told from anything else.
fn fixed_parts(literal: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0;
    for c in literal.chars() {
        match c {
            '{' => {
                depth += 1;
                parts.push(String::new());
            }
            '}' => depth -= 1,
            c if depth == 0 => parts.last_mut().expect("one at least").push(c),
            _ => {}
        }
    }
    let trimmed = parts.iter().map(|part| plain(part));
    let mut long: Vec<String> = trimmed
        .filter(|part| part.chars().filter(|c| c.is_alphabetic()).count() > 3)
        .collect();
    // Behind the host, a colon says nothing.
    long.iter_mut().for_each(|part| {
        *part = part
            .trim_start_matches([':', ' ', ')', ';', ','])
            .to_owned()
    });
    long
}

fn messages() -> Vec<Text> {
    let mut found = Vec::new();
    for file in pages::files("src", ".rs") {
        if QUOTED.iter().any(|quoted| file.starts_with(quoted)) || file.contains("/tests") {
            continue;
        }
        for (before, literal) in literals(&pages::read(&file)) {
            let told = ["#[error(", "log::warn!(", "log::error!("];
            let warning = file.starts_with("src/config/") && before.ends_with(".push(format!(");
            let composed = COMPOSED.contains(&file.as_str()) && literal.len() > 15;
            if told.iter().any(|told| before.ends_with(told)) || composed || warning {
                let file = file.clone();
                found.push(Text { file, literal });
            }
        }
    }
    found
}

/// Texts of the implementations of `Hint`, and of the files that hold nothing but hints and their parts.
fn hints() -> Vec<Text> {
    let mut found = Vec::new();
    for file in pages::files("src", ".rs") {
        let code = pages::read(&file);
        let is_all_hints = file.ends_with("/hint.rs") || file == "src/config/host/ssh_target.rs";
        let parts: Vec<&str> = match is_all_hints {
            true => vec![&code],
            false => code.split("\nimpl Hint for ").skip(1).collect(),
        };
        for part in parts {
            let part = match is_all_hints {
                true => part,
                false => part.split("\n}\n").next().unwrap_or(part),
            };
            let texts = literals(part).into_iter().map(|(_, literal)| Text {
                file: file.clone(),
                literal,
            });
            found.extend(texts.filter(|text| plain(&text.literal).len() > 24));
        }
    }
    found
}

/// Those that no row tells of. `column` is where to look.
fn untold(texts: &[Text], column: usize) -> Vec<String> {
    let page = Page::open("docs/messages.md");
    let cells: Vec<String> = page
        .rows
        .iter()
        .filter_map(|row| row.get(column))
        .map(|cell| plain(cell))
        .collect();
    let holds = |cell: &String, parts: &[String]| {
        let mut rest = cell.as_str();
        parts
            .iter()
            .all(|part| match rest.split_once(part.as_str()) {
                Some((_, after)) => {
                    rest = after;
                    true
                }
                None => false,
            })
    };
    let mut missing = Vec::new();
    for text in texts {
        let parts = fixed_parts(&text.literal);
        if !parts.is_empty() && !cells.iter().any(|cell| holds(cell, &parts)) {
            missing.push(format!("{}: {}", text.file, text.literal));
        }
    }
    missing
}

#[test]
fn every_message_stands_there() {
    let messages = messages();
    assert!(
        messages.len() > 60,
        "only {} messages were found",
        messages.len()
    );
    let missing = untold(&messages, 0);
    assert!(
        missing.is_empty(),
        "docs/messages.md does not tell of\n{}",
        missing.join("\n")
    );
}

#[test]
fn every_hint_stands_there() {
    let hints = hints();
    assert!(hints.len() > 35, "only {} hints were found", hints.len());
    let missing = untold(&hints, 1);
    assert!(
        missing.is_empty(),
        "docs/messages.md does not tell of\n{}",
        missing.join("\n")
    );
}

#[test]
fn literals_are_found() {
    let code = "// \"no\nlet c = '\"'; a(\"b \\\"c\\\" \\\n      d\"); #[error(\"{x:?}: not there: {y}\")]\n#[cfg(test)] \"e\"";
    let found = literals(code);
    let texts: Vec<&str> = found.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["b \"c\" d", "{x:?}: not there: {y}"]);
    assert!(found[1].0.ends_with("#[error("));
    assert_eq!(
        fixed_parts("{host}: it's in {path}, or {}'s"),
        ["its in", "or"][..1].to_vec()
    );
}
