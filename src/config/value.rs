//! Values as nix.conf spells them.

/// A boolean: `true`, `yes`, `1`, `false`, `no`, `0` (Nix, `BaseSetting<bool>::parse`, knows no
/// other letter case).
pub(super) fn parse_bool(value: &str) -> Option<bool> {
    match value {
        "true" | "yes" | "1" => Some(true),
        "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// What [`parse_bool`] takes, for messages.
pub(super) const BOOLEAN: &str = "true, false, yes, no, 1 or 0";

/// Cuts a string from outside to a length that fits into a message. Messages quote it with `{:?}`, which also
/// escapes control characters.
pub(super) fn printable(text: &str) -> Box<str> {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn booleans() {
        for (values, meaning) in [
            (["true", "yes", "1"], Some(true)),
            (["false", "no", "0"], Some(false)),
            (["True", "", "on"], None),
        ] {
            for value in values {
                assert_eq!(super::parse_bool(value), meaning, "{value}");
            }
        }
    }
}
