//! Makes relative paths in ssh's options absolute.
//!
//! A master runs for minutes, and would keep the file system of its current folder busy: so it runs in `/`. Relative
//! paths in its options are still meant from the folder where the command was given. By ssh(1) and ssh_config(5), all
//! are relative to the current folder but those that begin with `~` and those in included files.

use std::ffi::OsString;
use std::path::Path;

/// Letters of ssh's options that take an argument (usage of OpenSSH 9.9).
const FLAGS_WITH_ARGUMENT: &str = "bceilmopBDEFIJLOPQRSWw";

/// Those whose argument is a file.
const FILE_FLAGS: &str = "iEFIS";

/// An option of `-o` whose value is a path.
struct PathOption {
    /// In lower case.
    name: &'static str,
    /// Whether it takes several paths.
    many: bool,
    /// Whether `%` begins a token in it (TOKENS in ssh_config(5)).
    tokens: bool,
}

const PATH_OPTIONS: &[PathOption] = &[
    path_option("identityfile", true),
    path_option("certificatefile", true),
    path_option("identityagent", true),
    path_option("controlpath", true),
    path_option("revokedhostkeys", true),
    path_option("pkcs11provider", false),
    path_option("securitykeyprovider", false),
    PathOption {
        name: "userknownhostsfile",
        many: true,
        tokens: true,
    },
    PathOption {
        name: "globalknownhostsfile",
        many: true,
        tokens: false,
    },
];

const fn path_option(name: &'static str, tokens: bool) -> PathOption {
    PathOption {
        name,
        many: false,
        tokens,
    }
}

/// The option whose value is a shell command. Its program may be a relative path.
const COMMAND_OPTION: &str = "proxycommand";

/// Values in place of a path that are none.
const NOT_FILES: &[&str] = &["none", "internal", "SSH_AUTH_SOCK"];

/// These words of ssh's command line, with paths relative to `folder` made absolute.
#[must_use]
pub fn make_absolute(words: &[String], folder: &Path) -> Vec<String> {
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
            letter if FILE_FLAGS.contains(letter) => make_file_absolute(value, folder),
            _ => None,
        };
        // ssh checks whether the file exists before it expands tokens in its name, and opens it after that.
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

/// The absolute path of a file relative to `folder`; `None` where it is absolute already.
#[must_use]
pub fn make_file_absolute(path: &str, folder: &Path) -> Option<String> {
    file(path, folder, false)
}

/// Where the argument begins in a word of options, and the letter of its option.
fn argument(word: &str) -> Option<(usize, char)> {
    let flags = word.strip_prefix('-')?;
    let (at, letter) = flags
        .char_indices()
        .find(|(_, letter)| FLAGS_WITH_ARGUMENT.contains(*letter))?;
    Some((1 + at + letter.len_utf8(), letter))
}

/// Options for what `ssh -G` prints as relative to `folder`: it prints an option and its value on each line, nothing quoted.
pub(super) fn of_printed(printed: &str, folder: &Path) -> Vec<String> {
    let lines = printed.lines().filter_map(|line| option(line, folder));
    lines.flat_map(|option| ["-o".to_owned(), option]).collect()
}

/// An option as `-o` takes it, with its paths made absolute; `None` where they are already.
fn option(text: &str, folder: &Path) -> Option<String> {
    let end = text.find([' ', '\t', '='])?;
    let (name, rest) = text.split_at(end);
    let value = rest.trim_start();
    let value = value.strip_prefix('=').unwrap_or(value).trim();
    let lower = name.to_ascii_lowercase();
    if lower == COMMAND_OPTION {
        return command(value, folder).map(|value| format!("{name}={value}"));
    }
    let named = PATH_OPTIONS.iter().find(|named| named.name == lower)?;
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

/// The absolute path of a file; `None` where it is not relative to `folder`.
fn file(path: &str, folder: &Path, tokens: bool) -> Option<String> {
    // `%d` is the home folder. The value of a variable is not known here.
    let elsewhere = ["/", "~", "$", "%d"]
        .iter()
        .any(|start| path.starts_with(start));
    if path.is_empty() || elsewhere || NOT_FILES.contains(&path) {
        return None;
    }
    let folder = folder.to_str()?;
    let folder = match tokens {
        true => folder.replace('%', "%%"),
        false => folder.to_owned(),
    };
    Some(format!("{}/{path}", folder.trim_end_matches('/')))
}

/// A command with the path of its program made absolute. (Its arguments stay as they are.)
fn command(text: &str, folder: &Path) -> Option<String> {
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let (program, rest) = text.split_at(end);
    let is_name = program
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"._+-/".contains(&b));
    // A program without a slash is looked up in `PATH`.
    if !is_name || !program.contains('/') || program.starts_with('/') {
        return None;
    }
    let folder = folder.to_str()?.replace('%', "%%");
    let path = format!("{}/{program}", folder.trim_end_matches('/'));
    Some(format!("{}{rest}", shell_words::quote(&path)))
}

/// The option that names this key. `-i` would look for a name with unexpanded tokens.
pub(in crate::transport::openssh) fn identity(key: &Path) -> [OsString; 2] {
    match key.to_str().filter(|key| key.contains('%')) {
        Some(key) => {
            let value = quoted(&key.replace('%', "%%"));
            ["-o".into(), format!("IdentityFile={value}").into()]
        }
        None => ["-i".into(), key.into()],
    }
}

/// Quoted as in ssh_config(5).
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
        shell_words::join(make_absolute(&words, Path::new("/here")))
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
        let got = make_absolute(&words, Path::new("/100% a"));
        assert_eq!(got[1], "IdentityFile=\"/100%% a/key\"");
        assert_eq!(got[3], "ProxyCommand='/100%% a/bin/p'");
        let words = ["-4i", "key"].map(str::to_owned);
        let got = make_absolute(&words, Path::new("/100% a"));
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
