//! What Cargo.toml says about packages: the files exist, the crate has what it needs.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::support::{SHORT, run, tool};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_crate_has_what_packagers_install_and_no_more() {
    let mut cargo = Command::new(tool("cargo"));
    cargo
        .args([
            "package",
            "--list",
            "--allow-dirty",
            "--offline",
            "--locked",
        ])
        .current_dir(root());
    let list = run(cargo, SHORT);
    let list: Vec<&str> = list.lines().collect();
    for file in [
        "Cargo.lock",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "README.md",
        "packaging/completions/_ssh-substituter",
        "packaging/deb/copyright",
        "packaging/hooks/post-build-hook",
        "packaging/man/ssh-substituter.1",
        "packaging/systemd/system/ssh-substituter-engine.service",
        "src/main.rs",
    ] {
        assert!(list.contains(&file), "{file} is not in {list:?}");
    }
    for needless in ["tests/", "benches/", ".ci/", "nix/", "flake.nix", "target/"] {
        let found = list.iter().find(|file| file.starts_with(needless));
        assert!(found.is_none(), "{found:?}");
    }
}

/// cargo-deb would find out too, but only when somebody runs it.
#[test]
fn the_debian_package_is_made_of_files_that_exist() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let (_, assets) = manifest.split_once("\nassets = [").expect("assets");
    let (assets, _) = assets.split_once("\n]").unwrap();
    let mut wanted: Vec<&str> = assets
        .lines()
        .filter_map(|line| line.split('"').nth(1))
        .collect();
    assert_eq!(wanted.remove(0), "target/release/ssh-substituter");
    assert!(wanted.len() > 8, "{wanted:?}");
    wanted.push("packaging/deb/copyright");
    for pattern in wanted {
        let (folder, name) = pattern.rsplit_once('/').unwrap_or((".", pattern));
        let (start, end) = name.split_once('*').unwrap_or((name, ""));
        let entries =
            fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        let mut names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let there = names.any(|file| file.starts_with(start) && file.ends_with(end));
        assert!(there, "{pattern} matches nothing");
    }
    // The packages install what this copies; each shell looks for a name of its own.
    for place in [
        "usr/share/bash-completion/completions/ssh-substituter\"",
        "usr/share/fish/vendor_completions.d/\"",
        "usr/share/zsh/vendor-completions/\"",
        "usr/share/man/man1/\"",
    ] {
        assert!(assets.contains(place), "{place}");
    }
}
