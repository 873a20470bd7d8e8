//! One run: a row for each phase, with its pieces on the time axis; then a row for each vCPU with its exits.

use std::fmt::Write;

use super::axis::{self, Tick, percent};
use super::label;
use super::markup::Text;
use super::palette::{self, TINTS};
use crate::report::clock::Clock;
use crate::report::number::{fraction, grouped, share, time};
use crate::report::runs::Run;
use crate::report::schema::{Phase, RunReport};

/// The part of a row that is its bar, on a wide screen.
const PART: f64 = 0.45;

/// A table for each clock.
pub fn render(out: &mut String, run: &Run) {
    if run.report.timeline.is_empty() {
        out.push_str(
            "<p class=none>This report has no timeline: nothing of the run was recorded.</p>",
        );
        return;
    }
    for clock in Clock::ALL {
        if let Some(total) = clock.total(&run.report) {
            table(out, run, clock, total);
        }
    }
}

fn table(out: &mut String, run: &Run, clock: Clock, total: u64) {
    let report = &run.report;
    let ticks = axis::times(total);
    let _ = write!(
        out,
        "<div class=\"waterfall {clock}\" role=table data-total={total} \
         aria-label=\"Phases of {}, {clock} time\"><div role=row class=\"row head\"><span role=columnheader>phase</span>\
         <span role=columnheader class=track aria-label=\"from when to when\"><svg height=18 aria-hidden=true>",
        Text(&run.name),
        clock = clock.name(),
    );
    axis::labels(out, &ticks, 13);
    let _ = write!(
        out,
        "</svg></span><span role=columnheader class=num>{} time</span><span role=columnheader class=num>share</span>\
         <span role=columnheader class=num>exits</span><span role=columnheader class=num>pages moved</span></div>",
        clock.name()
    );
    for phase in &report.phases {
        row(out, report, phase, clock, total, &ticks);
    }
    let sum: u64 =
        report.phases.iter().filter_map(|phase| clock.phase(phase)).fold(0, u64::saturating_add);
    let moved = |phase: &Phase| phase.to_private_pages.saturating_add(phase.to_shared_pages);
    let _ = write!(
        out,
        "<div role=row class=\"row sum\"><span role=cell>sum of the phases</span><span role=cell class=track></span>\
         <span role=cell class=num data-ns={sum}>{}</span><span role=cell class=num>{}</span>\
         <span role=cell class=num>{}</span><span role=cell class=num>{}</span></div>",
        time(sum),
        share(sum, total),
        grouped(report.exits.total),
        grouped(report.phases.iter().map(moved).fold(0, u64::saturating_add)),
    );
    lanes(out, report, clock, total, &ticks);
    marks(out, report, clock, total, &ticks);
    out.push_str("</div>");
}

fn row(
    out: &mut String,
    report: &RunReport,
    phase: &Phase,
    clock: Clock,
    total: u64,
    ticks: &[Tick],
) {
    let class = palette::class(&phase.id);
    let _ = write!(
        out,
        "<div role=row class=row data-phase=\"{id}\"><span role=cell><b class=\"chip {class}\">{id}</b> {}</span>\
         <span role=cell class=track><svg height=22 aria-hidden=true>",
        Text(&phase.name),
        id = Text(&phase.id),
    );
    axis::grid(out, ticks);
    for segment in report.timeline.iter().filter(|segment| segment.phase == phase.id) {
        let Some((begin, end)) = clock.segment(segment) else { continue };
        if end == begin {
            continue;
        }
        let (from, to) = (fraction(begin, total), fraction(end, total));
        // What is short still shows; what it takes is written beside it.
        let _ = write!(
            out,
            "<rect class=\"{class} bar\" x={} y=3 width={} height=16 data-begin={begin} data-end={end} \
             data-tip=\"{} {}: {} to {}\" /><rect class={class} x={} y=3 width=2 height=16 />",
            percent(from),
            percent(to - from),
            Text(&phase.id),
            Text(&phase.name),
            time(begin),
            time(end),
            percent(from.min(0.998)),
        );
    }
    let took = clock.phase(phase);
    let ns = took.map(|ns| format!(" data-ns={ns}")).unwrap_or_default();
    let _ = write!(
        out,
        "</svg></span><span role=cell class=\"num{}\"{ns}>{}</span><span role=cell class=num>{}</span>",
        if took.unwrap_or(0) == 0 { " quiet" } else { "" },
        took.map_or_else(|| "not modelled".to_owned(), time),
        took.filter(|took| *took > 0).map(|took| share(took, total)).unwrap_or_default(),
    );
    let exits = match phase.kvm_exits {
        Some(all) => format!("{} to the monitor, {} by KVM's count", phase.exits, all),
        None => format!("{} to the monitor", phase.exits),
    };
    let moved = format!(
        "{} to private, {} to shared",
        grouped(phase.to_private_pages),
        grouped(phase.to_shared_pages)
    );
    let _ = write!(
        out,
        "<span role=cell class=num data-tip=\"{exits}\">{}</span><span role=cell class=num data-tip=\"{moved}\">{}</span>\
         </div>",
        nonzero(phase.exits),
        nonzero(phase.to_private_pages.saturating_add(phase.to_shared_pages)),
    );
}

/// Nothing where there is nothing: the numbers that matter stand out.
fn nonzero(count: u64) -> String {
    if count == 0 { String::new() } else { grouped(count) }
}

/// Exits of each vCPU: the deeper, the more of them in a millisecond.
fn lanes(out: &mut String, report: &RunReport, clock: Clock, total: u64, ticks: &[Tick]) {
    for vcpu in &report.vcpus {
        let of_vcpu = || report.exits.by_phase.iter().filter(|exits| exits.vcpu == vcpu.id);
        let all = of_vcpu().map(|exits| exits.count).fold(0, u64::saturating_add);
        let _ = write!(
            out,
            "<div role=row class=\"row lane\"><span role=cell>exits of vCPU {}</span><span role=cell class=track>\
             <svg height=22 aria-hidden=true>",
            vcpu.id
        );
        axis::grid(out, ticks);
        for segment in &report.timeline {
            let counts = of_vcpu().filter(|exits| exits.phase == segment.phase);
            let count = counts.map(|exits| exits.count).fold(0, u64::saturating_add);
            let took = report.phases.iter().find(|phase| phase.id == segment.phase);
            let took = took.and_then(|phase| clock.phase(phase)).unwrap_or(0);
            let Some((begin, end)) = clock.segment(segment) else { continue };
            if count == 0 || took == 0 {
                continue;
            }
            let (from, to) = (fraction(begin, total), fraction(end, total));
            let rate = count as f64 / (took as f64 / 1e6);
            let _ = write!(
                out,
                "<rect class=t{} x={} y=2 width={} height=18 data-begin={begin} data-end={end} \
                 data-tip=\"vCPU {} in {}: {} exits, {} in a millisecond of {} time\" />",
                tint(rate),
                percent(from),
                percent(to - from),
                vcpu.id,
                Text(&segment.phase),
                grouped(count),
                crate::report::number::digits(rate),
                clock.name(),
            );
            label::inside_part(out, (from, to), 16, &[grouped(count)], PART);
        }
        let _ = write!(
            out,
            "</svg></span><span role=cell></span><span role=cell></span><span role=cell class=num>{}</span>\
             <span role=cell></span></div>",
            nonzero(all)
        );
    }
}

/// Exits in a millisecond, from 0.1 to a thousand and more.
fn tint(rate: f64) -> usize {
    let steps = TINTS.len() as f64;
    (((rate.max(1e-9).log10() + 1.0) / 4.0 * steps).clamp(0.0, steps - 1.0)) as usize
}

fn marks(out: &mut String, report: &RunReport, clock: Clock, total: u64, ticks: &[Tick]) {
    if report.marks.is_empty() {
        return;
    }
    out.push_str(
        "<div role=row class=\"row lane\"><span role=cell>marks</span><span role=cell class=track>\
         <svg height=22 aria-hidden=true>",
    );
    axis::grid(out, ticks);
    for mark in &report.marks {
        let Some(at) = clock.mark(mark) else { continue };
        let _ = write!(
            out,
            "<rect class=mark x={} y=4 width=2 height=14 data-begin={at} data-tip=\"mark {} ({}) of vCPU {} at {}\" />",
            percent(fraction(at, total).min(0.998)),
            Text(&mark.name),
            mark.number,
            mark.vcpu,
            time(at),
        );
    }
    let _ = write!(
        out,
        "</svg></span><span role=cell></span><span role=cell></span><span role=cell class=num>{}</span>\
         <span role=cell></span></div>",
        report.marks.len()
    );
}
