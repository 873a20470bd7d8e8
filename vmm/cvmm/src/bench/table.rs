//! Tables for people: medians with what they are worth, whose clock they are from, and what differs.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::result::{CellResult, FigureResult, Results};
use crate::compare::number::{Scale, count, p_value, scale};
use crate::compare::table::words;
use crate::figures::Clock;

/// So many cells fit side by side.
const COLUMNS: usize = 6;

pub fn render(results: &Results) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_all(&mut out, results);
    out
}

fn write_all(out: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(out, "{}", results.name)?;
    for line in results.about.lines() {
        writeln!(out, "  {line}")?;
    }
    for host in &results.hosts {
        writeln!(out, "host: {}", host.describe())?;
    }
    if results.missing > 0 {
        writeln!(out, "NOT COMPLETE: {} run(s) are yet to be done", results.missing)?;
    }
    for id in &results.compared {
        write_figure(out, results, id)?;
    }
    if results.cells.len() <= COLUMNS {
        let modelled = results.cells.iter().any(|cell| cell.modelled);
        let phases = if modelled { "/modelled_ns" } else { "/wall_ns" };
        write_medians(out, results, "phases", |id| {
            id.starts_with("phase/") && id.ends_with(phases)
        })?;
        write_medians(out, results, "exits", |id| {
            id.starts_with("exits/") && !id.ends_with("_ns")
        })?;
        let pages = ["pages/", "ledger/", "memory/"];
        write_medians(out, results, "pages and memory", |id| {
            pages.iter().any(|p| id.starts_with(p))
        })?;
        write_medians(out, results, "KVM's statistics", |id| id.starts_with("kvm/"))?;
    } else {
        writeln!(
            out,
            "\n{} cells do not fit side by side; --json has their phases, exits and pages",
            results.cells.len()
        )?;
    }
    write_medians(out, results, "probes", |id| id.starts_with("probe/"))?;
    write_comparisons(out, results)?;
    write_lines(out, results)?;
    write_goals(out, results)?;
    write_notes(out, results)
}

fn width(results: &Results) -> usize {
    results.cells.iter().map(|cell| cell.name.chars().count()).max().unwrap_or(0).max(4)
}

/// One figure, a cell each row.
fn write_figure(out: &mut String, results: &Results, id: &str) -> std::fmt::Result {
    let figures: Vec<&FigureResult> =
        results.cells.iter().filter_map(|cell| cell.figure(id)).collect();
    let Some(first) = figures.first() else { return Ok(()) };
    let largest = figures.iter().map(|figure| figure.summary.max).fold(0.0, f64::max);
    let scale = scale(&first.unit, largest);
    let width = width(results);
    let unit = if scale.unit == first.label { String::new() } else { format!(", {}", scale.unit) };
    writeln!(out, "\n{}{unit} ({})", first.label, first.clock.name())?;
    let head = ["n", "median", "MAD", "95 % interval", "p95", "max", "outliers"];
    writeln!(
        out,
        "  {:width$}{:>5}{:>13}{:>11}{:>27}{:>13}{:>13}  {}",
        "cell", head[0], head[1], head[2], head[3], head[4], head[5], head[6]
    )?;
    for cell in &results.cells {
        let Some(figure) = cell.figure(id) else { continue };
        let of = &figure.summary;
        let interval = of.interval.map_or("-".to_owned(), |interval| {
            format!("{} .. {}", scale.show(interval.low), scale.show(interval.high))
        });
        let outliers: Vec<String> = of.outliers.iter().map(|value| scale.show(*value)).collect();
        let line = format!(
            "  {:width$}{:>5}{:>13}{:>11}{:>27}{:>13}{:>13}  {}",
            cell.name,
            of.n,
            scale.show(of.median),
            scale.show(of.mad),
            interval,
            scale.show(of.p95),
            scale.show(of.max),
            outliers.join(" ")
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Medians of many figures, a cell each column.
fn write_medians(
    out: &mut String,
    results: &Results,
    title: &str,
    wanted: impl Fn(&str) -> bool,
) -> std::fmt::Result {
    let mut rows: Vec<&FigureResult> = Vec::new();
    let mut seen = BTreeSet::new();
    // Whoever has most of them has them in an order that the others fit into.
    let mut cells: Vec<&CellResult> = results.cells.iter().collect();
    cells.sort_by_key(|cell| std::cmp::Reverse(cell.figures.len()));
    for figure in cells.into_iter().flat_map(|cell| &cell.figures) {
        if wanted(&figure.id) && seen.insert(&figure.id) {
            rows.push(figure);
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    let first = rows.iter().map(|row| row.label.chars().count() + 12).max().unwrap_or(0).max(20);
    let column = width(results).max(12) + 2;
    write!(out, "\n{:first$}", format!("{title}, medians"))?;
    for cell in &results.cells {
        write!(out, "{:>column$}", cell.name)?;
    }
    writeln!(out)?;
    for row in rows {
        let of = |cell: &CellResult| cell.figure(&row.id).map(|figure| figure.summary.median);
        let largest = results.cells.iter().filter_map(of).fold(0.0, f64::max);
        let scale: Scale = scale(&row.unit, largest);
        let clock = if row.clock == Clock::Counted {
            String::new()
        } else {
            format!(" {}", short(row.clock))
        };
        write!(out, "  {:1$}", format!("{} [{}{clock}]", row.label, scale.unit), first - 2)?;
        for cell in &results.cells {
            write!(out, "{:>column$}", of(cell).map_or(String::new(), |value| scale.show(value)))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn short(clock: Clock) -> &'static str {
    match clock {
        Clock::Measured => "meas.",
        Clock::Modelled => "mod.",
        Clock::Counted => "",
    }
}

/// A table for each figure.
fn write_comparisons(out: &mut String, results: &Results) -> std::fmt::Result {
    for family in results.comparisons.chunk_by(|a, b| a.figure == b.figure) {
        let Some(first) = family.first() else { continue };
        let largest = family.iter().map(|c| c.median_a.max(c.median_b)).fold(0.0, f64::max);
        let scale = scale(&first.unit, largest);
        let pairs: Vec<String> = family.iter().map(|c| format!("{} -> {}", c.a, c.b)).collect();
        let width = pairs.iter().map(|pair| pair.chars().count()).max().unwrap_or(0);
        writeln!(out, "\ndifferences: {}, {} ({})", first.label, scale.unit, first.clock.name())?;
        let head = ["difference", "", "95 % interval", "U", "p (Holm)", "delta"];
        writeln!(
            out,
            "  {:width$}{:>13}{:>10}{:>27}{:>9}{:>10}{:>9}",
            "", head[0], head[1], head[2], head[3], head[4], head[5]
        )?;
        for (comparison, pair) in family.iter().zip(pairs) {
            let of = comparison;
            let percent =
                of.ratio.map_or(String::new(), |ratio| format!("{:+.1} %", (ratio - 1.0) * 100.0));
            let interval = of.interval.map_or("-".to_owned(), |interval| {
                format!("{} .. {}", scale.show(interval.low), scale.show(interval.high))
            });
            writeln!(
                out,
                "  {pair:width$}{:>13}{percent:>10}{interval:>27}{:>9}{:>10}{:>+9.3}  {}",
                scale.show(of.difference),
                of.u,
                p_value(of.p_holm, of.exact),
                of.delta,
                words(of, &scale)
            )?;
        }
        if let Some([a, b]) = family.iter().find_map(|c| c.profiles.as_ref()) {
            writeln!(out, "  some are of two parts, {a} and {b}: what differs may be the part")?;
        }
    }
    if !results.comparisons.is_empty() {
        writeln!(
            out,
            "\nU and delta: Mann-Whitney and Cliff; ~ by the normal approximation, else exact"
        )?;
    }
    let suspicious =
        results.comparisons.iter().find(|c| c.a_a && c.p < crate::compare::verdict::ALPHA);
    if let Some(comparison) = suspicious {
        writeln!(
            out,
            "WARNING: '{}' differs from itself (p = {:.4}): this host was not quiet, and no measured difference can be trusted",
            comparison.a, comparison.p
        )?;
    }
    Ok(())
}

fn write_lines(out: &mut String, results: &Results) -> std::fmt::Result {
    for line in &results.lines {
        writeln!(
            out,
            "\n{}: {} by {} ({}): slope {} each, intercept {}",
            line.group,
            line.y,
            line.x,
            line.clock.name(),
            count(line.slope),
            count(line.intercept)
        )?;
        writeln!(out, "  {:>24}{:>24}{:>12}", "here", "published", "ratio")?;
        writeln!(
            out,
            "  {:>24}{:>24}{:>12.3}",
            count(line.slope),
            count(line.published),
            line.ratio
        )?;
        writeln!(out, "  published: {}", line.source)?;
        if !line.placeholder_costs.is_empty() {
            writeln!(out, "  placeholders may be in it: {}", line.placeholder_costs.join(", "))?;
        }
    }
    Ok(())
}

/// A goal each row, what others have reached below it.
fn write_goals(out: &mut String, results: &Results) -> std::fmt::Result {
    if results.goals.is_empty() {
        return Ok(());
    }
    let width = results.goals.iter().map(|goal| goal.goal.what.chars().count()).max().unwrap_or(0);
    let head = ["today", "goal", "aim"];
    writeln!(
        out,
        "\n{:width$}{:>12}{:>12}{:>12}  {:<10}{:<12}standing",
        "goals (at most)", head[0], head[1], head[2], "clock", "profile"
    )?;
    for result in &results.goals {
        let goal = &result.goal;
        let show = |value: Option<f64>| match (value, result.unit.as_deref()) {
            (None, _) => "-".to_owned(),
            (Some(value), Some("ns")) => format!("{:.2} ms", value / 1e6),
            (Some(value), _) => count(value),
        };
        let mut standing = result.standing.name().to_owned();
        if let Some([low, high]) = result.range.filter(|[low, high]| low != high) {
            let range = format!("; {} to {} with other costs", show(Some(low)), show(Some(high)));
            standing.push_str(&range);
        }
        if let Some(share) = result.placeholder_share.filter(|share| *share >= 0.0005) {
            standing
                .push_str(&format!("; {:.1} % of the cell's time is placeholders", share * 100.0));
        }
        if let Some(why) = &goal.open {
            standing.push_str(&format!(": {why}"));
        }
        writeln!(
            out,
            "{:width$}{:>12}{:>12}{:>12}  {:<10}{:<12}{standing}",
            goal.what,
            show(result.today),
            show(goal.goal),
            show(goal.aim),
            result.clock.map_or("-", |clock| clock.name()),
            result.profile.as_deref().unwrap_or("-")
        )?;
        writeln!(out, "  anchor: {}", goal.anchor)?;
    }
    Ok(())
}

fn write_notes(out: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(out)?;
    for cell in results.cells.iter().filter(|cell| !cell.failures.is_empty()) {
        writeln!(
            out,
            "{}: {} of {} runs failed; the first: {}",
            cell.name,
            cell.failures.len(),
            cell.runs,
            cell.failures[0]
        )?;
    }
    let emulated: BTreeSet<&str> =
        results.cells.iter().filter_map(|cell| cell.profile.as_deref()).collect();
    if !emulated.is_empty() {
        let profiles: Vec<&str> = emulated.into_iter().collect();
        writeln!(
            out,
            "modelled: times of softkvm's profiles {}, equal in equal runs; measured: times of this host, which emulates",
            profiles.join(", ")
        )?;
    }
    for cell in &results.cells {
        let of = |id: &str| cell.figure(id).map(|figure| figure.summary.median);
        if let Some((rests, total)) =
            of("total/placeholder_modelled_ns").zip(of("total/modelled_ns"))
        {
            let share = rests / total * 100.0;
            writeln!(
                out,
                "{}: {share:.1} % of its modelled time rests on placeholders",
                cell.name
            )?;
        }
    }
    let costs: BTreeSet<&String> =
        results.cells.iter().flat_map(|cell| &cell.placeholder_costs).collect();
    if !costs.is_empty() {
        let costs: Vec<&str> = costs.into_iter().map(String::as_str).collect();
        writeln!(
            out,
            "modelled times rest in part on costs that nobody has published: {}",
            costs.join(", ")
        )?;
    }
    writeln!(
        out,
        "outliers (Tukey) are marked and count; failed runs and warm-ups are kept in the file and do not"
    )
}
