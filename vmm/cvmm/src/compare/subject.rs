//! What is compared: a run as its report tells it, or a cell with all of its runs.

use std::path::Path;

use serde_json::Value;

use crate::bench::journal::{self, BEGINNING};
use crate::bench::result::Results;
use crate::error::Error;
use crate::figures::{self, Figure};
use crate::report::RunReport;
use crate::stats::Sample;

/// One of them.
#[derive(Debug)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// How many runs it has.
    pub runs: usize,
    /// Is the guest's time a profile's?
    pub modelled: bool,
    /// The profile.
    pub profile: Option<String>,
    /// Its costs that nobody has measured.
    pub placeholder_costs: Vec<String>,
    /// What it is: names and values.
    pub facts: Vec<(String, String)>,
    /// Its figures. The value of a [`Figure`] means nothing here.
    pub figures: Vec<(Figure, Sample)>,
    /// How much the same cell differs from itself, by figure.
    noise: Vec<(String, f64)>,
}

impl Subject {
    /// How much of a difference this host makes by itself, if that is known.
    pub fn noise_floor(&self, figure: &str) -> Option<f64> {
        self.noise.iter().find(|(id, _)| id == figure).map(|(_, floor)| *floor)
    }
}

/// All of a file.
#[derive(Debug)]
pub struct File {
    /// Of `cvmm bench`, and not a report?
    pub is_bench: bool,
    /// What it holds.
    pub subjects: Vec<Subject>,
}

/// Reads a file.
///
/// # Errors
/// It is neither a report nor a file of runs, or of another version, or has no run that ended well.
pub fn read(path: &Path) -> Result<File, Error> {
    let text = std::fs::read(path).map_err(|source| Error::ReadFile {
        what: "report",
        path: path.to_owned(),
        source,
    })?;
    if text.starts_with(BEGINNING.as_bytes()) {
        return bench(path);
    }
    // For its complaint about what is none.
    RunReport::read(path)?;
    let report: Value = serde_json::from_slice(&text).unwrap_or_default();
    let single = |figure: Figure| Sample::new(vec![figure.value]).map(|sample| (figure, sample));
    let figures = figures::of(&report).into_iter().filter_map(single).collect();
    let subject = subject(path.display().to_string(), 1, &report, figures, Vec::new());
    Ok(File { is_bench: false, subjects: vec![subject] })
}

fn bench(path: &Path) -> Result<File, Error> {
    let contents = journal::read(path)?;
    let results = Results::of(&contents);
    let mut subjects = Vec::new();
    for (at, cell) in results.cells.iter().enumerate() {
        if contents.header.spec.cells.get(at).is_some_and(|cell| cell.again) {
            continue;
        }
        let mut good = contents.runs.iter().filter(|run| run.slot.cell == at && run.passed());
        let Some(report) = good.find_map(|run| run.guests.first()?.report.clone()) else {
            continue;
        };
        let figures = cell.figures.iter().filter_map(|of| {
            let figure = Figure {
                id: of.id.clone(),
                label: of.label.clone(),
                clock: of.clock,
                unit: of.unit.clone(),
                value: 0.0,
            };
            Some((figure, cell.sample(&of.id)?.clone()))
        });
        let noise = results
            .comparisons
            .iter()
            .filter_map(|comparison| Some((comparison.figure.clone(), comparison.noise_floor?)))
            .collect();
        let runs = cell.runs - cell.failures.len();
        subjects.push(subject(cell.name.clone(), runs, &report, figures.collect(), noise));
    }
    if subjects.is_empty() {
        return Err(Error::Input {
            what: "bench file",
            path: path.to_owned(),
            problem: "no run in it ended well".into(),
            cure: "go on with the experiment, or look at its failures with --show".into(),
        });
    }
    Ok(File { is_bench: true, subjects })
}

fn subject(
    name: String,
    runs: usize,
    report: &Value,
    figures: Vec<(Figure, Sample)>,
    noise: Vec<(String, f64)>,
) -> Subject {
    let platform = &report["platform"];
    let text = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut facts = vec![
        ("cvmm".to_owned(), text(&report["cvmm_version"])),
        ("technology".to_owned(), text(&report["technology"])),
        ("platform".to_owned(), text(&platform["kind"])),
        ("profile".to_owned(), text(&platform["profile"])),
        ("launch digest".to_owned(), text(&report["digest"])),
        ("outcome".to_owned(), text(&report["outcome"]["kind"])),
    ];
    let guest = report["guest"].as_object().into_iter().flatten();
    facts.extend(guest.map(|(name, value)| (name.replace('_', " "), text(value))));
    let costs = platform["placeholder_costs"].as_array().into_iter().flatten();
    Subject {
        name,
        runs,
        modelled: platform["guest_time"] == "modelled",
        profile: platform["profile"].as_str().map(str::to_owned),
        placeholder_costs: costs.filter_map(|cost| cost.as_str().map(str::to_owned)).collect(),
        facts,
        figures,
        noise,
    }
}
