//! The outcomes of a question about a path.

use std::sync::Arc;

use crate::hint::without_hint;
use crate::model::{PathInfo, StorePath};
use crate::pool::HostId;

/// A path that can be fetched: its info and its holders, the best host first. All of them have the same NAR
/// (the same hash).
#[derive(Debug, Clone)]
pub struct Found {
    /// The best host's info.
    pub info: Arc<PathInfo>,
    /// What its NAR has to be. The same info, but without the content address of a path that refers to itself
    /// and whose NAR hash is trusted or signed: Nix 2.17 to 2.34 compute such addresses otherwise than all
    /// other versions, so the NAR is not checked against it.
    pub to_fetch: Arc<PathInfo>,
    /// Who has it; never empty.
    pub holders: Arc<[HostId]>,
}

/// No host that gave an answer has a path.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.text())]
pub struct NotFound {
    /// The path.
    pub path: StorePath,
    /// How many hosts there are.
    pub hosts: usize,
    /// How many of them gave no answer.
    pub without_answer: usize,
}

without_hint!(NotFound);

impl NotFound {
    fn text(&self) -> String {
        let Self {
            path,
            hosts,
            without_answer,
        } = self;
        if *without_answer == 0 {
            return format!("no host has {path}");
        }
        let silent = format!("{without_answer} of {hosts} hosts gave no answer");
        if without_answer == hosts {
            format!("cannot tell whether a host has {path}: {silent}")
        } else {
            format!("no host that answered has {path}, but {silent}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_without_an_answer_are_counted() {
        let name = "7rjj86a15146cq1d3qy068lml7n7ykzm-x";
        let text = |hosts, without_answer| {
            let path = StorePath::parse(&format!("/nix/store/{name}")).unwrap();
            let not_found = NotFound {
                path,
                hosts,
                without_answer,
            };
            not_found.to_string()
        };
        assert_eq!(text(2, 0), format!("no host has /nix/store/{name}"));
        assert_eq!(text(0, 0), format!("no host has /nix/store/{name}"));
        assert!(text(3, 1).ends_with("-x, but 1 of 3 hosts gave no answer"));
        assert!(text(2, 2).starts_with("cannot tell whether"));
    }
}
