//! Several runs as one table for a terminal: a row for each phase and count, a column for each run.

use std::fmt::Write;

use super::clock::Clock;
use super::number::ms;
use super::runs::Run;
use super::schema::{Phase, RunReport};

const LABEL: usize = 48;

/// The table.
pub fn render(runs: &[Run]) -> String {
    let mut out = String::new();
    let width = runs.iter().map(|run| run.name.chars().count() + 2).max().unwrap_or(0).max(16);
    for run in runs {
        let _ = writeln!(out, "{}, {}", run.describe(), run.size());
        for note in run.warning().map(str::to_owned).into_iter().chain(run.placeholder_note()) {
            let _ = writeln!(out, "    {note}");
        }
    }
    for clock in Clock::ALL {
        if runs.iter().any(|run| clock.known(&run.report)) {
            times(&mut out, runs, width, clock);
        }
    }
    counts(&mut out, runs, width);
    out
}

fn head(out: &mut String, runs: &[Run], width: usize, what: &str) {
    let _ = write!(out, "\n{what:<LABEL$}");
    for run in runs {
        let _ = write!(out, "{:>width$}", run.name);
    }
    out.push('\n');
}

fn times(out: &mut String, runs: &[Run], width: usize, clock: Clock) {
    head(out, runs, width, &format!("{} ms", clock.name()));
    let of = |run: &Run, id: &str| find(&run.report, id).and_then(|phase| clock.phase(phase));
    for id in phase_ids(runs) {
        let values: Vec<Option<u64>> = runs.iter().map(|run| of(run, id)).collect();
        if values.iter().all(Option::is_none) {
            continue;
        }
        let name = runs.iter().find_map(|run| find(&run.report, id)).map_or("", |p| &p.name);
        let _ = write!(out, "{:<LABEL$}", format!("{id:<4}{name}"));
        cells(out, width, &values);
    }
    let _ = write!(out, "{:<LABEL$}", "    total");
    let totals: Vec<Option<u64>> = runs.iter().map(|run| clock.total(&run.report)).collect();
    cells(out, width, &totals);
}

fn cells(out: &mut String, width: usize, values: &[Option<u64>]) {
    for value in values {
        let _ = write!(out, "{:>width$}", value.map_or_else(|| "-".to_owned(), ms));
    }
    out.push('\n');
}

fn find<'a>(report: &'a RunReport, id: &str) -> Option<&'a Phase> {
    report.phases.iter().find(|phase| phase.id == id)
}

fn counts(out: &mut String, runs: &[Run], width: usize) {
    head(out, runs, width, "counts");
    for (name, values) in count_rows(runs) {
        let _ = write!(out, "{name:<LABEL$}");
        for value in values {
            let _ = write!(out, "{value:>width$}");
        }
        out.push('\n');
    }
}

/// What is counted, of each run.
pub fn count_rows(runs: &[Run]) -> Vec<(String, Vec<u64>)> {
    type Pick = fn(&RunReport) -> u64;
    const ROWS: [(&str, Pick); 8] = [
        ("launch pages", |r| r.launch.pages),
        ("register pages of vCPUs", |r| r.launch.vmsa_pages),
        ("requests to make pages private", |r| r.page_state_changes.to_private_requests),
        ("pages made private", |r| r.page_state_changes.to_private_pages),
        ("requests to share pages", |r| r.page_state_changes.to_shared_requests),
        ("pages shared", |r| r.page_state_changes.to_shared_pages),
        ("requests refused", |r| r.page_state_changes.refused_requests),
        ("exits to the monitor", |r| r.exits.total),
    ];
    let all = |pick: &dyn Fn(&RunReport) -> u64| runs.iter().map(|r| pick(&r.report)).collect();
    let mut rows: Vec<(String, Vec<u64>)> =
        ROWS.iter().map(|(name, pick)| ((*name).to_owned(), all(pick))).collect();
    for reason in reasons(runs) {
        let count = |report: &RunReport| {
            let found = report.exits.by_reason.iter().find(|r| r.reason == reason);
            found.map_or(0, |r| r.count)
        };
        rows.push((format!("exits: {}", reason.replace('_', " ")), all(&count)));
    }
    rows
}

/// Every reason that a run has.
fn reasons(runs: &[Run]) -> Vec<&str> {
    let mut reasons: Vec<&str> = Vec::new();
    for reason in runs.iter().flat_map(|run| &run.report.exits.by_reason) {
        if !reasons.contains(&reason.reason.as_str()) {
            reasons.push(&reason.reason);
        }
    }
    reasons
}

/// Ids of phases in the order in which the runs have them.
pub fn phase_ids(runs: &[Run]) -> Vec<&str> {
    let mut ids: Vec<&str> = Vec::new();
    for run in runs {
        let mut at = 0;
        for phase in &run.report.phases {
            match ids.iter().position(|id| *id == phase.id) {
                Some(known) => at = known + 1,
                None => {
                    ids.insert(at.min(ids.len()), &phase.id);
                    at += 1;
                }
            }
        }
    }
    ids
}
