//! The findings as a table for people.

use std::fmt::Write;

use super::finding::{Finding, Verdict};
use super::{CheckReport, Group};

/// What is needed stands below what was found where that is longer.
const WIDTH: usize = 48;

/// The table: a group for the host, then one for each technology, which ends with whether it is ready.
pub fn render(report: &CheckReport) -> String {
    let mut out = String::new();
    let findings = || report.groups.iter().flat_map(|group| &group.findings);
    let subject = findings().map(|f| f.subject.len()).max().unwrap_or(0);
    let found = findings().map(|f| f.found.chars().count()).filter(|len| *len <= WIDTH);
    let found = found.max().unwrap_or(0).max("found".len());
    let _ = writeln!(out, "{:9}{:subject$}  {:found$}  needed", "", "", "found");
    for Group { name, findings, .. } in &report.groups {
        let _ = writeln!(out, "{name}");
        for finding in findings {
            row(&mut out, finding, subject, found);
        }
    }
    for group in &report.groups {
        let Some(ready) = group.ready else { continue };
        let _ = match ready {
            true => writeln!(out, "{}: ready", group.name),
            false => writeln!(out, "{}: not ready: {}", group.name, report.why_not(group)),
        };
    }
    out
}

fn row(out: &mut String, finding: &Finding, subject: usize, found: usize) {
    let Finding { subject: name, found: is, needed, verdict, cure, follows } = finding;
    let indent = subject + 11;
    let beside = if is.chars().count() <= found { needed } else { "" };
    let line = format!("{:<8} {name:subject$}  {is:found$}  {beside}", verdict.name());
    let _ = writeln!(out, "{}", line.trim_end());
    if beside.is_empty() {
        let _ = writeln!(out, "{:width$}{needed}", "", width = indent + found + 2);
    }
    match (cure, follows) {
        (Some(cure), _) if *verdict != Verdict::Ok => {
            let _ = writeln!(out, "{:indent$}try: {cure}", "");
        }
        (None, Some(root)) => {
            let _ = writeln!(out, "{:indent$}follows from: {root}", "");
        }
        _ => {}
    }
}
