//! Ranges of bytes (RFC 9110, section 14): Nix goes on with a download that broke off.

/// What part of a body is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Range {
    /// All of it.
    Whole,
    /// So many bytes, at least one, from an offset on.
    Part {
        /// Offset of the first one.
        start: u64,
        /// How many.
        len: u64,
    },
    /// Nothing that it has.
    Unsatisfiable,
}

impl Range {
    /// What the value of a Range header means for a body of `size` bytes. What is no single range of bytes asks for all of it,
    /// as if it was not there.
    pub(super) fn parse(value: &str, size: u64) -> Self {
        let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
            // Larger numbers than there are mean the end.
            true if !text.is_empty() => Some(text.parse().unwrap_or(u64::MAX)),
            _ => None,
        };
        let range = value
            .split_once('=')
            .filter(|(unit, _)| unit.trim().eq_ignore_ascii_case("bytes"))
            .and_then(|(_, range)| range.trim().split_once('-'));
        let Some((first, last)) = range else {
            return Self::Whole;
        };
        let (start, end) = match (number(first), number(last)) {
            (None, Some(count)) if first.is_empty() => (size.saturating_sub(count), size),
            (Some(start), None) if last.is_empty() => (start, size),
            (Some(start), Some(last)) if start <= last => (start, last.saturating_add(1).min(size)),
            _ => return Self::Whole,
        };
        match end.checked_sub(start) {
            None | Some(0) => Self::Unsatisfiable,
            Some(len) => Self::Part { start, len },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_ranges_are_understood() {
        let part = |start, len| Range::Part { start, len };
        for (value, range) in [
            ("bytes=0-", part(0, 100)),
            ("bytes=10-", part(10, 90)),
            ("bytes=10-19", part(10, 10)),
            ("Bytes = 99-99", part(99, 1)),
            ("bytes=10-1000", part(10, 90)),
            ("bytes=10-99999999999999999999999", part(10, 90)),
            ("bytes=-10", part(90, 10)),
            ("bytes=-1000", part(0, 100)),
            ("bytes=100-", Range::Unsatisfiable),
            ("bytes=-0", Range::Unsatisfiable),
            ("bytes=99999999999999999999999-", Range::Unsatisfiable),
        ] {
            assert_eq!(Range::parse(value, 100), range, "{value}");
        }
    }

    #[test]
    fn what_is_none_asks_for_everything() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=20-10",
            "lines=1-2",
            "bytes=0-1,3-4",
            "bytes=+1-",
        ] {
            assert_eq!(Range::parse(value, 100), Range::Whole, "{value}");
        }
    }
}
