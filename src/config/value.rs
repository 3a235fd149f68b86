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

/// A number of bytes, with the unit prefixes that Nix knows for its numbers.
pub(super) fn parse_bytes(text: &str) -> Result<u64, &'static str> {
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, 'K')) => (&text[..at], 10),
        Some((at, 'M')) => (&text[..at], 20),
        Some((at, 'G')) => (&text[..at], 30),
        Some((at, 'T')) => (&text[..at], 40),
        _ => (text, 0),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err("a number of bytes, with K, M, G or T behind it if wanted");
    }
    let number: u64 = digits.parse().unwrap_or(u64::MAX);
    Ok(number.saturating_mul(1 << shift))
}

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
