//! In the front ends that Nix starts: beside Nix's own bar, and in the pipe of Nix 1.x; and what the options say.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::{
    Host, Nix, NixEnv, closed_port, percent_encode, run_with_timeout, substituter, tool,
};
use crate::terminal::{Replay, on_terminal};

const SIZE: (u16, u16) = (120, 20);

/// A host that sends about 1.5 MB a second.
pub fn slow(host: &Host, folder: &Path) -> String {
    let program = folder.join("slow-nix-store");
    let text = format!(
        "#!/bin/sh\n\
         {} \"$@\" | {{ while n=$(dd bs=65536 count=1 2>&1 >&3 | sed -n 's/ byte.*//p'); [ \"$n\" != 0 ]; do sleep 0.04; done; }} 3>&1\n",
        tool("nix-store").display()
    );
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let program = percent_encode(program.to_str().unwrap());
    host.url(&format!(
        "trusted=true&max-connections=1&remote-program={program}"
    ))
}

/// A host where nobody listens.
pub fn nobody() -> String {
    let port = closed_port();
    format!("ssh://nobody@127.0.0.1:{port}?trusted=true")
}

/// `nix copy` through the program, with its bar, on a terminal.
fn copy(nix: &Nix, paths: &[String]) -> String {
    let mut command = nix.command("nix");
    command.args(["copy", "--no-check-sigs", "--from", &substituter("")]);
    command.args(["--to", &nix.store().uri()]).args(paths);
    on_terminal(&command, SIZE)
}

/// The rows that are ours, at all moments. Each stands alone.
fn ours(printed: &str) -> Vec<String> {
    let replay = Replay::of(printed, SIZE);
    let mut ours: Vec<String> = Vec::new();
    for screen in &replay.screens {
        for row in screen
            .rows
            .iter()
            .filter(|row| row.contains("ssh-substituter:") || row.contains("/s, "))
        {
            if !ours.contains(row) {
                ours.push(row.clone());
            }
        }
    }
    ours
}

#[test]
fn nothing_is_torn_into_the_bar_of_nix() {
    let host = Host::new();
    let scratch = NixEnv::new();
    let paths: Vec<String> = (0..2)
        .map(|n| host.store.big(&format!("large-{n}"), (5 << 20) + n))
        .collect();
    let slow = slow(&host, scratch.folder());
    // As a matter of course: warnings, no progress.
    for (setting, lines) in [
        ("", false),
        ("progress = plain\n", true),
        ("progress = never\n", false),
    ] {
        let nix = Nix::new();
        nix.store()
            .env()
            .configure(&[slow.clone(), nobody()], setting);
        let _masters = nix.store().env().masters();
        let printed = copy(&nix, &paths);
        assert!(
            printed.contains("copying path '"),
            "no bar of Nix: {printed:?}"
        );
        let ours = ours(&printed);
        let (said, told): (Vec<&String>, Vec<&String>) =
            ours.iter().partition(|row| row.contains("warning: "));
        assert!(!said.is_empty(), "{printed:?}");
        for row in said {
            let all = row.starts_with("ssh-substituter: warning: nobody@127.0.0.1:");
            assert!(
                all && !row.contains("copying"),
                "torn: {row:?}\n{printed:?}"
            );
        }
        for row in &told {
            assert!(
                row.starts_with("large-") && !row.contains("copying"),
                "torn: {row:?}"
            );
        }
        assert_eq!(!told.is_empty(), lines, "{setting}: {told:?}\n{printed:?}");
    }
}

/// `--substitute` of a path that takes some seconds, with these arguments before it.
fn substitute(env: &NixEnv, path: &str, arguments: &[&str]) -> Command {
    let dest = env.folder().join("out");
    let _ = fs::remove_file(&dest);
    let _ = fs::remove_dir_all(&dest);
    let mut command = env.program();
    command
        .args(arguments)
        .arg("--substitute")
        .arg(path)
        .arg(dest);
    command
}

#[test]
fn one_transfer_is_shown_as_asked_for() {
    let host = Host::new();
    let env = NixEnv::new();
    let _masters = env.masters();
    let path = host.store.big("large", 5 << 20);
    let hosts = [slow(&host, env.folder())];
    let piped = |arguments: &[&str]| {
        let output = run_with_timeout(substitute(&env, &path, arguments), Duration::from_secs(60));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{stderr}");
        stderr
    };
    let is_line = |line: &str| line.starts_with("large: ") && line.contains(" of 5.0 MiB (");
    let lines = |text: &str| text.lines().filter(|line| is_line(line)).count();
    env.configure(&hosts, "");
    // In a pipe, so that Nix does not take it for hung.
    let stderr = piped(&[]);
    assert!(lines(&stderr) > 0, "{stderr}");
    assert_eq!(piped(&["-q"]), "");
    // Verbose: also of those that have no lines.
    assert!(piped(&["-v", "--log-format", "bar"]).contains("large: done, 5.0 MiB in "));
    // On a terminal: a bar, or as asked for.
    let shown = |arguments: &[&str]| on_terminal(&substitute(&env, &path, arguments), (100, 24));
    let bar = shown(&[]);
    let replay = Replay::of(&bar, (100, 24));
    let rows = replay.screens.iter().flat_map(|screen| &screen.rows);
    let bars: Vec<&String> = rows.filter(|row| row.starts_with("large")).collect();
    assert!(
        bars.iter()
            .any(|row| row.contains("/5.0 MiB") && row.contains("127.0.0.1") && row.contains("=>")),
        "{bars:?}"
    );
    let all = replay.all();
    assert!(all.iter().all(String::is_empty), "left: {all:?}");
    for arguments in [
        &["--log-format", "raw"][..],
        &["--option", "progress", "plain"],
    ] {
        let raw = shown(arguments);
        assert!(lines(&raw) > 0 && !raw.contains('\x1b'), "{raw:?}");
    }
    for arguments in [&["-q"][..], &["--option", "progress", "never"]] {
        assert_eq!(shown(arguments), "");
    }
    // The command line is heard before the configuration.
    let raw = shown(&["--log-format", "raw", "--option", "progress", "never"]);
    assert!(lines(&raw) > 0, "{raw:?}");
}
