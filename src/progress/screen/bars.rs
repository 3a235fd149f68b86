//! Bars on the terminal, drawn by indicatif: which there are and how wide is this program's concern, cursors and bars are
//! indicatif's.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::bar_layout::{Line, STEPS};
use super::terminal::Terminal;

/// Begin and end of synchronized output (DEC private mode 2026): terminals that know it never show half of
/// what is drawn; others skip it.
const BEGIN_SYNC: &str = "\x1b[?2026h";
const END_SYNC: &str = "\x1b[?2026l";

/// How often indicatif may draw by itself, after the first 20 times: as seldom as it allows. [`Bars::show`] draws all
/// bars at once when all have changed.
const DRAWS_PER_SECOND: u8 = 1;

#[derive(Debug)]
pub(in crate::progress) struct Bars {
    all: MultiProgress,
    /// One for each line.
    bars: Vec<ProgressBar>,
    lines: Vec<Line>,
    /// Columns and rows of the terminal that they were made for.
    size: (usize, usize),
    colours: bool,
    write: fn(&str),
}

impl Bars {
    /// Without bars yet, on the terminal that `write` writes to, if that moves its cursor.
    pub(in crate::progress) fn new(moves: bool, colours: bool, write: fn(&str)) -> Self {
        let target = match moves {
            true => ProgressDrawTarget::term_like_with_hz(
                Box::new(Terminal::new(write)),
                DRAWS_PER_SECOND,
            ),
            false => ProgressDrawTarget::hidden(),
        };
        Self::on(target, colours, write)
    }

    fn on(target: ProgressDrawTarget, colours: bool, write: fn(&str)) -> Self {
        Self {
            all: MultiProgress::with_draw_target(target),
            bars: Vec::new(),
            lines: Vec::new(),
            size: (0, 0),
            colours,
            write,
        }
    }

    pub(in crate::progress) fn is_empty(&self) -> bool {
        self.bars.is_empty()
    }

    /// Shows these in place of what was shown before, on a terminal of that size.
    pub(in crate::progress) fn show(&mut self, lines: Vec<Line>, size: (usize, usize)) {
        if self.lines == lines && self.size == size {
            return;
        }
        (self.write)(BEGIN_SYNC);
        if self.size != size {
            // Broken into more lines, what is there would be drawn along with what comes.
            self.remove_all();
            self.size = size;
        }
        for bar in self.bars.drain(lines.len().min(self.bars.len())..) {
            self.all.remove(&bar);
        }
        self.lines.truncate(lines.len());
        for (index, line) in lines.iter().enumerate() {
            if self.lines.get(index) == Some(line) {
                continue;
            }
            if index == self.bars.len() {
                let hidden = ProgressDrawTarget::hidden();
                let bar = ProgressBar::with_draw_target(Some(STEPS), hidden);
                self.bars.push(self.all.add(bar));
            }
            if let Some(bar) = self.bars.get(index) {
                bar.set_style(style(line, self.colours));
                bar.update(|state| state.set_pos(line.bar.map_or(0, |bar| bar.steps)));
            }
        }
        self.lines = lines;
        match self.bars.first() {
            Some(bar) => bar.force_draw(),
            // Errors of stderr are ignored, here and below: there is nowhere else to report them.
            None => drop(self.all.clear()),
        }
        (self.write)(END_SYNC);
    }

    /// Writes a line with its end, with the bars out of its way. They come again below it, unless the terminal, now
    /// of that size, has changed: then they come with the next [`show`](Self::show).
    pub(in crate::progress) fn write_above(&mut self, line: &str, size: (usize, usize)) {
        (self.write)(BEGIN_SYNC);
        if self.size != size {
            self.remove_all();
        }
        // `suspend` does the same, but panics when it can't: a terminal that is gone must not end a transfer.
        match self.all.clear() {
            Ok(()) => self.all.suspend(|| (self.write)(line)),
            Err(_) => (self.write)(line),
        }
        (self.write)(END_SYNC);
    }

    fn remove_all(&mut self) {
        for bar in self.bars.drain(..) {
            self.all.remove(&bar);
        }
        self.lines.clear();
        let _ = self.all.clear();
    }
}

/// A line as a template: its texts, and between them the bar.
fn style(line: &Line, colours: bool) -> ProgressStyle {
    let literal = |text: &str| text.replace('{', "{{").replace('}', "}}");
    let (before, after) = (literal(&line.before), literal(&line.after));
    let template = match (line.bar, colours) {
        (None, _) => before + &after,
        (Some(bar), true) => format!("{before}[\x1b[32m{{bar:{}}}\x1b[m]{after}", bar.width),
        (Some(bar), false) => format!("{before}[{{bar:{}}}]{after}", bar.width),
    };
    // Texts whose braces are doubled make no template wrong.
    ProgressStyle::with_template(&template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use std::io::Result;
    use std::sync::Arc;

    use indicatif::TermLike;

    use super::super::bar_layout::Bar;
    use super::*;

    /// A terminal of 40 columns that notes what is written, and `<` for each line that is cleared.
    #[derive(Debug, Clone, Default)]
    struct Terminal(Arc<Mutex<String>>);

    impl Terminal {
        fn take(&self) -> String {
            std::mem::take(&mut *self.0.lock())
        }
    }

    impl TermLike for Terminal {
        fn width(&self) -> u16 {
            40
        }

        fn height(&self) -> u16 {
            10
        }

        fn move_cursor_up(&self, _: usize) -> Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> Result<()> {
            self.write_str(text)
        }

        fn write_str(&self, text: &str) -> Result<()> {
            self.0.lock().push_str(text);
            Ok(())
        }

        fn clear_line(&self) -> Result<()> {
            self.write_str("<")
        }

        fn flush(&self) -> Result<()> {
            Ok(())
        }
    }

    fn line(before: &str, steps: u64, after: &str) -> Line {
        Line {
            before: before.to_owned(),
            bar: Some(Bar { steps, width: 10 }),
            after: after.to_owned(),
        }
    }

    fn on(terminal: &Terminal, colours: bool) -> Bars {
        let target =
            ProgressDrawTarget::term_like_with_hz(Box::new(terminal.clone()), DRAWS_PER_SECOND);
        Bars::on(target, colours, |_| ())
    }

    /// The last drawing of one bar.
    fn drawn(colours: bool, line: Line) -> String {
        let terminal = Terminal::default();
        let mut bars = on(&terminal, colours);
        bars.show(vec![line], (40, 10));
        let all = terminal.take();
        let last = all.rsplit('<').next().unwrap();
        last.trim_end().to_owned()
    }

    #[test]
    fn a_bar_is_full_only_at_the_end() {
        for (steps, shown) in [
            (0, "[          ]"),
            (1, "[>         ]"),
            (STEPS / 2, "[=====>    ]"),
            (STEPS - 1, "[=========>]"),
            (STEPS, "[==========]"),
        ] {
            assert_eq!(drawn(false, line("", steps, "")), shown);
        }
        let coloured = "a [\x1b[32m=====>    \x1b[m] b";
        assert_eq!(drawn(true, line("a ", STEPS / 2, " b")), coloured);
    }

    #[test]
    fn what_looks_like_a_template_is_text() {
        let text = "{bar} {} }{ {{pos}} {msg:!}";
        let mut line = line(text, 0, "");
        line.bar = None;
        assert_eq!(drawn(false, line), text);
    }

    #[test]
    fn there_are_as_many_as_there_are_lines() {
        let terminal = Terminal::default();
        let mut bars = on(&terminal, false);
        let lines = |names: &[&str]| names.iter().map(|name| line(name, 0, "")).collect();
        bars.show(lines(&["one", "two", "three"]), (40, 10));
        assert_eq!(bars.bars.len(), 3);
        terminal.take();
        bars.show(lines(&["two", "three"]), (40, 10));
        let shown = terminal.take();
        let last = shown.rsplit('<').next().unwrap();
        assert!(
            last.starts_with("two[") && last.contains("three["),
            "{shown}"
        );
        assert_eq!(last.len(), 2 * 40);
        // The same once more is not drawn.
        bars.show(lines(&["two", "three"]), (40, 10));
        assert_eq!(terminal.take(), "");
        bars.show(Vec::new(), (0, 0));
        assert_eq!(terminal.take(), "<<");
        assert!(bars.is_empty());
    }
}
