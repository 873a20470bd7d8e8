//! `cvmm compare`: what changed between two reports, or between two files of `cvmm bench`, in words and numbers.
//!
//! Every figure is compared with the one of the same name and clock; a modelled time never with a measured one.

pub mod number;
mod subject;
pub mod table;
pub mod verdict;

use std::path::Path;

use serde::Serialize;

use crate::cli::bench::CompareFlags;
use crate::error::{Error, ExitCode};
use crate::figures::Clock;
use subject::Subject;
use verdict::{Comparison, Side, adjust};

/// The version of `--json`'s layout: changes when a reader would break.
pub const SCHEMA: &str = "cvmm-compare/1";

/// Everything that is said.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The version of the layout.
    pub schema: &'static str,
    /// The first file.
    pub a: String,
    /// The other.
    pub b: String,
    /// Were times left out, because the two have different clocks?
    pub counts_only: bool,
    /// What was compared with what.
    pub pairs: Vec<Pair>,
    /// Cells that only the first file has.
    pub only_a: Vec<String>,
    /// Cells that only the other has.
    pub only_b: Vec<String>,
}

/// Two runs, or two cells.
#[derive(Debug, Serialize)]
pub struct Pair {
    /// The first one's name.
    pub a: String,
    /// The other's.
    pub b: String,
    /// How many runs there are of the first.
    pub n_a: usize,
    /// And of the other.
    pub n_b: usize,
    /// What differs in the guests themselves and in what they ran on: name, first, other.
    pub changed: Vec<[String; 3]>,
    /// softkvm's costs that nobody has measured.
    pub placeholder_costs: Vec<String>,
    /// Every figure that both have.
    pub comparisons: Vec<Comparison>,
}

/// Does what the flags say.
///
/// # Errors
/// A file cannot be read, or the two cannot be compared.
pub fn run(flags: &CompareFlags) -> Result<ExitCode, Error> {
    let report = compare(&flags.a, &flags.b, flags.counts)?;
    crate::print_out(&if flags.json { crate::json(&report)? } else { table::render(&report) })
}

fn compare(a: &Path, b: &Path, counts_only: bool) -> Result<Report, Error> {
    let (left, right) = (subject::read(a)?, subject::read(b)?);
    let usage = |problem: &str, cure: &str| Error::Usage {
        flag: format!("compare {} {}", a.display(), b.display()),
        problem: problem.to_owned(),
        cure: cure.to_owned(),
    };
    if left.is_bench != right.is_bench {
        return Err(usage("one is a report and the other a file of runs", "give two of a kind"));
    }
    let pairs = match_up(&left.subjects, &right.subjects);
    if pairs.is_empty() {
        return Err(usage("they have no cell in common", "compare files of the same cells"));
    }
    for (x, y) in &pairs {
        if x.modelled != y.modelled && !counts_only {
            let which = |s: &Subject| if s.modelled { "modelled" } else { "measured" };
            let problem = format!(
                "guest time is {} in '{}' and {} in '{}'; the two are not to be compared",
                which(x),
                x.name,
                which(y),
                y.name
            );
            return Err(usage(
                &problem,
                "add --counts to compare what is counted: exits, pages and bytes",
            ));
        }
    }
    let lonely = |of: &[Subject], taken: Vec<&Subject>| {
        let alone = |subject: &&Subject| !taken.iter().any(|other| std::ptr::eq(*other, *subject));
        of.iter().filter(alone).map(|subject| subject.name.clone()).collect()
    };
    Ok(Report {
        schema: SCHEMA,
        a: a.display().to_string(),
        b: b.display().to_string(),
        counts_only,
        only_a: lonely(&left.subjects, pairs.iter().map(|(x, _)| *x).collect()),
        only_b: lonely(&right.subjects, pairs.iter().map(|(_, y)| *y).collect()),
        pairs: pairs.iter().map(|(x, y)| pair(x, y, counts_only)).collect(),
    })
}

/// Cells by their names; where each file has one, those two.
fn match_up<'a>(left: &'a [Subject], right: &'a [Subject]) -> Vec<(&'a Subject, &'a Subject)> {
    if let ([x], [y]) = (left, right) {
        return vec![(x, y)];
    }
    let same = |x: &'a Subject| Some((x, right.iter().find(|y| y.name == x.name)?));
    left.iter().filter_map(same).collect()
}

fn pair(x: &Subject, y: &Subject, counts_only: bool) -> Pair {
    let mut comparisons = Vec::new();
    for (figure, sample) in &x.figures {
        if counts_only && figure.clock != Clock::Counted {
            continue;
        }
        let Some((_, other)) = y.figures.iter().find(|(f, _)| f.id == figure.id) else { continue };
        let (a, b) = (side(x, sample), side(y, other));
        comparisons.push(Comparison::of(
            &figure.id,
            &figure.label,
            figure.clock,
            &figure.unit,
            &a,
            &b,
        ));
    }
    // All figures of a pair are one family, but for those that need no test.
    adjust(&mut comparisons, None);
    for comparison in &mut comparisons {
        comparison.noise_floor =
            [x, y].iter().filter_map(|s| s.noise_floor(&comparison.figure)).reduce(f64::max);
        if comparison.noise_floor.is_some_and(|floor| comparison.difference.abs() <= floor) {
            comparison.verdict = comparison.verdict.below_noise();
        }
    }
    let facts = x.facts.iter().filter_map(|(name, value)| {
        let other = y.facts.iter().find(|(of, _)| of == name).map_or("", |(_, value)| value);
        (other != value).then(|| [name.clone(), value.clone(), other.to_owned()])
    });
    let mut placeholder_costs = [x.placeholder_costs.clone(), y.placeholder_costs.clone()].concat();
    placeholder_costs.sort();
    placeholder_costs.dedup();
    Pair {
        a: x.name.clone(),
        b: y.name.clone(),
        n_a: x.runs,
        n_b: y.runs,
        changed: facts.collect(),
        placeholder_costs,
        comparisons,
    }
}

fn side<'a>(subject: &'a Subject, sample: &'a crate::stats::Sample) -> Side<'a> {
    Side {
        name: &subject.name,
        sample,
        deterministic: subject.modelled,
        profile: subject.profile.as_deref(),
    }
}
