//! Commands that name the program are understood by it.

use clap::Parser;
use clap::error::ErrorKind;
use ssh_substituter::cli::Cli;

use super::pages;

/// What may stand before a command's name.
const BEFORE: &[&str] = &[
    "sudo", "env", "exec", "time", "!", "if", "then", "else", "do", "while", "(",
];

/// What ends a simple command.
const AFTER: &[&str] = &["|", "||", "&&", "&", ";", ")"];

/// Simple commands in a shell script, split into words. Quoting, comments and here-documents are the shell's; what stands before a
/// command's name is left out.
pub fn commands_in(script: &str) -> Vec<Vec<String>> {
    let joined = script.replace("\\\n", " ");
    let mut here: Option<String> = None;
    let mut found = Vec::new();
    for line in joined.lines() {
        if let Some(end) = &here {
            if line.trim() == end {
                here = None;
            }
            continue;
        }
        let line = without_comment(line);
        here = line.split_once("<<").map(|(_, word)| {
            let word = word.trim_start_matches('-').split_whitespace().next();
            let word = word.unwrap_or_default();
            word.trim_matches(['\'', '"']).to_owned()
        });
        // `;` needs no blank before it.
        let line = line.replace("; ", " ; ");
        let words = shell_words::split(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for command in words.split(|word| AFTER.contains(&word.as_str())) {
            let named = command.iter().skip_while(|word| stands_before(word));
            found.push(named.cloned().collect());
        }
    }
    found
}

/// Whether a word is an assignment, or one that stands before a command's name.
fn stands_before(word: &str) -> bool {
    let capitals = |c: char| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit();
    let assigned = word.split_once('=');
    assigned.is_some_and(|(name, _)| name.chars().all(capitals)) || BEFORE.contains(&word)
}

/// Command lines of the program in a shell script, without redirections.
pub fn in_script(script: &str) -> Vec<Vec<String>> {
    let commands = commands_in(script).into_iter();
    commands
        .filter_map(|command| of_program(&command))
        .collect()
}

fn of_program(command: &[String]) -> Option<Vec<String>> {
    let mut words = command.iter();
    let program = words.next()?;
    if program.rsplit('/').next() != Some("ssh-substituter") {
        return None;
    }
    let mut line = vec![program.clone()];
    while let Some(word) = words.next() {
        let redirects = word.trim_start_matches(|c: char| c.is_ascii_digit());
        if [">", "<", ">>"].contains(&redirects) {
            words.next();
        } else if !redirects.starts_with(['>', '<']) {
            line.push(word.clone());
        }
    }
    Some(line)
}

fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (None, '#') if before.is_whitespace() => return &line[..at],
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
        before = c;
    }
    line
}

/// Whether the program would take it; else what it says.
pub fn understood(words: &[String]) -> Result<(), String> {
    match Cli::try_parse_from(words) {
        Ok(_) => Ok(()),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(format!("{words:?}: {error}")),
    }
}

#[test]
fn commands_in_the_text_are_understood() {
    let mut count = 0;
    for page in pages::all() {
        for span in page
            .spans
            .iter()
            .filter(|s| s.starts_with("ssh-substituter "))
        {
            let words = shell_words::split(span).unwrap_or_else(|error| panic!("{error}: {span}"));
            let parsed = Cli::try_parse_from(&words);
            // The text may name a command without what belongs to it.
            let fine = parsed.as_ref().err().is_none_or(|error| {
                matches!(
                    error.kind(),
                    ErrorKind::MissingRequiredArgument
                        | ErrorKind::DisplayHelp
                        | ErrorKind::MissingSubcommand
                        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                )
            });
            assert!(fine, "{}: {span}: {}", page.name, parsed.unwrap_err());
            count += 1;
        }
    }
    assert!(count > 5, "only {count} commands were found");
}

#[test]
fn command_lines_are_found() {
    let script = "# ssh-substituter nonsense\nsudo A=b /x/ssh-substituter get \\\n  'a b' > c 2>&1 # d\n\
                  install ssh-substituter /x\nfalse || ssh-substituter status | cat\n\
                  cat >x <<'END'\nit's ssh-substituter text\nEND\nif ssh-substituter doctor; then :; fi\n";
    let found = in_script(script);
    let lines: Vec<String> = found.iter().map(|words| words.join("_")).collect();
    assert_eq!(
        lines,
        [
            "/x/ssh-substituter_get_a b",
            "ssh-substituter_status",
            "ssh-substituter_doctor"
        ]
    );
    assert!(understood(&found[0]).is_err(), "there is nowhere to put it");
    assert!(understood(&found[1]).is_ok());
}
