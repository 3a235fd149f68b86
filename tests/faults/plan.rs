//! What is to go wrong, where, and how the suite tells it to the relays: one small file for each fault.

use std::fmt;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The remote nix-store is killed (SIGKILL).
    Kill,
    /// The remote nix-store is frozen (SIGSTOP): the link is up and silent.
    Stop,
    /// sshd is killed: all connections are cut, new ones refused.
    Sshd,
    /// The TCP connection is cut, at a random byte.
    Cut,
    /// One bit is wrong.
    Flip,
    /// The reply ends early, as if all were well.
    Truncate,
    /// A text comes in between (before the magic: what a shell's start-up file prints).
    Banner,
    /// Bytes are replaced by others.
    Garbage,
    /// The bytes come in drops.
    Slow,
    /// The path is collected between its info and its dump.
    Gc,
}

impl Kind {
    pub const ALL: [Self; 10] = [
        Self::Kill,
        Self::Stop,
        Self::Sshd,
        Self::Cut,
        Self::Flip,
        Self::Truncate,
        Self::Banner,
        Self::Garbage,
        Self::Slow,
        Self::Gc,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9 of nix-store",
            Self::Stop => "nix-store frozen",
            Self::Sshd => "sshd killed",
            Self::Cut => "connection cut",
            Self::Flip => "flipped bit",
            Self::Truncate => "truncated reply",
            Self::Banner => "text in between",
            Self::Garbage => "garbage",
            Self::Slow => "slow host",
            Self::Gc => "path collected",
        }
    }

    /// Whether what comes looks like content, so that only the hash at the end shows it.
    fn corrupts(self) -> bool {
        matches!(self, Self::Flip | Self::Banner | Self::Garbage)
    }
}

/// The message in which it goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum When {
    /// Magic and version.
    Handshake,
    /// The answer to a question about paths.
    Query,
    /// A NAR that is verified before its first byte is passed on.
    Small,
    /// A NAR that is passed on as it comes.
    Large,
}

impl When {
    pub const ALL: [Self; 4] = [Self::Handshake, Self::Query, Self::Small, Self::Large];
}

/// The place in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    First,
    Middle,
    Last,
}

impl Place {
    pub const ALL: [Self; 3] = [Self::First, Self::Middle, Self::Last];
}

/// NARs larger than this are [`When::Large`]: the program passes them on while they come.
pub const LARGE: u64 = 8 << 20;

/// A cell of the matrix.
pub type Cell = (Kind, When, Place);

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: Kind,
    pub when: When,
    pub place: Place,
    /// How many such messages are let through first, over all connections to the host.
    pub skip: usize,
    /// Decides what else there is to decide.
    pub random: u64,
    /// The NAR that is hit, again and again. Without one it is the next of its size, once.
    pub path: Option<String>,
}

impl Fault {
    /// Whether wrong bytes may have been passed on before anything could show that they are wrong: then no other host can
    /// save the path.
    pub fn spoils(&self) -> bool {
        self.kind.corrupts() && self.when == When::Large && self.place == Place::Middle
    }

    /// Which byte of a message of `len` bytes it hits.
    pub fn offset(&self, len: u64) -> u64 {
        let random = self.random >> 8;
        match self.place {
            // What is printed before the magic, or instead of it.
            Place::First if matches!(self.kind, Kind::Banner | Kind::Garbage) => 0,
            Place::First => random % len.clamp(1, 8),
            Place::Middle => len / 4 + random % (len / 2).max(1),
            Place::Last => len.saturating_sub(1 + random % len.clamp(1, 8)),
        }
    }

    pub fn parse(line: &str) -> Self {
        let mut words = line.split_whitespace();
        let mut word = || words.next().expect("a word of a plan");
        let kind = word();
        let when = word();
        let place = word();
        Self {
            kind: find(&Kind::ALL, kind),
            when: find(&When::ALL, when),
            place: find(&Place::ALL, place),
            skip: word().parse().expect("a number"),
            random: word().parse().expect("a number"),
            path: Some(word()).filter(|path| *path != "-").map(str::to_owned),
        }
    }
}

fn find<T: Copy + fmt::Debug>(all: &[T], name: &str) -> T {
    let found = all.iter().find(|one| format!("{one:?}") == name);
    *found.unwrap_or_else(|| panic!("{name} is none of {all:?}"))
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.as_deref().unwrap_or("-");
        write!(
            f,
            "{:?} {:?} {:?} {} {} {path}",
            self.kind, self.when, self.place, self.skip, self.random
        )
    }
}
