//! Comparisons in words and numbers.

use std::fmt::Write;

use super::number::{Scale, p_value, scale};
use super::verdict::{Comparison, Verdict};
use super::{Pair, Report};
use crate::figures::Clock;

/// So many of the largest changes are told in words.
const LARGEST: usize = 4;

/// All of it, for people.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_report(&mut out, report);
    out
}

fn write_report(out: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(out, "from {} to {}", report.a, report.b)?;
    if report.counts_only {
        writeln!(out, "only what is counted; the guests' times may be of different clocks")?;
    }
    for pair in &report.pairs {
        write_pair(out, pair)?;
    }
    for (names, file) in [(&report.only_a, &report.a), (&report.only_b, &report.b)] {
        if !names.is_empty() {
            writeln!(out, "\nonly in {file}: {}", names.join(", "))?;
        }
    }
    Ok(())
}

fn write_pair(out: &mut String, pair: &Pair) -> std::fmt::Result {
    match pair.a == pair.b {
        true => writeln!(out, "\n{} ({} and {} runs)", pair.a, pair.n_a, pair.n_b)?,
        false => writeln!(out, "\n{} -> {} ({} and {} runs)", pair.a, pair.b, pair.n_a, pair.n_b)?,
    }
    for [name, a, b] in &pair.changed {
        let show = |text: &String| if text.is_empty() { "none".to_owned() } else { text.clone() };
        writeln!(out, "  {name}: {} -> {}", show(a), show(b))?;
    }
    for clock in [Clock::Modelled, Clock::Measured] {
        write_words(out, pair, clock)?;
    }
    write_exits(out, pair)?;
    if pair.n_a.min(pair.n_b) == 1 && pair.comparisons.iter().any(|c| c.clock == Clock::Measured) {
        writeln!(
            out,
            "  one run cannot tell whether a measured difference is more than chance: use `cvmm bench`"
        )?;
    }
    if let Some([a, b]) = pair.comparisons.iter().find_map(|c| c.profiles.as_ref()) {
        writeln!(
            out,
            "  modelled times are of two parts, {a} and {b}: what differs may be the part"
        )?;
    }
    if !pair.placeholder_costs.is_empty() {
        let costs = pair.placeholder_costs.join(", ");
        writeln!(out, "  modelled times rest in part on costs that nobody has published: {costs}")?;
    }
    write_table(out, pair)
}

/// How the total changed, and which phases did it.
fn write_words(out: &mut String, pair: &Pair, clock: Clock) -> std::fmt::Result {
    let of = |c: &&Comparison| c.clock == clock;
    let Some(total) = pair.comparisons.iter().filter(of).find(|c| c.label == "total") else {
        return Ok(());
    };
    let scale = scale("ns", total.median_a.max(total.median_b));
    let clock_name = clock.name();
    if total.difference == 0.0 {
        return writeln!(
            out,
            "  total: {} {} in both ({clock_name})",
            scale.show(total.median_a),
            scale.unit
        );
    }
    let word = if total.difference > 0.0 { "longer" } else { "shorter" };
    writeln!(
        out,
        "  total: {} {} {word}{} ({clock_name}): {}",
        scale.show(total.difference.abs()),
        scale.unit,
        percent(total),
        words(total, &scale)
    )?;
    let mut phases: Vec<&Comparison> = pair
        .comparisons
        .iter()
        .filter(of)
        .filter(|c| c.figure.starts_with("phase/") && c.difference != 0.0)
        .collect();
    phases.sort_by(|a, b| b.difference.abs().total_cmp(&a.difference.abs()));
    for phase in phases.into_iter().take(LARGEST) {
        writeln!(
            out,
            "    {}: {} {}, {:.0} % of that",
            phase.label,
            Signed(scale.show(phase.difference)),
            scale.unit,
            phase.difference / total.difference * 100.0
        )?;
    }
    Ok(())
}

/// A number that has its minus already.
struct Signed(String);

impl std::fmt::Display for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plus = if self.0.starts_with('-') { "" } else { "+" };
        write!(f, "{plus}{}", self.0)
    }
}

fn write_exits(out: &mut String, pair: &Pair) -> std::fmt::Result {
    let Some(total) = pair.comparisons.iter().find(|c| c.figure == "exits/total") else {
        return Ok(());
    };
    if total.difference == 0.0 {
        return writeln!(out, "  exits: {} in both", total.median_a);
    }
    let of_reasons = pair.comparisons.iter().filter(|c| {
        c.figure.starts_with("exits/") && c.clock == Clock::Counted && c.figure != total.figure
    });
    let mut reasons: Vec<&Comparison> = of_reasons.filter(|c| c.difference != 0.0).collect();
    reasons.sort_by(|a, b| b.difference.abs().total_cmp(&a.difference.abs()));
    let most: Vec<String> = reasons
        .iter()
        .take(LARGEST)
        .map(|c| {
            format!(
                "{} {}",
                c.figure.trim_start_matches("exits/"),
                Signed(c.difference.to_string())
            )
        })
        .collect();
    writeln!(
        out,
        "  exits: {} -> {}{}: {}",
        total.median_a,
        total.median_b,
        percent(total),
        most.join(", ")
    )
}

fn percent(of: &Comparison) -> String {
    of.ratio.map_or(String::new(), |ratio| format!(" ({:+.1} %)", (ratio - 1.0) * 100.0))
}

fn write_table(out: &mut String, pair: &Pair) -> std::fmt::Result {
    let (equal, other): (Vec<&Comparison>, Vec<&Comparison>) =
        pair.comparisons.iter().partition(|c| c.verdict == Verdict::Equal);
    let name = |c: &Comparison, scale: &Scale| match c.clock {
        Clock::Counted => format!("{} [{}]", c.label, scale.unit),
        clock => format!("{} [{} {}]", c.label, scale.unit, clock.name()),
    };
    let scaled: Vec<_> = other
        .iter()
        .map(|c| (*c, scale(&c.unit, c.median_a.abs().max(c.median_b.abs()))))
        .collect();
    let width = scaled.iter().map(|(c, scale)| name(c, scale).chars().count()).max().unwrap_or(0);
    if !scaled.is_empty() {
        writeln!(
            out,
            "  {:width$}{:>14}{:>14}{:>14}{:>14}{:>10}{:>9}",
            "", "from", "to", "difference", "", "p (Holm)", "delta"
        )?;
    }
    for (of, scale) in &scaled {
        let one = of.n_a.min(of.n_b) == 1;
        let p = if one { String::new() } else { p_value(of.p_holm, of.exact) };
        let delta = if one { String::new() } else { format!("{:+.3}", of.delta) };
        writeln!(
            out,
            "  {:width$}{:>14}{:>14}{:>14}{:>14}{p:>10}{delta:>9}  {}",
            name(of, scale),
            scale.show(of.median_a),
            scale.show(of.median_b),
            Signed(scale.show(of.difference)).to_string(),
            percent(of).trim(),
            words(of, scale)
        )?;
    }
    match equal.len() {
        0 => Ok(()),
        count => writeln!(out, "  {count} more figures are equal"),
    }
}

/// What a comparison comes to, with what has to be known of it.
pub fn words(of: &Comparison, scale: &Scale) -> String {
    let mut words = of.verdict.words().to_owned();
    match (of.a_a, of.noise_floor) {
        (true, _) => words.push_str(" (A/A)"),
        (false, Some(floor)) if matches!(of.verdict, Verdict::BelowNoise | Verdict::Differs) => {
            words.push_str(&format!(" (noise floor {})", scale.show(floor)));
        }
        _ => {}
    }
    words
}
