//! The runs below each other on one axis: whose turn it was when.

use std::fmt::Write;

use super::axis::{self, percent};
use super::label;
use super::markup::Text;
use super::palette;
use crate::report::clock::Clock;
use crate::report::number::{fraction, share, time};
use crate::report::runs::Run;
use crate::report::schema::{Phase, RunReport, Segment};

const ROW: usize = 58;
const BAR: usize = 30;

/// One chart for each clock.
pub fn render(out: &mut String, runs: &[Run]) {
    for clock in Clock::ALL {
        if runs.iter().any(|run| clock.known(&run.report)) {
            chart(out, runs, clock);
        }
    }
}

fn chart(out: &mut String, runs: &[Run], clock: Clock) {
    let longest = runs.iter().filter_map(|run| clock.total(&run.report)).max().unwrap_or(0);
    let ticks = axis::times(longest);
    let height = runs.len() * ROW + 24;
    let _ = write!(
        out,
        "<figure class={clock}><svg class=chart tabindex=0 role=img height={height} \
         aria-label=\"Timeline of each run, {clock} time: {}\">",
        Text(&spoken(runs, clock)),
        clock = clock.name(),
    );
    let _ = write!(out, "<svg y=18 height={}>", runs.len() * ROW - 18);
    axis::grid(out, &ticks);
    out.push_str("</svg>");
    for (at, run) in runs.iter().enumerate() {
        let y = at * ROW;
        let total = match clock.total(&run.report) {
            Some(total) => time(total),
            None => format!("no {} time", clock.name()),
        };
        let _ = write!(
            out,
            "<text class=title x=0 y={}>{}<tspan class=\"quiet wide\" dx=8>{}</tspan><tspan dx=8>{total}</tspan></text>",
            y + 14,
            Text(&run.name),
            Text(&run.kind()),
        );
        for segment in merged(&run.report.timeline) {
            bar(out, &run.report, &segment, clock, longest, y + 20);
        }
    }
    axis::labels(out, &ticks, (height - 8) as u32);
    let _ = write!(out, "</svg>{}</figure>", caption(clock));
}

fn caption(clock: Clock) -> &'static str {
    match clock {
        Clock::Modelled => {
            "<figcaption>Modelled time: from KVM_CREATE_VM on, by the platform profile named above each bar.</figcaption>"
        }
        Clock::Wall => {
            "<figcaption>Wall time: measured on this host, from exec to the end of the teardown.</figcaption>"
        }
    }
}

fn spoken(runs: &[Run], clock: Clock) -> String {
    let each = runs.iter().map(|run| {
        let total = clock.total(&run.report).map_or_else(|| "no such time".to_owned(), time);
        format!("{} {total}", run.name)
    });
    each.collect::<Vec<_>>().join(", ")
}

/// Neighbours of one phase as one piece.
fn merged(timeline: &[Segment]) -> Vec<Segment> {
    let mut pieces: Vec<Segment> = Vec::new();
    for segment in timeline {
        match pieces.last_mut() {
            Some(last) if last.phase == segment.phase => {
                last.end_wall_ns = segment.end_wall_ns;
                last.end_modelled_ns = segment.end_modelled_ns;
                if last.begin_modelled_ns.is_none() {
                    last.begin_modelled_ns = segment.begin_modelled_ns;
                }
            }
            _ => pieces.push(segment.clone()),
        }
    }
    pieces
}

fn bar(
    out: &mut String,
    report: &RunReport,
    segment: &Segment,
    clock: Clock,
    whole: u64,
    y: usize,
) {
    let Some((begin, end)) = clock.segment(segment).filter(|(begin, end)| end > begin) else {
        return;
    };
    let took = time(end - begin);
    let total = clock.total(report).unwrap_or(0);
    let name = name(&report.phases, &segment.phase);
    let (from, to) = (fraction(begin, whole), fraction(end, whole));
    let _ = write!(
        out,
        "<rect class=\"{} bar\" x={} y={y} width={} height={BAR} data-phase=\"{}\" data-begin={begin} data-end={end} \
         data-tip=\"{} {}: {took}, {} of the run ({} time)\" />",
        palette::class(&segment.phase),
        percent(from),
        percent(to - from),
        Text(&segment.phase),
        Text(&segment.phase),
        Text(name),
        share(end - begin, total),
        clock.name()
    );
    let variants = [
        format!("{} {name} {took}", segment.phase),
        format!("{} {took}", segment.phase),
        segment.phase.clone(),
    ];
    label::inside(out, (from, to), (y + 20) as u32, &variants);
}

/// What a phase is called.
pub fn name<'a>(phases: &'a [Phase], id: &str) -> &'a str {
    phases.iter().find(|phase| phase.id == id).map_or("", |phase| &phase.name)
}
