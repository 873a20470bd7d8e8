//! What the runs were, what came of them, and how far their figures can be trusted.

use std::fmt::Write;

use super::markup::Text;
use crate::report::clock::Clock;
use crate::report::number::{grouped, time};
use crate::report::runs::{Run, platform, technology};
use crate::report::schema::RunReport;

/// The title: what tells the runs apart.
pub fn title(runs: &[Run]) -> String {
    match runs {
        [run] => format!("Boot of a {} guest", technology(&run.report)),
        runs => {
            let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
            let names = names.join(", ");
            // Longer ones stand on the cards.
            match names.chars().count() {
                0..=48 => format!("Boots compared: {names}"),
                _ => format!("{} boots compared", runs.len()),
            }
        }
    }
}

/// What all the runs have in common: kernel and size.
pub fn common(runs: &[Run]) -> String {
    let mut facts = Vec::new();
    let mut same = |of: &dyn Fn(&Run) -> String| {
        if let Some(first) = runs.first().map(of)
            && runs.iter().all(|run| of(run) == first)
            && !first.is_empty()
        {
            facts.push(first);
        }
    };
    same(&|run| run.report.guest.kernel.clone().map(|k| format!("kernel {k}")).unwrap_or_default());
    same(&|run| {
        run.report.guest.firmware.clone().map(|f| format!("firmware {f}")).unwrap_or_default()
    });
    same(&Run::size);
    facts.join(" · ")
}

/// A card for each run.
pub fn cards(out: &mut String, runs: &[Run]) {
    out.push_str("<div class=cards>");
    for (at, run) in runs.iter().enumerate() {
        card(out, runs, run, at);
    }
    out.push_str("</div>");
}

fn card(out: &mut String, runs: &[Run], run: &Run, at: usize) {
    let report = &run.report;
    let _ = write!(
        out,
        "<article class=card><h3><a href=\"#run-{at}\">{}</a></h3><p class=sub>{}</p>",
        Text(&run.name),
        Text(&run.kind()),
    );
    for clock in Clock::ALL {
        total(out, runs, run, clock);
    }
    let ended = if report.outcome.exit_code == 0 { "good" } else { "bad" };
    let _ = write!(
        out,
        "<p><span class={ended}>{}</span> · {} exits · {} launch pages{}</p>",
        Text(&outcome(report)),
        grouped(report.exits.total),
        grouped(report.launch.pages),
        match report.launch.vmsa_pages {
            0 => String::new(),
            vmsas => format!(" + {} of registers", grouped(vmsas)),
        },
    );
    if let Some(warning) = run.warning() {
        let _ = write!(out, "<p class=warning>{warning}</p>");
    }
    if let Some(note) = run.placeholder_note() {
        let _ = write!(
            out,
            "<details class=modelled><summary>{note}</summary><p class=note>Nobody has published what they are: {}.</p>\
             </details>",
            Text(&run.placeholders().join(", ")),
        );
    }
    out.push_str("</article>");
}

/// How long it took, and how that compares.
fn total(out: &mut String, runs: &[Run], run: &Run, clock: Clock) {
    let Some(total) = clock.total(&run.report) else {
        let _ =
            write!(out, "<p class=\"big none {clock}\">no {clock} time</p>", clock = clock.name());
        return;
    };
    let _ = write!(
        out,
        "<p class=\"big {clock}\" data-ns={total}>{} <small>{clock} time",
        time(total),
        clock = clock.name()
    );
    let shortest = runs.iter().filter_map(|run| Some((clock.total(&run.report)?, run)));
    if let Some((least, shortest)) = shortest.min_by_key(|(total, _)| *total)
        && total > least
        && least > 0
    {
        let factor = total as f64 / least as f64;
        let _ = write!(out, ", {factor:.2} × {}", Text(&shortest.name));
    }
    out.push_str("</small></p>");
}

fn outcome(report: &RunReport) -> String {
    match report.outcome.exit_code {
        0 => report.outcome.kind.replace('_', " "),
        code => format!("{}, exit code {code}", report.outcome.kind.replace('_', " ")),
    }
}

/// Identity and configuration of a run.
pub fn facts(out: &mut String, run: &Run) {
    let report = &run.report;
    let guest = &report.guest;
    let mut rows: Vec<(&str, String)> = Vec::new();
    let mut row = |name, value: Option<String>| rows.extend(value.map(|value| (name, value)));
    row("launch digest", report.digest.clone());
    row("policy", report.policy.clone().filter(|_| report.td.is_none()));
    if let Some(td) = &report.td {
        row("attributes", Some(format!("{} {}", td.attributes, td.attribute_names.join(" "))));
        row("XFAM", Some(td.xfam.clone()));
    }
    row("firmware", guest.firmware.clone());
    row("kernel", guest.kernel.clone());
    row("initrd", guest.initrd.clone());
    row("command line", Some(guest.cmdline.clone()));
    row("size", Some(run.size()));
    row("load, accept", Some(format!("{}, {}", guest.load, guest.accept)));
    row("platform", Some(platform(&report.platform)));
    row("guest time", Some(report.platform.guest_time.clone()));
    row(
        "processor time",
        Some(format!(
            "{} user, {} system (wall clock's host)",
            time(report.total.cpu_user_ns),
            time(report.total.cpu_system_ns)
        )),
    );
    row("console", Some(format!("{} bytes", grouped(report.console_bytes))));
    row("cvmm", Some(report.cvmm_version.clone()));
    row("error", report.outcome.error.clone());
    row("cause", report.outcome.cause.clone());
    row("try", report.outcome.cure.clone());
    out.push_str("<dl>");
    for (name, value) in rows {
        let _ = write!(out, "<dt>{name}</dt><dd>{}</dd>", Text(&value));
    }
    out.push_str("</dl>");
}
