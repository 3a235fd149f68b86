//! Applies the tables of the layout to one source file.

use crate::scan::{self, Named};

/// What one module may import of the crate's own.
pub struct Module {
    /// The first module below the root.
    pub name: &'static str,
    /// Paths below the root; `None` for all of them.
    may: Option<&'static [&'static str]>,
    why: &'static str,
}

impl Module {
    /// A module that may import `may`, and itself.
    pub const fn new(name: &'static str, may: &'static [&'static str], why: &'static str) -> Self {
        Self {
            name,
            may: Some(may),
            why,
        }
    }

    /// A module that may import all others.
    pub const fn anything(name: &'static str, why: &'static str) -> Self {
        Self {
            name,
            may: None,
            why,
        }
    }
}

/// Where a crate may be named.
pub struct CrateUse {
    krate: &'static str,
    files: &'static [&'static str],
    why: &'static str,
}

impl CrateUse {
    /// `files` are beginnings of file names.
    pub const fn new(
        krate: &'static str,
        files: &'static [&'static str],
        why: &'static str,
    ) -> Self {
        Self { krate, files, why }
    }
}

/// All tables. The last three hold beginnings of file names.
pub struct Rules {
    pub modules: &'static [Module],
    pub crates: &'static [CrateUse],
    pub no_tokio: &'static [&'static str],
    pub stdout: &'static [&'static str],
    pub stderr: &'static [&'static str],
}

/// Test modules in src may use values and codecs to make up what they need.
const ALSO_IN_TESTS: &[&str] = &["model", "wire"];

/// The module that a file under src belongs to.
pub fn module_of(file: &str) -> &str {
    let inside = file.strip_prefix("src/").unwrap_or(file);
    inside
        .split('/')
        .next()
        .unwrap_or(inside)
        .trim_end_matches(".rs")
}

/// How many modules below the root of the crate a file's own module is.
pub fn depth_of(file: &str) -> usize {
    let inside = file
        .strip_prefix("src/")
        .unwrap_or(file)
        .trim_end_matches(".rs");
    match inside {
        "lib" | "main" => 0,
        _ => inside.trim_end_matches("/mod").split('/').count(),
    }
}

fn one_of(file: &str, beginnings: &[&str]) -> bool {
    beginnings
        .iter()
        .any(|beginning| file.starts_with(beginning))
}

impl Rules {
    /// One line for each offence of a file under src.
    pub fn check(&self, file: &str, text: &str) -> Vec<String> {
        let test_file = file.ends_with("/tests.rs") || file.contains("/tests/");
        let local = scan::declared_modules(text);
        scan::named(text, depth_of(file))
            .iter()
            .filter_map(|named| {
                let words: Vec<&str> = named.segments.iter().map(String::as_str).collect();
                // A module declared here hides the crate of that name.
                let is_crate = words.first().is_some_and(|word| !local.contains(word));
                let problem = self
                    .import(file, &words, named.in_test || test_file)
                    .or_else(|| self.crate_use(file, &words).filter(|_| is_crate))
                    .or_else(|| self.printing(file, &words))?;
                Some(line(file, named, &problem))
            })
            .collect()
    }

    fn import(&self, file: &str, words: &[&str], in_test: bool) -> Option<String> {
        let (["crate" | "ssh_substituter"], path) = words.split_at_checked(1)? else {
            return None;
        };
        let name = module_of(file);
        let Some(module) = self.modules.iter().find(|module| module.name == name) else {
            return Some(format!("the module `{name}` has no rule"));
        };
        let may = module.may?;
        let within = |allowed: &str| {
            let allowed: Vec<&str> = allowed.split("::").collect();
            path.starts_with(&allowed)
        };
        let fine = within(name)
            || may.iter().any(|a| within(a))
            || (in_test && ALSO_IN_TESTS.iter().any(|a| within(a)));
        (!fine).then(|| format!("`{name}` may import {may:?} only: {}", module.why))
    }

    fn crate_use(&self, file: &str, words: &[&str]) -> Option<String> {
        let first = *words.first()?;
        // A moment of the clock that a simulation can drive is a value like others.
        let moment = words == ["tokio", "time", "Instant"];
        if first == "tokio" && !moment && one_of(file, self.no_tokio) {
            return Some("no runtime in pure code".to_owned());
        }
        let allowed = self
            .crates
            .iter()
            .find(|crate_use| crate_use.krate == first)?;
        (!one_of(file, allowed.files)).then(|| {
            format!(
                "only {:?} may name this crate: {}",
                allowed.files, allowed.why
            )
        })
    }

    fn printing(&self, file: &str, words: &[&str]) -> Option<String> {
        let to_stdout = match words {
            ["print!" | "println!"] | [.., "io" | "stdio", "stdout" | "Stdout"] => true,
            ["eprint!" | "eprintln!" | "dbg!"] | [.., "io" | "stdio", "stderr" | "Stderr"] => false,
            _ => return None,
        };
        let (files, why) = if to_stdout {
            (self.stdout, "stdout carries protocol and nothing else")
        } else {
            (
                self.stderr,
                "what people read goes through the log, the report or the progress",
            )
        };
        (!one_of(file, files)).then(|| format!("only in {files:?}: {why}"))
    }
}

fn line(file: &str, named: &Named, problem: &str) -> String {
    format!(
        "{file}:{}: `{}`: {problem}",
        named.line,
        named.segments.join("::")
    )
}
