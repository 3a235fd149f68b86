//! What this process knows of one path: each host's answer. Pure: the time is an argument.

use std::sync::{Arc, OnceLock};

use super::Found;
use crate::cache::Lifetimes;
use crate::model::{NarHash, PathInfo};
use crate::pool::{Holder, HostId};

/// For how many seconds at least it is remembered that a host has a path which it said so itself.
const OWN: u64 = 3600;

/// What a text takes besides its characters, in bytes: pointers, counters, what allocators round up.
const TEXT: usize = 48;

/// What an entry takes, and an info in it, in bytes.
const ENTRY: usize = 256;

/// What a host says of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Says {
    /// It has it, and this counts.
    Has(Arc<PathInfo>),
    /// It has it. Nobody has looked yet whether the signature is right.
    Untried(Arc<PathInfo>),
    /// It has it, but is not trusted with it. So it was found for callers of this number.
    Refused(u64),
    /// It lacks it.
    Lacks,
}

impl Says {
    /// What the path is, if the host has it and is not known to be refused.
    pub(super) fn info(&self) -> Option<&Arc<PathInfo>> {
        match self {
            Self::Has(info) | Self::Untried(info) => Some(info),
            Self::Refused(_) | Self::Lacks => None,
        }
    }
}

/// One host's answer.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) host: HostId,
    pub(super) says: Says,
    /// When it said so last, in seconds of Unix time.
    pub(super) checked_at: u64,
    /// An earlier process got it.
    pub(super) from_disk: bool,
}

impl Answer {
    fn is_valid(&self, lifetimes: &Lifetimes, now: u64, callers: u64) -> bool {
        match self.says {
            // A caller that was told of a path comes for it. An engine outlives its callers.
            Says::Has(_) | Says::Untried(_) => {
                let heard_here = !self.from_disk && now.abs_diff(self.checked_at) < OWN;
                heard_here || lifetimes.is_fresh(true, self.checked_at, now)
            }
            // It may have been signed since, and whoever asks now has not been told.
            Says::Refused(found_for) => found_for == callers,
            Says::Lacks => lifetimes.is_fresh(false, self.checked_at, now),
        }
    }

    /// Whether it counts without asking the host again, as far as time decides.
    pub(super) fn is_checked(&self, lifetimes: &Lifetimes, now: u64) -> bool {
        match self.says {
            Says::Has(_) | Says::Untried(_) => lifetimes.is_checked(true, self.checked_at, now),
            Says::Lacks => lifetimes.is_checked(false, self.checked_at, now),
            // What is not used need not be there.
            Says::Refused(_) => true,
        }
    }
}

/// What became of an answer when the host was asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checked {
    /// As it was.
    StillHas,
    /// As it was.
    StillLacks,
    /// It has the path by now. What that is has to be asked.
    Appeared,
    /// It has the path no longer.
    Gone,
    /// There was none, or none that this changes.
    Unknown,
}

/// All answers about a path, at most one from each host.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// In host order.
    answers: Vec<Answer>,
    /// The NAR hash that a caller was told, once for all copies of this: what is delivered later
    /// has to have it.
    told: Arc<OnceLock<NarHash>>,
}

impl Known {
    /// Takes note of an answer, which replaces what that host said before.
    pub(super) fn add(&mut self, mut answer: Answer) {
        if let Says::Has(info) | Says::Untried(info) = &mut answer.says {
            // Most hosts say the same; once is enough to keep.
            let mut others = self.answers.iter().filter_map(|other| other.says.info());
            let same = others.find(|other| *other == info).cloned();
            *info = same.unwrap_or_else(|| info.clone());
        }
        let at = self.answers.binary_search_by_key(&answer.host, |a| a.host);
        match at {
            Ok(at) => self.answers[at] = answer,
            Err(at) => self.answers.insert(at, answer),
        }
    }

    /// How many bytes all of it takes, roughly.
    pub(super) fn weight(&self) -> u32 {
        let mut infos: Vec<&Arc<PathInfo>> = Vec::new();
        for info in self.answers.iter().filter_map(|answer| answer.says.info()) {
            if !infos.iter().any(|other| Arc::ptr_eq(other, info)) {
                infos.push(info);
            }
        }
        let texts = infos.iter().flat_map(|info| {
            let paths = info.references.iter().map(|path| path.as_str().len());
            paths.chain(info.sigs.iter().map(String::len))
        });
        let texts: usize = texts.map(|len| len + TEXT).sum();
        let all = texts + ENTRY * (1 + infos.len());
        u32::try_from(all).unwrap_or(u32::MAX)
    }

    /// Takes note of hosts that are not in here and said at `now` that they have it.
    pub(super) fn add_holders(&mut self, holders: Vec<Holder>, now: u64) {
        for Holder { host, info } in holders {
            if self.of(host).is_none() {
                self.add(Answer {
                    host,
                    says: Says::Has(info),
                    checked_at: now,
                    from_disk: false,
                });
            }
        }
    }

    /// What that host said says nothing any more.
    pub(super) fn remove(&mut self, host: HostId) {
        self.answers.retain(|answer| answer.host != host);
    }

    /// The answers whose signatures nobody has looked at, in host order.
    pub(super) fn untried(&self) -> impl Iterator<Item = (HostId, &Arc<PathInfo>, bool)> {
        self.answers.iter().filter_map(|answer| match &answer.says {
            Says::Untried(info) => Some((answer.host, info, answer.from_disk)),
            _ => None,
        })
    }

    /// What has come of looking at the signature of `info`, that `host` told of; nothing when the host
    /// has said something else meanwhile. Without a verdict what it said counts for nothing.
    pub(super) fn settle(&mut self, host: HostId, info: &Arc<PathInfo>, verdict: Option<Says>) {
        let is_it = |answer: &Answer| {
            let says = &answer.says;
            answer.host == host && matches!(says, Says::Untried(other) if Arc::ptr_eq(other, info))
        };
        match verdict {
            None => self.answers.retain(|answer| !is_it(answer)),
            Some(says) => {
                if let Some(answer) = self.answers.iter_mut().find(|answer| is_it(answer)) {
                    answer.says = says;
                }
            }
        }
    }

    /// That host's answer.
    pub(super) fn of(&self, host: HostId) -> Option<&Answer> {
        self.answers.iter().find(|answer| answer.host == host)
    }

    /// All answers, in host order.
    pub(super) fn answers(&self) -> &[Answer] {
        &self.answers
    }

    /// Leaves only what is remembered at `now`, by callers of this number, tried or not.
    pub(super) fn valid(&self, lifetimes: &Lifetimes, now: u64, callers: u64) -> Self {
        self.only(|answer| answer.is_valid(lifetimes, now, callers))
    }

    /// Leaves only the answers that are picked.
    pub(super) fn only(&self, is_picked: impl Fn(&Answer) -> bool) -> Self {
        let picked = |answer: &&Answer| is_picked(answer);
        Self {
            answers: self.answers.iter().filter(picked).cloned().collect(),
            told: self.told.clone(),
        }
    }

    /// A host, asked at `now`, has the path or lacks it. What becomes of what is known of it.
    pub(super) fn checked(&mut self, host: HostId, has: bool, now: u64) -> Checked {
        let Some(answer) = self.answers.iter_mut().find(|one| one.host == host) else {
            return Checked::Unknown;
        };
        match (&answer.says, has) {
            (Says::Has(_) | Says::Untried(_), true) => {
                answer.checked_at = now;
                Checked::StillHas
            }
            (Says::Refused(_), true) => Checked::Unknown,
            (Says::Lacks, true) => {
                self.remove(host);
                Checked::Appeared
            }
            (was, false) => {
                let gone = !matches!(was, Says::Lacks);
                (answer.says, answer.checked_at) = (Says::Lacks, now);
                answer.from_disk = false;
                match gone {
                    true => Checked::Gone,
                    false => Checked::StillLacks,
                }
            }
        }
    }

    /// Hosts that have it, in order.
    pub(super) fn holders(&self) -> impl Iterator<Item = (HostId, &Arc<PathInfo>)> {
        self.answers.iter().filter_map(|answer| match &answer.says {
            Says::Has(info) => Some((answer.host, info)),
            _ => None,
        })
    }

    /// Hosts that said something.
    pub(super) fn hosts(&self) -> impl Iterator<Item = HostId> {
        self.answers.iter().map(|answer| answer.host)
    }

    /// The best host's info and all hosts that have the same NAR. A caller is told this now.
    pub(super) fn tell(&self) -> Option<Found> {
        let told = self.told.get().copied();
        let as_told =
            |(_, info): &(HostId, &Arc<PathInfo>)| told.is_some() && info.nar_hash == told;
        let first = self.holders().find(as_told);
        let (host, info) = first.or_else(|| self.holders().next())?;
        let holders = match info.nar_hash {
            Some(hash) => {
                // Somebody else may tell it at the same moment: with the same, or it is found out
                // when the NAR comes.
                let _ = self.told.set(hash);
                let same = self
                    .holders()
                    .filter(|(_, other)| other.nar_hash == info.nar_hash);
                same.map(|(host, _)| host).collect()
            }
            // Without a hash nothing says that others have the same.
            None => [host].into(),
        };
        Some(Found {
            info: info.clone(),
            holders,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::StorePath;

    fn hosts() -> [HostId; 3] {
        [0, 1, 2].map(HostId::at)
    }

    fn has(host: HostId, hash: Option<u8>) -> Answer {
        let path = StorePath::parse("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-a").unwrap();
        let info = PathInfo {
            path,
            deriver: None,
            references: Vec::new(),
            download_size: 0,
            nar_size: 0,
            nar_hash: hash.map(|byte| NarHash::new([byte; 32])),
            ca: None,
            sigs: Vec::new(),
        };
        Answer {
            host,
            says: Says::Has(Arc::new(info)),
            checked_at: 1_000,
            from_disk: false,
        }
    }

    fn told(known: &Known) -> Vec<usize> {
        let found = known.tell();
        found.map_or(Vec::new(), |found| {
            found.holders.iter().map(|host| host.index()).collect()
        })
    }

    #[test]
    fn holders_have_the_same_nar_and_the_best_decides() {
        let [a, b, c] = hosts();
        let mut known = Known::default();
        assert!(known.tell().is_none());
        for answer in [has(c, Some(1)), has(b, Some(2)), has(a, Some(1))] {
            known.add(answer);
        }
        assert_eq!(told(&known), [0, 2]);
        let mut unknown = Known::default();
        unknown.add(has(a, None));
        unknown.add(has(b, None));
        assert_eq!(told(&unknown), [0], "without a hash nothing is the same");
    }

    #[test]
    fn the_hash_that_was_told_stays() {
        let [a, b, c] = hosts();
        let mut known = Known::default();
        known.add(has(b, Some(2)));
        let copy = known.clone();
        assert_eq!(told(&copy), [1]);
        known.add(has(a, Some(1)));
        known.add(has(c, Some(2)));
        assert_eq!(told(&known), [1, 2], "although a better host has another");
        known.remove(b);
        assert_eq!(told(&known), [2]);
        known.remove(c);
        assert_eq!(told(&known), [0], "nobody has it any more");
    }

    #[test]
    fn a_refusal_is_for_those_who_were_told() {
        let [a, b, _] = hosts();
        let mut known = Known::default();
        known.add(has(a, Some(1)));
        known.add(Answer {
            says: Says::Refused(7),
            ..has(b, Some(1))
        });
        let valid = |callers| {
            let valid = known.valid(&Lifetimes::default(), 1_000, callers);
            valid.hosts().map(HostId::index).collect::<Vec<_>>()
        };
        assert_eq!(valid(7), [0, 1]);
        assert_eq!(valid(8), [0]);
    }

    #[test]
    fn what_a_host_says_again_replaces_what_it_said() {
        let [a, b, c] = hosts();
        let mut known = Known::default();
        known.add(has(a, Some(1)));
        known.add(Answer {
            says: Says::Lacks,
            ..has(b, None)
        });
        let mut says = |host, has| known.checked(host, has, 2_000);
        assert_eq!(says(a, true), Checked::StillHas);
        assert_eq!(says(b, false), Checked::StillLacks);
        assert_eq!(says(c, true), Checked::Unknown);
        assert_eq!(says(a, false), Checked::Gone);
        assert_eq!(says(b, true), Checked::Appeared);
        assert_eq!(known.of(a).map(|answer| answer.checked_at), Some(2_000));
        assert_eq!(known.hosts().collect::<Vec<_>>(), [a]);
        assert!(known.tell().is_none());
        known.add(Answer {
            says: Says::Refused(7),
            ..has(c, Some(1))
        });
        assert_eq!(known.checked(c, true, 2_000), Checked::Unknown);
        assert_eq!(known.checked(c, false, 2_000), Checked::Gone);
    }

    #[test]
    fn answers_age() {
        let [a, b, c] = hosts();
        let lifetimes = Lifetimes {
            positive: Duration::from_secs(100),
            negative: Duration::from_secs(10),
        };
        let mut known = Known::default();
        known.add(has(a, Some(1)));
        known.add(Answer {
            from_disk: true,
            ..has(b, Some(1))
        });
        known.add(Answer {
            says: Says::Lacks,
            ..has(c, None)
        });
        let valid = |now| {
            let valid = known.valid(&lifetimes, now, 0);
            valid.hosts().map(HostId::index).collect::<Vec<_>>()
        };
        assert_eq!(valid(1_009), [0, 1, 2]);
        assert_eq!(valid(1_010), [0, 1]);
        assert_eq!(valid(1_100), [0]);
        assert!(valid(1_000 + OWN).is_empty());
    }
}
