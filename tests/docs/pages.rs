//! The pages, taken apart: code blocks, headings, links, tables.

use std::fs;
use std::path::{Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// What the pages call a path of their hosts; the only thing in them that no machine can have under that name.
pub const SHOWN: &str = "/nix/store/…-hello-2.12";

/// A code block.
#[derive(Debug, Clone)]
pub struct Block {
    /// The first word behind the fence; empty where there is none.
    pub language: String,
    /// The words after it.
    pub label: String,
    pub text: String,
    /// Where its text begins, counted from 1.
    pub line: usize,
}

/// One page.
pub struct Page {
    /// Relative to the crate.
    pub name: String,
    pub text: String,
    pub blocks: Vec<Block>,
    /// As they can be linked to.
    pub anchors: Vec<String>,
    /// Where links and images lead.
    pub links: Vec<String>,
    /// Code between words.
    pub spans: Vec<String>,
    /// Rows of all tables, heads included, as plain text.
    pub rows: Vec<Vec<String>>,
}

pub fn crate_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below a folder of the crate that end so, sorted.
pub fn files(folder: &str, end: &str) -> Vec<String> {
    let mut pending: Vec<PathBuf> = vec![crate_root().join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).expect("read a folder") {
            let path = entry.expect("read an entry").path();
            if path.is_dir() {
                pending.push(path);
                continue;
            }
            let name = path.strip_prefix(crate_root()).expect("in the crate");
            let name = name.to_str().expect("UTF-8 file names").to_owned();
            if name.ends_with(end) {
                found.push(name);
            }
        }
    }
    found.sort();
    found
}

pub fn read(name: &str) -> String {
    let path = crate_root().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// All pages for people.
pub fn all() -> Vec<Page> {
    let mut names = vec!["README.md".to_owned(), "SECURITY.md".to_owned()];
    for folder in ["docs", "examples", "packaging"] {
        names.extend(files(folder, ".md"));
    }
    names.iter().map(|name| Page::open(name)).collect()
}

impl Page {
    pub fn open(name: &str) -> Self {
        let text = read(name);
        let mut page = Self {
            name: name.to_owned(),
            blocks: Vec::new(),
            anchors: Vec::new(),
            links: Vec::new(),
            spans: Vec::new(),
            rows: Vec::new(),
            text,
        };
        page.take_apart();
        page
    }

    fn take_apart(&mut self) {
        let mut code: Option<Block> = None;
        // Plain text of the heading or cell that is open.
        let mut plain: Option<String> = None;
        let text = self.text.clone();
        for (event, range) in Parser::new_ext(&text, Options::ENABLE_TABLES).into_offset_iter() {
            match event {
                Event::Start(Tag::CodeBlock(kind)) => {
                    let info = match kind {
                        CodeBlockKind::Fenced(info) => info.into_string(),
                        CodeBlockKind::Indented => String::new(),
                    };
                    let (language, label) = info.split_once(' ').unwrap_or((&info, ""));
                    code = Some(Block {
                        language: language.to_owned(),
                        label: label.to_owned(),
                        text: String::new(),
                        line: text[..range.start].matches('\n').count() + 2,
                    });
                }
                Event::End(TagEnd::CodeBlock) => self.blocks.extend(code.take()),
                Event::Start(Tag::Heading { .. } | Tag::TableCell) => plain = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let anchor = self.anchor(&plain.take().unwrap_or_default());
                    self.anchors.push(anchor);
                }
                Event::Start(Tag::TableHead | Tag::TableRow) => self.rows.push(Vec::new()),
                Event::End(TagEnd::TableCell) => {
                    let row = self.rows.last_mut().expect("a cell is in a row");
                    row.push(plain.take().unwrap_or_default());
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    self.links.push(dest_url.into_string());
                }
                Event::Text(ref words) | Event::Code(ref words) => {
                    if matches!(event, Event::Code(_)) {
                        self.spans.push(words.to_string());
                    }
                    if let Some(block) = &mut code {
                        block.text.push_str(words);
                    } else if let Some(plain) = &mut plain {
                        plain.push_str(words);
                    }
                }
                _ => {}
            }
        }
    }

    /// As GitHub and GitLab make it: small letters, digits, `-` and `_`, blanks become hyphens.
    fn anchor(&self, heading: &str) -> String {
        let anchor: String = heading
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let mut number = 0;
        let mut name = anchor.clone();
        while self.anchors.contains(&name) {
            number += 1;
            name = format!("{anchor}-{number}");
        }
        name
    }

    /// The only block with this label.
    pub fn block(&self, label: &str) -> &str {
        let mut found = self.blocks.iter().filter(|block| block.label == label);
        match (found.next(), found.next()) {
            (Some(block), None) => &block.text,
            (None, _) => panic!("{}: no block is labelled {label:?}", self.name),
            (Some(_), Some(_)) => panic!("{}: two blocks are labelled {label:?}", self.name),
        }
    }

    /// `README.md:12`
    pub fn place(&self, block: &Block) -> String {
        format!("{}:{}", self.name, block.line)
    }
}

#[test]
fn pages_are_taken_apart() {
    let folder = tempfile::tempdir().expect("make a folder");
    let file = folder.path().join("page.md");
    let text = "# A `b`, c\n\n## A\n\n## A\n\n    indented\n\n- x\n\n  ```sh key\n  one\n  two\n  ```\n\n\
                | a | [b](c#d) |\n| --- | --- |\n| `e \\| f` | g |\n";
    fs::write(&file, text).expect("write a page");
    let page = Page::open(file.to_str().expect("UTF-8"));
    assert_eq!(page.anchors, ["a-b-c", "a", "a-1"]);
    assert_eq!(page.blocks[0].language, "");
    assert_eq!(page.block("key"), "one\ntwo\n");
    assert_eq!(
        (page.blocks[1].language.as_str(), page.blocks[1].line),
        ("sh", 12)
    );
    assert_eq!(page.links, ["c#d"]);
    assert_eq!(page.rows, [vec!["a", "b"], vec!["e | f", "g"]]);
}
