//! Which files come as patches, and in which parts. Pure.

/// The smallest file, in bytes, that comes as a patch over any line where each is a process at the host, and where none is.
const PATCH_MIN: u64 = 16 << 10;
const PATCH_MIN_CHEAP: u64 = 4 << 10;

/// The smallest file, in bytes, that comes as a patch over the fastest line.
const PATCH_MIN_MAX: u64 = 256 << 10;

/// The largest one, on either side, where only whole files do. At the host `zstd` holds about both files (192 MiB for two
/// of 88 MiB, seen with zstd 1.5.4), and so does this side.
pub(super) const PATCH_MAX: u64 = 128 << 20;

/// How many bytes of a file come as one patch where parts do, and how many of the other file they are made against: what
/// stands in about the same place, so much as this side may hold.
pub(super) const PART_LEN: u64 = 24 << 20;
pub(super) const BASE_PART_LEN: u64 = 40 << 20;

/// Which files come as patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patching {
    /// The size in bytes from which they do, within limits.
    pub(super) min: u64,
    /// Large ones in parts, and small ones cost no process.
    pub(super) in_parts: bool,
}

impl Patching {
    /// Whether a file of `size` bytes comes as a patch against one of `base_size`.
    pub(super) fn suits(self, size: u64, base_size: u64) -> bool {
        let (least, most) = match self.in_parts {
            true => (PATCH_MIN_CHEAP, u64::MAX),
            false => (PATCH_MIN, PATCH_MAX),
        };
        let sizes = self.min.clamp(least, PATCH_MIN_MAX)..=most;
        sizes.contains(&size) && (1..=most).contains(&base_size)
    }

    /// The parts that a file of `size` bytes comes in, and what they are made against of one of `base_size`: offsets and
    /// lengths.
    pub(super) fn parts(self, size: u64, base_size: u64) -> Vec<((u64, u64), (u64, u64))> {
        if !self.in_parts {
            return vec![((0, size), (0, base_size))];
        }
        let part = |start: u64| {
            let (len, base_len) = (PART_LEN.min(size - start), BASE_PART_LEN.min(base_size));
            let middle = u128::from(start + len / 2) * u128::from(base_size) / u128::from(size);
            let middle = u64::try_from(middle).unwrap_or(base_size);
            let from = middle
                .saturating_sub(base_len / 2)
                .min(base_size - base_len);
            ((start, len), (from, base_len))
        };
        let starts = (0..size.div_ceil(PART_LEN)).map(|number| number * PART_LEN);
        starts.map(part).collect()
    }
}
