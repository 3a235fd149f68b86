//! What is found, and how it is shown.

use serde_json::{Value, json};

use crate::commands::format::{counted, shorten};
use crate::report::Parts;

/// How many characters of one text are shown.
const MAX_TEXT_CHARS: usize = 2000;

/// How many lines of the stderr of ssh or a remote are shown.
const MAX_OUTPUT_LINES: usize = 12;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// Good to know; nothing has to be done.
    Note,
    /// Something does not do all that it could.
    Warning,
    /// Something does not work.
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing that was checked.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    level: Level,
    /// What part of the set-up.
    area: &'static str,
    /// Which host or path, where there are several.
    about: String,
    text: String,
    fix: Option<String>,
    /// A command that shows the same.
    see: Option<String>,
    /// The stderr of ssh or a remote.
    said: Vec<String>,
}

impl Finding {
    fn new(level: Level, area: &'static str, text: impl Into<String>) -> Self {
        Self {
            level,
            area,
            about: String::new(),
            text: text.into(),
            fix: None,
            see: None,
            said: Vec::new(),
        }
    }

    pub(super) fn ok(area: &'static str, text: impl Into<String>) -> Self {
        Self::new(Level::Ok, area, text)
    }

    pub(super) fn note(area: &'static str, text: impl Into<String>) -> Self {
        Self::new(Level::Note, area, text)
    }

    pub(super) fn warning(
        area: &'static str,
        text: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let fix = Some(fix.into());
        Self {
            fix,
            ..Self::new(Level::Warning, area, text)
        }
    }

    pub(super) fn error(
        area: &'static str,
        text: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Error,
            ..Self::warning(area, text, fix)
        }
    }

    /// An error that the program meets elsewhere too, with the hint that it has there; `otherwise` is
    /// the fix where it has none.
    pub(super) fn of(level: Level, area: &'static str, parts: Parts, otherwise: &str) -> Self {
        let fix = parts.hint.unwrap_or_else(|| otherwise.to_owned());
        Self {
            fix: Some(fix),
            said: parts.remote_output,
            ..Self::new(level, area, parts.message)
        }
    }

    /// About this host or path. A text that begins with its name need not repeat it.
    pub(super) fn about(mut self, name: &str) -> Self {
        if let Some(rest) = self.text.strip_prefix(&format!("{name}: ")) {
            self.text = rest.to_owned();
        }
        name.clone_into(&mut self.about);
        self
    }

    pub(super) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    pub(super) fn see(mut self, command: String) -> Self {
        self.see = Some(command);
        self
    }

    fn title(&self) -> String {
        match &*self.about {
            "" => self.area.to_owned(),
            about => format!("{} {}", self.area, shorten(about, MAX_TEXT_CHARS)),
        }
    }

    fn show(&self, text: &mut String) {
        let mut line = |label: &str, words: &str| {
            text.push_str(&format!(
                "  {label:<8} {}\n",
                shorten(words, MAX_TEXT_CHARS)
            ));
        };
        line(self.level.name(), &self.text);
        // The text may quote it.
        for said in self.said.iter().take(MAX_OUTPUT_LINES) {
            if !self.text.contains(&**said) {
                line("", &format!("it said: {said}"));
            }
        }
        if let Some(fix) = &self.fix {
            line("", &format!("fix: {fix}"));
        }
        if let Some(command) = &self.see {
            line("", &format!("see for yourself: {command}"));
        }
    }

    fn json(&self) -> Value {
        json!({
            "level": self.level.name(),
            "area": self.area,
            "about": self.about,
            "text": self.text,
            "fix": self.fix,
            "command": self.see,
            "said": self.said,
        })
    }
}

/// All of them.
pub(super) struct Findings(pub(super) Vec<Finding>);

impl Findings {
    pub(super) fn all_is_well(&self) -> bool {
        self.0.iter().all(|finding| finding.level < Level::Warning)
    }

    fn count(&self, level: Level) -> u64 {
        let of_level = self.0.iter().filter(|finding| finding.level == level);
        of_level.count() as u64
    }

    /// For people; what belongs together stands together.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut title = None;
        for finding in &self.0 {
            let its_title = Some(finding.title());
            if title != its_title {
                if title.is_some() {
                    text.push('\n');
                }
                text.push_str(&format!("{}\n", its_title.as_deref().unwrap_or_default()));
                title = its_title;
            }
            finding.show(&mut text);
        }
        let counts = [(Level::Error, "error"), (Level::Warning, "warning")];
        let counts = counts.map(|(level, word)| (self.count(level), word));
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        let counts: Vec<String> = counts.map(|(count, word)| counted(*count, word)).collect();
        text.push_str(&match counts[..] {
            [] => "\nAll is well.\n".to_owned(),
            _ => format!("\n{}.\n", counts.join(", ")),
        });
        text
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "well": self.all_is_well(),
            "errors": self.count(Level::Error),
            "warnings": self.count(Level::Warning),
            "findings": self.0.iter().map(Finding::json).collect::<Value>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_stand_below_what_they_are_about_and_carry_no_escapes() {
        let parts = Parts {
            message: "h: is \x1b[1mdown".to_owned(),
            hint: None,
            remote_output: vec!["Bad\nluck".to_owned()],
        };
        let findings = Findings(vec![
            Finding::ok("Configuration", "fine"),
            Finding::of(Level::Error, "Host", parts, "try")
                .about("h")
                .see("ssh h".to_owned()),
            Finding::note("Host", "slow").about("h"),
        ]);
        assert_eq!(
            findings.text(),
            "Configuration
  ok       fine

Host h
  error    is \\u{1b}[1mdown
           it said: Bad\\nluck
           fix: try
           see for yourself: ssh h
  note     slow

1 error.
"
        );
        assert!(!findings.all_is_well());
        assert_eq!(findings.json()["findings"][1]["about"], "h");
        assert!(Findings(vec![Finding::note("Host", "slow")]).all_is_well());
    }
}
