//! Files, settings, and the hosts that are named.

use std::collections::BTreeMap;

use super::finding::{Finding, Level};
use super::fixes;
use super::nix::Nix;
use crate::commands::Loaded;
use crate::config::{Config, Origin, Settings, Sources, setting_lines};
use crate::report;

const AREA: &str = "Configuration";

pub(super) fn check(sources: &Sources, loaded: &Loaded, nix: &Nix) -> Vec<Finding> {
    let mut all = Vec::new();
    match loaded {
        Ok((config, warnings)) => {
            all.extend(files(sources, &in_force(&config.settings)));
            let warned = |warning: &String| {
                Finding::warning(AREA, warning.clone(), fixes::for_warning(warning))
            };
            all.extend(warnings.iter().map(warned));
            all.extend(values(sources, config));
        }
        Err(error) => {
            all.extend(files(sources, &written(sources)));
            let fix = fixes::for_configuration(error);
            all.push(Finding::of(Level::Error, AREA, report::parts(error), &fix));
            let text = "as long as that is so nothing is served to Nix, and no host is asked here";
            all.push(Finding::note(AREA, text));
        }
    }
    if !nix.is_nix1() {
        all.extend(unknown_to_nix(sources));
    }
    all
}

/// Names of settings, by the file, variable or flag that sets them.
type NamesByOrigin = BTreeMap<String, Vec<&'static str>>;

/// The file, variable or flag of an origin, without the line.
fn origin_name(origin: &Origin) -> Option<String> {
    match origin {
        Origin::BuiltIn => None,
        Origin::File { path, .. } => Some(path.display().to_string()),
        Origin::Env { name, .. } => Some(format!("${name}")),
        Origin::Flag(flag) => Some((*flag).to_owned()),
    }
}

/// The settings in force.
fn in_force(settings: &Settings) -> NamesByOrigin {
    let mut by_origin = NamesByOrigin::new();
    for setting in settings.iter() {
        for value in std::iter::once(&setting.value).chain(&setting.extra) {
            let names = origin_name(&value.origin)
                .map(|origin_name| by_origin.entry(origin_name).or_default());
            if let Some(names) = names
                && !names.contains(&setting.key.name())
            {
                names.push(setting.key.name());
            }
        }
    }
    by_origin
}

/// The settings in files, when it is not known which are in force.
fn written(sources: &Sources) -> NamesByOrigin {
    let mut by_origin = NamesByOrigin::new();
    for line in setting_lines(sources) {
        let names =
            origin_name(&line.origin).map(|origin_name| by_origin.entry(origin_name).or_default());
        if let Some(names) = names
            && !names.contains(&line.setting)
        {
            names.push(line.setting);
        }
    }
    by_origin
}

fn files(sources: &Sources, by_origin: &NamesByOrigin) -> Vec<Finding> {
    let mut by_origin = by_origin.clone();
    let mut all = Vec::new();
    for path in sources.files() {
        let path = path.display().to_string();
        match by_origin.remove(&path) {
            Some(names) => all.push(sets(&path, &names)),
            None if std::path::Path::new(&path).exists() => {
                all.push(Finding::ok(
                    AREA,
                    format!("{path}: nothing in force for this program"),
                ));
            }
            None => all.push(Finding::ok(AREA, format!("{path}: not there"))),
        }
    }
    all.extend(
        by_origin
            .iter()
            .map(|(origin_name, names)| sets(origin_name, names)),
    );
    all
}

fn sets(origin_name: &str, names: &[&str]) -> Finding {
    Finding::ok(AREA, format!("{origin_name}: sets {}", names.join(", ")))
}

/// Values that are valid, and yet seldom meant.
fn values(sources: &Sources, config: &Config) -> Vec<Finding> {
    let mut all = Vec::new();
    if !config.enabled {
        all.push(Finding::warning(
            AREA,
            "use-ssh-substituter is false: nothing is served to Nix",
            "set use-ssh-substituter = true, or remove it",
        ));
    }
    if config.hosts.is_empty() {
        let files = sources.files();
        // The first of its own name: the system's.
        let own = files
            .iter()
            .find(|path| path.ends_with("ssh-substituter.conf"));
        let own = own.map_or("ssh-substituter.conf".to_owned(), |own| {
            own.display().to_string()
        });
        all.push(Finding::error(
            AREA,
            "no hosts are configured: there is nobody to ask",
            format!("put 'ssh-substituter-hosts = ssh://USER@HOST' into {own}"),
        ));
        return all;
    }
    let hosts: Vec<String> = config.hosts.iter().map(ToString::to_string).collect();
    all.push(Finding::ok(AREA, format!("hosts: {}", hosts.join(", "))));
    if config.is_untrusted_choice {
        all.push(Finding::note(
            AREA,
            "hosts or agent are the choice of an unprivileged user",
        ));
    }
    let keys: Vec<&str> = config
        .trusted_public_keys
        .iter()
        .map(|key| key.name())
        .collect();
    all.push(match (config.require_sigs, &keys[..]) {
        (false, _) => Finding::note(
            AREA,
            "require-sigs is false: whoever can write to the store of any of the hosts can put programs on this machine",
        ),
        (true, []) => Finding::ok(AREA, "no key in trusted-public-keys"),
        (true, keys) => Finding::ok(AREA, format!("signatures by {} count", keys.join(", "))),
    });
    all
}

/// Settings in files of Nix that make Nix warn each time.
fn unknown_to_nix(sources: &Sources) -> Vec<Finding> {
    let lines = setting_lines(sources).into_iter();
    let strange = lines.filter(|line| {
        let is_nix_own = match &line.origin {
            Origin::File { path, .. } => path.file_name().is_some_and(|name| name == "nix.conf"),
            Origin::Env { .. } => true,
            _ => false,
        };
        line.is_unknown_to_nix && is_nix_own
    });
    let findings = strange.map(|line| {
        Finding::warning(
            AREA,
            format!(
                "{}: Nix does not know {}, and says so each time",
                line.origin, line.name
            ),
            "move the line to ssh-substituter.conf in the same folder",
        )
    });
    findings.collect()
}
