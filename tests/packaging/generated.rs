//! Completions and man pages are committed, so that packagers copy files and the program carries no generator. They are made
//! here from the command definitions: `UPDATE_GENERATED=1 cargo test --test packaging generated` writes them anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Arg, Command, CommandFactory, ValueHint};
use clap_complete::{Shell, generate};
use clap_mangen::Man;
use ssh_substituter::cli::Cli;

const NAME: &str = "ssh-substituter";
/// What no command definition tells: files, environment, what to read next.
const MORE: &str = include_str!("more.man");
const UPDATE: &str = "UPDATE_GENERATED";

/// Where what is made lies.
pub fn folder(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("packaging")
        .join(kind)
}

/// The command line, with what helps a shell to complete values.
fn definition() -> Command {
    fn with_hints(command: Command) -> Command {
        command.mut_args(with_hint).mut_subcommands(with_hints)
    }
    with_hints(Cli::command())
}

fn with_hint(arg: Arg) -> Arg {
    let names = arg.get_value_names().unwrap_or_default();
    let hint = match names.first().map(clap::builder::Str::as_str) {
        Some("PATH") => ValueHint::AnyPath,
        Some("DIR" | "ROOT") => ValueHint::DirPath,
        Some("HOST") => ValueHint::Hostname,
        _ => return arg,
    };
    arg.value_hint(hint)
}

type Files = BTreeMap<String, String>;

/// The same without what is hidden: zsh and fish would offer it.
fn visible(command: &Command) -> Command {
    let args = command.get_arguments().filter(|arg| !arg.is_hide_set());
    let commands = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    let about = command.get_about().cloned().unwrap_or_default();
    // Without clap's feature "string" a name must be static.
    let name: &'static str = command.get_name().to_owned().leak();
    Command::new(name)
        .version(env!("CARGO_PKG_VERSION"))
        .about(about)
        .args(args.cloned())
        .subcommands(commands.map(visible))
}

fn completions() -> Files {
    let shells = [
        (Shell::Bash, format!("{NAME}.bash")),
        (Shell::Fish, format!("{NAME}.fish")),
        (Shell::Zsh, format!("_{NAME}")),
    ];
    let script = |(shell, file)| {
        let mut text = Vec::new();
        generate(shell, &mut visible(&definition()), NAME, &mut text);
        // clap_complete spells a program with a hyphen in two ways, so that bash completes nothing after a command
        // (clap-rs/clap#6421).
        let text = String::from_utf8(text)
            .unwrap()
            .replace("ssh__subcmd__substituter", "ssh__substituter");
        (file, text)
    };
    shells.into_iter().map(script).collect()
}

fn man_pages() -> Files {
    fn pages(command: &Command, into: &mut Files) {
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            pages(sub, into);
        }
        let command = command
            .clone()
            .subcommand_help_heading("COMMANDS")
            .subcommand_value_name("command");
        let man = Man::new(command.clone());
        into.insert(man.get_filename(), page(&man, &command));
    }
    let mut root = definition().disable_help_subcommand(true);
    root.build();
    let mut all = Files::new();
    pages(&root, &mut all);
    all
}

/// What clap_mangen puts before each section; once is enough.
const QUOTES: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

fn page(man: &Man, command: &Command) -> String {
    let mut out = Vec::new();
    man.render_name_section(&mut out).unwrap();
    man.render_synopsis_section(&mut out).unwrap();
    man.render_description_section(&mut out).unwrap();
    if command.get_arguments().any(|arg| !arg.is_hide_set()) {
        man.render_options_section(&mut out).unwrap();
    }
    if command.get_subcommands().any(|sub| !sub.is_hide_set()) {
        man.render_subcommands_section(&mut out).unwrap();
    }
    if command.get_after_help().is_some() {
        man.render_extra_section(&mut out).unwrap();
    }
    let name = man.get_filename();
    let name = name.strip_suffix(".1").unwrap();
    let version = env!("CARGO_PKG_VERSION");
    // clap_mangen leaves an empty date out, so that what follows moves into its place; and a date would make the page
    // differ from day to day.
    let title = format!(".TH {name} 1 \"\" \"{NAME} {version}\" \"User commands\"\n");
    let sections = String::from_utf8(out)
        .unwrap()
        .replace(QUOTES, "")
        .replace("\n.br\n\n.br\n", "\n.sp\n")
        // Most help after the options tells this.
        .replace("\n.SH EXTRA\nExit status: ", "\n.SH \"EXIT STATUS\"\n")
        .replace("\n.SH EXTRA\n", "\n.SH NOTES\n");
    let more = if name == NAME {
        MORE
    } else {
        ".SH \"SEE ALSO\"\n.BR ssh\\-substituter (1)\n"
    };
    [QUOTES, &title, &sections, more].concat()
}

/// Compares with the files in a folder, which holds nothing else; or writes them, when asked to.
fn check(kind: &str, wanted: &Files) {
    let folder = folder(kind);
    let listed = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    if std::env::var_os(UPDATE).is_some() {
        fs::create_dir_all(&folder).unwrap();
        for old in listed(&folder) {
            fs::remove_file(old).unwrap();
        }
        for (name, text) in wanted {
            fs::write(folder.join(name), text).unwrap();
        }
    }
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let found: Files = listed(&folder)
        .iter()
        .map(|path| (name(path), fs::read_to_string(path).unwrap()))
        .collect();
    let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
    let fix = format!("{UPDATE}=1 cargo test --test packaging generated");
    assert_eq!(names(&found), names(wanted), "packaging/{kind}: {fix}");
    for (name, text) in wanted {
        assert!(
            found[name] == *text,
            "packaging/{kind}/{name} is not current: {fix}"
        );
    }
}

#[test]
fn completions_are_current() {
    check("completions", &completions());
}

#[test]
fn man_pages_are_current() {
    check("man", &man_pages());
}
