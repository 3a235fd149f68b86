//! Nix on this machine, and whether it uses this program as a substituter.
//!
//! Read from the files that Nix reads; Nix itself is asked for its version only.

mod http;
mod units;

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;

use crate::commands::doctor::finding::Finding;
use crate::commands::doctor::programs::{find, first_line_of};
use crate::config::{Config, ConfigError, Origin, Sources, Value, nix_setting};
pub(super) use units::check as check_units;

const AREA: &str = "Nix";

const OUR_NAME: &str = "ssh-substituter";

/// How the URL of this program as a substituter of Nix 2.x begins.
const URL_PREFIX: &str = "ssh://localhost?remote-program=";

/// The Nix of this machine, where there is one.
pub(super) struct Nix {
    program: Option<PathBuf>,
    /// What it prints for `--version`.
    said: String,
    /// Whether Nix checks signatures of what comes from this program over HTTP; `None` when nothing does.
    asks_over_http: Option<bool>,
}

/// A substituter of Nix that is (or is meant to be) this program.
#[derive(Debug, PartialEq, Eq)]
struct OurSubstituter {
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
            Some(program) => first_line_of(program, &["--version"])
                .await
                .unwrap_or_default(),
            None => String::new(),
        };
        Self {
            program,
            said,
            asks_over_http: None,
        }
    }

    /// Whether it is Nix 1.x, which finds its substituters in another way.
    pub(super) fn is_nix1(&self) -> bool {
        self.version()
            .is_some_and(|version| version.starts_with("1."))
    }

    /// `nix-store (Nix) 2.8.0`; something else when Nix cannot even say that.
    fn version(&self) -> Option<&str> {
        let (_, version) = self.said.strip_prefix("nix-store (")?.rsplit_once(' ')?;
        Some(version).filter(|version| version.starts_with(|c: char| c.is_ascii_digit()))
    }

    /// Whether Nix checks signatures of what comes through this program; `None` when nothing does.
    /// Call [`check`](Self::check) before.
    pub(super) fn asks_for_signatures(&self, sources: &Sources) -> Option<bool> {
        let ours = our_substituters(sources).unwrap_or_default();
        let by_ssh = ours.iter().map(|substituter| !substituter.trusted);
        by_ssh
            .chain(self.asks_over_http)
            .reduce(|one, other| one || other)
    }

    pub(super) async fn check(&mut self, sources: &Sources, config: &Config) -> Vec<Finding> {
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
        if self.is_nix1() {
            all.push(check_nix1(
                &std::env::var_os("NIX_SUBSTITUTERS").unwrap_or_default(),
            ));
        } else {
            all.extend(self.substituters(sources, config).await);
        }
        all.extend(daemon(sources));
        all
    }

    async fn substituters(&mut self, sources: &Sources, config: &Config) -> Vec<Finding> {
        let mut all = Vec::new();
        // A configuration that Nix cannot read is reported elsewhere.
        let (Ok(mut switch), Ok(ours)) = (
            nix_setting(sources, "substitute"),
            our_substituters(sources),
        ) else {
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
        let over_http = http::check(sources, config).await;
        let (over_http, asks) = over_http.unwrap_or_default();
        self.asks_over_http = asks;
        all.extend(over_http);
        if ours.is_empty() && asks.is_none() {
            let own_program = own_program().display().to_string();
            let folder = sources
                .files()
                .first()
                .map(|file| file.display().to_string());
            all.push(Finding::warning(
                AREA,
                "no substituter of Nix leads to this program",
                format!(
                    "put 'extra-substituters = {URL_PREFIX}{own_program}&trusted=true' into {}; README says what trusted=true means",
                    folder.unwrap_or_else(|| "nix.conf".to_owned())
                ),
            ));
        }
        for substituter in &ours {
            all.extend(substituter.check(config).await);
        }
        all
    }
}

/// All substituters of Nix that are meant to be this program.
fn our_substituters(sources: &Sources) -> Result<Vec<OurSubstituter>, ConfigError> {
    let values = nix_setting(sources, "substituters")?;
    let words = values.iter().flat_map(|Value { text, origin }| {
        let words = text.split_ascii_whitespace();
        words.filter_map(move |word| OurSubstituter::parse(word, origin))
    });
    Ok(words.collect())
}

impl OurSubstituter {
    fn parse(url: &str, origin: &Origin) -> Option<Self> {
        let (host, query) = url.strip_prefix("ssh://")?.split_once('?')?;
        let mut substituter = Self {
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
                    substituter.program =
                        value.split_ascii_whitespace().map(str::to_owned).collect();
                }
                "trusted" => substituter.trusted = matches!(&*value, "true" | "yes" | "1"),
                "max-connections" => substituter.max_connections = Some(value),
                _ => {}
            }
        }
        let program = Path::new(substituter.program.first()?);
        let name = program.file_name()?.to_string_lossy();
        let is_meant =
            name.contains(OUR_NAME) || name == "download-via-ssh" || is_own_program(program);
        is_meant.then_some(substituter)
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
                format!("write {URL_PREFIX}…: for exactly this host Nix runs the program here"),
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
                    own_program().display()
                ),
            );
        };
        let shown = found.display();
        if !is_own_program(&found) {
            let said = first_line_of(&found, &["--version"])
                .await
                .unwrap_or_default();
            let ours = format!("{OUR_NAME} {}", env!("CARGO_PKG_VERSION"));
            if said != ours {
                let said = if said.is_empty() { "nothing" } else { &said };
                return Finding::warning(
                    AREA,
                    format!(
                        "{shown} is another program than this one, {ours}: it says {said} of its version"
                    ),
                    format!(
                        "update it, or let remote-program be {}",
                        own_program().display()
                    ),
                );
            }
        }
        if path.is_absolute() {
            Finding::ok(AREA, format!("{shown}: is there, and this program"))
        } else {
            let text =
                format!("{shown} is found by its name here; the daemon has a PATH of its own");
            Finding::note(AREA, text).fix(format!("let remote-program be {shown}"))
        }
    }
}

/// This program's file.
fn own_program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| OUR_NAME.into())
}

/// Whether it is the same file as this program's.
fn is_own_program(path: &Path) -> bool {
    let id = |path: &Path| {
        std::fs::metadata(path)
            .map(|meta| (meta.dev(), meta.ino()))
            .ok()
    };
    id(path).is_some_and(|one| Some(one) == id(&own_program()))
}

/// Nix 1.x, which takes its substituters from a variable or finds them in its own folder.
fn check_nix1(substituters: &OsStr) -> Finding {
    let ours = std::env::split_paths(substituters).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        is_own_program(path) || name.contains(OUR_NAME)
    });
    match ours {
        Some(path) => Finding::ok(AREA, format!("NIX_SUBSTITUTERS names {}", path.display())),
        None => Finding::warning(
            AREA,
            "NIX_SUBSTITUTERS does not name this program",
            format!(
                "run 'export NIX_SUBSTITUTERS={}', or put it at libexec/nix/substituters/download-via-ssh in Nix's folder",
                own_program().display()
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
        Finding::note(AREA, text).fix(format!(
            "run 'sudo {} doctor' to check what it sees",
            own_program().display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::finding::Findings;

    fn parse(url: &str) -> Option<OurSubstituter> {
        OurSubstituter::parse(url, &Origin::Flag("--option"))
    }

    #[test]
    fn what_is_meant_to_be_this_program_is_recognised() {
        let substituter = parse(
            "ssh://localhost?remote-program=/usr/bin/ssh-substituter%20-v&trusted=true&max-connections=8",
        );
        let substituter = substituter.unwrap();
        assert_eq!(substituter.program, ["/usr/bin/ssh-substituter", "-v"]);
        assert!(substituter.trusted && substituter.max_connections.as_deref() == Some("8"));
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
        let own_program = format!("{URL_PREFIX}{}", own_program().display());
        assert!(
            parse(&own_program).is_some(),
            "by whatever name: {own_program}"
        );
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
        let is_fine = |list: &str| Findings(vec![check_nix1(list.as_ref())]).all_is_well();
        assert!(is_fine("/x/other:/usr/bin/ssh-substituter"));
        assert!(
            is_fine(&own_program().to_string_lossy()),
            "by whatever name"
        );
        assert!(!is_fine("/x/other") && !is_fine(""));
    }

    #[test]
    fn old_nix_is_told_by_its_version() {
        let nix = |said: &str| Nix {
            program: None,
            said: said.to_owned(),
            asks_over_http: None,
        };
        assert!(nix("nix-store (Nix) 1.11.16").is_nix1());
        for said in [
            "error: no such user 1.0",
            "nix-store (Nix) 2.8.0",
            "nix-store (Lix, like Nix) 2.91.1",
            "",
        ] {
            assert!(!nix(said).is_nix1(), "{said}");
        }
    }
}
