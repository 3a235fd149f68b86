//! What `doctor` wants to know of configuration files: Nix's own settings, and where ours stand.

use std::path::Path;

use super::nix_conf::{self, ConfSource};
use super::{OWN_FILE, Sources, read};
use crate::config::error::ConfigError;
use crate::config::origin::{Assignment, Origin};
use crate::config::settings::{Key, Value};

/// A line that sets something that this program reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingLine {
    /// The name as it stands there, `extra-` included.
    pub name: String,
    /// The setting's own name.
    pub setting: &'static str,
    /// Where it stands.
    pub origin: Origin,
    /// Whether Nix, from 2.0 on, does not know the name, so that it warns when this stands in a file
    /// of its own.
    pub is_unknown_to_nix: bool,
}

/// The values of a setting of Nix that are in force by its own files and `NIX_CONFIG`: its value, then what
/// `extra-` added, each with its origin. Empty when it is not set. Files that cannot be read are left out.
///
/// # Errors
/// When one of them is not in the syntax of nix.conf: Nix itself stops there.
pub fn nix_setting(sources: &Sources, name: &str) -> Result<Vec<Value>, ConfigError> {
    let mut values = Vec::new();
    let extra = format!("extra-{name}");
    for parsed in parse_all(sources, false) {
        for assignment in parsed? {
            if assignment.name == name {
                values.clear();
            } else if assignment.name != extra {
                continue;
            }
            values.push(Value {
                text: assignment.value,
                origin: assignment.origin,
            });
        }
    }
    Ok(values)
}

/// All lines of all files that set something of ours, whether in force or not. Files that are not in
/// the syntax of nix.conf are left out.
#[must_use]
pub fn setting_lines(sources: &Sources) -> Vec<SettingLine> {
    let lines = parse_all(sources, true).into_iter().flatten().flatten();
    let lines = lines.filter_map(|line| {
        let (key, _) = Key::find(&line.name)?;
        Some(SettingLine {
            name: line.name,
            setting: key.name(),
            origin: line.origin,
            is_unknown_to_nix: key.is_unknown_to_nix(),
        })
    });
    lines.collect()
}

/// All files, those of our name only with `own`, and `NIX_CONFIG`, each parsed.
fn parse_all(sources: &Sources, own: bool) -> Vec<Result<Vec<Assignment>, ConfigError>> {
    let is_own = |path: &Path| path.file_name().is_some_and(|name| name == OWN_FILE);
    let mut all = Vec::new();
    for path in sources.files() {
        if !own && is_own(&path) {
            continue;
        }
        let Ok(text) = read(&path) else {
            continue;
        };
        let source = ConfSource::File(path.as_path().into());
        all.push(nix_conf::parse(&text, source, &mut read));
    }
    if let Some(text) = sources.var("NIX_CONFIG") {
        let text = text.to_string_lossy();
        all.push(nix_conf::parse(
            &text,
            ConfSource::Env("NIX_CONFIG"),
            &mut read,
        ));
    }
    all
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn sources(folder: &Path, nix_config: &'static str) -> Sources {
        let folder = folder.to_owned();
        Sources {
            env: Box::new(move |name| match name {
                "NIX_CONF_DIR" => Some(folder.clone().into()),
                "NIX_CONFIG" => Some(nix_config.into()),
                _ => None,
            }),
            ..Sources::nothing()
        }
    }

    #[test]
    fn nix_reads_its_own_files_in_order() {
        let temp = tempfile::tempdir().unwrap();
        let nix = "substituters = a\nextra-substituters = b\nssh-substituter-hosts = h\n";
        fs::write(temp.path().join("nix.conf"), nix).unwrap();
        let ours = "substituters = never\nengine = off\nconnect-timeout = 5\n";
        fs::write(temp.path().join("ssh-substituter.conf"), ours).unwrap();
        let text = |config| -> Vec<String> {
            let values = nix_setting(&sources(temp.path(), config), "substituters").unwrap();
            values.into_iter().map(|value| value.text).collect()
        };
        assert_eq!(text(""), ["a", "b"]);
        assert_eq!(text("extra-substituters = c"), ["a", "b", "c"]);
        assert_eq!(text("substituters = c"), ["c"]);
        assert!(nix_setting(&sources(temp.path(), "no setting"), "substituters").is_err());
        let lines = setting_lines(&sources(temp.path(), "engine = auto"));
        let lines: Vec<_> = lines
            .iter()
            .map(|line| (line.name.as_str(), line.is_unknown_to_nix))
            .collect();
        assert_eq!(
            lines,
            [
                ("ssh-substituter-hosts", true),
                ("engine", true),
                ("connect-timeout", false),
                ("engine", true)
            ]
        );
    }
}
