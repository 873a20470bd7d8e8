//! One line of `cvmm check`: what was looked at, what was found, what is needed, and what to do about it.

use serde::Serialize;

/// What a finding means for a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// A guest cannot run without it.
    Missing,
    /// Guests run, but worse than they could.
    Advice,
    /// It cannot be seen from here.
    Unknown,
}

impl Verdict {
    /// The word in tables.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Missing => "missing",
            Verdict::Advice => "advice",
            Verdict::Unknown => "unknown",
        }
    }
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub subject: &'static str,
    /// What it is.
    pub found: String,
    /// What it has to be.
    pub needed: String,
    /// What that means.
    pub verdict: Verdict,
    /// The one command or setting that changes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
    /// The line above whose cure comes first: this one may then be right by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follows: Option<&'static str>,
}

impl Finding {
    /// All is well.
    pub fn ok(subject: &'static str, found: impl Into<String>, needed: &str) -> Finding {
        let (found, needed) = (found.into(), needed.to_owned());
        Finding { subject, found, needed, verdict: Verdict::Ok, cure: None, follows: None }
    }

    /// A guest cannot run.
    pub fn missing(
        subject: &'static str,
        found: impl Into<String>,
        needed: &str,
        cure: impl Into<String>,
    ) -> Finding {
        Finding::ok(subject, found, needed).judged(Verdict::Missing, cure)
    }

    /// It could be better.
    pub fn advice(
        subject: &'static str,
        found: impl Into<String>,
        needed: &str,
        cure: impl Into<String>,
    ) -> Finding {
        Finding::ok(subject, found, needed).judged(Verdict::Advice, cure)
    }

    /// Nobody knows; `cure` says how to find out.
    pub fn unknown(
        subject: &'static str,
        found: impl Into<String>,
        needed: &str,
        cure: impl Into<String>,
    ) -> Finding {
        Finding::ok(subject, found, needed).judged(Verdict::Unknown, cure)
    }

    fn judged(self, verdict: Verdict, cure: impl Into<String>) -> Finding {
        Finding { verdict, cure: Some(cure.into()), ..self }
    }

    /// Whatever is missing here is missing because of another line, if that is given.
    pub fn after(self, root: Option<&'static str>) -> Finding {
        match root {
            Some(root) if self.verdict == Verdict::Missing => {
                Finding { cure: None, follows: Some(root), ..self }
            }
            _ => self,
        }
    }

    /// Its subject, if it is missing: what follows from it names that.
    pub fn root(&self) -> Option<&'static str> {
        self.is_missing().then_some(self.subject)
    }

    /// Can no guest run because of it?
    pub fn is_missing(&self) -> bool {
        self.verdict == Verdict::Missing
    }
}
