//! The syntax of nix.conf (Nix manual, "nix.conf"), without IO.
//!
//! ```text
//! # a comment reaches from any # to the end of its line
//! name = value of one or more words
//! include  file      # must exist
//! !include file      # may be missing, or unreadable
//! ```
//!
//! Line by line, in order; an include stands for the lines of its file. Its path is relative to
//! the folder of the file that names it. As in Nix, white space around words does not count and
//! words of a value end up separated by single spaces. Beyond Nix, `=` needs no white space around
//! it, and a byte order mark before the first line is ignored. Names that start with `extra-` are no matter of
//! syntax (see `settings`).
//!
//! Limits: includes at most [`MAX_DEPTH`] deep and [`MAX_INCLUDES`] in total. The [`Loader`] limits the size of a
//! file to [`MAX_FILE_SIZE`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::error::ConfigError;
use crate::config::origin::{Assignment, Origin};
use crate::config::value::printable;

/// Largest configuration file that is read, in bytes.
pub(super) const MAX_FILE_SIZE: u64 = 1 << 20;
/// How deep includes may be nested.
const MAX_DEPTH: usize = 16;
/// How many files may be included in total.
const MAX_INCLUDES: usize = 256;

/// Reads a file that is to be included.
pub(super) type Loader<'a> = dyn FnMut(&Path) -> io::Result<String> + 'a;

/// Where a text comes from.
#[derive(Debug, Clone)]
pub(super) enum ConfSource {
    /// A file; includes are relative to its folder.
    File(Arc<Path>),
    /// An environment variable; its includes are absolute.
    Env(&'static str),
}

/// Parses a text, includes followed, into its assignments in order.
///
/// # Errors
/// A line that is no setting, an include that cannot be read (`!include` never fails for that), or
/// one include too many.
pub(super) fn parse(
    text: &str,
    source: ConfSource,
    load: &mut Loader<'_>,
) -> Result<Vec<Assignment>, ConfigError> {
    let mut parser = Parser {
        load,
        open: Vec::new(),
        included: 0,
        out: Vec::new(),
    };
    parser.text(text, &source)?;
    Ok(parser.out)
}

struct Parser<'a, 'l> {
    load: &'a mut Loader<'l>,
    /// The files that are being parsed, outermost first.
    open: Vec<PathBuf>,
    included: usize,
    out: Vec<Assignment>,
}

impl Parser<'_, '_> {
    fn text(&mut self, text: &str, source: &ConfSource) -> Result<(), ConfigError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (number, line) in (1..).zip(text.split('\n')) {
            let origin = match source {
                ConfSource::File(path) => Origin::File {
                    path: path.clone(),
                    line: number,
                },
                ConfSource::Env(name) => Origin::Env {
                    name,
                    line: Some(number),
                },
            };
            self.line(line, origin, source)?;
        }
        Ok(())
    }

    fn line(&mut self, line: &str, origin: Origin, source: &ConfSource) -> Result<(), ConfigError> {
        let line = line.split_once('#').map_or(line, |(line, _)| line);
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let illegal = |origin, expected| {
            Err(ConfigError::Syntax {
                origin,
                line: printable(line.trim()),
                expected,
            })
        };
        let must_exist = match words.first() {
            None => return Ok(()),
            // `include = x` is a setting of that name, if a strange one.
            Some(&"include") if words.get(1) != Some(&"=") => true,
            Some(&"!include") => false,
            Some(_) => {
                let Some((name, value)) = split_assignment(line) else {
                    return illegal(origin, "name = value");
                };
                self.out.push(Assignment {
                    name,
                    value,
                    origin,
                });
                return Ok(());
            }
        };
        let [_, path] = words[..] else {
            return illegal(origin, "one file to include");
        };
        let path = match source {
            ConfSource::File(file) => file.parent().unwrap_or(Path::new("")).join(path),
            ConfSource::Env(_) if Path::new(path).is_absolute() => PathBuf::from(path),
            ConfSource::Env(_) => return illegal(origin, "an absolute path to include"),
        };
        self.include(path, must_exist, origin, source)
    }

    fn include(
        &mut self,
        path: PathBuf,
        must_exist: bool,
        origin: Origin,
        from: &ConfSource,
    ) -> Result<(), ConfigError> {
        let circular =
            self.open.contains(&path) || matches!(from, ConfSource::File(file) if **file == *path);
        let reason = if circular {
            Some("it includes itself")
        } else if self.open.len() >= MAX_DEPTH {
            Some("includes are nested more than 16 deep")
        } else if self.included >= MAX_INCLUDES {
            Some("more than 256 files are included")
        } else {
            None
        };
        if let Some(reason) = reason {
            return Err(ConfigError::IncludeLimit {
                origin,
                path,
                reason,
            });
        }
        self.included += 1;
        let text = match (self.load)(&path) {
            Ok(text) => text,
            Err(error) if !must_exist => {
                log::debug!("{origin}: left out {}: {error}", path.display());
                return Ok(());
            }
            Err(source) => {
                return Err(ConfigError::Include {
                    origin,
                    path,
                    source,
                });
            }
        };
        self.open.push(path.clone());
        self.text(&text, &ConfSource::File(path.into()))?;
        self.open.pop();
        Ok(())
    }
}

/// Splits `name = value`; the name is one word.
fn split_assignment(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once('=')?;
    let mut names = name.split_ascii_whitespace();
    let (Some(name), None) = (names.next(), names.next()) else {
        return None;
    };
    let words: Vec<&str> = value.split_ascii_whitespace().collect();
    Some((name.to_owned(), words.join(" ")))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io;
    use std::path::{Path, PathBuf};

    use proptest::prelude::*;

    use super::{ConfSource, ConfigError, MAX_DEPTH, MAX_INCLUDES, parse};

    /// Parses `/d/main` of these files; gives `name=value@origin`.
    fn run(files: &[(&str, &str)]) -> Result<Vec<String>, ConfigError> {
        let files: HashMap<PathBuf, &str> =
            files.iter().map(|(p, t)| (PathBuf::from(p), *t)).collect();
        let mut load = |path: &Path| match files.get(path) {
            Some(&"unreadable") => Err(io::ErrorKind::PermissionDenied.into()),
            Some(text) => Ok((*text).to_owned()),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        let text = files[Path::new("/d/main")];
        let out = parse(
            text,
            ConfSource::File(Path::new("/d/main").into()),
            &mut load,
        )?;
        Ok(out
            .iter()
            .map(|a| format!("{}={}@{}", a.name, a.value, a.origin))
            .collect())
    }

    fn one(text: &str) -> Result<Vec<String>, ConfigError> {
        run(&[("/d/main", text)])
    }

    #[test]
    fn reads_settings_with_their_lines() {
        let text = "# a comment\n\na = 1\r\n\t b  =  x \t y # z\n#c = 3\nd =\ne=ssh://h?p=1\nf = \
                    g=h\ninclude = i\nextra-a = 2";
        assert_eq!(
            one(text).unwrap(),
            [
                "a=1@/d/main:3",
                "b=x y@/d/main:4",
                "d=@/d/main:6",
                "e=ssh://h?p=1@/d/main:7",
                "f=g=h@/d/main:8",
                "include=i@/d/main:9",
                "extra-a=2@/d/main:10",
            ]
        );
        assert!(one("").unwrap().is_empty());
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_name() {
        let files = [
            ("/d/main", "\u{feff}a = 1\ninclude x"),
            ("/d/x", "\u{feff}b = 2"),
        ];
        assert_eq!(run(&files).unwrap(), ["a=1@/d/main:1", "b=2@/d/x:1"]);
        // Only there: elsewhere it is part of a word like any other.
        assert_eq!(
            one("a = 1\n\u{feff}b = 2").unwrap()[1],
            "\u{feff}b=2@/d/main:2"
        );
    }

    #[test]
    fn refuses_other_lines_by_file_and_line() {
        for line in [
            "a",
            "a b = c",
            "= c",
            "a b",
            "hosts ssh://h?p=1",
            "=",
            "include",
            "!include a b",
        ] {
            let error = one(&format!("ok = 1\n{line}\n")).unwrap_err();
            assert!(matches!(error, ConfigError::Syntax { .. }), "{line}");
            assert!(
                error.to_string().starts_with("/d/main:2: illegal line"),
                "{error}"
            );
        }
    }

    #[test]
    fn an_include_stands_for_its_lines() {
        let got = run(&[
            ("/d/main", "a = 1\ninclude sub/x\nc = 3\n!include /abs\n"),
            ("/d/sub/x", "b = 2\ninclude y"),
            ("/d/sub/y", "b = 2.5"),
            ("/abs", "d = 4"),
        ]);
        assert_eq!(
            got.unwrap(),
            [
                "a=1@/d/main:1",
                "b=2@/d/sub/x:1",
                "b=2.5@/d/sub/y:1",
                "c=3@/d/main:3",
                "d=4@/abs:1",
            ]
        );
    }

    #[test]
    fn only_include_insists_on_its_file() {
        assert_eq!(one("!include gone\na = 1").unwrap(), ["a=1@/d/main:2"]);
        let files = [("/d/main", "!include x\na = 1"), ("/d/x", "unreadable")];
        assert_eq!(run(&files).unwrap(), ["a=1@/d/main:2"]);
        let error = one("a = 1\ninclude gone").unwrap_err();
        assert_eq!(error.to_string(), "/d/main:2: cannot include /d/gone");
        assert!(matches!(&error, ConfigError::Include { source, .. }
            if source.kind() == io::ErrorKind::NotFound));
    }

    #[test]
    fn a_bad_line_in_an_included_file_counts_even_where_the_file_may_be_missing() {
        let error = run(&[("/d/main", "!include x"), ("/d/x", "\nbad")]).unwrap_err();
        assert!(error.to_string().starts_with("/d/x:2:"), "{error}");
    }

    #[test]
    fn circles_end() {
        for files in [
            &[("/d/main", "include main")][..],
            &[
                ("/d/main", "!include x"),
                ("/d/x", "!include y"),
                ("/d/y", "!include x"),
            ],
        ] {
            let error = run(files).unwrap_err().to_string();
            assert!(error.contains("includes itself"), "{error}");
        }
        // A circle whose spelling is another every time.
        let mut loads = 0;
        let mut load = |_: &Path| {
            loads += 1;
            Ok("include ./x\ninclude ./x".to_owned())
        };
        let error = parse(
            "include x",
            ConfSource::File(Path::new("/main").into()),
            &mut load,
        )
        .unwrap_err();
        assert!(matches!(error, ConfigError::IncludeLimit { .. }));
        assert!(loads <= MAX_INCLUDES);
    }

    #[test]
    fn the_same_file_may_be_included_twice() {
        let got = run(&[("/d/main", "include x\ninclude x"), ("/d/x", "a = 1")]);
        assert_eq!(got.unwrap().len(), 2);
    }

    #[test]
    fn depth_and_number_of_includes_are_limited() {
        let chain = |len: usize| {
            let mut load = |path: &Path| {
                let n: usize = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
                Ok(if n == len {
                    "a = 1".to_owned()
                } else {
                    format!("include {}", n + 1)
                })
            };
            parse(
                "include 1",
                ConfSource::File(Path::new("/d/main").into()),
                &mut load,
            )
        };
        assert_eq!(chain(MAX_DEPTH).unwrap().len(), 1);
        let error = chain(MAX_DEPTH + 1).unwrap_err().to_string();
        assert!(error.contains("16 deep"), "{error}");

        let many = |n: usize| {
            let files = [("/d/main", &*"include x\n".repeat(n)), ("/d/x", "a = 1")];
            run(&files).map(|out| out.len())
        };
        assert_eq!(many(MAX_INCLUDES).unwrap(), MAX_INCLUDES);
        let error = many(MAX_INCLUDES + 1).unwrap_err().to_string();
        assert!(error.contains("256 files"), "{error}");
    }

    #[test]
    fn a_variable_includes_absolute_files_only() {
        let mut load = |_: &Path| Ok("b = 2".to_owned());
        let got = parse(
            "a = 1\ninclude /x",
            ConfSource::Env("NIX_CONFIG"),
            &mut load,
        )
        .unwrap();
        assert_eq!(got[0].origin.to_string(), "$NIX_CONFIG:1");
        assert_eq!(got[1].origin.to_string(), "/x:1");
        let error = parse("include x", ConfSource::Env("NIX_CONFIG"), &mut load).unwrap_err();
        assert!(error.to_string().contains("absolute"), "{error}");
    }

    proptest! {
        #[test]
        fn never_panics_and_names_are_single_words(text in "([a-z=# \\t!\\r\\n\u{e4}]|include){0,40}") {
            if let Ok(out) = one(&text) {
                for line in out {
                    let name = line.split('=').next().unwrap();
                    prop_assert!(!name.is_empty() && !name.contains(char::is_whitespace));
                }
            }
        }
    }
}
