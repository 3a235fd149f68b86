//! nix/package.nix and flake.nix, evaluated by a real Nix.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::support::{NixEnv, SHORT, Scratch, run, run_with_timeout, tool};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What an attribute of eval.nix is, as JSON, or what Nix said. `package` is the folder of the program's package.
pub fn evaluate(attribute: &str, package: &Path) -> Result<Value, String> {
    let lib = match std::env::var_os("NIXPKGS_LIB") {
        Some(lib) => PathBuf::from(lib),
        None => root().join("tests/packaging/lib.nix"),
    };
    let expression = format!(
        "(import {}/tests/packaging/eval.nix {{ lib = import {}; package = \"{}\"; }}).{attribute}",
        root().display(),
        lib.display(),
        package.display()
    );
    let args = ["--eval", "--strict", "--json", "-E", &expression];
    let output = instantiate(&args);
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(serde_json::from_slice(&output.stdout).expect("JSON from nix-instantiate"))
}

fn instantiate(args: &[&str]) -> Output {
    let env = NixEnv::new();
    let mut command = env.command("nix-instantiate");
    // It wants folders of its own even where it builds nothing.
    let state = env.folder().join("nix");
    command
        .env("NIX_STATE_DIR", state.join("var"))
        .env("NIX_LOG_DIR", state.join("log"))
        .env("NIX_STORE_DIR", state.join("store"))
        .args(args);
    run_with_timeout(command, SHORT)
}

#[test]
fn every_file_parses() {
    let mut files = vec![root().join("flake.nix")];
    for folder in ["nix", "tests/packaging"] {
        let entries = fs::read_dir(root().join(folder)).unwrap();
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "nix"));
    assert!(files.len() >= 5, "{files:?}");
    for file in files {
        let output = instantiate(&["--parse", file.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", file.display());
    }
}

#[test]
fn the_package_is_this_crate() {
    let package = evaluate("package", Path::new("/none")).unwrap();
    assert_eq!(package["pname"], "ssh-substituter");
    assert_eq!(package["mainProgram"], "ssh-substituter");
    assert_eq!(package["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(package["description"], env!("CARGO_PKG_DESCRIPTION"));
    assert!(package["lock"].as_str().unwrap().ends_with("/Cargo.lock"));
}

/// What is installed beside the program: the commands of the package, with plain copies in place of nixpkgs's helpers.
#[test]
fn the_package_installs_what_it_names() {
    let package = evaluate("package", Path::new("/none")).unwrap();
    let out = Scratch::new();
    let helpers = r#"
        set -eu
        installManPage() { install -D -m 644 -t "$out/man" "$@"; }
        installShellCompletion() {
            while (($#)); do install -D -m 644 "$2" "$out/completions/$1"; shift 2; done
        }
        substituteInPlace() { sed -i "s|$3|$4|" "$1"; }
        wrapProgram() { printf '%s\n' "$@" >"$out/wrapped"; }
    "#;
    let mut bash = Command::new(tool("bash"));
    bash.arg("-c")
        .arg(format!(
            "{helpers}\n{}",
            package["postInstall"].as_str().unwrap()
        ))
        .env("out", out.path())
        .current_dir(root());
    run(bash, SHORT);
    let at = |name: &str| out.path().join(name);
    for file in [
        "man/ssh-substituter.1",
        "completions/--bash",
        "completions/--fish",
        "completions/--zsh",
        "lib/systemd/system/ssh-substituter-engine.socket",
        "lib/systemd/user/ssh-substituter-engine.socket",
        "lib/systemd/system/ssh-substituter-http.socket",
        "lib/systemd/system/ssh-substituter-push.timer",
        "lib/systemd/user/ssh-substituter-push.timer",
    ] {
        assert!(at(file).is_file(), "{file}");
    }
    let program = at("bin/ssh-substituter");
    for manager in ["system", "user"] {
        for (unit, arguments) in [("engine", "engine"), ("push", "push --wait --timeout 3600")] {
            let unit = at(&format!(
                "lib/systemd/{manager}/ssh-substituter-{unit}.service"
            ));
            let unit = fs::read_to_string(unit).unwrap();
            let started: Vec<&str> = unit
                .lines()
                .filter(|line| line.starts_with("Exec"))
                .collect();
            let expected = format!("ExecStart={} {arguments}", program.display());
            assert_eq!(started, [expected]);
        }
    }
    let unit = fs::read_to_string(at("lib/systemd/system/ssh-substituter-http.service")).unwrap();
    let commands = unit.lines().filter(|line| line.starts_with("Exec"));
    let ours = commands.filter(|line| line.contains("/bin/ssh-substituter"));
    let (ours, shown) = (ours.collect::<Vec<_>>(), program.display());
    assert_eq!(ours.len(), 2, "{unit}");
    assert!(
        ours[0].contains(&format!("|| {shown} key generate ")),
        "{unit}"
    );
    assert!(
        ours[1].starts_with(&format!("ExecStart={shown} http ")),
        "{unit}"
    );
    let hook = fs::read_to_string(at("libexec/ssh-substituter/post-build-hook")).unwrap();
    let line = format!("\n{} push --queue --outputs -- ", program.display());
    assert!(hook.contains(&line), "{hook}");
    let wrapped = fs::read_to_string(at("wrapped")).unwrap();
    assert!(
        wrapped.contains("--suffix\nPATH\n:\n/openssh/bin\n"),
        "{wrapped}"
    );
}

#[test]
fn the_flake_has_what_flakes_have() {
    let flake = evaluate("flake", Path::new("/none")).unwrap();
    let outputs = [
        "apps",
        "checks",
        "devShells",
        "formatter",
        "nixosModules",
        "overlays",
        "packages",
    ];
    assert_eq!(flake["outputs"], json!(outputs));
    assert!(
        flake["module"]
            .as_str()
            .unwrap()
            .ends_with("/nix/module.nix")
    );
    assert_eq!(flake["overlay"], "ssh-substituter");
    for system in ["x86_64-linux", "aarch64-linux", "aarch64-darwin"] {
        assert_eq!(flake["packages"][system], "ssh-substituter", "{flake}");
        assert_eq!(flake["apps"][system], "/out/bin/ssh-substituter");
        assert_eq!(flake["checks"][system], json!(["package"]));
    }
    assert!(flake["packages"]["riscv64-linux"].is_null());
}
