//! The body of a reply: as it comes, or one frame of zstd's; never more than was asked for.

use crate::remote::inflater::Inflater;
use crate::wire::WireError;
use crate::wire::serve::extension::max_frame_len;

/// How long a body has to be, in bytes, once it is decompressed.
#[derive(Clone, Copy)]
pub(super) enum Length {
    Exactly(u64),
    AtMost(u64),
}

impl Length {
    fn max(self) -> u64 {
        match self {
            Self::Exactly(len) | Self::AtMost(len) => len,
        }
    }
}

/// The body of a reply, as it comes.
pub(super) struct Body {
    length: Length,
    out: Vec<u8>,
    /// How many bytes were given out before `out`.
    taken: u64,
    /// Bytes that came, compressed or not.
    wire_len: u64,
    /// How many of these were told of with what was given out.
    told: u64,
    inflater: Option<Inflater>,
}

impl Body {
    pub(super) fn new(length: Length, level: u8) -> Self {
        Self {
            length,
            out: Vec::new(),
            taken: 0,
            wire_len: 0,
            told: 0,
            inflater: (level > 0).then(Inflater::default),
        }
    }

    /// How much of it has come, decompressed, in bytes.
    pub(super) fn len(&self) -> u64 {
        self.taken + self.out.len() as u64
    }

    /// Whether something has come that was not given out.
    pub(super) fn has_more(&self) -> bool {
        !self.out.is_empty()
    }

    /// Gives out what has come of it since this was called last, and how many bytes came for that.
    pub(super) fn take(&mut self) -> (Vec<u8>, u64) {
        self.taken = self.len();
        let wire_len = self.wire_len - self.told;
        self.told = self.wire_len;
        (std::mem::take(&mut self.out), wire_len)
    }

    /// How many bytes came for it.
    pub(super) fn wire_len(&self) -> u64 {
        self.wire_len
    }

    /// Takes what came.
    ///
    /// # Errors
    /// When it is more than was asked for, or no frame of zstd's.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let max = self.length.max();
        let too_long = || WireError::new("body of a reply", format!("{max} bytes"), "more");
        if let Length::Exactly(len) = self.length
            && self.out.capacity() == 0
        {
            self.out
                .reserve_exact(usize::try_from(len).unwrap_or_default());
        }
        self.wire_len += bytes.len() as u64;
        let taken = self.taken;
        let fits = |out: &Vec<u8>, more: &[u8]| taken + (out.len() + more.len()) as u64 <= max;
        let Some(inflater) = &mut self.inflater else {
            if !fits(&self.out, bytes) {
                return Err(too_long());
            }
            self.out.extend_from_slice(bytes);
            return Ok(());
        };
        if self.wire_len > max_frame_len(max) {
            let want = format!("a frame of at most {} bytes", max_frame_len(max));
            return Err(WireError::new("body of a reply", want, "more"));
        }
        let (out, mut is_too_long) = (&mut self.out, false);
        let used = inflater.step(bytes, |more| {
            is_too_long = !fits(out, more);
            if !is_too_long {
                out.extend_from_slice(more);
            }
            !is_too_long
        });
        let one_frame = |got: String| WireError::new("body of a reply", "a frame of zstd's", got);
        match used {
            _ if is_too_long => Err(too_long()),
            Ok(used) if used == bytes.len() => Ok(()),
            Ok(_) => Err(one_frame("more behind it".to_owned())),
            Err(error) => Err(one_frame(error.to_string())),
        }
    }

    /// All of it that was not given out.
    ///
    /// # Errors
    /// When it is less than was asked for.
    pub(super) fn finish(self) -> Result<Vec<u8>, WireError> {
        let len = self.len();
        if self.inflater.is_some_and(|inflater| !inflater.has_ended()) {
            let want = "a whole frame of zstd's";
            return Err(WireError::new("body of a reply", want, "a cut one"));
        }
        match self.length {
            Length::Exactly(want) if len != want => {
                let want = format!("{want} bytes");
                Err(WireError::new("body of a reply", want, len))
            }
            _ => Ok(self.out),
        }
    }
}
