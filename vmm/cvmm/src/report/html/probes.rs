//! What the guest measured from inside.

use std::fmt::Write;

use super::axis::percent;
use super::markup::Text;
use crate::report::number::{bytes, digits, fraction, grouped, time};
use crate::report::probes::ProbeFacts;
use crate::report::runs::Run;

/// A row for each probe.
pub fn render(out: &mut String, run: &Run) {
    let probes = &run.report.probes;
    let _ = write!(
        out,
        "<div class=scroll tabindex=0 role=region aria-label=\"Probes of {}\"><table><thead><tr><th scope=col>probe</th>\
         <th scope=col class=num>median</th><th scope=col class=num>90 %</th><th scope=col class=num>99 %</th>\
         <th scope=col class=num>most</th><th scope=col class=num>samples</th><th scope=col>clock</th></tr></thead><tbody>",
        Text(&run.name)
    );
    for probe in probes {
        row(out, probe, probes);
    }
    out.push_str("</tbody></table></div>");
}

fn row(out: &mut String, probe: &ProbeFacts, all: &[ProbeFacts]) {
    let parameter = probe.parameter.map(|value| {
        let what = probe.parameter_is.as_deref().unwrap_or_default();
        if what == "bytes" { bytes(value) } else { format!("{} {what}", grouped(value)) }
    });
    let _ = write!(
        out,
        "<tr><th scope=row>{} <span class=quiet>{}</span></th>",
        Text(&probe.name.replace(['_', '-'], " ")),
        Text(&parameter.unwrap_or_default()),
    );
    if let Some(why) = &probe.unavailable {
        let _ = write!(out, "<td colspan=6 class=none>not measured: {}</td></tr>", Text(why));
        return;
    }
    let shown = |value: Option<u64>| value.map_or_else(|| "–".to_owned(), |v| show(v, &probe.unit));
    let largest = all.iter().filter(|other| other.unit == probe.unit).filter_map(|o| o.p50).max();
    let _ = write!(
        out,
        "<td class=num data-value={}>{}<svg class=under height=4 aria-hidden=true><rect class=heat height=4 width={} />\
         </svg></td>",
        probe.p50.unwrap_or(0),
        shown(probe.p50),
        percent(logarithmic(probe.p50.unwrap_or(0), largest.unwrap_or(0))),
    );
    for value in [probe.p90, probe.p99, probe.max] {
        let _ = write!(out, "<td class=num>{}</td>", shown(value));
    }
    let _ = write!(
        out,
        "<td class=num>{}</td><td>{}</td></tr>",
        grouped(probe.samples),
        Text(&probe.clock)
    );
}

/// Probes differ by orders of magnitude.
fn logarithmic(value: u64, largest: u64) -> f64 {
    let log = |value: u64| ((value.max(1) as f64).log10() * 1e6) as u64;
    fraction(log(value), log(largest))
}

fn show(value: u64, unit: &str) -> String {
    match unit {
        "ps" if value < 1_000 => format!("{value} ps"),
        "ps" if value < 1_000_000 => format!("{} ns", digits(value as f64 / 1e3)),
        "ps" => time(value / 1_000),
        "bytes/s" => format!("{}/s", bytes(value)),
        other => format!("{} {}", grouped(value), Text(other)),
    }
}
