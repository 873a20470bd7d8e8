//! How long exits took, on a logarithmic axis: above it in the guest before them, below it in the monitor after them.

use std::fmt::Write;

use super::axis::percent;
use super::markup::Text;
use crate::report::number::{grouped, time};
use crate::report::runs::Run;
use crate::report::schema::HistogramFacts;

/// The axis: from 100 ns to 10 s.
const DECADES: (f64, f64) = (2.0, 10.0);
/// How many are shown at once; the rest unfolds.
const FIRST: usize = 6;
const HALF: f64 = 56.0;
/// How many bars the axis has.
const BARS: usize = 96;

/// A small chart for each reason and vCPU, the most frequent first.
pub fn render(out: &mut String, run: &Run) {
    let histograms = &run.report.exits.histograms;
    let mut keys: Vec<(u64, u16, &str)> = Vec::new();
    for histogram in histograms {
        let key = (histogram.vcpu, histogram.reason.as_str());
        match keys.iter_mut().find(|(_, vcpu, reason)| (*vcpu, *reason) == key) {
            Some((count, ..)) => *count = (*count).max(histogram.count),
            None => keys.push((histogram.count, key.0, key.1)),
        }
    }
    if keys.is_empty() {
        out.push_str("<p class=none>No exit was timed.</p>");
        return;
    }
    keys.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(b.2)));
    let (first, rest) = keys.split_at(keys.len().min(FIRST));
    group(out, run, first);
    if !rest.is_empty() {
        let _ = write!(out, "<details><summary>{} rarer ones</summary>", rest.len());
        group(out, run, rest);
        out.push_str("</details>");
    }
}

fn group(out: &mut String, run: &Run, keys: &[(u64, u16, &str)]) {
    out.push_str("<div class=small-multiples>");
    for (count, vcpu, reason) in keys {
        chart(out, run, *count, *vcpu, reason);
    }
    out.push_str("</div>");
}

fn chart(out: &mut String, run: &Run, count: u64, vcpu: u16, reason: &str) {
    let of = |what: &str| {
        let all = run.report.exits.histograms.iter();
        all.clone().find(|h| h.vcpu == vcpu && h.reason == reason && h.of == what)
    };
    let (guest, monitor) = (of("guest"), of("monitor"));
    let said = |half: Option<&HistogramFacts>| half.map_or_else(|| "not timed".to_owned(), summary);
    let _ = write!(
        out,
        "<figure><figcaption><b>{}</b>, vCPU {vcpu}: {}</figcaption><svg class=chart tabindex=0 role=img height={} \
         aria-label=\"{}, vCPU {vcpu}, wall time. In the guest before: {}. In the monitor after: {}.\">",
        Text(&reason.replace('_', " ")),
        grouped(count),
        HALF * 2.0 + 66.0,
        Text(reason),
        said(guest),
        said(monitor),
    );
    let middle = HALF + 24.0;
    decades(out, middle);
    half(out, guest, middle, -1.0, "H");
    half(out, monitor, middle, 1.0, "K");
    for (half, y, what) in [
        (guest, 12.0, "in the guest before"),
        (monitor, middle * 2.0 + 12.0, "in the monitor after"),
    ] {
        if let Some(half) = half {
            let _ = write!(
                out,
                "<text class=title x=0 y={y}>{what}<tspan class=quiet dx=6>p50 {} · p99 {}</tspan></text>",
                time(half.p50_wall_ns),
                time(half.p99_wall_ns)
            );
        }
    }
    out.push_str("</svg></figure>");
}

fn summary(half: &HistogramFacts) -> String {
    format!(
        "median {}, 90 % up to {}, 99 % up to {}, at most {}",
        time(half.p50_wall_ns),
        time(half.p90_wall_ns),
        time(half.p99_wall_ns),
        time(half.max_wall_ns)
    )
}

fn decades(out: &mut String, middle: f64) {
    let _ = write!(out, "<line class=axis x1=0 x2=100% y1={middle} y2={middle} />");
    for (decade, name) in [(3, "1 µs"), (5, "100 µs"), (7, "10 ms"), (9, "1 s")] {
        let x = percent(at(10f64.powi(decade)));
        let _ = write!(
            out,
            "<line class=grid x1={x} x2={x} y1=20 y2={} /><text class=tick x={x} dx=3 y={} text-anchor=start>{name}</text>",
            middle * 2.0 - 20.0,
            middle * 2.0 - 6.0,
        );
    }
}

/// Where a time lies on the axis.
fn at(ns: f64) -> f64 {
    let (from, to) = DECADES;
    ((ns.max(1.0).log10() - from) / (to - from)).clamp(0.0, 1.0)
}

/// Bars of a twelfth of a decade: finer ones could not be seen. Their areas are counts, and they are all equally wide.
fn half(out: &mut String, half: Option<&HistogramFacts>, middle: f64, down: f64, class: &str) {
    let Some(half) = half else { return };
    let bars = regrouped(&half.wall_ns_buckets);
    let most = bars.iter().copied().fold(0.0, f64::max);
    if most <= 0.0 {
        return;
    }
    for (bar, count) in bars.iter().enumerate().filter(|(_, count)| **count > 0.0) {
        let height = (count / most * HALF).max(1.0);
        let y = if down > 0.0 { middle } else { middle - height };
        let (from, to) = (edge(bar), edge(bar + 1));
        let _ = write!(
            out,
            "<rect class=\"{class} bar\" x={} y={y:.1} width={} height={height:.1} data-count={count:.1} \
             data-tip=\"{} exits, {} to {}\" />",
            percent(bar as f64 / BARS as f64),
            percent(1.0 / BARS as f64),
            grouped(count.round() as u64),
            time(from),
            time(to),
        );
    }
}

/// Where a bar begins.
fn edge(bar: usize) -> u64 {
    let (from, to) = DECADES;
    10f64.powf(from + (to - from) * bar as f64 / BARS as f64) as u64
}

/// The counts of buckets shared out to the bars that they cover.
fn regrouped(buckets: &[[u64; 3]]) -> [f64; BARS] {
    let mut bars = [0.0; BARS];
    for [low, high, count] in buckets {
        let from = at(*low as f64) * BARS as f64;
        let to = at(high.saturating_add(1) as f64) * BARS as f64;
        let first = (from as usize).min(BARS - 1);
        let last = (to.ceil() as usize).clamp(first + 1, BARS);
        for (bar, sum) in bars.iter_mut().enumerate().take(last).skip(first) {
            let covered = (to.min(bar as f64 + 1.0) - from.max(bar as f64)).max(0.0);
            // What is off the axis stands at its end.
            *sum += if to > from { *count as f64 * covered / (to - from) } else { *count as f64 };
        }
    }
    bars
}
