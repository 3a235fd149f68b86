//! Bars: columns that fit a width, lines that fit a height. No IO.
//!
//! All is ASCII but the ellipses: names of store paths and hosts are.

use super::super::stats::TransferStatus;
use super::super::text::{part, size, time};

/// Widest name and host, in characters.
const MAX_NAME_WIDTH: usize = 24;
/// Narrowest and widest bar, with its brackets, in characters.
const BAR_WIDTH: (usize, usize) = (8, 40);
/// Blanks between two columns.
const GAP: usize = 2;
/// Lines of the terminal that bars leave to the text above them.
const FREE_LINES: usize = 2;

/// The position of a full bar.
pub(in crate::progress) const STEPS: u64 = 1_000_000;

/// One line, narrower than the terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::progress) struct Line {
    /// Text, as it is, with colours.
    pub(in crate::progress) before: String,
    /// Stands between the texts, in brackets.
    pub(in crate::progress) bar: Option<Bar>,
    pub(in crate::progress) after: String,
}

/// How full a bar is, of [`STEPS`], and how wide inside its brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::progress) struct Bar {
    pub(in crate::progress) steps: u64,
    pub(in crate::progress) width: usize,
}

/// What a line is made of.
#[derive(Debug, Clone, Default)]
pub(in crate::progress) struct Row {
    name: String,
    percent: String,
    bytes: String,
    rate: String,
    left: String,
    host: String,
    /// How much of it is there, from 0 to 1, where that is known.
    share: Option<f64>,
}

impl Row {
    /// The row of a transfer, or of all, with this status.
    pub(in crate::progress) fn new(name: &str, status: &TransferStatus<'_>) -> Self {
        let TransferStatus { done, total, .. } = *status;
        let (rate, left) = match status.shown_silence() {
            Some(silence) => (format!("no data {}", time(silence)), None),
            None if status.rate < 1.0 => (String::new(), None),
            None => (
                format!("{}/s", size(status.rate as u64)),
                status.time_left(),
            ),
        };
        let bytes = part(done, total).replace(" of ", "/");
        let percent = status.percent();
        Self {
            name: name.to_owned(),
            percent: percent.map_or(String::new(), |percent| format!("{percent} %")),
            bytes,
            rate,
            left: left.map_or(String::new(), |left| format!("{} left", time(left))),
            // The line about all names no host.
            host: match status.wire {
                Some(wire) => format!("{} over the line", size(wire)),
                None => status.host.to_owned(),
            },
            share: (total > 0).then(|| (done as f64 / total as f64).min(1.0)),
        }
    }
}

/// The lines for a terminal of `(columns, rows)`: `total` first, then as many of the others, in their
/// order, as there is room for, then how many there are beside these. None is as wide as the terminal, and
/// there are at least two fewer than it has rows, or one.
pub(in crate::progress) fn lines(
    total: Option<Row>,
    mut rows: Vec<Row>,
    (columns, height): (usize, usize),
    colours: bool,
) -> Vec<Line> {
    let width = columns.saturating_sub(1);
    let room = height.saturating_sub(FREE_LINES).max(1);
    let room = room - usize::from(total.is_some());
    let mut more = 0;
    if rows.len() > room {
        // One line says how many more, if there is one for it.
        let kept = if room > 1 { room - 1 } else { room };
        more = rows.len() - kept;
        rows.truncate(kept);
    }
    let first = usize::from(total.is_some());
    rows.splice(0..0, total);
    let columns = Columns::fit(&rows, width);
    let mut lines: Vec<Line> = rows
        .iter()
        .enumerate()
        .map(|(index, row)| columns.line(row, colours, index < first))
        .collect();
    if more > 0 && room > 1 {
        lines.push(Line {
            before: cut(&format!("… and {more} more"), width),
            bar: None,
            after: String::new(),
        });
    }
    lines
}

/// How wide each column is; 0 leaves it out.
#[derive(Debug, Default)]
struct Columns {
    name: usize,
    percent: usize,
    bytes: usize,
    rate: usize,
    left: usize,
    host: usize,
    bar: usize,
}

impl Columns {
    /// The most useful column comes first: which path, how far, how fast, how much, how long, from
    /// where; and a bar where all that leaves room.
    fn fit(rows: &[Row], width: usize) -> Self {
        let widest = |cell: fn(&Row) -> &str| rows.iter().map(|row| chars(cell(row))).max();
        let widest = |cell| widest(cell).unwrap_or(0);
        let (name, host) = (widest(|row| &row.name), widest(|row| &row.host));
        let (percent, bytes) = (widest(|row| &row.percent), widest(|row| &row.bytes));
        let mut columns = Self::default();
        let mut room = FreeWidth(width);
        room.grow(&mut columns.name, name.min(8));
        columns.percent = room.column(percent);
        columns.rate = room.column(widest(|row| &row.rate));
        room.grow(&mut columns.name, name.min(12));
        // The numbers say what the percentage says.
        let mut instead =
            FreeWidth(room.0 + GAP * usize::from(columns.percent > 0) + columns.percent);
        columns.bytes = instead.column(bytes);
        if columns.bytes > 0 {
            columns.percent = 0;
            room = instead;
        }
        columns.left = room.column(widest(|row| &row.left));
        room.grow(&mut columns.name, name.min(14));
        columns.host = room.column(host.min(12));
        if rows.iter().any(|row| row.share.is_some()) {
            columns.bar = room.column(BAR_WIDTH.0);
        }
        room.grow(&mut columns.name, name.min(MAX_NAME_WIDTH));
        if columns.bar > 0 {
            room.grow(&mut columns.bar, BAR_WIDTH.1 / 3);
        }
        if columns.host > 0 {
            room.grow(&mut columns.host, host.min(MAX_NAME_WIDTH));
        }
        if columns.bar > 0 {
            room.grow(&mut columns.bar, BAR_WIDTH.1);
        }
        columns
    }

    fn line(&self, row: &Row, colours: bool, is_total: bool) -> Line {
        let name = format!("{:<1$}", cut(&row.name, self.name), self.name);
        let mut before = match (colours, is_total) {
            (true, true) => format!("\x1b[1m{name}\x1b[m"),
            _ => name,
        };
        let mut bar = None;
        if self.bar > 0 {
            before.push_str(&" ".repeat(GAP));
            match row.share {
                None => before.push_str(&" ".repeat(self.bar)),
                Some(share) => {
                    bar = Some(Bar {
                        steps: (share * STEPS as f64) as u64,
                        width: self.bar.saturating_sub(2),
                    });
                }
            }
        }
        let mut after = String::new();
        for (text, width) in [
            (&row.percent, self.percent),
            (&row.bytes, self.bytes),
            (&row.rate, self.rate),
            (&row.left, self.left),
        ] {
            if width > 0 {
                after.push_str(&format!("{:gap$}{text:>width$}", "", gap = GAP));
            }
        }
        if self.host > 0 {
            after.push_str(&" ".repeat(GAP));
            after.push_str(&cut(&row.host, self.host));
        }
        Line { before, bar, after }
    }
}

/// Columns of the terminal that are not taken yet.
struct FreeWidth(usize);

impl FreeWidth {
    /// A new column, or 0 if there is no room for all of it.
    fn column(&mut self, width: usize) -> usize {
        if width == 0 || self.0 < width + GAP {
            return 0;
        }
        self.0 -= width + GAP;
        width
    }

    /// Makes one wider, up to `width`, as far as there is room.
    fn grow(&mut self, column: &mut usize, width: usize) {
        let more = width.saturating_sub(*column).min(self.0);
        *column += more;
        self.0 -= more;
    }
}

fn chars(text: &str) -> usize {
    text.chars().count()
}

/// At most `max` characters, the last an ellipsis when some are missing.
fn cut(text: &str, max: usize) -> String {
    if chars(text) <= max {
        return text.to_owned();
    }
    let kept = text.chars().take(max.saturating_sub(1));
    kept.chain((max > 0).then_some('…')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const MIB: u64 = 1 << 20;

    fn row(name: &str, done: u64, total: u64, host: &str) -> Row {
        Row::new(
            name,
            &TransferStatus {
                direction: "from",
                done: done * MIB,
                total: total * MIB,
                host,
                rate: 24.0 * MIB as f64,
                silence: Duration::ZERO,
                wire: None,
            },
        )
    }

    /// Lines as they look, but for what is in the brackets.
    fn looks(lines: Vec<Line>) -> Vec<String> {
        let look = |line: Line| {
            let bar = line.bar.map_or(0, |bar| bar.width);
            let bar = line
                .bar
                .map_or(String::new(), |_| format!("[{}]", "-".repeat(bar)));
            let look = line.before + &bar + &line.after;
            look.trim_end().to_owned()
        };
        lines.into_iter().map(look).collect()
    }

    fn total() -> Option<Row> {
        Some(row("12 of 40 paths", 1000, 4000, ""))
    }

    fn three() -> Vec<Row> {
        vec![
            row("gcc-14.2.0", 120, 400, "build1"),
            row(
                "texlive-2024-a-name-that-is-long",
                1,
                2048,
                "nix@build2.example.org",
            ),
            row("unknown", 7, 0, "build1"),
        ]
    }

    #[test]
    fn what_matters_most_stays_when_it_gets_narrow() {
        let at = |columns| looks(lines(total(), three(), (columns, 24), false));
        assert_eq!(
            at(110),
            [
                "12 of 40 paths            [----------------]      1.0/3.9 GiB  24.0 MiB/s  2 min left",
                "gcc-14.2.0                [----------------]  120.0/400.0 MiB  24.0 MiB/s   12 s left  build1",
                "texlive-2024-a-name-tha…  [----------------]      0.0/2.0 GiB  24.0 MiB/s   85 s left  nix@build2.example.org",
                "unknown                                               7.0 MiB  24.0 MiB/s              build1",
            ]
        );
        assert_eq!(
            at(80),
            [
                "12 of 40 paths  [------]      1.0/3.9 GiB  24.0 MiB/s  2 min left",
                "gcc-14.2.0      [------]  120.0/400.0 MiB  24.0 MiB/s   12 s left  build1",
                "texlive-2024-…  [------]      0.0/2.0 GiB  24.0 MiB/s   85 s left  nix@build2.…",
                "unknown                           7.0 MiB  24.0 MiB/s              build1",
            ]
        );
        assert_eq!(
            at(40),
            [
                "12 of 40 paths         25 %  24.0 MiB/s",
                "gcc-14.2.0             30 %  24.0 MiB/s",
                "texlive-2024-a-name-…   0 %  24.0 MiB/s",
                "unknown                      24.0 MiB/s",
            ]
        );
        assert_eq!(
            at(20),
            [
                "12 of 40 pat…  25 %",
                "gcc-14.2.0     30 %",
                "texlive-2024…   0 %",
                "unknown",
            ]
        );
    }

    #[test]
    fn no_line_is_as_wide_as_the_terminal_and_some_rows_stay_free() {
        for columns in 1..=200 {
            for height in 1..=12 {
                let many: Vec<Row> = three().into_iter().cycle().take(9).collect();
                for total in [total(), None] {
                    let lines = lines(total.clone(), many.clone(), (columns, height), false);
                    let lines = looks(lines);
                    assert!(lines.len() <= height.saturating_sub(2).max(1));
                    let widest = lines.iter().map(|line| chars(line)).max();
                    assert!(widest < Some(columns.max(1)), "{columns}: {lines:#?}");
                    if columns <= 20 {
                        continue;
                    }
                    let bars = lines.iter().filter(|line| !line.starts_with('…')).count();
                    let bars = bars - usize::from(total.is_some());
                    let said = lines.last().filter(|line| line.starts_with('…'));
                    if let Some(said) = said {
                        assert_eq!(*said, format!("… and {} more", 9 - bars));
                    } else if height > 3 + usize::from(total.is_some()) {
                        assert_eq!(bars, 9, "{lines:#?}");
                    }
                }
            }
        }
    }

    #[test]
    fn colours_add_no_width() {
        let at = |colours| looks(lines(total(), three(), (90, 24), colours));
        let (plain, coloured) = (at(false), at(true));
        let mut without = coloured.join("\n");
        for sequence in ["\x1b[1m", "\x1b[m"] {
            assert!(without.contains(sequence));
            without = without.replace(sequence, "");
        }
        assert_eq!(without, plain.join("\n"));
    }
}
