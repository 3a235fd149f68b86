//! The man pages, rendered by a real groff.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::generated::folder;
use super::support::{SHORT, program, run, run_with_timeout, tool};

fn pages() -> Vec<PathBuf> {
    let entries = fs::read_dir(folder("man")).expect("packaging/man");
    let pages: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    assert!(pages.len() > 5, "{pages:?}");
    pages
}

/// A page as it is shown, without overstrikes; panics if groff says anything about it.
fn rendered(page: &PathBuf) -> String {
    let mut groff = Command::new(tool("groff"));
    groff.args(["-man", "-ww", "-Tascii", "-P-cbou", "-rLL=100n"]);
    groff.arg(page);
    let output = run_with_timeout(groff, SHORT);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.is_empty(),
        "{}: {said}",
        page.display()
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn groff_renders_every_page_without_a_warning() {
    let version = format!("ssh-substituter {}", env!("CARGO_PKG_VERSION"));
    for page in pages() {
        let text = rendered(&page);
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        let (first, last) = (lines[0], lines[lines.len() - 1]);
        let name = page.file_stem().unwrap().to_str().unwrap();
        assert!(first.starts_with(&format!("{name}(1)")), "{first}");
        assert!(first.contains(" User commands "), "{first}");
        assert!(last.starts_with(&version), "{name}: {last}");
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "SEE ALSO"] {
            assert!(lines.contains(&section), "{name}: no {section}\n{text}");
        }
    }
}

#[test]
fn the_first_page_names_all_that_the_program_has() {
    let text = rendered(&folder("man").join("ssh-substituter.1"));
    let mut help = Command::new(program());
    help.arg("--help");
    let help = run(help, SHORT);
    let commands = help
        .split("Commands:\n")
        .nth(1)
        .expect("commands in the help");
    let commands = commands.lines().take_while(|line| !line.is_empty());
    let mut pages = Vec::new();
    for command in commands.filter_map(|line| line.split_whitespace().next()) {
        if command != "help" {
            pages.push(format!("ssh-substituter-{command}(1)"));
        }
    }
    assert!(pages.len() > 3, "{help}");
    let options = help
        .split_whitespace()
        .filter(|word| word.starts_with("--"));
    let options = options.map(|word| word.trim_end_matches([',', '.', ')']).to_owned());
    for word in pages.into_iter().chain(options) {
        assert!(text.contains(&word), "{word} is not in\n{text}");
    }
}
