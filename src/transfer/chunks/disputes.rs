//! Which host is right when two have different bytes at the same place of a NAR. Each is asked for the digest of the
//! whole NAR as it has it now. Pure.

use std::collections::BTreeMap;

use super::window::ChannelId;
use crate::model::NarHash;
use crate::pool::HostId;

/// How often hosts that were both found right may disagree before comparing stops.
const MAX_DISPUTES: u32 = 3;

/// What is known of the content that one host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// This channel was asked.
    Asked(ChannelId),
    /// It is the one that was promised.
    Right,
    /// It is another one.
    Wrong,
    /// The host cannot tell.
    Unknown,
}

/// The disputes about one NAR.
#[derive(Debug, Default)]
pub(super) struct Disputes {
    proofs: BTreeMap<HostId, Proof>,
    /// The two that disagree.
    between: Option<[HostId; 2]>,
    disputes: u32,
}

/// How a dispute ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// These have, or have sent, something else than was promised. None: both have the right content, and what differed
    /// was damaged on its way.
    Wrong(Vec<HostId>),
    /// It cannot be found out.
    Unknown,
}

impl Disputes {
    /// Two hosts disagree.
    pub(super) fn dispute(&mut self, between: [HostId; 2]) {
        if self.between.is_none() {
            self.between = Some(between);
            self.disputes += 1;
        }
    }

    /// The hosts of the present dispute.
    pub(super) fn concerned(&self) -> Vec<HostId> {
        self.between.iter().flatten().copied().collect()
    }

    /// Whether that channel should ask its host for the digest of everything; it then counts as asked.
    pub(super) fn ask(&mut self, channel: ChannelId) -> bool {
        let concerned = self
            .between
            .is_some_and(|hosts| hosts.contains(&channel.host));
        let ask = concerned && !self.proofs.contains_key(&channel.host);
        if ask {
            self.proofs.insert(channel.host, Proof::Asked(channel));
        }
        ask
    }

    /// A channel has ended, and will not answer.
    pub(super) fn channel_ended(&mut self, channel: ChannelId) {
        for proof in self.proofs.values_mut() {
            if *proof == Proof::Asked(channel) {
                *proof = Proof::Unknown;
            }
        }
    }

    /// A host will not answer, since it has no channel any more.
    pub(super) fn give_up(&mut self, host: HostId) {
        self.proofs.entry(host).or_insert(Proof::Unknown);
    }

    /// Records the digest that a host has of the whole NAR; `None` when it cannot tell.
    pub(super) fn set_digest(&mut self, host: HostId, got: Option<NarHash>, expected: NarHash) {
        let proof = match got {
            Some(got) if got == expected => Proof::Right,
            Some(_) => Proof::Wrong,
            None => Proof::Unknown,
        };
        self.proofs.insert(host, proof);
    }

    /// The result of the present dispute, which is over then; `None` while answers are missing.
    pub(super) fn verdict(&mut self) -> Option<Verdict> {
        let between = self.between?;
        let [first, second] = between.map(|host| self.proofs.get(&host).copied());
        let (first, second) = (first?, second?);
        let asked = |proof| matches!(proof, Proof::Asked(_));
        if asked(first) || asked(second) {
            return None;
        }
        self.between = None;
        let known = |host: HostId| self.proofs.get(&host).copied();
        let is = |host: &HostId, proof| known(*host) == Some(proof);
        let one_is_right = between.iter().any(|host| is(host, Proof::Right));
        // A host that cannot tell and differs from the right content has sent something wrong.
        let wrong =
            |host: &HostId| is(host, Proof::Wrong) || (one_is_right && is(host, Proof::Unknown));
        let wrong: Vec<_> = between.into_iter().filter(wrong).collect();
        if !wrong.is_empty() || (one_is_right && self.disputes < MAX_DISPUTES) {
            return Some(Verdict::Wrong(wrong));
        }
        Some(Verdict::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: [u8; 32] = [1; 32];

    fn hosts() -> [HostId; 2] {
        [0, 1].map(HostId::at)
    }

    fn after(proofs: &mut Disputes, set_digest: [Option<[u8; 32]>; 2]) -> Option<Verdict> {
        proofs.dispute(hosts());
        for (host, got) in hosts().into_iter().zip(set_digest) {
            assert_eq!(proofs.verdict(), None);
            assert!(proofs.ask(ChannelId { host, number: 0 }));
            assert!(!proofs.ask(ChannelId { host, number: 1 }), "once");
            proofs.set_digest(host, got.map(NarHash::new), NarHash::new(EXPECTED));
        }
        proofs.verdict()
    }

    #[test]
    fn the_one_with_another_content_is_wrong() {
        let [a, b] = hosts();
        let wrong = |set_digest| match after(&mut Disputes::default(), set_digest) {
            Some(Verdict::Wrong(hosts)) => Some(hosts),
            Some(Verdict::Unknown) => None,
            None => panic!("no verdict"),
        };
        let (good, bad) = (Some(EXPECTED), Some([2; 32]));
        assert_eq!(wrong([good, bad]), Some(vec![b]));
        assert_eq!(wrong([bad, good]), Some(vec![a]));
        assert_eq!(wrong([bad, None]), Some(vec![a]));
        assert_eq!(wrong([bad, bad]), Some(vec![a, b]));
        assert_eq!(wrong([good, good]), Some(vec![]));
        assert_eq!(wrong([good, None]), Some(vec![b]));
        assert_eq!(wrong([None, None]), None);
    }

    #[test]
    fn what_goes_on_for_ever_ends() {
        let mut proofs = Disputes::default();
        assert_eq!(
            after(&mut proofs, [Some(EXPECTED); 2]),
            Some(Verdict::Wrong(vec![]))
        );
        for _ in 2..MAX_DISPUTES {
            proofs.dispute(hosts());
            assert_eq!(
                proofs.verdict(),
                Some(Verdict::Wrong(vec![])),
                "known already"
            );
        }
        proofs.dispute(hosts());
        assert_eq!(proofs.verdict(), Some(Verdict::Unknown));
        assert_eq!(proofs.verdict(), None, "over");
    }

    #[test]
    fn a_channel_that_is_gone_tells_nothing() {
        let (mut proofs, [a, b]) = (Disputes::default(), hosts());
        proofs.dispute([a, b]);
        let channel = ChannelId { host: a, number: 7 };
        assert!(proofs.ask(channel));
        proofs.channel_ended(channel);
        proofs.give_up(b);
        assert_eq!(proofs.verdict(), Some(Verdict::Unknown));
    }
}
