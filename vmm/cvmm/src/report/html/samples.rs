//! Many runs of a cell: every one of them as a dot, the median with its interval, the distribution, and the statistics.

use std::fmt::Write;

use super::axis::{self, Tick, percent};
use super::beside;
use super::markup::Text;
use crate::report::cells::Cell;
use crate::report::clock::Clock;
use crate::report::number::{digits, time};
use crate::stats::{Sample, Summary, cliffs_delta, holm, mann_whitney};

const ROW: usize = 44;
const CURVES: f64 = 190.0;

/// Colours of curves; each is named beside it.
const CLASSES: [&str; 7] = ["K", "G", "U", "S", "A", "P", "H"];

/// For each clock: dots, curves, table.
pub fn render(out: &mut String, cells: &[Cell]) {
    for clock in Clock::ALL {
        let samples: Vec<(&Cell, Sample)> = cells
            .iter()
            .filter_map(|cell| Some((cell, cell.totals(clock).and_then(Sample::new)?)))
            .collect();
        if samples.is_empty() {
            continue;
        }
        let _ = write!(out, "<div class={}>", clock.name());
        dots(out, &samples, clock);
        // What is equal in every run has no distribution.
        if samples.iter().any(|(_, sample)| !sample.is_constant()) {
            curves(out, &samples, clock);
        } else {
            out.push_str("<p class=note>Every run of a cell took the same modelled time, so there is no spread to show.</p>");
        }
        table(out, &samples, clock);
        differences(out, &samples, clock);
        out.push_str("</div>");
    }
}

fn largest(samples: &[(&Cell, Sample)]) -> f64 {
    samples.iter().map(|(_, sample)| sample.quantile(1.0)).fold(1.0, f64::max)
}

fn ns(value: f64) -> String {
    time(value.max(0.0).round() as u64)
}

fn dots(out: &mut String, samples: &[(&Cell, Sample)], clock: Clock) {
    // Room for the largest dot.
    let whole = largest(samples) * 1.02;
    let ticks = axis::times(whole as u64);
    let height = samples.len() * ROW + 24;
    let _ = write!(
        out,
        "<figure><svg class=chart tabindex=0 role=img height={height} aria-label=\"Totals of every run by cell, {} time\">\
         <svg y=18 height={}>",
        clock.name(),
        samples.len() * ROW - 18
    );
    axis::grid(out, &ticks);
    out.push_str("</svg>");
    for (at, (cell, sample)) in samples.iter().enumerate() {
        row(out, cell, sample, at * ROW, whole);
    }
    axis::labels(out, &ticks, (height - 8) as u32);
    let _ = write!(
        out,
        "</svg><figcaption>A dot for each run, {} time. The upright line is the median, the bar its 95 % interval \
         (bootstrap).</figcaption></figure>",
        clock.name()
    );
}

fn row(out: &mut String, cell: &Cell, sample: &Sample, y: usize, whole: f64) {
    let summary = Summary::of(sample);
    let _ = write!(
        out,
        "<text class=title x=0 y={}>{}<tspan class=quiet dx=8>{}</tspan></text>",
        y + 14,
        Text(&cell.name),
        Text(&told(&summary)),
    );
    let middle = y + 29;
    if let Some(interval) = summary.interval {
        let _ = write!(
            out,
            "<rect class=interval x={} y={} width={} height=16 data-low={} data-high={} data-tip=\"{}\" />",
            percent(interval.low / whole),
            middle - 8,
            percent(((interval.high - interval.low) / whole).max(0.001)),
            interval.low,
            interval.high,
            Text(&told(&summary)),
        );
    }
    for value in sample.values() {
        let outlier =
            if summary.outliers.contains(value) { ", an outlier by Tukey's fences" } else { "" };
        let _ = write!(
            out,
            "<circle class={} cx={} cy={middle} r=4 data-value={value} data-tip=\"{}{outlier}\" />",
            if outlier.is_empty() { "dot" } else { "outlier" },
            percent(value / whole),
            ns(*value),
        );
    }
    let median = percent(summary.median / whole);
    let _ = write!(
        out,
        "<line class=median x1={median} x2={median} y1={} y2={} data-median={} />",
        middle - 10,
        middle + 10,
        summary.median
    );
}

fn told(summary: &Summary) -> String {
    match summary.interval {
        Some(interval) if summary.min < summary.max => format!(
            "{}, 95 % of {} to {}, n = {}",
            ns(summary.median),
            ns(interval.low),
            ns(interval.high),
            summary.n
        ),
        _ if summary.n > 1 => format!("{} in each of {} runs", ns(summary.median), summary.n),
        _ => format!("{}, n = 1", ns(summary.median)),
    }
}

/// Empirical distribution functions.
fn curves(out: &mut String, samples: &[(&Cell, Sample)], clock: Clock) {
    let least = samples.iter().map(|(_, sample)| sample.quantile(0.0)).fold(f64::MAX, f64::min);
    let span = (largest(samples) - least).max(1.0);
    // The axis begins where the first curve does.
    let (from, whole) = ((least - span * 0.05).max(0.0), span * 1.25);
    let ticks: Vec<Tick> = axis::between(from, from + whole);
    let _ = write!(
        out,
        "<figure><svg class=chart tabindex=0 role=img height={} aria-label=\"Share of runs that took at most so long, by cell, \
         {} time\">",
        CURVES + 24.0,
        clock.name()
    );
    let _ = write!(out, "<svg height={CURVES}>");
    axis::grid(out, &ticks);
    out.push_str("</svg>");
    let x = |value: f64| (value - from) / whole;
    let _ = write!(
        out,
        "<svg height={CURVES} width=100% viewBox=\"0 0 1000 {CURVES}\" preserveAspectRatio=none>"
    );
    let mut labels = String::new();
    for (at, (cell, sample)) in samples.iter().enumerate() {
        let class = CLASSES[at % CLASSES.len()];
        let values = sample.values();
        let share = |at: usize| (1.0 - at as f64 / values.len() as f64) * CURVES;
        let _ = write!(out, "<path class=\"curve {class}\" d=\"M0 {CURVES}");
        for (rank, value) in values.iter().enumerate() {
            let _ = write!(out, "H{:.1}V{:.1}", x(*value) * 1000.0, share(rank + 1));
        }
        out.push_str("H1000\" />");
        // Each curve is named at a height of its own.
        let rank = (values.len() * (at + 1) / (samples.len() + 1)).min(values.len() - 1);
        let right = x(values[rank]) > 0.6;
        let _ = write!(
            labels,
            "<text class=\"curve-name {class}\" x={} dx={} text-anchor={} y={:.1}>{}</text>",
            percent(x(values[rank])),
            if right { -6 } else { 6 },
            if right { "end" } else { "start" },
            share(rank + 1) + 14.0,
            Text(&cell.name),
        );
    }
    let _ = write!(out, "</svg>{labels}");
    axis::labels(out, &ticks, (CURVES + 16.0) as u32);
    let _ = write!(
        out,
        "</svg><figcaption>Share of runs (none at the bottom, all at the top) that took at most so long, {} time.</figcaption>\
         </figure>",
        clock.name()
    );
}

fn table(out: &mut String, samples: &[(&Cell, Sample)], clock: Clock) {
    beside::scroll(out, &format!("Statistics of totals, {} time", clock.name()));
    let _ = write!(
        out,
        "<table class=statistics><thead><tr><th scope=col>total, {} time</th>",
        clock.name()
    );
    for head in ["n", "median", "MAD", "95 % interval", "p95", "most", "outliers", "failed"] {
        let _ = write!(out, "<th scope=col class=num>{head}</th>");
    }
    out.push_str("</tr></thead><tbody>");
    for (cell, sample) in samples {
        let summary = Summary::of(sample);
        let interval = summary
            .interval
            .map_or_else(|| "–".to_owned(), |i| format!("{} – {}", ns(i.low), ns(i.high)));
        let _ = write!(
            out,
            "<tr><th scope=row>{}</th><td class=num>{}</td><td class=num data-median={}>{}</td><td class=num>{}</td>\
             <td class=num>{interval}</td><td class=num>{}</td><td class=num>{}</td><td class=num>{}</td>\
             <td class=num>{}</td></tr>",
            Text(&cell.name),
            summary.n,
            summary.median,
            ns(summary.median),
            ns(summary.mad),
            ns(summary.p95),
            ns(summary.max),
            summary.outliers.len(),
            cell.failed,
        );
    }
    out.push_str("</tbody></table></div>");
}

/// Each cell against the first.
fn differences(out: &mut String, samples: &[(&Cell, Sample)], clock: Clock) {
    let Some(((first, base), others)) = samples.split_first().filter(|(_, rest)| !rest.is_empty())
    else {
        return;
    };
    if samples.iter().any(|(_, sample)| sample.values().len() < 2) || clock == Clock::Modelled {
        return;
    }
    let tests: Vec<_> = others.iter().map(|(_, sample)| mann_whitney(sample, base)).collect();
    let adjusted = holm(&tests.iter().map(|test| test.p).collect::<Vec<_>>());
    beside::scroll(out, "Differences of totals");
    let _ = write!(
        out,
        "<table><thead><tr><th scope=col>against {}</th><th scope=col class=num>median</th><th scope=col class=num>U</th>\
         <th scope=col class=num>p (Holm)</th><th scope=col class=num>Cliff's delta</th></tr></thead><tbody>",
        Text(&first.name)
    );
    for (((cell, sample), test), p) in others.iter().zip(&tests).zip(adjusted) {
        let delta = cliffs_delta(test, sample.values().len(), base.values().len());
        let ratio = if base.median() > 0.0 { sample.median() / base.median() } else { 1.0 };
        let p = if p < 0.001 { "< 0.001".to_owned() } else { format!("{p:.3}") };
        let _ = write!(
            out,
            "<tr><th scope=row>{}</th><td class=num>{:+.1} %</td><td class=num>{}</td><td class=num>{p}</td>\
             <td class=num>{delta:+.2}</td></tr>",
            Text(&cell.name),
            (ratio - 1.0) * 100.0,
            digits(test.u),
        );
    }
    out.push_str("</tbody></table></div>");
}
