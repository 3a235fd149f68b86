//! The completions, asked for in real shells.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::generated::folder;
use super::support::{SHORT, Scratch, run, tool};

fn script(file: &str) -> PathBuf {
    folder("completions").join(file)
}

/// A shell that reads no start-up files, in an empty folder.
fn shell(name: &str, args: &[&str], home: &Scratch) -> Command {
    let mut shell = Command::new(tool(name));
    shell
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home.path())
        .env("TERM", "dumb")
        .env("LANG", "C.UTF-8")
        .current_dir(home.path());
    shell
}

/// What stands before the cursor, and what is then offered among other things.
const CASES: &[(&str, &[&str])] = &[
    ("ssh-substituter do", &["doctor"]),
    ("ssh-substituter --ser", &["--serve"]),
    (
        "ssh-substituter get --",
        &["--to", "--into-store", "--host"],
    ),
    ("ssh-substituter cache ", &["stats", "clear", "path"]),
    (
        "ssh-substituter get --log-format ",
        &["bar", "raw", "internal-json"],
    ),
    ("ssh-substituter get --to fol", &["folder/"]),
];

/// What is never offered: it is for the program itself.
const HIDDEN: &str = "--among";

fn check(name: &str, offered: impl Fn(&str, &Scratch) -> String) {
    let home = Scratch::new();
    home.folder("folder");
    let offered = |line: &str| -> Vec<String> {
        let text = offered(line, &home);
        text.lines().map(str::to_owned).collect()
    };
    for (line, wanted) in CASES {
        let offered = offered(line);
        for word in *wanted {
            // Where files are completed by the shell itself, the slash may come later.
            let bare = word.trim_end_matches('/');
            let there = offered.iter().any(|one| one == word || one == bare);
            assert!(there, "{name}: {line:?}: {word} is not in {offered:?}");
        }
    }
    let offered = offered("ssh-substituter engine --");
    let all = |word: &str| offered.iter().any(|one| one == word);
    assert!(all("--verbose") && !all(HIDDEN), "{name}: {offered:?}");
}

#[test]
fn bash_completes() {
    let file = script("ssh-substituter.bash");
    let file = file.to_str().unwrap();
    let home = Scratch::new();
    run(shell("bash", &["-n", file], &home), SHORT);
    // Calls what `complete` has registered as readline would, then lets `complete`'s own options have their say.
    let ask = r#"
        source "$1"
        line=$2
        read -ra COMP_WORDS <<<"$line"
        [[ $line == *' ' ]] && COMP_WORDS+=('')
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$line COMP_POINT=${#line}
        word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
        spec=$(complete -p ssh-substituter) || exit
        function=${spec#*-F } function=${function%% *}
        # compopt works in a running completion alone.
        plusdirs=
        compopt() { [[ $* == *plusdirs* ]] && plusdirs=1; }
        "$function" ssh-substituter "$word" "$before"
        printf '%s\n' "${COMPREPLY[@]}"
        if [[ $plusdirs ]]; then compgen -d -- "$word"; fi
    "#;
    check("bash", |line, home| {
        let args = ["--norc", "--noprofile", "-c", ask, "bash", file, line];
        run(shell("bash", &args, home), SHORT)
    });
}

#[test]
fn fish_completes() {
    let file = script("ssh-substituter.fish");
    let file = file.to_str().unwrap();
    let home = Scratch::new();
    run(shell("fish", &["--no-config", "-n", file], &home), SHORT);
    // Each line: a word, a tab, its description.
    let ask = "source $argv[1]; complete -C $argv[2] | string replace -r '\\t.*' ''";
    check("fish", |line, home| {
        let args = ["--no-config", "-c", ask, file, line];
        run(shell("fish", &args, home), SHORT)
    });
}

#[test]
fn zsh_completes() {
    let file = script("_ssh-substituter");
    let home = Scratch::new();
    run(shell("zsh", &["-fn", file.to_str().unwrap()], &home), SHORT);
    let functions = folder("completions");
    let functions = functions.to_str().unwrap();
    let ask = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/packaging/complete.zsh");
    check("zsh", |line, home| {
        let args = ["-f", ask.to_str().unwrap(), functions, line];
        run(shell("zsh", &args, home), SHORT)
    });
}
