//! Nix on this machine, and how it is led to this program.
//!
//! Read off the same files that Nix reads; Nix itself is asked for its version only.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;

use super::finding::Finding;
use super::programs::{find, says};
use crate::config::{Config, ConfigError, Origin, Sources, Value, nix_setting};

const AREA: &str = "Nix";

const OUR_NAME: &str = "ssh-substituter";

/// What a line of Nix 2.x for this program looks like.
const LINE: &str = "ssh://localhost?remote-program=";

/// The Nix of this machine, where there is one.
pub(super) struct Nix {
    program: Option<PathBuf>,
    /// What it says of itself.
    said: String,
}

/// A substituter of Nix that is (or is meant to be) this program.
#[derive(Debug, PartialEq, Eq)]
struct Led {
    url: String,
    origin: Origin,
    host: String,
    /// The words of `remote-program`.
    program: Vec<String>,
    trusted: bool,
    max_connections: Option<String>,
}

impl Nix {
    pub(super) async fn find() -> Self {
        let program = find(Path::new("nix-store"));
        let said = match &program {
            Some(program) => says(program, &["--version"]).await.unwrap_or_default(),
            None => String::new(),
        };
        Self { program, said }
    }

    /// Whether it is Nix 1.x, which is led here in another way.
    pub(super) fn is_of_old(&self) -> bool {
        self.version()
            .is_some_and(|version| version.starts_with("1."))
    }

    /// `nix-store (Nix) 2.8.0`; something else when Nix cannot even say that.
    fn version(&self) -> Option<&str> {
        let (_, version) = self.said.strip_prefix("nix-store (")?.rsplit_once(' ')?;
        Some(version).filter(|version| version.starts_with(|c: char| c.is_ascii_digit()))
    }

    /// Whether Nix checks signatures of what comes through this program; `None` when nothing does.
    pub(super) fn asks_for_signatures(&self, sources: &Sources) -> Option<bool> {
        let led = led(sources).unwrap_or_default();
        (!led.is_empty()).then(|| led.iter().any(|led| !led.trusted))
    }

    pub(super) async fn check(&self, sources: &Sources, config: &Config) -> Vec<Finding> {
        let Some(program) = &self.program else {
            let text =
                "nix-store is not in the PATH: only 'ssh-substituter get --to' is of use here";
            return vec![Finding::note(AREA, text)];
        };
        let name = program.display();
        let mut all = vec![match self.version() {
            Some(_) => Finding::ok(AREA, format!("{name}: {}", self.said)),
            None => Finding::warning(
                AREA,
                format!("{name} does not tell its version: {}", self.said),
                format!("let '{name} --version' work for this user"),
            ),
        }];
        if self.is_of_old() {
            all.push(led_of_old(
                &std::env::var_os("NIX_SUBSTITUTERS").unwrap_or_default(),
            ));
        } else {
            all.extend(self.substituters(sources, config).await);
        }
        all.extend(daemon(sources));
        all
    }

    async fn substituters(&self, sources: &Sources, config: &Config) -> Vec<Finding> {
        let mut all = Vec::new();
        // Where Nix cannot read its configuration, that has been told.
        let (Ok(mut switch), Ok(led)) = (nix_setting(sources, "substitute"), led(sources)) else {
            return all;
        };
        if let Some(value) = switch.pop()
            && matches!(value.text.trim(), "false" | "no" | "0")
        {
            all.push(Finding::warning(
                AREA,
                format!(
                    "{}: substitute is false: Nix fetches nothing from anywhere",
                    value.origin
                ),
                "remove that line",
            ));
        }
        if led.is_empty() {
            let us = us().display().to_string();
            let folder = sources
                .files()
                .first()
                .map(|file| file.display().to_string());
            all.push(Finding::warning(
                AREA,
                "no substituter of Nix leads to this program",
                format!(
                    "put 'extra-substituters = {LINE}{us}&trusted=true' into {}; README says what trusted=true means",
                    folder.unwrap_or_else(|| "nix.conf".to_owned())
                ),
            ));
        }
        for led in &led {
            all.extend(led.check(config).await);
        }
        all
    }
}

/// All substituters of Nix that are meant to be this program.
fn led(sources: &Sources) -> Result<Vec<Led>, ConfigError> {
    let values = nix_setting(sources, "substituters")?;
    let words = values.iter().flat_map(|Value { text, origin }| {
        let words = text.split_ascii_whitespace();
        words.filter_map(move |word| Led::parse(word, origin))
    });
    Ok(words.collect())
}

impl Led {
    fn parse(url: &str, origin: &Origin) -> Option<Self> {
        let (host, query) = url.strip_prefix("ssh://")?.split_once('?')?;
        let mut led = Self {
            url: url.to_owned(),
            origin: origin.clone(),
            host: host.to_owned(),
            program: Vec::new(),
            trusted: false,
            max_connections: None,
        };
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
            match name {
                "remote-program" => {
                    led.program = value.split_ascii_whitespace().map(str::to_owned).collect();
                }
                "trusted" => led.trusted = matches!(&*value, "true" | "yes" | "1"),
                "max-connections" => led.max_connections = Some(value),
                _ => {}
            }
        }
        let program = Path::new(led.program.first()?);
        let name = program.file_name()?.to_string_lossy();
        let is_meant = name.contains(OUR_NAME) || name == "download-via-ssh" || is_us(program);
        is_meant.then_some(led)
    }

    async fn check(&self, config: &Config) -> Vec<Finding> {
        let mut all = vec![Finding::ok(AREA, format!("{}: {}", self.origin, self.url))];
        if self.host != "localhost" {
            all.push(Finding::error(
                AREA,
                format!(
                    "{}: the host is {}: Nix goes there by ssh",
                    self.origin, self.host
                ),
                format!("write {LINE}…: for exactly this host Nix runs the program here"),
            ));
            return all;
        }
        all.push(self.program().await);
        let opened = config.hosts.iter().filter(|host| host.trusted);
        let opened: Vec<String> = opened.map(ToString::to_string).collect();
        all.extend(match (self.trusted, &opened[..], config.require_sigs) {
            (true, ..) => Some(Finding::ok(
                AREA,
                "trusted=true: Nix takes what this program accepts",
            )),
            (false, [], true) => Some(Finding::ok(AREA, "Nix checks signatures once more")),
            (false, opened, _) => Some(Finding::warning(
                AREA,
                format!(
                    "Nix asks for signatures all the same, so that {} brings nothing that has none",
                    match opened {
                        [] => "require-sigs = false".to_owned(),
                        hosts => format!("trusted=true of {}", hosts.join(", ")),
                    }
                ),
                format!(
                    "add &trusted=true to the URL at {}, or sign the paths",
                    self.origin
                ),
            )),
        });
        if let Some(most) = &self.max_connections {
            all.push(Finding::ok(AREA, format!("max-connections={most}")));
        }
        all
    }

    /// Whether it is there and this one.
    async fn program(&self) -> Finding {
        let name = &self.program[0];
        let path = Path::new(name);
        let Some(found) = find(path) else {
            return Finding::error(
                AREA,
                format!("{}: {name} is not there, or may not be run", self.origin),
                format!(
                    "let remote-program be {}, or install it there",
                    us().display()
                ),
            );
        };
        let shown = found.display();
        if !is_us(&found) {
            let said = says(&found, &["--version"]).await.unwrap_or_default();
            let ours = format!("{OUR_NAME} {}", env!("CARGO_PKG_VERSION"));
            if said != ours {
                let said = if said.is_empty() { "nothing" } else { &said };
                return Finding::warning(
                    AREA,
                    format!(
                        "{shown} is another program than this one, {ours}: it says {said} of its version"
                    ),
                    format!("update it, or let remote-program be {}", us().display()),
                );
            }
        }
        if path.is_absolute() {
            Finding::ok(AREA, format!("{shown}: is there, and this program"))
        } else {
            let text =
                format!("{shown} is found by its name here; the daemon has a PATH of its own");
            Finding::note(AREA, text).mend(format!("let remote-program be {shown}"))
        }
    }
}

/// This program's file.
fn us() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| OUR_NAME.into())
}

/// Whether it is the same file as this program's.
fn is_us(path: &Path) -> bool {
    let id = |path: &Path| {
        std::fs::metadata(path)
            .map(|meta| (meta.dev(), meta.ino()))
            .ok()
    };
    id(path).is_some_and(|one| Some(one) == id(&us()))
}

/// Nix 1.x, which is told of its substituters by a variable or finds them in its own folder.
fn led_of_old(substituters: &OsStr) -> Finding {
    let ours = std::env::split_paths(substituters).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        is_us(path) || name.contains(OUR_NAME)
    });
    match ours {
        Some(path) => Finding::ok(AREA, format!("NIX_SUBSTITUTERS names {}", path.display())),
        None => Finding::warning(
            AREA,
            "NIX_SUBSTITUTERS does not name this program",
            format!(
                "run 'export NIX_SUBSTITUTERS={}', or put it at libexec/nix/substituters/download-via-ssh in Nix's folder",
                us().display()
            ),
        ),
    }
}

/// Who logs in to the hosts.
fn daemon(sources: &Sources) -> Option<Finding> {
    let socket = std::env::var_os("NIX_DAEMON_SOCKET_PATH").map_or_else(
        || PathBuf::from("/nix/var/nix/daemon-socket/socket"),
        PathBuf::from,
    );
    UnixStream::connect(&socket).ok()?;
    Some(if sources.uid == 0 {
        Finding::ok(AREA, "the Nix daemon runs as root, and so did this check")
    } else {
        let text = "the Nix daemon runs: for its clients it is root who reads the configuration and logs in to the hosts";
        Finding::note(AREA, text).mend(format!(
            "run 'sudo {} doctor' to check what it sees",
            us().display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Findings;
    use super::*;

    fn parse(url: &str) -> Option<Led> {
        Led::parse(url, &Origin::Flag("--option"))
    }

    #[test]
    fn what_is_meant_to_be_this_program_is_recognised() {
        let led = parse(
            "ssh://localhost?remote-program=/usr/bin/ssh-substituter%20-v&trusted=true&max-connections=8",
        );
        let led = led.unwrap();
        assert_eq!(led.program, ["/usr/bin/ssh-substituter", "-v"]);
        assert!(led.trusted && led.max_connections.as_deref() == Some("8"));
        assert!(
            !parse("ssh://localhost?remote-program=ssh-substituter")
                .unwrap()
                .trusted
        );
        assert_eq!(
            parse("ssh://h?remote-program=ssh-substituter")
                .unwrap()
                .host,
            "h"
        );
        let us = format!("{LINE}{}", us().display());
        assert!(parse(&us).is_some(), "by whatever name: {us}");
        for other in [
            "https://cache.nixos.org",
            "ssh://localhost",
            "ssh://localhost?remote-program=nix-store",
            "ssh://localhost?remote-program=",
            "ssh-ng://localhost?remote-program=ssh-substituter",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn old_nix_is_led_by_a_variable() {
        let is_fine = |list: &str| Findings(vec![led_of_old(list.as_ref())]).all_is_well();
        assert!(is_fine("/x/other:/usr/bin/ssh-substituter"));
        assert!(is_fine(&us().to_string_lossy()), "by whatever name");
        assert!(!is_fine("/x/other") && !is_fine(""));
    }

    #[test]
    fn old_nix_is_told_by_its_version() {
        let nix = |said: &str| Nix {
            program: None,
            said: said.to_owned(),
        };
        assert!(nix("nix-store (Nix) 1.11.16").is_of_old());
        for said in [
            "error: no such user 1.0",
            "nix-store (Nix) 2.8.0",
            "nix-store (Lix, like Nix) 2.91.1",
            "",
        ] {
            assert!(!nix(said).is_of_old(), "{said}");
        }
    }
}
