//! Axes: where the ticks are and what they say.

use std::fmt::Write;

use super::markup::Text;
use crate::report::number::grouped;

/// A tick.
pub struct Tick {
    /// Where, from 0 to 1.
    pub at: f64,
    /// What it says.
    pub label: String,
}

/// Round times between 0 and `total`, five or so, in one unit.
pub fn times(total: u64) -> Vec<Tick> {
    let (unit, name) = unit(total);
    let total = total as f64 / unit;
    if total <= 0.0 {
        return vec![Tick { at: 0.0, label: format!("0 {name}") }];
    }
    let step = step(total / 5.0);
    let mut ticks = Vec::new();
    let mut value = 0.0;
    // What is close to the end has no room for its label.
    while value <= total * 0.97 && ticks.len() < 12 {
        let label = grouped(value as u64);
        ticks.push(Tick { at: value / total, label: format!("{label} {name}") });
        value += step;
    }
    ticks
}

/// Round times between two that are not 0, in one unit.
pub fn between(from: f64, to: f64) -> Vec<Tick> {
    let (unit, name) = unit(to as u64);
    let (from, to) = (from / unit, to / unit);
    let step = step((to - from) / 5.0);
    let mut ticks = Vec::new();
    let mut value = (from / step).ceil() * step;
    while value <= from + (to - from) * 0.97 && step > 0.0 && ticks.len() < 12 {
        let label = format!("{} {name}", grouped(value.round() as u64));
        ticks.push(Tick { at: (value - from) / (to - from), label });
        value += step;
    }
    ticks
}

/// The unit that suits times up to this one.
fn unit(largest: u64) -> (f64, &'static str) {
    match largest {
        0..2_000 => (1.0, "ns"),
        2_000..2_000_000 => (1e3, "µs"),
        2_000_000..20_000_000_000 => (1e6, "ms"),
        _ => (1e9, "s"),
    }
}

/// The next of 1, 2, 5, 10, …
fn step(least: f64) -> f64 {
    let magnitude = 10f64.powf(least.log10().floor()).max(1.0);
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * magnitude);
    steps.into_iter().find(|step| *step >= least).unwrap_or(magnitude * 10.0)
}

/// Lines for ticks, over the whole height of an image.
pub fn grid(out: &mut String, ticks: &[Tick]) {
    for tick in ticks {
        let at = percent(tick.at);
        let _ = write!(out, "<line class=grid x1={at} x2={at} y1=0 y2=100% />");
    }
}

/// Labels for ticks.
pub fn labels(out: &mut String, ticks: &[Tick], y: u32) {
    // A phone has room for half of them.
    for (at, tick) in ticks.iter().enumerate() {
        let class = if at % 2 == 1 && ticks.len() > 4 { "tick wide" } else { "tick" };
        let anchor = if tick.at < 0.02 { "start" } else { "middle" };
        let _ = write!(
            out,
            "<text class=\"{class}\" x={} y={y} text-anchor={anchor}>{}</text>",
            percent(tick.at),
            Text(&tick.label)
        );
    }
}

/// A place on an axis as an image takes it.
pub fn percent(at: f64) -> String {
    format!("{:.3}%", at.clamp(0.0, 1.0) * 100.0)
}
