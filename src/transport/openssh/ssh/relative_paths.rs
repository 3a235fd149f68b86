//! Options that name files from the current folder, as they have to be for an ssh that runs elsewhere.
//!
//! A master lives for minutes, and a folder that a process is in cannot be unmounted: it runs in `/`. What its options
//! name is still meant from where the command was given. ssh(1) and ssh_config(5) tell which ones are taken so:
//! neither those that begin with `~`, nor those in an included file, but nearly all others.

use std::ffi::OsString;
use std::path::Path;

/// The letters of ssh's options that have an argument (its usage, 9.9).
const WITH_ARGUMENT: &str = "bceilmopBDEFIJLOPQRSWw";

/// Those that name a file.
const FILES: &str = "iEFIS";

/// An option of `-o`, by its name in lower case, that names files from the current folder.
struct Named {
    name: &'static str,
    /// How many files it may name.
    many: bool,
    /// Whether `%` begins a token in it (TOKENS in ssh_config(5)).
    tokens: bool,
}

const NAMED: &[Named] = &[
    one("identityfile", true),
    one("certificatefile", true),
    one("identityagent", true),
    one("controlpath", true),
    one("revokedhostkeys", true),
    one("pkcs11provider", false),
    one("securitykeyprovider", false),
    Named {
        name: "userknownhostsfile",
        many: true,
        tokens: true,
    },
    Named {
        name: "globalknownhostsfile",
        many: true,
        tokens: false,
    },
];

const fn one(name: &'static str, tokens: bool) -> Named {
    Named {
        name,
        many: false,
        tokens,
    }
}

/// A shell's command: its program may be named so.
const COMMAND: &str = "proxycommand";

/// What stands in the place of a file's name and is none.
const WORDS: &[&str] = &["none", "internal", "SSH_AUTH_SOCK"];

/// These words of ssh's command line, with what they name from `folder` named from anywhere.
#[must_use]
pub fn resolve(words: &[String], folder: &Path) -> Vec<String> {
    let mut resolved = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some((at, letter)) = argument(word) else {
            resolved.push(word.clone());
            continue;
        };
        let (flags, value) = word.split_at(at);
        // The argument is the rest of the word or, when there is none, the next word.
        let next = value.is_empty().then(|| words.next()).flatten();
        let Some(value) = next.map_or((!value.is_empty()).then_some(value), |next| Some(next))
        else {
            resolved.push(word.clone());
            continue;
        };
        let changed = match letter {
            'o' => option(value, folder),
            letter if FILES.contains(letter) => resolve_file(value, folder),
            _ => None,
        };
        // What is looked for first is the file as it is named, and what is opened is what tokens in it make of that.
        if let ('i', Some(path)) = (letter, &changed)
            && folder.to_string_lossy().contains('%')
        {
            let flags = flags.trim_end_matches('i');
            resolved.extend((flags != "-").then(|| flags.to_owned()));
            let value = option(&format!("IdentityFile={value}"), folder);
            resolved.extend(["-o".to_owned(), value.unwrap_or_else(|| path.clone())]);
            continue;
        }
        let value = changed.as_deref().unwrap_or(value);
        match next {
            Some(_) => resolved.extend([flags.to_owned(), value.to_owned()]),
            None => resolved.push(format!("{flags}{value}")),
        }
    }
    resolved
}

/// A file that is named from `folder`, named from anywhere; nothing where it is already.
#[must_use]
pub fn resolve_file(path: &str, folder: &Path) -> Option<String> {
    file(path, folder, false)
}

/// Where in a word of options an argument begins, and whose.
fn argument(word: &str) -> Option<(usize, char)> {
    let flags = word.strip_prefix('-')?;
    let (at, letter) = flags
        .char_indices()
        .find(|(_, letter)| WITH_ARGUMENT.contains(*letter))?;
    Some((1 + at + letter.len_utf8(), letter))
}

/// Options for what `ssh -G` prints as relative to `folder`: it prints an option and its value on each line, nothing quoted.
pub(super) fn of_printed(printed: &str, folder: &Path) -> Vec<String> {
    let lines = printed.lines().filter_map(|line| option(line, folder));
    lines.flat_map(|option| ["-o".to_owned(), option]).collect()
}

/// An option as `-o` has it, with its files named from anywhere; nothing where they are already.
fn option(text: &str, folder: &Path) -> Option<String> {
    let end = text.find([' ', '\t', '='])?;
    let (name, rest) = text.split_at(end);
    let value = rest.trim_start();
    let value = value.strip_prefix('=').unwrap_or(value).trim();
    let lower = name.to_ascii_lowercase();
    if lower == COMMAND {
        return command(value, folder).map(|value| format!("{name}={value}"));
    }
    let named = NAMED.iter().find(|named| named.name == lower)?;
    let files = match named.many || value.contains(['"', '\'']) {
        true => shell_words::split(value).ok()?,
        false => vec![value.to_owned()],
    };
    let changed: Vec<_> = files
        .iter()
        .map(|path| file(path, folder, named.tokens))
        .collect();
    if changed.iter().all(Option::is_none) {
        return None;
    }
    let files = files.into_iter().zip(changed);
    let files = files.map(|(path, changed)| quoted(&changed.unwrap_or(path)));
    Some(format!("{name}={}", files.collect::<Vec<_>>().join(" ")))
}

/// A file that is named from `folder`; nothing where it is not.
fn file(path: &str, folder: &Path, tokens: bool) -> Option<String> {
    // `%d` is the home folder. What a variable holds is not known here.
    let elsewhere = ["/", "~", "$", "%d"]
        .iter()
        .any(|start| path.starts_with(start));
    if path.is_empty() || elsewhere || WORDS.contains(&path) {
        return None;
    }
    let folder = folder.to_str()?;
    let folder = match tokens {
        true => folder.replace('%', "%%"),
        false => folder.to_owned(),
    };
    Some(format!("{}/{path}", folder.trim_end_matches('/')))
}

/// A command whose program is named from `folder`. (What else of it is a file is its own concern.)
fn command(text: &str, folder: &Path) -> Option<String> {
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let (program, rest) = text.split_at(end);
    let is_name = program
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"._+-/".contains(&b));
    // One without a slash is looked for in `PATH`.
    if !is_name || !program.contains('/') || program.starts_with('/') {
        return None;
    }
    let folder = folder.to_str()?.replace('%', "%%");
    let path = format!("{}/{program}", folder.trim_end_matches('/'));
    Some(format!("{}{rest}", shell_words::quote(&path)))
}

/// The option that names this key. (As `-i` has it, tokens in it would be looked for as they are.)
pub(in crate::transport::openssh) fn identity(key: &Path) -> [OsString; 2] {
    match key.to_str().filter(|key| key.contains('%')) {
        Some(key) => {
            let value = quoted(&key.replace('%', "%%"));
            ["-o".into(), format!("IdentityFile={value}").into()]
        }
        None => ["-i".into(), key.into()],
    }
}

/// As ssh_config(5) has it.
fn quoted(path: &str) -> String {
    match path.contains([' ', '\t', '"', '\'', '\\']) {
        true => format!("\"{}\"", path.replace('\\', "\\\\").replace('"', "\\\"")),
        false => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str) -> String {
        let words = shell_words::split(text).unwrap();
        shell_words::join(resolve(&words, Path::new("/here")))
    }

    #[test]
    fn what_is_named_from_here_is_named_from_anywhere() {
        for (given, expected) in [
            ("-F config", "-F /here/config"),
            ("-Fconfig", "-F/here/config"),
            (
                "-4vF ../config -i keys/a",
                "-4vF /here/../config -i /here/keys/a",
            ),
            (
                "-i key -E log -S socket",
                "-i /here/key -E /here/log -S /here/socket",
            ),
            ("-o IdentityFile=key", "-o 'IdentityFile=/here/key'"),
            ("-oIdentityFile=key", "'-oIdentityFile=/here/key'"),
            ("-o 'identityfile key'", "-o 'identityfile=/here/key'"),
            (
                "-o 'CertificateFile = %h.pub'",
                "-o 'CertificateFile=/here/%h.pub'",
            ),
            (
                "-o 'UserKnownHostsFile=a /b ~/c'",
                "-o 'UserKnownHostsFile=/here/a /b ~/c'",
            ),
            (
                "-o 'UserKnownHostsFile=\"a b\" c'",
                "-o 'UserKnownHostsFile=\"/here/a b\" /here/c'",
            ),
            (
                "-o ProxyCommand='./proxy %h %p'",
                "-o 'ProxyCommand=/here/./proxy %h %p'",
            ),
        ] {
            assert_eq!(resolved(given), expected);
            // Once more it stays.
            assert_eq!(resolved(expected), expected);
        }
    }

    #[test]
    fn all_else_stays() {
        for text in [
            "-F none -i /key -i '~/key'",
            "-o 'IdentityAgent=none' -o 'IdentityAgent=$SOCK' -o 'IdentityFile=%d/key'",
            "-o 'SecurityKeyProvider=internal' -o 'StrictHostKeyChecking=no' -p 22 -l F",
            "-o 'ProxyCommand=nc %h %p' -o 'ProxyCommand=/nc x' -J i,F -4 -F",
            "-o 'ProxyCommand=\"$HOME/nc\" x'",
            "-o x",
            "host",
        ] {
            assert_eq!(resolved(text), text);
        }
    }

    #[test]
    fn the_name_of_the_folder_is_only_a_name() {
        let words = ["-o", "IdentityFile=key", "-o", "ProxyCommand=bin/p"].map(str::to_owned);
        let got = resolve(&words, Path::new("/100% a"));
        assert_eq!(got[1], "IdentityFile=\"/100%% a/key\"");
        assert_eq!(got[3], "ProxyCommand='/100%% a/bin/p'");
        let words = ["-4i", "key"].map(str::to_owned);
        let got = resolve(&words, Path::new("/100% a"));
        assert_eq!(got, ["-4", "-o", "IdentityFile=\"/100%% a/key\""]);
    }

    #[test]
    fn what_ssh_prints_of_its_configuration_becomes_options() {
        let printed = "user u\nidentityfile ~/.ssh/id_rsa\nidentityfile keys/a\n\
                       userknownhostsfile ~/.ssh/known_hosts hosts\nproxycommand none\n";
        let expected = [
            "-o",
            "identityfile=/here/keys/a",
            "-o",
            "userknownhostsfile=~/.ssh/known_hosts /here/hosts",
        ];
        assert_eq!(of_printed(printed, Path::new("/here")), expected);
    }
}
