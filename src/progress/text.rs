//! What numbers, times and names look like. No IO.

use std::borrow::Cow;
use std::time::Duration;

const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/// Makes text from elsewhere harmless to a terminal: control characters (and with them escape
/// sequences and line breaks), and the invisible ones that change the direction or the order of
/// what is shown, become `\u{…}`.
#[must_use]
pub fn sanitize(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        if is_harmful(char) {
            shown.extend(char.escape_default());
        } else {
            shown.push(char);
        }
    }
    Cow::Owned(shown)
}

/// Longest line that is shown, in bytes. Honest ones are far shorter.
pub const LONGEST: usize = 8000;

/// [`sanitize`]d text that fits into one line; what does not ends with `…`.
#[must_use]
pub fn fit(text: &str) -> Cow<'_, str> {
    let shown = sanitize(text);
    if shown.len() <= LONGEST {
        return shown;
    }
    let mut end = LONGEST;
    while !shown.is_char_boundary(end) {
        end -= 1;
    }
    Cow::Owned(format!("{}…", &shown[..end]))
}

fn is_harmful(char: char) -> bool {
    // `is_control` covers C0, DEL and C1; then come bidirectional marks, embeddings, overrides
    // and isolates, the line and paragraph separators, and the byte order mark.
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A number of bytes: `17 B`, `1.5 KiB`, `400.0 MiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    let unit = unit(bytes);
    format!("{} {}", scaled(bytes, unit), UNITS[unit])
}

/// How much of how much, in the unit of the whole: `120.0 of 400.0 MiB`. Only how much when the
/// whole is not known (0). As long as something is missing, it is less than the whole as written, too.
#[must_use]
pub fn part(done: u64, total: u64) -> String {
    if total == 0 {
        return size(done);
    }
    let unit = unit(total);
    let done = match unit {
        1.. if done < total => {
            let tenths = |bytes: u64| bytes as f64 * 10.0 / 1024f64.powi(unit as i32);
            let shown = tenths(done).round().min(tenths(total).round() - 1.0);
            format!("{:.1}", shown / 10.0)
        }
        _ => scaled(done, unit),
    };
    format!("{done} of {} {}", scaled(total, unit), UNITS[unit])
}

/// The unit in which so many bytes are written with at most four digits before the point.
fn unit(bytes: u64) -> usize {
    let (mut unit, mut rest) = (0, bytes as f64);
    // 1023.95 would be rounded to 1024.0.
    while rest >= 1023.95 && unit + 1 < UNITS.len() {
        rest /= 1024.0;
        unit += 1;
    }
    unit
}

fn scaled(bytes: u64, unit: usize) -> String {
    match unit {
        0 => bytes.to_string(),
        _ => format!("{:.1}", bytes as f64 / 1024f64.powi(unit as i32)),
    }
}

/// A duration: `12 s`, `5 min`, `2 h 10 min`.
#[must_use]
pub fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    let minutes = seconds.saturating_add(30) / 60;
    match (seconds, minutes) {
        (..120, _) => format!("{seconds} s"),
        (_, ..120) => format!("{minutes} min"),
        (_, ..6000) => format!("{} h {} min", minutes / 60, minutes % 60),
        _ => "more than 100 h".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_digit_after_the_point_and_never_1024_before_it() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_524, "1023.9 KiB"),
            (1_048_525, "1.0 MiB"),
            (400 << 20, "400.0 MiB"),
            (5 << 40, "5.0 TiB"),
            (u64::MAX, "16384.0 PiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(part(120 << 20, 400 << 20), "120.0 of 400.0 MiB");
        assert_eq!(part(100, 400 << 20), "0.0 of 400.0 MiB");
        assert_eq!(part(7, 9), "7 of 9 B");
        assert_eq!(part(1536, 0), "1.5 KiB");
    }

    #[test]
    fn what_is_not_complete_does_not_look_so() {
        // 14.13 MiB, of which some bytes are missing.
        let total = 14_816_379;
        for missing in [1, 1000, 30_000] {
            assert_eq!(part(total - missing, total), "14.0 of 14.1 MiB");
        }
        assert_eq!(part(total, total), "14.1 of 14.1 MiB");
        assert_eq!(part(1023, 1024), "0.9 of 1.0 KiB");
        assert_eq!(part(1000 << 20, 4000 << 20), "1.0 of 3.9 GiB");
        assert_eq!(part(0, 1 << 30), "0.0 of 1.0 GiB");
    }

    #[test]
    fn times_get_coarser() {
        let cases = [
            (0.4, "0 s"),
            (119.4, "119 s"),
            (119.6, "2 min"),
            (301.0, "5 min"),
            (7199.0, "2 h 0 min"),
            (7800.0, "2 h 10 min"),
            (1e9, "more than 100 h"),
        ];
        for (seconds, text) in cases {
            assert_eq!(time(Duration::from_secs_f64(seconds)), text);
        }
        assert_eq!(time(Duration::MAX), "more than 100 h");
    }

    #[test]
    fn lines_have_an_end() {
        assert!(matches!(fit("as it is"), Cow::Borrowed(_)));
        let long = fit(&"é".repeat(LONGEST)).into_owned();
        assert_eq!(long.len(), LONGEST + '…'.len_utf8());
        assert!(long.ends_with("é…"));
        // What is escaped counts as it is shown.
        assert!(fit(&"\u{202e}".repeat(LONGEST / 2)).len() <= LONGEST + 3);
    }

    #[test]
    fn sanitized_text_cannot_move_a_cursor() {
        assert!(matches!(
            sanitize("gcc-14 — ünïcode ✓ \\"),
            Cow::Borrowed(_)
        ));
        assert_eq!(sanitize("a\x1b[2J\x07b"), "a\\u{1b}[2J\\u{7}b");
        assert_eq!(sanitize("a\r\nb\tc\x7f"), "a\\r\\nb\\tc\\u{7f}");
        // C1: CSI as one character.
        assert_eq!(sanitize("\u{9b}31m"), "\\u{9b}31m");
        assert_eq!(sanitize("x\u{202e}cod.exe"), "x\\u{202e}cod.exe");
        for char in (0..=0x9f).filter_map(char::from_u32) {
            let text = char.to_string();
            assert!(!sanitize(&text).chars().any(char::is_control));
        }
    }
}
