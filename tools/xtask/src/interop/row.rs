//! One line of the table.

use std::fmt::Write;

use serde::Serialize;

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As on real hardware.
    Passed,
    /// Not, and nobody knew.
    Failed,
    /// Not, for a reason that is listed.
    Expected,
    /// It says itself that it does not apply.
    #[allow(dead_code, reason = "QEMU has no such test; suites of tests do")]
    Skipped,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Expected => "expected",
            Self::Skipped => "skipped",
        }
    }
}

/// What one witness, or one test of it, said.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Witness and test: `qemu/tdx`.
    pub name: String,
    /// Of the program that was run.
    pub version: String,
    /// How it ended.
    #[serde(rename = "result")]
    pub outcome: Outcome,
    /// Why, where it did not pass; else what was seen.
    pub reason: String,
}

impl Row {
    /// A row.
    pub fn new(name: &str, version: &str, outcome: Outcome, reason: impl Into<String>) -> Self {
        Self { name: name.to_owned(), version: version.to_owned(), outcome, reason: reason.into() }
    }
}

/// The rows under each other; a reason of several lines is told by its first, and whole when it is news.
pub fn table(rows: &[Row]) -> String {
    let width = |of: fn(&Row) -> usize| rows.iter().map(of).max().unwrap_or_default();
    let (name, version) = (width(|row| row.name.len()), width(|row| row.version.len()));
    let mut text = String::new();
    for row in rows {
        let mut lines = row.reason.lines();
        let first = lines.next().unwrap_or_default();
        let word = row.outcome.word();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:name$}  {:version$}  {word:8}  {first}", row.name, row.version);
        if row.outcome == Outcome::Failed {
            lines.for_each(|line| {
                let _ = writeln!(text, "    {line}");
            });
        }
    }
    text
}
