//! `cargo xtask kernel-bisect`: which options of a configuration the boot time comes from.
//!
//! Options are put in order, and a *point* is a kernel with the first of them changed. A range of options costs what its two ends
//! differ by, so what is attributed always adds up to the whole difference. A range that costs little is left alone; any other is
//! halved, until it is one option. Every point is built and booted on softkvm, whose time is modelled: one boot is enough, and the
//! same point has the same time on every machine. Points are kept in a file, so a run that was broken off goes on where it was;
//! kernels are kept as well, so that another technology or command line only boots them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::bench::{Bench, Change, Cost};
use super::config::Config;
use super::effects;
use crate::run::target;

/// What to compare.
#[derive(clap::Args)]
pub struct Args {
    /// A configuration: tiny, micro, distro-like, or a .config of Linux 7.2.
    pub base: String,
    /// Another one, whose options are put into the first.
    #[arg(required_unless_present = "without", conflicts_with = "without")]
    pub other: Option<String>,
    /// Compare with the same kernel where these fragments' options are left to their defaults; with --each, are the opposite.
    #[arg(long, value_name = "FRAGMENT", value_delimiter = ',')]
    pub without: Vec<String>,
    /// Only options whose name matches one of these, without CONFIG_ (a * at the end stands for the rest of a name).
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Change each option alone instead of halving: as many kernels as there are options.
    #[arg(long)]
    pub each: bool,
    /// Write what --each has found into guest-kernel-config/README.md.
    #[arg(long, requires = "each", requires = "without")]
    readme: bool,
    /// Build no more kernels after so many minutes: ranges stay whole.
    #[arg(long, conflicts_with = "each")]
    pub minutes: Option<u64>,
    /// What the guest is: one or more of plain, snp and tdx.
    #[arg(long, default_value = "plain", value_parser = ["plain", "snp", "tdx"], value_delimiter = ',')]
    pub technology: Vec<String>,
    /// The kernel command line.
    #[arg(long, default_value = CMDLINE)]
    pub cmdline: String,
    /// Guest memory.
    #[arg(short, long, default_value = "256M")]
    pub memory: String,
    /// Virtual processors.
    #[arg(short = 'j', long, default_value_t = 1)]
    pub cpus: u32,
    /// The initramfs; without it that of the test guest, whose mark tells when /init runs.
    #[arg(long)]
    pub initrd: Option<PathBuf>,
    /// Ranges that make less of a difference are not halved, in microseconds.
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 200)]
    threshold: u64,
    /// Where points, kernels and results are kept.
    #[arg(long, default_value_os_t = target().join("bisect"))]
    pub out: PathBuf,
}

/// The command line that guest-kernel-config/README.md recommends.
pub const CMDLINE: &str =
    "console=ttyS0 quiet loglevel=1 swiotlb=noforce pci=off setcpuid=tsc_deadline_timer";

/// What a range of options makes of a difference.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub options: Vec<String>,
    pub modelled_ns: i64,
    pub exits: i64,
    pub image_bytes: i64,
}

/// What was found, of one technology.
#[derive(Serialize)]
pub struct Output<'a> {
    schema: &'a str,
    base: &'a str,
    other: String,
    pub technology: &'a str,
    cmdline: &'a str,
    memory: &'a str,
    cpus: u32,
    each: bool,
    pub from: Cost,
    to: Option<Cost>,
    pub findings: Vec<Finding>,
    /// Options without which there is no boot.
    pub failed: Vec<String>,
    /// Options that Kconfig does not let be changed alone.
    pub stuck: Vec<String>,
}

/// Measures, and prints tables.
pub fn bisect(args: &Args) -> Result<()> {
    fs::create_dir_all(&args.out)?;
    let mut bench = Bench::open(args)?;
    let (base, mut changes) = bench.changes()?;
    let mut stuck = Vec::new();
    if args.each {
        let (rest, alone) = bench.alone(&base, changes)?;
        (stuck, changes) = (rest.iter().map(Change::to_string).collect(), alone);
    }
    if changes.is_empty() {
        bail!("there is no difference between the two");
    }
    eprintln!("{} options differ; points are kept in {}", changes.len(), args.out.display());
    let mut outputs = Vec::new();
    for technology in &args.technology {
        let output = measure(args, &mut bench, technology, &base, &changes, stuck.clone())?;
        print!("{}", table(&output));
        outputs.push(output);
    }
    bench.close()?;
    let file = args.out.join("result.json");
    fs::write(&file, serde_json::to_string_pretty(&outputs)? + "\n")?;
    eprintln!("{}", file.display());
    if args.readme { effects::write(args, &outputs) } else { Ok(()) }
}

fn measure<'a>(
    args: &'a Args,
    bench: &mut Bench<'_>,
    technology: &'a str,
    base: &Config,
    changes: &[Change],
    stuck: Vec<String>,
) -> Result<Output<'a>> {
    let mut cost = |chosen: &[Change]| bench.measure(technology, base, chosen);
    let from = cost(&[])?.context("the first configuration does not come to /init")?;
    let (findings, to, failed) = if args.each {
        let (findings, failed) = each(changes, from, &mut cost)?;
        (findings, None, failed)
    } else {
        let to = cost(changes)?.context("the second configuration does not come to /init")?;
        let threshold = args.threshold * 1000;
        let mut points = BTreeMap::from([(0, from), (changes.len(), to)]);
        let findings = halve(changes, threshold, &mut points, &mut cost)?;
        (findings, Some(to), Vec::new())
    };
    let without = || format!("without {}", args.without.join(","));
    Ok(Output {
        schema: "cvmm-kernel-bisect/2",
        base: &args.base,
        other: args.other.clone().unwrap_or_else(without),
        technology,
        cmdline: &args.cmdline,
        memory: &args.memory,
        cpus: args.cpus,
        each: args.each,
        from,
        to,
        findings,
        failed,
        stuck,
    })
}

/// Costs of ranges that cannot or need not be halved, in the order of the options.
fn halve(
    changes: &[Change],
    threshold_ns: u64,
    points: &mut BTreeMap<usize, Cost>,
    cost: &mut impl FnMut(&[Change]) -> Result<Option<Cost>>,
) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut open = vec![(0, changes.len())];
    while let Some((begin, end)) = open.pop() {
        let (Some(from), Some(to)) = (points.get(&begin), points.get(&end)) else {
            bail!("a range without ends");
        };
        let found = finding(&changes[begin..end], *from, *to);
        if end - begin == 1 || found.modelled_ns.unsigned_abs() < threshold_ns {
            findings.push(found);
            continue;
        }
        // Where the kernel in the middle does not boot, its neighbours may.
        let middle = begin + (end - begin) / 2;
        let near = [middle, middle + 1, middle - 1];
        let mut split = None;
        for at in near.into_iter().filter(|at| begin < *at && *at < end) {
            if let Some(measured) = cost(&changes[..at])? {
                points.insert(at, measured);
                split = Some(at);
                break;
            }
        }
        match split {
            Some(at) => open.extend([(at, end), (begin, at)]),
            None => findings.push(found),
        }
    }
    Ok(findings)
}

/// Costs of single options, and the names of those without which there is no boot.
fn each(
    changes: &[Change],
    from: Cost,
    cost: &mut impl FnMut(&[Change]) -> Result<Option<Cost>>,
) -> Result<(Vec<Finding>, Vec<String>)> {
    let (mut findings, mut failed) = (Vec::new(), Vec::new());
    for change in changes {
        match cost(std::slice::from_ref(change))? {
            Some(to) => findings.push(finding(std::slice::from_ref(change), from, to)),
            None => failed.push(change.to_string()),
        }
    }
    Ok((findings, failed))
}

fn finding(changes: &[Change], from: Cost, to: Cost) -> Finding {
    Finding {
        options: changes.iter().map(Change::to_string).collect(),
        modelled_ns: to.modelled_ns.wrapping_sub(from.modelled_ns).cast_signed(),
        exits: to.exits.wrapping_sub(from.exits).cast_signed(),
        image_bytes: to.image_bytes.wrapping_sub(from.image_bytes).cast_signed(),
    }
}

/// The findings, the largest first; those of many options by their number and first names.
fn table(output: &Output<'_>) -> String {
    let mut rows: Vec<_> = output.findings.iter().collect();
    rows.sort_by_key(|found| std::cmp::Reverse(found.modelled_ns.unsigned_abs()));
    let mut text = format!(
        "{:>14} µs {:>7} exits {:>10} bytes  {} (modelled, {})\n",
        output.from.modelled_ns / 1000,
        output.from.exits,
        output.from.image_bytes,
        output.base,
        output.technology
    );
    for found in rows {
        let options = match found.options.as_slice() {
            [one] => one.clone(),
            [first, .., last] => format!("{} options, {first} … {last}", found.options.len()),
            [] => String::new(),
        };
        text += &format!(
            "{:>+14} µs {:>+7} exits {:>+10} bytes  {options}\n",
            found.modelled_ns / 1000,
            found.exits,
            found.image_bytes
        );
    }
    if let Some(to) = output.to {
        text += &format!(
            "{:>14} µs {:>7} exits {:>10} bytes  {}\n",
            to.modelled_ns / 1000,
            to.exits,
            to.image_bytes,
            output.other
        );
    }
    output.failed.iter().for_each(|option| text += &format!("{:>44}  {option}\n", "no boot"));
    output.stuck.iter().for_each(|option| text += &format!("{:>44}  {option}\n", "not alone"));
    text
}

#[cfg(test)]
#[path = "bisect_test.rs"]
mod tests;
