//! What this process knows of one path: each host's answer. Pure: the time is an argument.

use std::sync::{Arc, OnceLock};

use super::host_answer::{AnswerKind, CheckOutcome, HostAnswer};
use crate::cache::Lifetimes;
use crate::model::{NarHash, PathInfo};
use crate::pool::{Holder, HostId};
use crate::resolver::Found;

/// Estimated overhead of a string besides its characters, in bytes.
const TEXT_OVERHEAD: usize = 48;

/// Estimated size of a record, and of an info in it, in bytes.
const ENTRY_OVERHEAD: usize = 256;

/// All answers about a path, at most one from each host.
#[derive(Debug, Clone, Default)]
pub(in crate::resolver) struct PathRecord {
    /// In host order.
    answers: Vec<HostAnswer>,
    /// The NAR hash that was advertised to a caller, shared by all copies of this record: the NAR that is
    /// delivered later must have it.
    advertised: Arc<OnceLock<NarHash>>,
}

impl PathRecord {
    /// Records an answer, which replaces the host's earlier one.
    pub(in crate::resolver) fn insert(&mut self, mut answer: HostAnswer) {
        if let AnswerKind::Has(info) | AnswerKind::Unverified(info) = &mut answer.kind {
            // Most hosts have the same info: it is kept once.
            let mut others = self.answers.iter().filter_map(|other| other.kind.info());
            let same = others.find(|other| *other == info).cloned();
            *info = same.unwrap_or_else(|| info.clone());
        }
        let at = self.answers.binary_search_by_key(&answer.host, |a| a.host);
        match at {
            Ok(at) => self.answers[at] = answer,
            Err(at) => self.answers.insert(at, answer),
        }
    }

    /// The estimated size of the record, in bytes.
    pub(in crate::resolver) fn weight(&self) -> u32 {
        let mut infos: Vec<&Arc<PathInfo>> = Vec::new();
        for info in self.answers.iter().filter_map(|answer| answer.kind.info()) {
            if !infos.iter().any(|other| Arc::ptr_eq(other, info)) {
                infos.push(info);
            }
        }
        let texts = infos.iter().flat_map(|info| {
            let paths = info.references.iter().map(|path| path.as_str().len());
            paths.chain(info.sigs.iter().map(String::len))
        });
        let texts: usize = texts.map(|len| len + TEXT_OVERHEAD).sum();
        let all = texts + ENTRY_OVERHEAD * (1 + infos.len());
        u32::try_from(all).unwrap_or(u32::MAX)
    }

    /// Records holders that have no answer in here; they said so at `now`.
    pub(in crate::resolver) fn add_holders(&mut self, holders: Vec<Holder>, now: u64) {
        for Holder { host, info } in holders {
            if self.answer_of(host).is_none() {
                self.insert(HostAnswer {
                    host,
                    kind: AnswerKind::Has(info),
                    checked_at: now,
                    from_disk: false,
                });
            }
        }
    }

    /// Removes a host's answer.
    pub(in crate::resolver) fn remove(&mut self, host: HostId) {
        self.answers.retain(|answer| answer.host != host);
    }

    /// The answers with unverified signatures, in host order: the host, its info, and whether it is from disk.
    pub(in crate::resolver) fn unverified(
        &self,
    ) -> impl Iterator<Item = (HostId, &Arc<PathInfo>, bool)> {
        self.answers.iter().filter_map(|answer| match &answer.kind {
            AnswerKind::Unverified(info) => Some((answer.host, info, answer.from_disk)),
            _ => None,
        })
    }

    /// Replaces an unverified answer by its verdict, or removes it without one. Does nothing when the host has
    /// said something else meanwhile.
    pub(in crate::resolver) fn set_verified(
        &mut self,
        host: HostId,
        info: &Arc<PathInfo>,
        verdict: Option<AnswerKind>,
    ) {
        let is_it = |answer: &HostAnswer| {
            let kind = &answer.kind;
            answer.host == host
                && matches!(kind, AnswerKind::Unverified(other) if Arc::ptr_eq(other, info))
        };
        match verdict {
            None => self.answers.retain(|answer| !is_it(answer)),
            Some(kind) => {
                if let Some(answer) = self.answers.iter_mut().find(|answer| is_it(answer)) {
                    answer.kind = kind;
                }
            }
        }
    }

    /// That host's answer.
    pub(in crate::resolver) fn answer_of(&self, host: HostId) -> Option<&HostAnswer> {
        self.answers.iter().find(|answer| answer.host == host)
    }

    /// All answers, in host order.
    pub(in crate::resolver) fn answers(&self) -> &[HostAnswer] {
        &self.answers
    }

    /// A copy with only the answers that are valid at `now` for this caller generation.
    pub(in crate::resolver) fn valid(&self, lifetimes: &Lifetimes, now: u64, callers: u64) -> Self {
        self.filtered(|answer| answer.is_valid(lifetimes, now, callers))
    }

    /// A copy with only the answers that are picked.
    pub(in crate::resolver) fn filtered(&self, is_picked: impl Fn(&HostAnswer) -> bool) -> Self {
        let picked = |answer: &&HostAnswer| is_picked(answer);
        Self {
            answers: self.answers.iter().filter(picked).cloned().collect(),
            advertised: self.advertised.clone(),
        }
    }

    /// Records that a host, asked at `now`, has or lacks the path. What that means for its earlier answer.
    pub(in crate::resolver) fn record_check(
        &mut self,
        host: HostId,
        has: bool,
        now: u64,
    ) -> CheckOutcome {
        let Some(answer) = self.answers.iter_mut().find(|one| one.host == host) else {
            return CheckOutcome::Unknown;
        };
        match (&answer.kind, has) {
            (AnswerKind::Has(_) | AnswerKind::Unverified(_), true) => {
                answer.checked_at = now;
                CheckOutcome::StillHas
            }
            (AnswerKind::Refused(_), true) => CheckOutcome::Unknown,
            (AnswerKind::Lacks, true) => {
                self.remove(host);
                CheckOutcome::Appeared
            }
            (was, false) => {
                let gone = !matches!(was, AnswerKind::Lacks);
                (answer.kind, answer.checked_at) = (AnswerKind::Lacks, now);
                answer.from_disk = false;
                match gone {
                    true => CheckOutcome::Gone,
                    false => CheckOutcome::StillLacks,
                }
            }
        }
    }

    /// Hosts that have it, in host order.
    pub(in crate::resolver) fn holders(&self) -> impl Iterator<Item = (HostId, &Arc<PathInfo>)> {
        self.answers.iter().filter_map(|answer| match &answer.kind {
            AnswerKind::Has(info) => Some((answer.host, info)),
            _ => None,
        })
    }

    /// Hosts with an answer.
    pub(in crate::resolver) fn hosts(&self) -> impl Iterator<Item = HostId> {
        self.answers.iter().map(|answer| answer.host)
    }

    /// The best host's info and all hosts that have the same NAR. Its hash counts as advertised from now on.
    pub(in crate::resolver) fn best_match(&self) -> Option<Found> {
        let advertised = self.advertised.get().copied();
        let as_advertised = |(_, info): &(HostId, &Arc<PathInfo>)| {
            advertised.is_some() && info.nar_hash == advertised
        };
        let first = self.holders().find(as_advertised);
        let (host, info) = first.or_else(|| self.holders().next())?;
        let holders = match info.nar_hash {
            Some(hash) => {
                // Another caller may set it at the same moment. If it set another hash, that shows when the NAR
                // comes.
                let _ = self.advertised.set(hash);
                let same = self
                    .holders()
                    .filter(|(_, other)| other.nar_hash == info.nar_hash);
                same.map(|(host, _)| host).collect()
            }
            // Without a hash it is unknown whether other hosts have the same NAR.
            None => [host].into(),
        };
        Some(Found {
            info: info.clone(),
            to_fetch: info.clone(),
            holders,
        })
    }
}

#[cfg(test)]
mod tests;
