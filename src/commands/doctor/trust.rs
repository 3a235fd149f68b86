//! Store paths: who has them, whether they would be accepted, and why.

use super::finding::{Finding, Level};
use crate::commands::format::shorten;
use crate::commands::probe::Probed;
use crate::config::{Config, Host};
use crate::model::{PathInfo, StorePath, verify};
use crate::progress::text::size;
use crate::report;
use crate::resolver::Trust;

const AREA: &str = "Path";

/// The paths of the command line.
pub(super) struct RequestedPaths {
    paths: Vec<StorePath>,
    wrong: Vec<Finding>,
}

impl RequestedPaths {
    pub(super) fn parse(words: &[String], store_dir: &str) -> Self {
        let mut wanted = Self {
            paths: Vec::new(),
            wrong: Vec::new(),
        };
        for word in words {
            let fix = format!("name it as {store_dir}/HASH-NAME");
            let text = match StorePath::parse(word) {
                Ok(path) if path.store_dir() != store_dir => {
                    format!("is not in the store directory {store_dir}")
                }
                Ok(path) => {
                    if !wanted.paths.contains(&path) {
                        wanted.paths.push(path);
                    }
                    continue;
                }
                Err(error) => report::message(&error),
            };
            wanted
                .wrong
                .push(Finding::error(AREA, text, fix).about(word));
        }
        wanted
    }

    pub(super) fn paths(&self) -> &[StorePath] {
        &self.paths
    }

    /// `nix_checks`: whether Nix asks for signatures once more; `None` when it is not led here.
    pub(super) fn check(
        self,
        config: &Config,
        probed: &[Probed],
        nix_checks: Option<bool>,
    ) -> Vec<Finding> {
        let trust = Trust {
            require_sigs: config.require_sigs,
            keys: config.trusted_public_keys.as_slice().into(),
        };
        let mut all = self.wrong;
        for path in &self.paths {
            let mut findings = about(path, &trust, probed, nix_checks == Some(true));
            // Nobody has it: whether somebody would is not known.
            let silent: Vec<String> = probed
                .iter()
                .filter(|host| infos(host).is_none())
                .map(|probed| probed.host.to_string())
                .collect();
            if !silent.is_empty() {
                let text = format!("gave no answer: {}", silent.join(", "));
                findings.push(Finding::note(AREA, text));
            }
            all.extend(
                findings
                    .into_iter()
                    .map(|finding| finding.about(path.as_str())),
            );
        }
        all
    }
}

fn infos(probed: &Probed) -> Option<&Vec<PathInfo>> {
    probed.reached.as_ref().ok()?.infos.as_ref().ok()
}

fn about(path: &StorePath, trust: &Trust, probed: &[Probed], nix_checks: bool) -> Vec<Finding> {
    let mut all = Vec::new();
    let mut holders = 0;
    let mut refused = Vec::new();
    for probed in probed {
        let info = infos(probed).and_then(|infos| infos.iter().find(|info| info.path == *path));
        let Some(info) = info else {
            continue;
        };
        holders += 1;
        let host = &probed.host;
        match trust.check(host, info) {
            Ok(()) => {
                let reason = reason(host, trust, info);
                let hash = info
                    .nar_hash
                    .map_or("no hash".to_owned(), |hash| hash.to_string());
                let what = format!("{}, {hash}", size(info.nar_size));
                all.push(Finding::ok(
                    AREA,
                    format!("{host} has it, accepted: {} ({what})", reason.text),
                ));
                if nix_checks && !reason.counts_for_nix {
                    all.push(Finding::warning(
                        AREA,
                        format!("Nix itself refuses what {host} has: it asks for a signature"),
                        "add &trusted=true to the URL in Nix's substituters, or sign the path there with a key that Nix knows",
                    ));
                }
            }
            Err(distrust) => {
                refused.push((host.to_string(), report::parts(&distrust)));
            }
        }
    }
    let is_accepted = holders > refused.len();
    for (host, mut parts) in refused {
        // The path stands above already.
        let said = format!("{host}: has {path}, but ");
        if let Some(why) = parts.message.strip_prefix(&said) {
            parts.message = format!("{host} has it, refused: {why}");
        }
        // Others do.
        let level = if is_accepted {
            Level::Note
        } else {
            Level::Error
        };
        all.push(Finding::of(level, AREA, parts, "sign it there"));
    }
    if holders == 0 {
        all.push(Finding::warning(
            AREA,
            "no host that answers has it",
            "build it on one of the hosts, or copy it there",
        ));
    }
    all
}

struct Reason {
    text: String,
    /// Whether it is one for Nix as well.
    counts_for_nix: bool,
}

/// Why an info is accepted that is; in the order of the rule.
fn reason(host: &Host, trust: &Trust, info: &PathInfo) -> Reason {
    let address = info.content().ok().and(info.ca.as_deref());
    let signer = info.fingerprint().and_then(|fingerprint| {
        let made = |key: &&crate::model::PublicKey| {
            verify(std::slice::from_ref(*key), &info.sigs, &fingerprint).is_ok()
        };
        trust.keys.iter().find(made)
    });
    let text = match (address, signer) {
        _ if host.trusted => "trusted=true in the host's URL".to_owned(),
        _ if !trust.require_sigs => "require-sigs is false".to_owned(),
        (Some(address), _) => format!("it is content-addressed, {}", shorten(address, 100)),
        (None, Some(key)) => format!("it is signed by {}", key.name()),
        (None, None) => "by the rule".to_owned(),
    };
    Reason {
        text,
        counts_for_nix: address.is_some() || signer.is_some(),
    }
}
