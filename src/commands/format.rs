//! Tables, durations and counts for people.

use std::time::Duration;

use crate::progress::sanitize;
use crate::progress::text::{size, time};
use crate::transfer::HostTraffic;

/// Rows of cells as a table, two blanks between columns; cells are sanitized.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| sanitize(cell).into_owned()).collect())
        .collect();
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// How bytes came: `2.0 MiB as they are, 40.0 MiB compressed (9.1 MiB over the line)`; `None` where all came as they are.
pub(super) fn ways(traffic: &HostTraffic) -> Option<String> {
    let ways = [
        ("as they are", traffic.raw),
        ("compressed", traffic.compressed),
        ("as differences", traffic.differences),
    ];
    if ways[1..].iter().all(|(_, way)| way.nar_bytes == 0) {
        return None;
    }
    let came = ways.iter().filter(|(_, way)| way.nar_bytes > 0);
    let came = came.map(|(words, way)| {
        let (nar, wire) = (size(way.nar_bytes), size(way.wire_bytes));
        match way.nar_bytes == way.wire_bytes {
            true => format!("{nar} {words}"),
            false => format!("{nar} {words} ({wire} over the line)"),
        }
    });
    Some(came.collect::<Vec<_>>().join(", "))
}

/// A short time: `0.4 ms`, `12 ms`, `1.2 s`.
pub(super) fn short_time(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    match ms {
        ..10.0 => format!("{ms:.1} ms"),
        ..1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1000.0),
    }
}

/// A time in seconds: `12 s`, `2 h 10 min`, `3 days`.
pub(super) fn long_time(seconds: u64) -> String {
    if seconds >= 2 * 24 * 3600 {
        return format!("{} days", seconds / (24 * 3600));
    }
    time(Duration::from_secs(seconds))
}

/// `1 answer`, `3 answers`, `1,234,567 answers`.
pub(super) fn counted(count: u64, word: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{} {word}{s}", grouped(count))
}

/// The verb for so many.
pub(super) fn are(count: u64) -> &'static str {
    if count == 1 { "is" } else { "are" }
}

/// `3 paths`; `2 of 3 paths` where some are missing.
pub(super) fn counted_of(done: usize, missing: usize) -> String {
    let all = (done + missing) as u64;
    match missing {
        0 => counted(all, "path"),
        _ => format!("{} of {}", grouped(done as u64), counted(all, "path")),
    }
}

/// `1,234,567`
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The first `max` characters of a text, sanitized.
pub(super) fn shorten(text: &str, max: usize) -> String {
    let short: String = text.trim().chars().take(max).collect();
    sanitize(&short).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other_and_carry_no_escapes() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let text = table(&[
            row(["a", "b"]),
            row(["hôst", "\x1b[31mx\ny"]),
            row(["c", ""]),
        ]);
        assert_eq!(text, "a     b\nhôst  \\u{1b}[31mx\\ny\nc\n");
    }

    #[test]
    fn numbers_and_times_are_for_people() {
        assert_eq!(counted(1, "answer"), "1 answer");
        assert_eq!(counted(0, "answer"), "0 answers");
        assert_eq!((are(1), are(2)), ("is", "are"));
        assert_eq!(counted_of(1, 0), "1 path");
        assert_eq!(counted_of(0, 1), "0 of 1 path");
        assert_eq!(counted_of(1, 1), "1 of 2 paths");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(123), "123");
        assert_eq!(short_time(Duration::from_micros(380)), "0.4 ms");
        assert_eq!(short_time(Duration::from_millis(12)), "12 ms");
        assert_eq!(short_time(Duration::from_millis(1234)), "1.2 s");
        assert_eq!(long_time(40), "40 s");
        assert_eq!(long_time(3 * 24 * 3600), "3 days");
        assert_eq!(shorten(" a\x07bcd", 3), "a\\u{7}b");
    }
}
