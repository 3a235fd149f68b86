//! As much of a POSIX shell, and of GNU's `find`, `dd`, `head` and `cat`, as is ever asked for: the language here, the
//! programs in `tools`. What it does not know it refuses, as a shell does with a program that is not there.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::vec::IntoIter;

use super::store::Store;
use super::tools::{self, Data, Io};

/// Lines that print nothing where an account has neither settings of Nix nor its variables.
const QUIET: [&str; 3] = [
    r#"t(){ IFS=' 	';while read -r k q v||[ -n "$k" ];do case "$k$q" in store=)printf '%s\0' "${v%%[ #]*}";;esac;done;}"#,
    r#"printf '%s\n' "$NIX_CONFIG"|t"#,
    r#"set -f;IFS=:;for f in ${NIX_USER_CONF_FILES:-${XDG_CONFIG_HOME:-$HOME/.config}/nix/nix.conf} "${NIX_CONF_DIR:-/etc/nix}/nix.conf";do [ -f "$f" ]&&head -c 65536 "$f"|t;done;set +f;unset IFS"#,
];

/// The line after these: what `NIX_REMOTE` says, and where a user without rights has a store.
const AT_HOME: &str =
    r#"printf '%s\0%s\0' "$NIX_REMOTE" "${XDG_DATA_HOME:-$HOME/.local/share}/nix/root""#;

/// The line that prints `zstd` where there is one.
const ZSTD_TEST: &str = "command -v zstd >/dev/null 2>&1&&printf zstd";

/// A part of a word.
#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(Vec<u8>),
    Variable(String),
    Product(u64, u64),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(Vec<Part>),
    /// `;` (or a line's end), `|`, `||`
    Operator(&'static str),
    /// `A>&B`
    Redirection(u8, u8),
}

/// A command, and which of its outputs goes elsewhere.
struct Command {
    kind: Kind,
    redirection: Option<(u8, u8)>,
}

enum Kind {
    Simple(Vec<Vec<Part>>),
    Group(List),
}

type Pipeline = Vec<Command>;
/// The next one only when the last one failed.
type Or = Vec<Pipeline>;
type List = Vec<Or>;

/// A shell that runs.
pub struct Shell<'a> {
    store: &'a Store,
    variables: BTreeMap<String, Vec<u8>>,
    folder: String,
    /// Where the function `w` looks.
    places: Vec<String>,
    status: u8,
    /// What has been printed to descriptor 3.
    third: Data,
    pub io: Io,
}

impl<'a> Shell<'a> {
    pub fn new(store: &'a Store) -> Self {
        let variables = [("HOME", "/root"), ("PATH", "/usr/bin:/bin")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.into()));
        Self {
            store,
            variables: variables.into(),
            folder: "/".to_owned(),
            places: Vec::new(),
            status: 0,
            third: Data::default(),
            io: Io::default(),
        }
    }

    /// The status of what ran last.
    pub fn status(&self) -> u8 {
        self.status
    }

    /// Runs what makes up a whole command, line by line; what it prints is in `io` then. `None` when it is not
    /// understood.
    pub fn run(&mut self, lines: &[u8]) -> Option<()> {
        if let Some(done) = self.known(lines) {
            return done;
        }
        let mut tokens = tokens(lines)?.into_iter().peekable();
        let list = list(&mut tokens)?;
        tokens.next().is_none().then_some(())?;
        let out = self.list(&list, Data::default())?;
        self.io.out.extend(out);
        Some(())
    }

    /// Does what a line does that is known as a whole: what an account tells of its store, and the function `w`. `None`
    /// when it is none of these.
    fn known(&mut self, line: &[u8]) -> Option<Option<()>> {
        let line = std::str::from_utf8(line).ok()?.trim_end();
        if QUIET.contains(&line) {
            return Some(Some(()));
        }
        if line == ZSTD_TEST {
            if self.store.has_zstd {
                self.io.out.extend(Data::text("zstd"));
            }
            return Some(Some(()));
        }
        if line == AT_HOME {
            let home = self.variables.get("HOME")?;
            let told = [b"\0", &home[..], b"/.local/share/nix/root\0"].concat();
            self.io.out.extend(Data::text(told));
            return Some(Some(()));
        }
        let places = line.strip_prefix("w(){ for p in ")?;
        let places =
            places.strip_suffix(";do [ -e \"$p/$1\" ]||[ -h \"$p/$1\" ]&&return;done;}")?;
        Some(self.define(places))
    }

    fn define(&mut self, places: &str) -> Option<()> {
        let mut words = Vec::new();
        for token in tokens(places.as_bytes())? {
            let Token::Word(parts) = token else {
                return None;
            };
            words.push(String::from_utf8(self.expand(&parts)?).ok()?);
        }
        self.places = words;
        Some(())
    }

    /// The function `w`: where an object of that name is, or the last place.
    fn look(&mut self, name: &str) -> u8 {
        let has = |place: &&String| self.store.find(&format!("{place}/{name}")).is_some();
        let found = self.places.iter().find(has);
        let status = u8::from(found.is_none());
        if let Some(place) = found.or(self.places.last()) {
            self.variables.insert("p".to_owned(), place.clone().into());
        }
        status
    }

    fn list(&mut self, list: &List, input: Data) -> Option<Data> {
        let mut out = Data::default();
        for or in list {
            for pipeline in or {
                out.extend(self.pipeline(pipeline, input.clone())?);
                if self.status == 0 {
                    break;
                }
            }
        }
        Some(out)
    }

    fn pipeline(&mut self, pipeline: &Pipeline, mut data: Data) -> Option<Data> {
        // What is in a pipeline runs in shells of its own.
        let before = (pipeline.len() > 1).then(|| (self.variables.clone(), self.folder.clone()));
        for command in pipeline {
            data = self.command(command, data)?;
        }
        if let Some(before) = before {
            (self.variables, self.folder) = before;
        }
        Some(data)
    }

    fn command(&mut self, command: &Command, input: Data) -> Option<Data> {
        let out = match &command.kind {
            Kind::Group(list) => self.list(list, input)?,
            Kind::Simple(words) => self.simple(words, input)?,
        };
        match command.redirection {
            None => Some(out),
            Some((1, 3)) => {
                self.third.extend(out);
                Some(Data::default())
            }
            Some((3, 1)) => {
                let mut all = std::mem::take(&mut self.third);
                all.extend(out);
                Some(all)
            }
            Some(_) => None,
        }
    }

    fn simple(&mut self, words: &[Vec<Part>], input: Data) -> Option<Data> {
        if let [word] = words
            && let Some((name, value)) = assignment(word)
        {
            let value = self.expand(&value)?;
            self.variables.insert(name, value);
            self.status = 0;
            return Some(Data::default());
        }
        let words: Option<Vec<_>> = words.iter().map(|word| self.expand(word)).collect();
        let words: Option<Vec<_>> = words?
            .into_iter()
            .map(|w| String::from_utf8(w).ok())
            .collect();
        let words = words?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (out, status) = match words.as_slice() {
            ["export", _] => (Data::default(), 0),
            ["cd", folder] => (Data::default(), self.enter(folder)),
            ["w", name] => (Data::default(), self.look(name)),
            _ => tools::run(&words, input, self.store, &self.folder, &mut self.io)?,
        };
        self.status = status;
        Some(out)
    }

    fn enter(&mut self, folder: &str) -> u8 {
        let folder = tools::absolute(&self.folder, folder);
        if !tools::is_directory(self.store, &folder) {
            self.io.complain(format!("sh: 1: cd: can't cd to {folder}"));
            return 2;
        }
        self.folder = folder;
        0
    }

    fn expand(&self, word: &[Part]) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        for part in word {
            match part {
                Part::Text(text) => all.extend_from_slice(text),
                Part::Variable(name) if name == "?" => all.extend(self.status.to_string().bytes()),
                Part::Variable(name) => all.extend_from_slice(self.variables.get(name)?),
                Part::Product(a, b) => all.extend((a * b).to_string().bytes()),
            }
        }
        Some(all)
    }
}

/// `NAME=` at the beginning of a word, and the rest.
fn assignment(word: &[Part]) -> Option<(String, Vec<Part>)> {
    let (Part::Text(first), rest) = word.split_first()? else {
        return None;
    };
    let at = first.iter().position(|byte| *byte == b'=')?;
    let is_name = at > 0
        && first[..at]
            .iter()
            .all(|b| b.is_ascii_alphabetic() || *b == b'_');
    let name = String::from_utf8(first[..at].to_vec()).ok()?;
    let value = [&[Part::Text(first[at + 1..].to_vec())], rest].concat();
    is_name.then_some((name, value))
}

fn is_word(token: Option<&Token>, text: &[u8]) -> bool {
    matches!(token, Some(Token::Word(parts)) if *parts == [Part::Text(text.to_vec())])
}

fn list(tokens: &mut Peekable<IntoIter<Token>>) -> Option<List> {
    let mut all = Vec::new();
    loop {
        while tokens.next_if_eq(&Token::Operator(";")).is_some() {}
        if tokens.peek().is_none() || is_word(tokens.peek(), b"}") {
            break;
        }
        let mut or = vec![pipeline(tokens)?];
        while tokens.next_if_eq(&Token::Operator("||")).is_some() {
            or.push(pipeline(tokens)?);
        }
        all.push(or);
        if tokens.next_if_eq(&Token::Operator(";")).is_none() {
            break;
        }
    }
    Some(all)
}

fn pipeline(tokens: &mut Peekable<IntoIter<Token>>) -> Option<Pipeline> {
    let mut all = vec![command(tokens)?];
    while tokens.next_if_eq(&Token::Operator("|")).is_some() {
        all.push(command(tokens)?);
    }
    Some(all)
}

fn command(tokens: &mut Peekable<IntoIter<Token>>) -> Option<Command> {
    if is_word(tokens.peek(), b"{") {
        tokens.next();
        let list = list(tokens)?;
        is_word(tokens.next().as_ref(), b"}").then_some(())?;
        let redirection = redirection(tokens);
        let kind = Kind::Group(list);
        return Some(Command { kind, redirection });
    }
    let mut words = Vec::new();
    while let Some(Token::Word(parts)) = tokens.next_if(|token| matches!(token, Token::Word(_))) {
        words.push(parts);
    }
    (!words.is_empty()).then_some(())?;
    let redirection = redirection(tokens);
    let kind = Kind::Simple(words);
    Some(Command { kind, redirection })
}

fn redirection(tokens: &mut Peekable<IntoIter<Token>>) -> Option<(u8, u8)> {
    match tokens.next_if(|token| matches!(token, Token::Redirection(..)))? {
        Token::Redirection(from, to) => Some((from, to)),
        _ => None,
    }
}

/// Whether these lines make up a whole command, or more of it is to come.
pub fn is_whole(lines: &[u8]) -> bool {
    let Some(tokens) = tokens(lines) else {
        return true;
    };
    let count = |word: &[u8]| {
        tokens
            .iter()
            .filter(|token| is_word(Some(token), word))
            .count()
    };
    count(b"{") == count(b"}")
}

fn tokens(line: &[u8]) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut word: Option<Vec<Part>> = None;
    let mut rest = line;
    let put = |word: &mut Option<Vec<Part>>, part: Part| {
        let parts = word.get_or_insert_default();
        match (parts.last_mut(), part) {
            (Some(Part::Text(before)), Part::Text(more)) => before.extend(more),
            (_, part) => parts.push(part),
        }
    };
    let mut is_quoted = false;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'"' => {
                is_quoted = !is_quoted;
                put(&mut word, Part::Text(Vec::new()));
            }
            b'$' => {
                let (part, len) = expansion(rest)?;
                put(&mut word, part);
                rest = &rest[len..];
            }
            _ if is_quoted => put(&mut word, Part::Text(vec![*byte])),
            b'\'' => {
                let end = rest.iter().position(|byte| *byte == b'\'')?;
                put(&mut word, Part::Text(rest[..end].to_vec()));
                rest = &rest[end + 1..];
            }
            b'\\' => {
                put(&mut word, Part::Text(vec![*rest.first()?]));
                rest = &rest[1..];
            }
            b'>' => {
                let [b'&', to, after @ ..] = rest else {
                    return None;
                };
                let from = match word.take() {
                    None => 1,
                    Some(parts) if parts == [Part::Text(b"3".to_vec())] => 3,
                    Some(_) => return None,
                };
                tokens.push(Token::Redirection(from, to.checked_sub(b'0')?));
                rest = after;
            }
            b' ' | b';' | b'|' | b'\n' => {
                tokens.extend(word.take().map(Token::Word));
                if *byte == b'|' && rest.first() == Some(&b'|') {
                    rest = &rest[1..];
                    tokens.push(Token::Operator("||"));
                } else if *byte != b' ' {
                    let operator = if *byte == b'|' { "|" } else { ";" };
                    tokens.push(Token::Operator(operator));
                }
            }
            // What else has a meaning in a shell is never written.
            b'&' | b'<' | b'(' | b')' | b'`' | b'*' | b'#' => return None,
            _ => put(&mut word, Part::Text(vec![*byte])),
        }
    }
    tokens.extend(word.map(Token::Word));
    (!is_quoted).then_some(tokens)
}

/// What follows a dollar sign, and its length.
fn expansion(rest: &[u8]) -> Option<(Part, usize)> {
    if let Some(product) = rest.strip_prefix(b"((") {
        let end = product.windows(2).position(|two| two == b"))")?;
        let (a, b) = std::str::from_utf8(&product[..end]).ok()?.split_once('*')?;
        return Some((Part::Product(a.parse().ok()?, b.parse().ok()?), end + 4));
    }
    if rest.first() == Some(&b'?') {
        return Some((Part::Variable("?".to_owned()), 1));
    }
    let is_other = |byte: &u8| !byte.is_ascii_alphabetic() && *byte != b'_';
    let len = rest.iter().position(is_other).unwrap_or(rest.len());
    let name = String::from_utf8(rest[..len].to_vec()).ok()?;
    (len > 0).then_some((Part::Variable(name), len))
}
