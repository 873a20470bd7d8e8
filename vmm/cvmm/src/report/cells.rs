//! What `cvmm report` is given: reports of single runs, and files of `cvmm bench`, of which a cell has many runs.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::ReportProblem;
use super::clock::Clock;
use super::runs::{Run, names};
use super::schema::RunReport;
use crate::error::Error;

/// How a file of `cvmm bench` begins, and the version of its layout that is read.
const BENCH: (&[u8], &str) = (b"{\"schema\":\"cvmm-bench/", "cvmm-bench/1");

/// Runs of the same configuration.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Different from that of every other.
    pub name: String,
    /// One at least; warm-ups and runs that failed are not among them.
    pub runs: Vec<Run>,
    /// How many runs failed.
    pub failed: usize,
}

impl Cell {
    /// Reads files.
    ///
    /// # Errors
    /// One cannot be read, or is neither a report nor a file of `cvmm bench`.
    pub fn read_all(paths: &[PathBuf]) -> Result<Vec<Cell>, Error> {
        let mut cells = Vec::new();
        for (path, name) in paths.iter().zip(names(paths)) {
            let text = std::fs::read(path).map_err(|source| Error::ReadFile {
                what: "report",
                path: path.to_owned(),
                source,
            })?;
            let fail = |problem| Error::Report { path: path.to_owned(), problem };
            if text.starts_with(BENCH.0) {
                let prefix = if paths.len() > 1 { format!("{name}: ") } else { String::new() };
                cells.extend(bench(path, &text, &prefix).map_err(fail)?);
            } else {
                let report = RunReport::parse(&text).map_err(fail)?;
                cells.push(Cell::of(Run { name, report }));
            }
        }
        Ok(cells)
    }

    /// A single run.
    pub fn of(run: Run) -> Cell {
        Cell { name: run.name.clone(), runs: vec![run], failed: 0 }
    }

    /// The run whose length is in the middle, under the cell's name.
    pub fn typical(&self) -> Option<Run> {
        let mut runs: Vec<&Run> = self.runs.iter().collect();
        runs.sort_by_key(|run| run.report.total.wall_ns);
        let run = runs.get(runs.len().saturating_sub(1) / 2)?;
        Some(Run { name: self.name.clone(), report: run.report.clone() })
    }

    /// What each run comes to, where all of them know it.
    pub fn values(&self, of: impl Fn(&RunReport) -> Option<u64>) -> Option<Vec<f64>> {
        self.runs.iter().map(|run| of(&run.report).map(|value| value as f64)).collect()
    }

    /// How long each run took.
    pub fn totals(&self, clock: Clock) -> Option<Vec<f64>> {
        self.values(|report| clock.total(report))
    }
}

/// The first line of a bench file.
#[derive(Deserialize)]
struct Header {
    schema: String,
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    cells: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// Any other line.
#[derive(Deserialize)]
struct Line {
    kind: String,
    #[serde(default)]
    cell: usize,
    #[serde(default)]
    warmup: bool,
    #[serde(default)]
    guests: Vec<Guest>,
}

#[derive(Deserialize)]
struct Guest {
    exit_code: Option<i32>,
    report: Option<Value>,
}

fn bench(path: &Path, text: &[u8], prefix: &str) -> Result<Vec<Cell>, ReportProblem> {
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let mut lines = text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let header: Header = serde_json::from_slice(lines.next().unwrap_or(text))?;
    if header.schema != BENCH.1 {
        return Err(ReportProblem::Version(header.schema));
    }
    let cell = |named: Named| Cell {
        name: format!("{prefix}{}", named.name),
        runs: Vec::new(),
        failed: 0,
    };
    let mut cells: Vec<Cell> = header.spec.cells.into_iter().map(cell).collect();
    for (at, line) in (2..).zip(lines) {
        let damaged = |error| ReportProblem::Line(at, error);
        let line: Line = serde_json::from_slice(line).map_err(damaged)?;
        let Some(cell) = cells.get_mut(line.cell).filter(|_| line.kind == "run" && !line.warmup)
        else {
            continue;
        };
        for guest in line.guests {
            match guest.report.filter(|_| guest.exit_code == Some(0)) {
                Some(report) => {
                    let report = RunReport::parse(report.to_string().as_bytes());
                    let report = report.map_err(|problem| match problem {
                        ReportProblem::Json(error) => damaged(error),
                        other => other,
                    })?;
                    let name = format!("{} #{}", cell.name, cell.runs.len() + 1);
                    cell.runs.push(Run { name, report });
                }
                None => cell.failed += 1,
            }
        }
    }
    if whole < text.len() {
        crate::say(&format!(
            "cvmm: {}: the last line is cut off; its run is left out\n",
            path.display()
        ));
    }
    cells.retain(|cell| !cell.runs.is_empty());
    if cells.is_empty() { Err(ReportProblem::NoRuns) } else { Ok(cells) }
}
