//! How a host is to compress what it sends, and what is sent to it.

/// When a host compresses what its shell sends, or gets compressed what is sent to it; or when clients over HTTP get it so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CompressionMode {
    /// Where that is faster than to send it as it is.
    #[default]
    Auto,
    /// Always, where the host has `zstd`.
    Zstd,
    /// Never.
    None,
}

/// When, and how hard, a host compresses what its shell sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Compression {
    /// When.
    pub mode: CompressionMode,
    /// The level for `zstd`, 1 to 19.
    pub level: u8,
}

impl Compression {
    /// The highest level whose window, and so the memory to decompress it, stays small (8 MiB).
    pub(super) const MAX_LEVEL: u8 = 19;
}

impl Default for Compression {
    fn default() -> Self {
        // zstd's own default: faster than most links, and nearly as small as what takes ten times as long.
        Self {
            mode: CompressionMode::Auto,
            level: 3,
        }
    }
}

impl CompressionMode {
    /// Reads the value of `compression`, or of `http-compression`.
    pub(in crate::config) fn parse(value: &str) -> Result<Self, &'static str> {
        match value {
            "auto" => Ok(Self::Auto),
            "zstd" => Ok(Self::Zstd),
            "none" => Ok(Self::None),
            _ => Err("auto, zstd or none"),
        }
    }
}
