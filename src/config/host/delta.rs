//! Whether paths are fetched from a host as differences.

/// When paths are fetched from a host as differences from what is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DeltaMode {
    /// Where that is faster than to fetch them whole.
    #[default]
    Auto,
    /// Wherever the host and this machine can, also over a fast line.
    Always,
    /// Never.
    Off,
}

impl DeltaMode {
    /// Reads the value of `delta`.
    pub(super) fn parse(value: &str) -> Result<Self, &'static str> {
        match value {
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "off" => Ok(Self::Off),
            _ => Err("auto, always or off"),
        }
    }
}
