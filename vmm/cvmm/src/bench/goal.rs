//! Goals: what a figure of a cell is to come to, beside what others have published of it.

use serde::{Deserialize, Serialize};

use super::key::Key;
use super::result::CellResult;
use crate::emulate::COSTS_AT_ENDS;
use crate::figures::Clock;

/// A goal, as a spec has it. One without a figure is a goal that this experiment does not try.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Goal {
    /// What is to be small.
    pub what: String,
    /// What others have reached, and where that was published.
    pub anchor: String,
    /// The most that it may be, in the figure's unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<f64>,
    /// The most that is hoped for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aim: Option<f64>,
    /// The name of a figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figure: Option<String>,
    /// The label of the cell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cell: Option<String>,
    /// The label of a cell whose figure is taken off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minus: Option<String>,
    /// Why it is not tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<String>,
}

/// Where a goal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// As good as hoped for, or as the goal where nothing more is hoped for.
    Reached,
    /// As good as the goal, not as what is hoped for.
    GoalReached,
    /// Not as good.
    Missed,
    /// Nothing has been run for it.
    Open,
}

impl Standing {
    /// In tables.
    pub fn name(self) -> &'static str {
        match self {
            Standing::Reached => "reached",
            Standing::GoalReached => "reached, not the aim",
            Standing::Missed => "missed",
            Standing::Open => "open",
        }
    }
}

/// A goal, and today's figure.
#[derive(Debug, Serialize)]
pub struct GoalResult {
    /// The goal.
    #[serde(flatten)]
    pub goal: Goal,
    /// Where it stands.
    pub standing: Standing,
    /// Today's figure: a median, or the difference of two.
    pub today: Option<f64>,
    /// The same with the profile's costs at the lower and at the upper end of their ranges, where the spec has `sensitivity`.
    pub range: Option<[f64; 2]>,
    /// Its unit.
    pub unit: Option<String>,
    /// Its clock.
    pub clock: Option<Clock>,
    /// The profile, where it is modelled.
    pub profile: Option<String>,
    /// How much of the cell's modelled time rests on costs that nobody has published.
    pub placeholder_share: Option<f64>,
}

impl Goal {
    /// What keeps it from being judged: a label that no cell has, or half of what it needs.
    pub fn problem(&self, labels: &[&str]) -> Option<String> {
        let unknown = |label: &&String| !labels.contains(&label.as_str());
        if let Some(label) = self.cell.iter().chain(&self.minus).find(unknown) {
            return Some(format!("no cell has the label '{label}'"));
        }
        let whole = self.figure.is_some() && self.cell.is_some() && self.goal.is_some();
        match (whole, self.open.is_some()) {
            (true, false) | (false, true) => None,
            _ => Some("give figure, cell and goal, or say why it is open".into()),
        }
    }

    fn judge(&self, cells: &[CellResult]) -> GoalResult {
        // Cells at the ends of ranges have the same labels, and come behind all others.
        let cell = |label: &Option<String>, end: &str| {
            let label = label.as_ref()?;
            let at = |cell: &&CellResult| cell.profile.as_ref().is_some_and(|p| p.ends_with(end));
            let labelled = |cell: &&CellResult| cell.settings.get(&Key::Label) == Some(label);
            cells.iter().filter(labelled).find(|cell| end.is_empty() || at(cell))
        };
        let id = self.figure.as_deref().unwrap_or_default();
        let median = |cell: &CellResult, id: &str| Some(cell.figure(id)?.summary.median);
        let value = |end: &str| {
            let figure = median(cell(&self.cell, end)?, id)?;
            let base = match &self.minus {
                None => 0.0,
                Some(_) => median(cell(&self.minus, end)?, id)?,
            };
            Some(figure - base)
        };
        let ours = cell(&self.cell, "");
        let figure = ours.and_then(|cell| cell.figure(id));
        let today = value("");
        let [low, high] = COSTS_AT_ENDS.map(value);
        let within =
            |limit: Option<f64>| today.zip(limit).is_some_and(|(today, limit)| today <= limit);
        let standing = match today {
            None => Standing::Open,
            Some(_) if within(self.aim.or(self.goal)) => Standing::Reached,
            Some(_) if within(self.goal) => Standing::GoalReached,
            Some(_) => Standing::Missed,
        };
        let modelled = figure.is_some_and(|figure| figure.clock == Clock::Modelled);
        let share = |cell: &CellResult| {
            let rests = median(cell, "total/placeholder_modelled_ns")?;
            Some(rests / median(cell, "total/modelled_ns")?)
        };
        GoalResult {
            goal: self.clone(),
            standing,
            today,
            range: low.zip(high).map(|(low, high)| [low, high]),
            unit: figure.map(|figure| figure.unit.clone()),
            clock: figure.map(|figure| figure.clock),
            profile: ours.filter(|_| modelled).and_then(|cell| cell.profile.clone()),
            placeholder_share: ours.filter(|_| modelled).and_then(share),
        }
    }
}

/// All goals of a spec.
pub fn goals(specs: &[Goal], cells: &[CellResult]) -> Vec<GoalResult> {
    specs.iter().map(|goal| goal.judge(cells)).collect()
}
