//! What the runs of a file come to: a summary of every figure of every cell, and how cells differ.
//!
//! It depends on the file alone, and not on the order of its runs: whoever was killed and went on gets what he would have got.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::cell::Cell;
use super::goal::{GoalResult, goals};
use super::host::Host;
use super::journal::{Contents, Run};
use super::key::Key;
use super::line::{LineResult, lines};
use crate::compare::verdict::{Comparison, Side, adjust};
use crate::figures::{self, Clock, Figure};
use crate::stats::{Sample, Summary};

/// The version of `--json`'s layout: changes when a reader would break.
pub const SCHEMA: &str = "cvmm-bench-result/1";

/// Everything.
#[derive(Debug, Serialize)]
pub struct Results {
    /// The version of the layout.
    pub schema: &'static str,
    /// The experiment.
    pub name: String,
    /// What it is for.
    pub about: String,
    /// Its identity.
    pub fingerprint: String,
    /// Where it ran.
    pub hosts: Vec<Host>,
    /// Runs that are yet to be done.
    pub missing: u64,
    /// The cells, as the spec has them.
    pub cells: Vec<CellResult>,
    /// The figures that cells are compared by.
    pub compared: Vec<String>,
    /// Cells against each other.
    pub comparisons: Vec<Comparison>,
    /// Straight lines through cells.
    pub lines: Vec<LineResult>,
    /// Where goals stand.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub goals: Vec<GoalResult>,
}

/// A cell.
#[derive(Debug, Serialize)]
pub struct CellResult {
    /// Its name.
    pub name: String,
    /// What it is.
    pub settings: BTreeMap<Key, String>,
    /// Runs that count.
    pub runs: usize,
    /// Runs that were for warming up.
    pub warmups: usize,
    /// Why runs failed; those have no figures.
    pub failures: Vec<String>,
    /// `kvm` or `softkvm`.
    pub platform: String,
    /// softkvm's profile.
    pub profile: Option<String>,
    /// Is the guest's time the profile's?
    pub modelled: bool,
    /// The profile's costs that nobody has measured.
    pub placeholder_costs: Vec<String>,
    /// Every figure that its reports have.
    pub figures: Vec<FigureResult>,
    #[serde(skip)]
    samples: BTreeMap<String, Sample>,
}

/// A figure of a cell.
#[derive(Debug, Serialize)]
pub struct FigureResult {
    /// Its name.
    pub id: String,
    /// What it is.
    pub label: String,
    /// Its clock.
    pub clock: Clock,
    /// Its unit.
    pub unit: String,
    /// Its values.
    #[serde(flatten)]
    pub summary: Summary,
}

impl CellResult {
    /// A figure.
    pub fn figure(&self, id: &str) -> Option<&FigureResult> {
        self.figures.iter().find(|figure| figure.id == id)
    }

    /// The values behind it.
    pub fn sample(&self, id: &str) -> Option<&Sample> {
        self.samples.get(id)
    }

    fn of(at: usize, cell: &Cell, runs: &[Run]) -> CellResult {
        let ours: Vec<&Run> = runs.iter().filter(|run| run.slot.cell == at).collect();
        let counted = || ours.iter().filter(|run| !run.slot.warmup);
        let good: Vec<&&Run> = counted().filter(|run| run.passed()).collect();
        let report = good.first().and_then(|run| run.guests.first()?.report.as_ref());
        let platform =
            |field: &str| report.and_then(|r| r["platform"][field].as_str()).map(str::to_owned);
        let placeholders =
            report.and_then(|report| report["platform"]["placeholder_costs"].as_array());
        let mut result = CellResult {
            name: cell.name.clone(),
            settings: cell.settings.clone(),
            runs: counted().count(),
            warmups: ours.len() - counted().count(),
            failures: counted().filter_map(|run| run.failure()).collect(),
            platform: platform("kind").unwrap_or_default(),
            profile: platform("profile"),
            modelled: platform("guest_time").as_deref() == Some("modelled"),
            placeholder_costs: placeholders
                .into_iter()
                .flatten()
                .filter_map(|cost| cost.as_str().map(str::to_owned))
                .collect(),
            figures: Vec::new(),
            samples: BTreeMap::new(),
        };
        result.summarise(&good);
        result
    }

    fn summarise(&mut self, good: &[&&Run]) {
        let concurrent = self.settings.contains_key(&Key::Concurrent);
        let per_run: Vec<Vec<Figure>> = good.iter().map(|run| of_run(run, concurrent)).collect();
        let mut seen = BTreeSet::new();
        for figure in per_run.iter().flatten() {
            if !seen.insert(&figure.id) {
                continue;
            }
            // What a report does not mention did not happen in its run.
            let absent = (figure.clock == Clock::Counted).then_some(0.0);
            let value = |run: &Vec<Figure>| {
                run.iter().find(|other| other.id == figure.id).map(|f| f.value).or(absent)
            };
            let Some(sample) = Sample::new(per_run.iter().filter_map(value).collect()) else {
                continue;
            };
            self.figures.push(FigureResult {
                id: figure.id.clone(),
                label: figure.label.clone(),
                clock: figure.clock,
                unit: figure.unit.clone(),
                summary: Summary::of(&sample),
            });
            self.samples.insert(figure.id.clone(), sample);
        }
    }
}

/// The figures of a run: of several guests the median, and of the last of them its total. `concurrent` says whether the cell's
/// setting is there at all.
fn of_run(run: &Run, concurrent: bool) -> Vec<Figure> {
    let reports = run.guests.iter().filter_map(|guest| guest.report.as_ref());
    let mut each: Vec<Vec<Figure>> = reports.map(figures::of).collect();
    if !concurrent {
        return each.pop().unwrap_or_default();
    }
    let mut all = Vec::new();
    let mut seen = BTreeSet::new();
    for figure in each.iter().flatten() {
        if !seen.insert(&figure.id) {
            continue;
        }
        let same = each.iter().flatten().filter(|other| other.id == figure.id);
        let Some(sample) = Sample::new(same.map(|other| other.value).collect()) else { continue };
        if let Some(clock) = figure.id.strip_prefix("total/").filter(|_| figure.label == "total") {
            let label = "total of the last guest".to_owned();
            let id = format!("last/{clock}");
            all.push(Figure { id, label, value: sample.quantile(1.0), ..figure.clone() });
        }
        all.push(Figure { value: sample.median(), ..figure.clone() });
    }
    all
}

/// So many cells are compared with all others; more of them only with those that differ in one setting.
const ALL_PAIRS: usize = 4;

impl Results {
    /// Of a file.
    pub fn of(contents: &Contents) -> Results {
        let spec = &contents.header.spec;
        let cells: Vec<CellResult> = spec
            .cells
            .iter()
            .enumerate()
            .map(|(at, cell)| CellResult::of(at, cell, &contents.runs))
            .collect();
        let compared = compared(&spec.compare, &cells);
        let done: BTreeSet<_> = contents.runs.iter().map(|run| run.slot).collect();
        let mut hosts = vec![contents.header.host.clone()];
        for host in &contents.hosts {
            if !hosts.contains(host) {
                hosts.push(host.clone());
            }
        }
        Results {
            schema: SCHEMA,
            name: spec.name.clone(),
            about: spec.about.clone(),
            fingerprint: contents.header.fingerprint.clone(),
            hosts,
            missing: (u64::from(spec.warmup) + u64::from(spec.repetitions))
                .saturating_mul(spec.cells.len() as u64)
                .saturating_sub(done.len() as u64),
            comparisons: comparisons(&spec.cells, &cells, &compared),
            lines: lines(&spec.line, &cells),
            goals: goals(&spec.goal, &cells),
            compared,
            cells,
        }
    }
}

/// The figures that a spec means: a probe by its name is that probe with every parameter.
fn compared(wanted: &[String], cells: &[CellResult]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for name in wanted {
        for figure in cells.iter().flat_map(|cell| &cell.figures) {
            let rest = figure.id.strip_prefix(name.as_str());
            if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
                && !all.contains(&figure.id)
            {
                all.push(figure.id.clone());
            }
        }
    }
    all
}

/// Every figure's comparisons are a family of their own.
fn comparisons(cells: &[Cell], results: &[CellResult], compared: &[String]) -> Vec<Comparison> {
    let mut all = Vec::new();
    for figure in compared {
        let mut family = Vec::new();
        let mut noise: Option<f64> = None;
        for (a, b) in pairs(cells) {
            let a_a = cells[b].again
                && cells[a].name.len() < cells[b].name.len()
                && cells[a].settings == cells[b].settings;
            let (Some(left), Some(right)) = (side(&results[a], figure), side(&results[b], figure))
            else {
                continue;
            };
            let Some(fact) = results[a].figure(figure) else { continue };
            let mut comparison =
                Comparison::of(figure, &fact.label, fact.clock, &fact.unit, &left, &right);
            if a_a {
                comparison.a_a = true;
                let half = comparison.interval.map(|interval| (interval.high - interval.low) / 2.0);
                noise = noise.into_iter().chain(half).reduce(f64::max);
            }
            family.push(comparison);
        }
        adjust(&mut family, noise);
        all.extend(family);
    }
    all
}

fn side<'a>(cell: &'a CellResult, figure: &str) -> Option<Side<'a>> {
    let sample = cell.samples.get(figure)?;
    Some(Side {
        name: &cell.name,
        sample,
        deterministic: cell.modelled,
        profile: cell.profile.as_deref(),
    })
}

/// Which cells are compared with each other; a repeated one only with its own kind.
fn pairs(cells: &[Cell]) -> Vec<(usize, usize)> {
    let firsts = cells.iter().filter(|cell| !cell.again).count();
    let mut pairs = Vec::new();
    for b in 0..cells.len() {
        for a in 0..b {
            let (left, right) = (&cells[a], &cells[b]);
            let differ = |key: &&Key| left.settings.get(key) != right.settings.get(key);
            let differences: Vec<&Key> = Key::ALL.iter().filter(differ).collect();
            let labelled = differences.contains(&&Key::Label);
            let tied = |key: &&&Key| labelled && matches!(key, Key::Cpus | Key::Memory);
            let one = differences.iter().filter(|key| !tied(key)).count() == 1;
            let wanted = match (left.again, right.again) {
                (false, false) => firsts <= ALL_PAIRS || one,
                (false, true) => differences.is_empty(),
                _ => false,
            };
            if wanted {
                pairs.push((a, b));
            }
        }
    }
    pairs
}
