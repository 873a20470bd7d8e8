//! Why vCPUs left the guest, phase by phase.

use std::fmt::Write;

use super::markup::Text;
use super::palette::{self, TINTS};
use crate::report::number::{digits, grouped, time};
use crate::report::runs::Run;
use crate::report::schema::RunReport;

/// A row for each phase, a column for each reason.
pub fn render(out: &mut String, run: &Run) {
    let report = &run.report;
    if report.exits.total == 0 {
        out.push_str("<p class=none>No vCPU left the guest: there are no exits to show.</p>");
        return;
    }
    let reasons: Vec<&str> = report.exits.by_reason.iter().map(|r| r.reason.as_str()).collect();
    let _ = write!(
        out,
        "<p class=note>Exits to the monitor. The deeper the colour, the more of them.</p>\
         <div class=scroll tabindex=0 role=region aria-label=\"Exits of {name} by phase and reason\"><table class=heat>\
         <thead><tr><th scope=col>phase</th>",
        name = Text(&run.name)
    );
    for reason in &reasons {
        let _ = write!(out, "<th scope=col class=num>{}</th>", Text(&reason.replace('_', " ")));
    }
    out.push_str("<th scope=col class=num>all</th></tr></thead><tbody>");
    for phase in report.phases.iter().filter(|phase| phase.exits > 0) {
        let _ = write!(
            out,
            "<tr><th scope=row><b class=\"chip {}\">{}</b> <span class=wide>{}</span></th>",
            palette::class(&phase.id),
            Text(&phase.id),
            Text(&phase.name)
        );
        for reason in &reasons {
            cell(out, report, &phase.id, reason);
        }
        let _ = write!(out, "<td class=num>{}</td></tr>", grouped(phase.exits));
    }
    totals(out, report);
    recorder(out, report);
}

fn cell(out: &mut String, report: &RunReport, phase: &str, reason: &str) {
    let here = report.exits.by_phase.iter().filter(|e| e.phase == phase && e.reason == reason);
    let each: Vec<(u16, u64)> = here.map(|exits| (exits.vcpu, exits.count)).collect();
    let count = each.iter().map(|(_, count)| *count).fold(0, u64::saturating_add);
    if count == 0 {
        out.push_str("<td></td>");
        return;
    }
    let tint = ((count as f64).log10() / 5.0 * TINTS.len() as f64) as usize;
    let by_vcpu: Vec<String> =
        each.iter().map(|(vcpu, count)| format!("vCPU {vcpu}: {}", grouped(*count))).collect();
    let _ = write!(
        out,
        "<td class=\"num t{}\" data-count={count} data-tip=\"{} in {}: {}\">{}</td>",
        tint.min(TINTS.len() - 1),
        Text(reason),
        Text(phase),
        by_vcpu.join(", "),
        grouped(count)
    );
}

fn totals(out: &mut String, report: &RunReport) {
    type Pick = fn(&crate::report::schema::ReasonFacts) -> u64;
    let rows: [(&str, Pick, bool); 3] = [
        ("all phases", |r| r.count, false),
        ("in the guest before them, wall", |r| r.guest_wall_ns, true),
        ("in the monitor after them, wall", |r| r.monitor_wall_ns, true),
    ];
    out.push_str("</tbody><tfoot>");
    for (name, pick, is_time) in rows {
        let show = |value| if is_time { time(value) } else { grouped(value) };
        let _ = write!(out, "<tr><th scope=row>{name}</th>");
        for reason in &report.exits.by_reason {
            let _ = write!(out, "<td class=num>{}</td>", show(pick(reason)));
        }
        let all = report.exits.by_reason.iter().map(pick).fold(0, u64::saturating_add);
        let _ = write!(out, "<td class=num>{}</td></tr>", show(all));
    }
    out.push_str("</tfoot></table></div>");
}

fn recorder(out: &mut String, report: &RunReport) {
    let recorder = &report.exits.recorder;
    let _ = write!(
        out,
        "<p class=note>Recording an exit took {} ns of wall time: {} % of the time that vCPUs ran or had an exit handled.</p>",
        digits(recorder.wall_ns_per_exit),
        digits(recorder.wall_share_of_run * 100.0)
    );
}
