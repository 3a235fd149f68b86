//! systemd units that end the engine and the ssh connections along with the process that started them.
//!
//! By default systemd ends all processes of a unit once its main process has ended (`KillMode=control-group`,
//! systemd.kill(5)). Nix's own unit for its daemon says `KillMode=process`; one that is started for each connection, as
//! Lix has it, may not. Units are read as systemd.unit(5) has it: the first file of a name counts, and all `NAME.d/*.conf`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::commands::doctor::finding::Finding;
use crate::ipc::SocketPath;

const AREA: &str = "Nix";

/// Where units are, the most important first.
const UNIT_FOLDERS: &[&str] = &[
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// Names another list of them, to systemd as well.
const UNIT_PATH_VARIABLE: &str = "SYSTEMD_UNIT_PATH";

/// The units that hold the engine's socket.
const ENGINE_SOCKET_UNIT: &str = "ssh-substituter-engine.socket";

/// Longest unit that is read, in bytes.
const MAX_UNIT_SIZE: u64 = 1 << 20;

/// Looks at the units of Nix's daemon, and at those that the engines of this user, which are these processes, run in.
/// Blocks.
pub(in crate::commands::doctor) fn check(engines: &[u32]) -> Vec<Finding> {
    let folders = folders();
    let mut units: BTreeMap<String, Option<u32>> = daemons(&folders)
        .into_iter()
        .map(|name| (name, None))
        .collect();
    for pid in engines {
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if let Some(unit) = unit_of(&cgroup) {
            units.insert(template_of(unit), Some(*pid));
        }
    }
    let has_socket_unit = has_own_socket();
    units
        .iter()
        .filter_map(|(name, engine)| {
            finding(name, &kill_mode(&folders, name)?, *engine, has_socket_unit)
        })
        .collect()
}

fn finding(name: &str, mode: &str, engine: Option<u32>, has_socket_unit: bool) -> Option<Finding> {
    if matches!(mode, "process" | "none") {
        return None;
    }
    let each = match name.contains('@') {
        true => "each client",
        false => "it",
    };
    let text = match engine {
        Some(pid) => format!(
            "engine {pid} runs in {name}, which has KillMode={mode}: it ends with {each}, and so do the ssh connections that it has opened"
        ),
        None => format!(
            "{name} has KillMode={mode}: an engine that is started in it ends with {each}, and so do the ssh connections"
        ),
    };
    // Whoever comes next finds the socket, and starts nothing.
    if has_socket_unit && engine.is_none() {
        return Some(Finding::ok(
            AREA,
            format!(
                "{name} has KillMode={mode}, but {ENGINE_SOCKET_UNIT} holds the engine's socket"
            ),
        ));
    }
    let fix = format!(
        "run 'systemctl enable --now {ENGINE_SOCKET_UNIT}' (packaging/systemd has the units), or say 'KillMode=process' below [Service] with 'systemctl edit {name}'"
    );
    Some(match name.contains('@') || engine.is_some() {
        true => Finding::warning(AREA, text, fix),
        false => Finding::note(AREA, text).fix(fix),
    })
}

/// Whether a service manager listens for front ends of this user.
fn has_own_socket() -> bool {
    let all = SocketPath::all().unwrap_or_default();
    all.iter().any(|socket| SocketPath::is_managed(socket))
}

fn folders() -> Vec<PathBuf> {
    let usual = || UNIT_FOLDERS.iter().map(PathBuf::from);
    match std::env::var_os(UNIT_PATH_VARIABLE) {
        None => usual().collect(),
        Some(list) => {
            let folders: Vec<_> = std::env::split_paths(&list).collect();
            // An empty one at the end stands for the usual ones.
            let more = folders
                .last()
                .is_some_and(|last| last.as_os_str().is_empty());
            let folders = folders.into_iter().filter(|folder| folder.is_absolute());
            folders.chain(usual().filter(|_| more)).collect()
        }
    }
}

/// The units that run a daemon of Nix or Lix.
fn daemons(folders: &[PathBuf]) -> Vec<String> {
    let mut names = Vec::new();
    for folder in folders {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".service") && name.contains("daemon") && !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names.retain(|name| {
        let text = main_file(folders, name)
            .and_then(|file| read(&file))
            .unwrap_or_default();
        let starts = settings(&text).filter(|(name, _)| *name == "ExecStart");
        let mut starts = starts.map(|(_, command)| command);
        starts.any(|command| {
            command.contains("nix-daemon")
                || command.contains("lix-daemon")
                || command.contains("nix daemon")
        })
    });
    names
}

/// What the unit says, or what holds where it says nothing. Nothing when there is no such unit.
fn kill_mode(folders: &[PathBuf], name: &str) -> Option<String> {
    let mut texts = vec![read(&main_file(folders, name)?)?];
    let mut more = BTreeMap::new();
    for folder in folders {
        let folder = folder.join(format!("{name}.d"));
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|end| end == "conf") {
                more.entry(entry.file_name()).or_insert(entry.path());
            }
        }
    }
    texts.extend(more.values().filter_map(|file| read(file)));
    let mut mode = "control-group".to_owned();
    for text in &texts {
        for (_, value) in settings(text).filter(|(name, _)| *name == "KillMode") {
            mode = match value {
                "" => "control-group".to_owned(),
                value => value.to_owned(),
            };
        }
    }
    Some(mode)
}

fn main_file(folders: &[PathBuf], name: &str) -> Option<PathBuf> {
    let mut files = folders.iter().map(|folder| folder.join(name));
    // One that leads to /dev/null is masked: there is no such unit, whatever else there is.
    files
        .find(|file| file.symlink_metadata().is_ok())
        .filter(|file| file.is_file())
}

fn read(file: &Path) -> Option<String> {
    let meta = fs::metadata(file).ok()?;
    let bytes = (meta.len() <= MAX_UNIT_SIZE).then(|| fs::read(file).ok())??;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The settings below `[Service]`.
fn settings(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut section = "";
    text.lines().map(str::trim).filter_map(move |line| {
        if line.starts_with('[') {
            section = line;
        }
        let (name, value) = line.split_once('=')?;
        (section == "[Service]").then_some((name.trim(), value.trim()))
    })
}

/// The service in what `/proc/PID/cgroup` says (cgroups(7)): a line `0::/system.slice/NAME.service`, or those of the
/// older version.
fn unit_of(cgroup: &str) -> Option<&str> {
    let mut paths = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.find_map(|path| path.rsplit('/').find(|part| part.ends_with(".service")))
}

/// `nix-daemon@3-17-0.service` is made from `nix-daemon@.service`.
fn template_of(unit: &str) -> String {
    match unit.split_once('@') {
        Some((name, _)) => format!("{name}@.service"),
        None => unit.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::finding::Findings;

    #[test]
    fn the_unit_is_found_in_a_control_group() {
        for (cgroup, unit) in [
            (
                "0::/system.slice/nix-daemon.service\n",
                Some("nix-daemon.service"),
            ),
            (
                "0::/system.slice/system-nix\\x2ddaemon.slice/nix-daemon@3-1-0.service/sub",
                Some("nix-daemon@3-1-0.service"),
            ),
            (
                "4:memory:/x\n1:name=systemd:/system.slice/a.service\n",
                Some("a.service"),
            ),
            ("0::/user.slice/user-0.slice/session-1.scope", None),
            ("", None),
        ] {
            assert_eq!(unit_of(cgroup), unit, "{cgroup}");
        }
        assert_eq!(
            template_of("nix-daemon@3-1-0.service"),
            "nix-daemon@.service"
        );
        assert_eq!(template_of("a.service"), "a.service");
    }

    #[test]
    fn units_are_read_as_systemd_does() {
        let temp = tempfile::tempdir().unwrap();
        let folders = ["etc", "lib"].map(|name| temp.path().join(name));
        let write = |name: &str, text: &str| {
            let path = temp.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let daemon = "[Unit]\nKillMode=no\n[Service]\nExecStart=@/x/nix-daemon nix-daemon\n";
        write("lib/nix-daemon@.service", daemon);
        write(
            "lib/nix-daemon.service",
            &format!("{daemon}KillMode = process\n"),
        );
        write("lib/other-daemon.service", "[Service]\nExecStart=/x\n");
        write("lib/masked-daemon.service", daemon);
        fs::create_dir(temp.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/dev/null", temp.path().join("etc/masked-daemon.service"))
            .unwrap();
        let mut found = daemons(&folders);
        found.sort();
        assert_eq!(found, ["nix-daemon.service", "nix-daemon@.service"]);
        let mode = |name: &str| kill_mode(&folders, name).unwrap_or_default();
        assert_eq!(mode("nix-daemon@.service"), "control-group");
        assert_eq!(mode("nix-daemon.service"), "process");
        assert_eq!(kill_mode(&folders, "absent.service"), None);
        // Further files, in the order of their names; of one name, the first.
        for (file, value, expected) in [
            ("lib/nix-daemon@.service.d/50-a.conf", "process", "process"),
            ("etc/nix-daemon@.service.d/60-b.conf", "mixed", "mixed"),
            ("etc/nix-daemon@.service.d/60-b.conf", "", "control-group"),
            (
                "lib/nix-daemon@.service.d/60-b.conf",
                "none",
                "control-group",
            ),
        ] {
            write(file, &format!("[Service]\nKillMode={value}\n"));
            assert_eq!(mode("nix-daemon@.service"), expected, "{file}: {value}");
        }
        write(
            "etc/nix-daemon@.service",
            &format!("{daemon}KillMode=process"),
        );
        write("etc/nix-daemon@.service.d/60-b.conf", "");
        assert_eq!(mode("nix-daemon@.service"), "process");
    }

    #[test]
    fn what_ends_with_each_client_is_a_warning() {
        for (name, mode, engine, has_socket_unit, is_found, is_well) in [
            ("d@.service", "process", None, false, false, true),
            ("d@.service", "control-group", None, false, true, false),
            ("d.service", "control-group", None, false, true, true),
            ("d.service", "mixed", Some(1), false, true, false),
            ("d@.service", "mixed", None, true, true, true),
            ("d@.service", "mixed", Some(1), true, true, false),
        ] {
            let found = finding(name, mode, engine, has_socket_unit);
            assert_eq!(found.is_some(), is_found, "{name}, {mode}");
            let findings = Findings(found.into_iter().collect());
            assert_eq!(findings.all_is_well(), is_well, "{name}, {mode}");
        }
    }
}
