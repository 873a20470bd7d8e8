//! Several runs side by side: a row for each phase and count, a column for each run.

use std::fmt::Write;

use super::axis::percent;
use super::markup::Text;
use super::palette;
use crate::report::clock::Clock;
use crate::report::number::{fraction, grouped, time};
use crate::report::runs::Run;
use crate::report::schema::{Phase, RunReport};
use crate::report::side_by_side::{count_rows, phase_ids};

/// Begins a region that scrolls by itself where it has to.
pub fn scroll(out: &mut String, label: &str) {
    let _ = write!(out, "<div class=scroll tabindex=0 role=region aria-label=\"{}\">", Text(label));
}

/// The tables: times by each clock, then counts.
pub fn render(out: &mut String, runs: &[Run]) {
    for clock in Clock::ALL {
        if runs.iter().any(|run| clock.known(&run.report)) {
            times(out, runs, clock);
        }
    }
    counts(out, runs);
}

fn head(out: &mut String, runs: &[Run], label: &str, class: &str) {
    let _ = write!(
        out,
        "<div class=\"scroll {class}\" tabindex=0 role=region aria-label=\"{label} of the runs, side by side\">\
         <table class=beside><thead><tr><th scope=col>{label}</th>"
    );
    for run in runs {
        let _ = write!(out, "<th scope=col>{}</th>", Text(&run.name));
    }
    out.push_str("</tr></thead><tbody>");
}

fn find<'a>(report: &'a RunReport, id: &str) -> Option<&'a Phase> {
    report.phases.iter().find(|phase| phase.id == id)
}

fn times(out: &mut String, runs: &[Run], clock: Clock) {
    head(out, runs, &format!("{} time", clock.name()), clock.name());
    let of = |run: &Run, id: &str| find(&run.report, id).and_then(|phase| clock.phase(phase));
    let ids = phase_ids(runs);
    let all = runs.iter().flat_map(|run| ids.iter().filter_map(move |id| of(run, id)));
    let longest = all.max().unwrap_or(0);
    for id in ids.iter().filter(|id| runs.iter().any(|run| of(run, id).is_some())) {
        let name = runs.iter().find_map(|run| find(&run.report, id)).map_or("", |p| &p.name);
        let _ = write!(
            out,
            "<tr data-phase=\"{id}\"><th scope=row><b class=\"chip {}\">{id}</b> <span class=name>{}</span></th>",
            palette::class(id),
            Text(name),
            id = Text(id),
        );
        for run in runs {
            match of(run, id) {
                Some(ns) => bar(out, ns, longest, palette::class(id)),
                None => out.push_str("<td class=none>–</td>"),
            }
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody><tfoot><tr><th scope=row>total</th>");
    for run in runs {
        match clock.total(&run.report) {
            Some(ns) => {
                let _ = write!(out, "<td data-ns={ns}>{}</td>", time(ns));
            }
            None => out.push_str("<td class=none>–</td>"),
        }
    }
    out.push_str("</tr></tfoot></table></div>");
}

fn bar(out: &mut String, ns: u64, longest: u64, class: &str) {
    if ns == 0 {
        out.push_str("<td class=none data-ns=0>0</td>");
        return;
    }
    let _ = write!(
        out,
        "<td data-ns={ns}>{}<svg class=under height=5 aria-hidden=true><rect class={class} x=0 y=0 height=5 width={} />\
         </svg></td>",
        time(ns),
        percent(fraction(ns, longest)),
    );
}

fn counts(out: &mut String, runs: &[Run]) {
    head(out, runs, "counts", "both");
    for (name, values) in count_rows(runs) {
        let most = values.iter().max().copied().unwrap_or(0);
        if most == 0 {
            continue;
        }
        let _ = write!(out, "<tr><th scope=row>{}</th>", Text(&name));
        for value in values {
            let _ = write!(
                out,
                "<td data-count={value}>{}<svg class=under height=5 aria-hidden=true>\
                 <rect class=heat x=0 y=0 height=5 width={} /></svg></td>",
                grouped(value),
                percent(fraction(value, most)),
            );
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
}
