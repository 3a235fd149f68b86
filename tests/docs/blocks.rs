//! Each code block is checked by what it is for.

use std::fs;
use std::path::Path;
use std::process::Command;

use yaml_rust2::{Yaml, YamlLoader};

use super::commands::{commands_in, in_script, understood};
use super::configuration;
use super::pages::{self, Block, Page, crate_root};
use super::support::{SHORT, Scratch, run_with_timeout, tool};

/// A public key, for where the text says `AAAA…`.
const BLOB: &str = "AAAAC3NzaC1lZDI1NTE5AAAAINQtCHxJHEg5pyjQyjzyUPZ1KKsA1Z57/flshGJVXk9Q";

type Checked = Result<(), String>;

fn check(block: &Block) -> Checked {
    match (block.language.as_str(), block.label.as_str()) {
        ("sh", _) => script(&block.text),
        ("text", _) => text(&block.text),
        ("conf", "nix.conf" | "before") => configuration::nix_conf(&block.text),
        // What Nix 1.x had of its own, newer ones do not know: it is this program that reads it.
        ("conf", "ssh-substituter.conf" | "classic-before" | "classic-after") => {
            configuration::own_conf(&block.text)
        }
        ("conf", "ssh_config") => ssh_config(&block.text),
        ("conf", "sshd_config") => sshd_config(&block.text),
        ("conf", "authorized_keys" | "authorized_keys-write") => authorized_keys(&block.text),
        ("nix", _) => nix(&block.text),
        ("yaml", _) => yaml(&block.text),
        ("json", _) => serde_json::from_str::<serde_json::Value>(&block.text)
            .map(|_| ())
            .map_err(|error| error.to_string()),
        ("", _) => Err("it has no language (or is indented)".to_owned()),
        (language, label) => Err(format!("nobody knows how to check `{language} {label}`")),
    }
}

/// Runs a checker over a file with this text.
fn checked_by(program: &str, args: &[&str], text: &str) -> Checked {
    let scratch = Scratch::new();
    let file = scratch.write("file", text);
    let mut command = Command::new(tool(program));
    command.args(args).arg(file);
    let output = run_with_timeout(command, SHORT);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.success() {
        true => Ok(()),
        false => Err(said),
    }
}

/// A script is one for sh, the program understands what it is told in it, and what it names of this repository is there.
pub fn script(text: &str) -> Checked {
    checked_by("sh", &["-n"], text)?;
    commands_in(text)
        .iter()
        .try_for_each(|words| names(words))?;
    in_script(text)
        .iter()
        .try_for_each(|words| understood(words))
}

/// Cargo's targets, and files by their place in the repository.
fn names(words: &[String]) -> Checked {
    let cargo = words.first().is_some_and(|word| word == "cargo");
    for (word, next) in words.iter().zip(words.iter().skip(1)) {
        let folder = match word.as_str() {
            "--example" => "examples",
            "--bench" => "benches",
            "--test" => "tests",
            _ => continue,
        };
        let kinds = [
            format!("{folder}/{next}.rs"),
            format!("{folder}/{next}/main.rs"),
        ];
        if cargo && !kinds.iter().any(|file| crate_root().join(file).is_file()) {
            return Err(format!("there is no {word} {next}"));
        }
    }
    for word in words {
        let word = word.trim_start_matches("./");
        let ours = ["packaging/", "examples/", "tests/", "docs/"];
        let place = word.split('*').next().unwrap_or_default();
        let folder = Path::new(place.trim_end_matches(|c| c != '/'));
        let there = match place == word {
            true => crate_root().join(word).exists(),
            false => crate_root().join(folder).is_dir(),
        };
        if ours.iter().any(|ours| word.starts_with(ours)) && !there {
            return Err(format!("there is no {word}"));
        }
    }
    Ok(())
}

/// Output, trees, shapes; no place to hide a command in.
fn text(text: &str) -> Checked {
    let hidden = |line: &&str| line.starts_with("$ ") || line.starts_with("ssh-substituter ");
    match text.lines().find(hidden) {
        Some(line) => Err(format!("this is a command: {line}")),
        None => Ok(()),
    }
}

fn ssh_config(text: &str) -> Checked {
    // What it says of any host shows that the whole file is understood.
    let scratch = Scratch::new();
    let file = scratch.write("config", text);
    let mut command = Command::new(tool("ssh"));
    command.arg("-F").arg(file).args(["-G", "office"]);
    let output = run_with_timeout(command, SHORT);
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn sshd_config(text: &str) -> Checked {
    fs::create_dir_all("/run/sshd").map_err(|error| error.to_string())?;
    let scratch = Scratch::new();
    let key = scratch.path().join("key");
    let mut keygen = Command::new(tool("ssh-keygen"));
    keygen
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key);
    run_with_timeout(keygen, SHORT);
    let text = format!("HostKey {}\n{text}", key.display());
    checked_by("sshd", &["-t", "-f"], &text)
}

fn authorized_keys(text: &str) -> Checked {
    let text = text.replace("AAAA…", BLOB);
    // One line of it for each that holds a key.
    let scratch = Scratch::new();
    let file = scratch.write("keys", &text);
    let mut command = Command::new(tool("ssh-keygen"));
    command.arg("-lf").arg(file);
    let output = run_with_timeout(command, SHORT);
    let told = String::from_utf8_lossy(&output.stdout).lines().count();
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    match lines.count() {
        lines if lines == told && lines > 0 => Ok(()),
        lines => Err(format!("{told} of {lines} keys are understood")),
    }
}

fn nix(text: &str) -> Checked {
    // A block may show some attributes only.
    let text = match text.trim_start().starts_with(['{', '#']) {
        true => text.to_owned(),
        false => format!("{{\n{text}\n}}"),
    };
    checked_by("nix-instantiate", &["--parse"], &text)
}

fn yaml(text: &str) -> Checked {
    let documents = YamlLoader::load_from_str(text).map_err(|error| error.to_string())?;
    let mut scripts = Vec::new();
    documents
        .iter()
        .for_each(|document| collect_scripts(document, &mut scripts));
    if scripts.is_empty() {
        return Err("it holds no script".to_owned());
    }
    scripts.iter().try_for_each(|text| script(text))
}

/// What a job runs: `run` of a step on GitHub, `script` and its companions on GitLab.
pub fn collect_scripts(yaml: &Yaml, scripts: &mut Vec<String>) {
    if let Yaml::Array(list) = yaml {
        list.iter().for_each(|item| collect_scripts(item, scripts));
    }
    let Yaml::Hash(hash) = yaml else { return };
    for (key, value) in hash {
        match (key.as_str(), value) {
            (Some("run"), Yaml::String(text)) => scripts.push(text.clone()),
            (Some("script" | "before_script" | "after_script"), Yaml::Array(lines)) => {
                let lines: Vec<&str> = lines.iter().filter_map(Yaml::as_str).collect();
                scripts.push(lines.join("\n"));
            }
            (_, value) => collect_scripts(value, scripts),
        }
    }
}

#[test]
fn every_block_is_what_it_says() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for page in pages::all() {
        for block in &page.blocks {
            count += 1;
            if let Err(error) = check(block) {
                wrong.push(format!("{}: {error}", page.place(block)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 40, "only {count} blocks were found");
}

/// A label is how a test gets at what it runs. One that no test names is a step that is not followed.
#[test]
fn every_labelled_script_is_run_by_a_test() {
    let sources: String = pages::files("tests/docs", ".rs")
        .iter()
        .map(|f| pages::read(f))
        .collect();
    for page in pages::all() {
        let labelled = |block: &&Block| matches!(block.language.as_str(), "sh" | "yaml");
        for block in page.blocks.iter().filter(labelled) {
            let named = block.label.is_empty() || sources.contains(&format!("{:?}", block.label));
            assert!(
                named,
                "{}: no test runs {:?}",
                page.place(block),
                block.label
            );
        }
    }
}

#[test]
fn checks_find_what_is_wrong() {
    let block = |language: &str, label: &str, text: &str| Block {
        language: language.to_owned(),
        label: label.to_owned(),
        text: text.to_owned(),
        line: 1,
    };
    for (language, label, right, wrong) in [
        (
            "sh",
            "",
            "if true; then ssh-substituter status; fi",
            "if true",
        ),
        (
            "sh",
            "",
            "ssh-substituter status --json",
            "ssh-substituter statu",
        ),
        (
            "text",
            "",
            "ssh-substituter: warning",
            "ssh-substituter status",
        ),
        (
            "conf",
            "nix.conf",
            "substituters = ssh://localhost?remote-program=x",
            "substituter = x",
        ),
        ("conf", "nix.conf", "max-jobs = 1", "max-jobs"),
        (
            "conf",
            "ssh-substituter.conf",
            "engine = off",
            "engines = off",
        ),
        (
            "conf",
            "ssh-substituter.conf",
            "engine = off",
            "engine = on",
        ),
        (
            "conf",
            "ssh_config",
            "Host a\n  Port 1",
            "Host a\n  Ports 1",
        ),
        ("conf", "sshd_config", "PermitTTY no", "PermitTTYs no"),
        (
            "conf",
            "authorized_keys",
            "restrict ssh-ed25519 AAAA…",
            "restrict ssh-ed25519 AAAB",
        ),
        (
            "conf",
            "authorized_keys",
            "restrict ssh-ed25519 AAAA…",
            "restrict;ssh-ed25519 AAAA…",
        ),
        ("nix", "", "a.b = true;", "a.b = true"),
        ("yaml", "", "a:\n  - run: 'true'", "a:\n  - run: 'true"),
        ("yaml", "", "a:\n  script: ['true']", "a:\n  script: ['if']"),
        ("json", "", "[]", "[}"),
        ("text", "", "x", "$ x"),
        (
            "sh",
            "",
            "cargo run --example closure",
            "cargo run --example closur",
        ),
        (
            "sh",
            "",
            "cargo bench --bench inner",
            "sudo cargo bench --bench outer",
        ),
        ("sh", "", "./tests/run", "./tests/runs"),
        (
            "sh",
            "",
            "cp packaging/systemd/user/* x",
            "cp packaging/upstart/* x",
        ),
    ] {
        assert_eq!(
            check(&block(language, label, right)),
            Ok(()),
            "{language} {label}"
        );
        assert!(
            check(&block(language, label, wrong)).is_err(),
            "{language} {label}: {wrong}"
        );
    }
    assert!(check(&block("", "", "x")).is_err());
    assert!(check(&block("cobol", "", "x")).is_err());
    assert!(Page::open("README.md").blocks.len() > 3);
    assert!(Path::new("/run/sshd").exists());
}
