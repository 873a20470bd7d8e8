//! Whose the guest's memory was, over time.

use std::fmt::Write;

use super::area::{self, Band};
use super::markup::Text;
use super::palette;
use crate::report::clock::Clock;
use crate::report::ledger::{HalfFacts, LedgerFacts, SeriesPoint};
use crate::report::number::{bytes, digits, grouped, time};
use crate::report::runs::Run;

/// States from the bottom of the chart up, what the chart calls them, and their colours: private ones first.
const STATES: [(&str, &str, &str); 7] = [
    ("measured", "measured", "S"),
    ("added", "added", "A"),
    ("accepted", "accepted", "U"),
    ("converted", "converted", "K"),
    ("unaccepted", "not accepted", "H"),
    ("shared", "shared from the start", "G"),
    ("shared_back", "shared by the guest", "P"),
];

/// A chart for each clock, then what changed in which phase, and what memory of the host it took.
pub fn render(out: &mut String, run: &Run) {
    let ledger = &run.report.ledger;
    if ledger.series.is_empty() {
        out.push_str("<p class=none>This report has no page ledger.</p>");
        return;
    }
    for clock in Clock::ALL {
        chart(out, run, ledger, clock);
    }
    at_end(out, ledger);
    phases(out, run, ledger);
    out.push_str("<div class=two>");
    acceptance(out, ledger);
    host_memory(out, ledger);
    out.push_str("</div>");
}

fn when(clock: Clock, point: &SeriesPoint) -> Option<u64> {
    match clock {
        Clock::Wall => Some(point.wall_ns),
        Clock::Modelled => point.modelled_ns,
    }
}

fn chart(out: &mut String, run: &Run, ledger: &LedgerFacts, clock: Clock) {
    let Some(end) = clock.total(&run.report) else { return };
    let points: Vec<(u64, &SeriesPoint)> =
        ledger.series.iter().filter_map(|point| when(clock, point).map(|at| (at, point))).collect();
    if points.is_empty() {
        return;
    }
    let moments: Vec<u64> = points.iter().map(|(at, _)| *at).collect();
    let values = |state: &str| -> Vec<u64> {
        points.iter().map(|(_, point)| point.bytes.get(state).copied().unwrap_or(0)).collect()
    };
    let mut bands: Vec<Band> = STATES
        .iter()
        .map(|(state, name, class)| Band { name, class, values: values(state) })
        .collect();
    // States of a cvmm to come.
    let known = |state: &str| STATES.iter().any(|(name, ..)| *name == state);
    let mut others: Vec<&str> =
        points.iter().flat_map(|(_, point)| point.bytes.keys()).map(String::as_str).collect();
    others.retain(|state| !known(state));
    others.sort_unstable();
    others.dedup();
    bands.extend(others.iter().map(|name| Band { name, class: "T", values: values(name) }));
    let spoken = format!(
        "Ownership of {} of guest memory in {} over {} time",
        bytes(ledger.memory_bytes),
        run.name,
        clock.name()
    );
    let _ = write!(out, "<figure class={}>", clock.name());
    area::chart(out, &spoken, &moments, &bands, end, bytes);
    let _ = write!(
        out,
        "<figcaption>All {} of guest memory by state, over {} time. Every page is in exactly one; measured, added, accepted, converted and not accepted ones are private.</figcaption></figure>",
        bytes(ledger.memory_bytes),
        clock.name()
    );
}

/// The states at the end in words: what is small in the chart is not small here.
fn at_end(out: &mut String, ledger: &LedgerFacts) {
    out.push_str("<p class=states>At the end: ");
    let known = STATES.iter().filter_map(|(state, name, class)| {
        let amount = ledger.states_at_end.get(*state).copied().filter(|amount| *amount > 0)?;
        Some(format!(
            "<span data-state={state} data-bytes={amount}><b class=\"chip {class}\"></b> {name} {}</span>",
            bytes(amount)
        ))
    });
    out.push_str(&known.collect::<Vec<_>>().join(" "));
    let _ = write!(
        out,
        " <span>changed owner more than once: {} pages</span></p>",
        grouped(ledger.flip_flop_pages)
    );
}

fn phases(out: &mut String, run: &Run, ledger: &LedgerFacts) {
    if ledger.by_phase.is_empty() {
        return;
    }
    let _ = write!(
        out,
        "<div class=scroll tabindex=0 role=region aria-label=\"Pages of {} by phase\"><table><thead><tr>\
         <th scope=col>pages, by phase</th><th scope=col class=num>launched</th><th scope=col class=num>accepted</th>\
         <th scope=col class=num>to private</th><th scope=col class=num>to shared</th>\
         <th scope=col class=num>owner changes a second</th></tr></thead><tbody>",
        Text(&run.name)
    );
    for phase in &ledger.by_phase {
        let counts = &phase.counts;
        let _ = write!(
            out,
            "<tr><th scope=row><b class=\"chip {}\">{}</b> <span class=wide>{}</span></th>",
            palette::class(&phase.phase),
            Text(&phase.phase),
            Text(super::overview::name(&run.report.phases, &phase.phase)),
        );
        let launched = counts.measured_pages.saturating_add(counts.added_pages);
        for count in
            [launched, counts.accepted_pages, counts.to_private_pages, counts.to_shared_pages]
        {
            let shown = if count == 0 { String::new() } else { grouped(count) };
            let _ = write!(out, "<td class=num>{shown}</td>");
        }
        let rate = |rate: f64| if rate > 0.0 { digits(rate) } else { String::new() };
        let wall = rate(phase.owner_changes_per_wall_second);
        match phase.owner_changes_per_modelled_second.map(rate) {
            Some(modelled) => {
                let _ = write!(
                    out,
                    "<td class=num><span class=modelled>{modelled}</span><span class=wall>{wall}</span></td></tr>"
                );
            }
            None => {
                let _ = write!(out, "<td class=num><span class=wall>{wall}</span></td></tr>");
            }
        }
    }
    out.push_str("</tbody></table></div>");
}

fn acceptance(out: &mut String, ledger: &LedgerFacts) {
    let Some(accepted) = &ledger.accepted else { return };
    let count = |count: Option<u64>| count.map_or_else(|| "not known".to_owned(), grouped);
    let _ = write!(
        out,
        "<table><thead><tr><th scope=col>accepted by the shim</th><th scope=col class=num>pages</th></tr></thead><tbody>\
         <tr><th scope=row>all, in units of 4 KiB</th><td class=num>{}</td></tr>\
         <tr><th scope=row>of RAM, as 4 KiB</th><td class=num>{}</td></tr>\
         <tr><th scope=row>of RAM, as 2 MiB</th><td class=num>{}</td></tr>\
         <tr><th scope=row>2 MiB that were held as 4 KiB</th><td class=num>{}</td></tr></tbody></table>",
        grouped(accepted.pages),
        count(accepted.pages_4k),
        count(accepted.pages_2m),
        count(accepted.mismatches),
    );
}

fn host_memory(out: &mut String, ledger: &LedgerFacts) {
    let memory = &ledger.memory;
    let halves = [("shared half", &memory.shared), ("private half", &memory.private)];
    if halves.iter().all(|(_, half)| half.is_none()) {
        return;
    }
    out.push_str(
        "<table><thead><tr><th scope=col>host memory</th><th scope=col class=num>after launch</th>\
         <th scope=col class=num>peak</th><th scope=col class=num>end</th></tr></thead><tbody>",
    );
    let row = |out: &mut String, name: &str, half: &HalfFacts| {
        let _ = write!(
            out,
            "<tr data-tip=\"by {}\"><th scope=row>{name}</th><td class=num>{}</td><td class=num>{}</td>\
             <td class=num>{}</td></tr>",
            Text(&half.source),
            bytes(half.begin_bytes),
            bytes(half.peak_bytes),
            bytes(half.end_bytes),
        );
    };
    for (name, half) in halves {
        if let Some(half) = half {
            row(out, name, half);
        }
    }
    let _ = write!(
        out,
        "<tr class=quiet><th scope=row colspan=4>looked at {} times, at most {} of wall time apart</th></tr></tbody></table>",
        grouped(memory.samples),
        time(memory.interval_wall_ns),
    );
}
