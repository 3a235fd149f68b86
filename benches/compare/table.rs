//! The table: what ours took, what the other took, and whether that is good enough.

use std::io::Write;

/// What a row is judged by.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// Ours is at most so many times the other.
    Ratio(f64),
    /// Ours is at most this. Where the figure was measured on another machine, it can only be a hint.
    Most(f64),
    /// Ours is at least this.
    Least(f64),
}

impl Goal {
    fn text(self) -> String {
        match self {
            Self::Ratio(most) if most < 0.5 => format!("<= 1/{:.0}", 1.0 / most),
            Self::Ratio(most) => format!("<= {most:.2}x"),
            Self::Most(most) => format!("<= {most:.1}"),
            Self::Least(least) => format!(">= {least:.1}"),
        }
    }

    fn is_met(self, ours: Option<f64>, other: Option<f64>) -> bool {
        match (self, ours) {
            (Self::Ratio(most), Some(ours)) => other.is_some_and(|other| ours <= most * other),
            (Self::Most(most), Some(ours)) => ours <= most,
            (Self::Least(least), Some(ours)) => ours >= least,
            (_, None) => false,
        }
    }
}

/// One line of the table. Figures are medians; `None` where something failed or was not measured.
#[derive(Default)]
pub struct Row {
    /// What was done, at which latency.
    pub name: String,
    /// Of both figures.
    pub unit: &'static str,
    pub ours: Option<f64>,
    pub other: Option<f64>,
    /// What ours stands beside.
    pub beside: &'static str,
    pub goal: Option<Goal>,
    /// Largest resident set of our process, in bytes; 0 where it was not looked at.
    pub peak: u64,
    /// What went wrong.
    pub trouble: Vec<String>,
}

impl Row {
    fn line(&self) -> String {
        let figure = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), short);
        let ratio = match (self.ours, self.other) {
            (Some(ours), Some(other)) if other > 0.0 => format!("{:.3}", ours / other),
            _ => "-".to_owned(),
        };
        let goal = self.goal.map_or_else(String::new, Goal::text);
        let met = self
            .met()
            .map_or("", |met| if met { "met" } else { "NOT MET" });
        let peak = match self.peak {
            0 => String::new(),
            bytes => format!("{:.0}", bytes as f64 / f64::from(1 << 20)),
        };
        format!(
            "{:<58} {:>5} {:>9} {:>9} {:>7}  {:<9} {:<7} {:>8}  {}",
            self.name,
            self.unit,
            figure(self.ours),
            figure(self.other),
            ratio,
            goal,
            met,
            peak,
            self.beside
        )
        .trim_end()
        .to_owned()
    }

    /// `None` where there is no goal, or nobody to compare with (and nothing went wrong).
    fn met(&self) -> Option<bool> {
        let goal = self.goal?;
        let left_out = matches!(goal, Goal::Ratio(_)) && self.other.is_none();
        if left_out && self.trouble.is_empty() {
            return None;
        }
        Some(goal.is_met(self.ours, self.other))
    }
}

fn short(value: f64) -> String {
    if value < 0.1 {
        format!("{value:.4}")
    } else if value < 100.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.0}")
    }
}

/// All rows so far.
#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Adds a row, and shows it on stderr: the table itself comes when all is measured.
    pub fn add(&mut self, row: Row) {
        tell(&row.line());
        self.rows.push(row);
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Prints the table, what went wrong, and which goals are not met.
    pub fn print(&self) {
        say(&format!(
            "{:<58} {:>5} {:>9} {:>9} {:>7}  {:<9} {:<7} {:>8}  {}",
            "medians", "unit", "ours", "other", "ratio", "goal", "", "peak MiB", "the other is"
        ));
        for row in &self.rows {
            say(&row.line());
        }
        let trouble = self.rows.iter().filter(|row| !row.trouble.is_empty());
        for row in trouble {
            for text in &row.trouble {
                say(&format!("\n{}: {text}", row.name));
            }
        }
        let judged = self.rows.iter().filter(|row| row.met().is_some()).count();
        let unmet: Vec<&Row> = self
            .rows
            .iter()
            .filter(|row| row.met() == Some(false))
            .collect();
        say(&format!(
            "\n{} of {judged} goals are met.{}",
            judged - unmet.len(),
            if unmet.is_empty() { "" } else { " Not met:" }
        ));
        for row in unmet {
            say(&format!("  {}", row.line()));
        }
    }
}

/// A line of the result.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A line about how far things are.
pub fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
