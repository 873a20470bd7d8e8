//! The estimate for people.

use std::fmt::Write;

use super::Model;

pub fn render(model: &Model) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_model(&mut out, model);
    out
}

fn write_model(out: &mut String, model: &Model) -> std::fmt::Result {
    let work = &model.work;
    writeln!(
        out,
        "{} guest on profile {}: all times are modelled",
        model.technology, model.profile
    )?;
    writeln!(
        out,
        "{} launch pages, {} vCPU(s), {} MiB of memory, {:.1} MiB of files",
        work.launch_pages,
        work.vcpus,
        (work.memory_pages * abi::shim::PAGE) >> 20,
        work.payload_bytes as f64 / f64::from(1 << 20)
    )?;
    writeln!(out, "the kernel's own time: {}\n", model.kernel_from)?;
    let has_run = model.run_modelled_ns.is_some();
    write!(out, "{:<28}{:>14}{:>14}", "term", "estimate ms", "placeholder")?;
    writeln!(
        out,
        "{}",
        if has_run { format!("{:>14}{:>14}", "run ms", "run - est. ms") } else { String::new() }
    )?;
    for term in &model.terms {
        let share = share(term.placeholder_ns, term.estimate_modelled_ns);
        write!(out, "{:<28}{:>14}{share:>14}", term.name, ms(term.estimate_modelled_ns))?;
        match term.run_modelled_ns {
            Some(run) => {
                writeln!(out, "{:>14}{:>14}", ms(run), signed(run - term.estimate_modelled_ns))?
            }
            None => writeln!(out)?,
        }
    }
    for (name, ns) in &model.not_modelled {
        writeln!(out, "{:<28}{:>14}{:>14}{:>14}{:>14}", name, "-", "", ms(*ns), signed(*ns))?;
    }
    let whole = share(model.placeholder_ns, model.estimate_modelled_ns);
    write!(out, "{:<28}{:>14}{whole:>14}", "sum", ms(model.estimate_modelled_ns))?;
    match model.run_modelled_ns {
        Some(run) => {
            writeln!(out, "{:>14}{:>14}", ms(run), signed(run - model.estimate_modelled_ns))?
        }
        None => writeln!(out)?,
    }
    if let (Some(placeholder), Some(run)) = (model.run_placeholder_ns, model.run_modelled_ns) {
        writeln!(
            out,
            "of the run, {} ms ({}) rest on placeholders",
            ms(placeholder),
            share(placeholder, run)
        )?;
    }
    writeln!(out, "\nhow it was computed, and why the run took another time:")?;
    for term in &model.terms {
        writeln!(out, "  {}: {}", term.name, term.formula)?;
        let differs = term
            .run_modelled_ns
            .is_some_and(|run| (run - term.estimate_modelled_ns).abs() >= 500.0);
        if differs && !term.why.is_empty() {
            writeln!(out, "      {}", term.why)?;
        }
    }
    writeln!(out, "\ncosts:")?;
    for cost in &model.costs {
        writeln!(
            out,
            "  {:<16}{:>12} ns  confidence {:<7}{}",
            cost.name, cost.modelled_ns, cost.confidence, cost.source
        )?;
    }
    Ok(())
}

fn ms(ns: f64) -> String {
    format!("{:.3}", ns / 1e6)
}

fn signed(ns: f64) -> String {
    format!("{:+.3}", ns / 1e6)
}

fn share(part: f64, of: f64) -> String {
    if of > 0.0 { format!("{:.1} %", part / of * 100.0) } else { "-".into() }
}
