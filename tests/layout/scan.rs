//! Just enough of a Rust reader to list the paths that a source file names: comments and literals are skipped, `use` trees
//! spelled out, `super` resolved.

/// A word or one punctuation mark (`::` counts as one), with its line.
struct Token<'a> {
    text: &'a str,
    line: usize,
}

/// One path named in a source file.
pub struct Named {
    /// Line, counted from 1.
    pub line: usize,
    /// The segments as written; `super`s that lead up to the root of the crate are replaced by one `crate`.
    pub segments: Vec<String>,
    /// Inside a `#[cfg(test)] mod`.
    pub in_test: bool,
    /// How many inline modules it is inside of.
    pub inline: usize,
    /// The name that a `use` binds, and whether it is visible outside the file (`pub use`, `pub(super) use`).
    pub binding: Option<(String, bool)>,
}

/// All paths of a file that sits `depth` modules below the root of the crate, and all macros called, as `["name!"]`.
pub fn named(text: &str, depth: usize) -> Vec<Named> {
    let tokens = tokens(text);
    let mut reader = Reader {
        tokens: &tokens,
        depth,
        modules: Vec::new(),
        braces: 0,
        found: Vec::new(),
    };
    reader.read();
    reader.found
}

/// Names of the modules that a file declares.
pub fn declared_modules(text: &str) -> Vec<&str> {
    let words: Vec<&str> = tokens(text).iter().map(|token| token.text).collect();
    words
        .windows(2)
        .filter(|pair| pair[0] == "mod")
        .map(|pair| pair[1])
        .collect()
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let mut line = 1;
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let (length, token) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), false)
        } else if rest.starts_with("/*") {
            (block_comment(rest), false)
        } else if let Some(length) = string_literal(rest) {
            (length, false)
        } else if first == '\'' {
            (quote(rest), false)
        } else if first.is_alphanumeric() || first == '_' {
            (
                rest.find(|c: char| !c.is_alphanumeric() && c != '_')
                    .unwrap_or(rest.len()),
                true,
            )
        } else if rest.starts_with("::") {
            (2, true)
        } else {
            (first.len_utf8(), !first.is_whitespace())
        };
        if token {
            found.push(Token {
                text: &rest[..length],
                line,
            });
        }
        line += rest[..length].matches('\n').count();
        at += length;
    }
    found
}

/// Length of a block comment; they nest.
fn block_comment(text: &str) -> usize {
    let mut open = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            open += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            open -= 1;
            at += 2;
            if open == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Length of a string literal, with its prefix, if one starts here.
fn string_literal(text: &str) -> Option<usize> {
    for prefix in ["br", "cr", "r"] {
        let Some(body) = text.strip_prefix(prefix) else {
            continue;
        };
        let hashes = body.len() - body.trim_start_matches('#').len();
        // Without the quote it is a word: `r#type`, `break`.
        if let Some(raw) = body[hashes..].strip_prefix('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let inner = raw.find(&end).map_or(raw.len(), |found| found + end.len());
            return Some(prefix.len() + hashes + 1 + inner);
        }
    }
    let prefix = ["b\"", "c\"", "\""]
        .into_iter()
        .find(|prefix| text.starts_with(prefix))?;
    let before = prefix.len() - 1;
    Some(before + quoted(&text[before..], '"'))
}

/// Length of a quoted literal that starts with its quote and may hold escapes.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == quote {
            return at + 1;
        }
    }
    text.len()
}

/// Length of a character literal; of the quote alone if it starts a lifetime.
fn quote(text: &str) -> usize {
    let mut chars = text.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) | (Some(_), Some('\'')) => quoted(text, '\''),
        _ => 1,
    }
}

struct Module {
    braces: usize,
    test: bool,
}

struct Reader<'a> {
    tokens: &'a [Token<'a>],
    depth: usize,
    /// Inline modules that are open.
    modules: Vec<Module>,
    braces: usize,
    found: Vec<Named>,
}

impl Reader<'_> {
    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| token.text)
    }

    fn read(&mut self) {
        let mut at = 0;
        // Set from `#[cfg(test)]` to the item that it stands before.
        let mut cfg_test = false;
        while at < self.tokens.len() {
            let line = self.tokens[at].line;
            match self.text(at) {
                "{" => {
                    self.braces += 1;
                    cfg_test = false;
                }
                "}" => {
                    if self
                        .modules
                        .last()
                        .is_some_and(|module| module.braces == self.braces)
                    {
                        self.modules.pop();
                    }
                    self.braces = self.braces.saturating_sub(1);
                }
                ";" => cfg_test = false,
                "#" if ["[", "cfg", "(", "test", ")", "]"]
                    .iter()
                    .enumerate()
                    .all(|(i, t)| self.text(at + 1 + i) == *t) =>
                {
                    cfg_test = true;
                    at += 6;
                }
                "mod" if self.text(at + 2) == "{" => {
                    self.braces += 1;
                    self.modules.push(Module {
                        braces: self.braces,
                        test: cfg_test,
                    });
                    cfg_test = false;
                    at += 2;
                }
                "use" => {
                    let is_public = at > 0 && matches!(self.text(at - 1), "pub" | ")");
                    at = self.tree(at + 1, Vec::new(), is_public).saturating_sub(1);
                }
                "extern" if self.text(at + 1) == "crate" => {
                    self.push(line, vec![self.text(at + 2).to_owned()], None);
                    at += 2;
                }
                "::" => at = self.path(at + 1).saturating_sub(1),
                word if is_word(word) && !(at > 0 && self.text(at - 1) == ".") => {
                    at = self.path(at).saturating_sub(1)
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// Reads `a::b::c` from its first word on, or the macro call `name!`; returns the index after it.
    fn path(&mut self, start: usize) -> usize {
        let line = self.tokens.get(start).map_or(0, |token| token.line);
        let mut segments = Vec::new();
        let mut at = start;
        while is_word(self.text(at)) {
            segments.push(self.text(at).to_owned());
            if self.text(at + 1) != "::" {
                at += 1;
                break;
            }
            at += 2;
        }
        let called = self.text(at) == "!" && self.text(at + 1) != "=";
        if called && let Some(name) = segments.last() {
            let call = format!("{name}!");
            self.push(line, vec![call], None);
        }
        if segments.len() > 1 {
            self.push(line, segments, None);
        }
        at.max(start)
    }

    /// Reads a `use` tree under `prefix`; returns the index of the `;`, `,` or `}` that ends it.
    fn tree(&mut self, start: usize, prefix: Vec<String>, is_public: bool) -> usize {
        let line = self.tokens.get(start).map_or(0, |token| token.line);
        let mut segments = prefix;
        let mut at = start;
        loop {
            match self.text(at) {
                "::" => at += 1,
                "{" => {
                    at += 1;
                    while !matches!(self.text(at), "}" | "") {
                        at = self.tree(at, segments.clone(), is_public);
                        if self.text(at) == "," {
                            at += 1;
                        }
                    }
                    return at + 1;
                }
                "as" => {
                    let binding = Some((self.text(at + 1).to_owned(), is_public));
                    self.push(line, segments, binding);
                    return at + 2;
                }
                "self" if !segments.is_empty() => at += 1,
                word if is_word(word) || word == "*" => {
                    segments.push(word.to_owned());
                    at += 1;
                }
                _ => {
                    let binding = segments.last().map(|name| (name.clone(), is_public));
                    self.push(line, segments, binding);
                    return at;
                }
            }
        }
    }

    fn push(&mut self, line: usize, mut segments: Vec<String>, binding: Option<(String, bool)>) {
        let supers = segments
            .iter()
            .take_while(|segment| *segment == "super")
            .count();
        if supers > 0 && supers >= self.depth + self.modules.len() {
            segments.splice(..supers, ["crate".to_owned()]);
        }
        let in_test = self.modules.iter().any(|module| module.test);
        self.found.push(Named {
            line,
            segments,
            in_test,
            inline: self.modules.len(),
            binding,
        });
    }
}
