//! Straight lines through the medians of cells, beside what others have published for their slope.

use std::collections::BTreeMap;

use serde::Serialize;

use super::key::Key;
use super::result::CellResult;
use super::spec::Line;
use crate::figures::Clock;

/// A line that was fitted, by least squares.
#[derive(Debug, Serialize)]
pub struct LineResult {
    /// Which cells.
    pub group: String,
    /// What is varied.
    pub x: String,
    /// What follows it.
    pub y: String,
    /// The clock of `y`.
    pub clock: Clock,
    /// The medians.
    pub points: Vec<(f64, f64)>,
    /// How much `y` grows with one of `x`.
    pub slope: f64,
    /// `y` where `x` is 0.
    pub intercept: f64,
    /// The slope that others have published.
    pub published: f64,
    /// `slope` by `published`.
    pub ratio: f64,
    /// Where it was published.
    pub source: String,
    /// Costs of the profile that nobody has measured and that may be part of it.
    pub placeholder_costs: Vec<String>,
}

/// All lines of a spec; one for each group of cells that differ in nothing else.
pub fn lines(specs: &[Line], cells: &[CellResult]) -> Vec<LineResult> {
    let mut all = Vec::new();
    for spec in specs {
        let key = Key::ALL.into_iter().find(|key| key.name() == spec.x);
        let mut groups: BTreeMap<String, Vec<(f64, f64, &CellResult)>> = BTreeMap::new();
        for cell in cells {
            let x = match key {
                Some(key) => cell.settings.get(&key).and_then(|text| text.parse().ok()),
                None => cell.figure(&spec.x).map(|figure| figure.summary.median),
            };
            // A single guest is the last one.
            let y = cell.figure(&spec.y).or_else(|| cell.figure(&spec.y));
            if let (Some(x), Some(y)) = (x, y.map(|figure| figure.summary.median)) {
                let words =
                    [Key::Technology, Key::Label].map(|key| cell.settings.get(&key).cloned());
                let group = words.into_iter().flatten().collect::<Vec<_>>().join(" ");
                groups.entry(group).or_default().push((x, y, cell));
            }
        }
        all.extend(groups.into_iter().filter_map(|(group, points)| fit(spec, group, &points)));
    }
    all
}

fn fit(spec: &Line, group: String, points: &[(f64, f64, &CellResult)]) -> Option<LineResult> {
    let n = points.len() as f64;
    let mean = |pick: fn(&(f64, f64, &CellResult)) -> f64| points.iter().map(pick).sum::<f64>() / n;
    let (mean_x, mean_y) = (mean(|p| p.0), mean(|p| p.1));
    let spread: f64 = points.iter().map(|p| (p.0 - mean_x).powi(2)).sum();
    if points.len() < 2 || spread == 0.0 {
        return None;
    }
    let slope = points.iter().map(|p| (p.0 - mean_x) * (p.1 - mean_y)).sum::<f64>() / spread;
    let clock = points.iter().find_map(|p| p.2.figure(&spec.y));
    Some(LineResult {
        group,
        x: spec.x.clone(),
        y: spec.y.clone(),
        clock: clock.map_or(Clock::Counted, |figure| figure.clock),
        points: points.iter().map(|p| (p.0, p.1)).collect(),
        slope,
        intercept: mean_y - slope * mean_x,
        published: spec.published,
        ratio: slope / spec.published,
        source: spec.source.clone(),
        placeholder_costs: points
            .first()
            .map(|p| p.2.placeholder_costs.clone())
            .unwrap_or_default(),
    })
}
