//! `cargo xtask kernel-bisect`: which options of a configuration the boot time comes from.
//!
//! Options are put in order, and a *point* is a kernel with the first of them changed. A range of options costs what its two ends
//! differ by, so what is attributed always adds up to the whole difference. A range that costs little is left alone; any other is
//! halved, until it is one option. Every point is built and booted on softkvm, whose time is modelled: one boot is enough, and the
//! same point has the same time on every machine. Points are kept in a file, so a run that was broken off goes on where it was.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::build::{Recipe, Tree, fragment};
use super::config::Config;
use super::fetch;
use crate::run::{run, target};
use crate::{images, initramfs};

/// What to compare.
#[derive(clap::Args)]
pub struct Args {
    /// A configuration: tiny, micro, distro-like, or a .config of Linux 7.2.
    base: String,
    /// Another one, whose options are put into the first.
    #[arg(required_unless_present = "without", conflicts_with = "without")]
    other: Option<String>,
    /// Compare with the same kernel where this fragment's options are left to their defaults.
    #[arg(long, value_name = "FRAGMENT")]
    without: Option<String>,
    /// Only options whose name matches one of these, without CONFIG_ (a * at the end stands for the rest of a name).
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Change each option alone instead of halving: as many kernels as there are options.
    #[arg(long)]
    each: bool,
    /// What the guest is: plain, snp or tdx.
    #[arg(long, default_value = "plain", value_parser = ["plain", "snp", "tdx"])]
    technology: String,
    /// The kernel command line.
    #[arg(long, default_value = CMDLINE)]
    cmdline: String,
    /// Guest memory.
    #[arg(short, long, default_value = "256M")]
    memory: String,
    /// Virtual processors.
    #[arg(short = 'j', long, default_value_t = 1)]
    cpus: u32,
    /// The initramfs; without it that of the test guest, whose mark tells when /init runs.
    #[arg(long)]
    initrd: Option<PathBuf>,
    /// Ranges that make less of a difference are not halved, in microseconds.
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 200)]
    threshold: u64,
    /// Where points, kernels and results are kept.
    #[arg(long, default_value_os_t = target().join("bisect"))]
    out: PathBuf,
}

/// The command line that guest-kernel-config/README.md recommends.
pub const CMDLINE: &str =
    "console=ttyS0 quiet loglevel=1 swiotlb=noforce pci=off setcpuid=tsc_deadline_timer";

/// One option, and what it is changed to: `None` is what the kernel's dependencies make of it.
#[derive(Clone)]
struct Change {
    name: String,
    from: String,
    to: Option<String>,
}

/// What a kernel took until `/init` ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Cost {
    modelled_ns: u64,
    exits: u64,
    image_bytes: u64,
}

/// A line of the file of points.
#[derive(Serialize, Deserialize)]
struct Point {
    key: String,
    /// Missing where the kernel could not be built, or did not come to `/init`.
    cost: Option<Cost>,
}

/// What a range of options makes of a difference.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    options: Vec<String>,
    modelled_ns: i64,
    exits: i64,
    image_bytes: i64,
}

#[derive(Serialize)]
struct Output<'a> {
    schema: &'a str,
    base: &'a str,
    other: String,
    technology: &'a str,
    cmdline: &'a str,
    memory: &'a str,
    cpus: u32,
    each: bool,
    from: Cost,
    to: Option<Cost>,
    findings: Vec<Finding>,
    failed: Vec<String>,
}

/// Measures, and prints a table.
pub fn bisect(args: &Args) -> Result<()> {
    fs::create_dir_all(&args.out)?;
    let mut bench = Bench::open(args)?;
    let (base, changes) = bench.changes()?;
    if changes.is_empty() {
        bail!("there is no difference between the two");
    }
    eprintln!(
        "{} options differ; points are kept in {}",
        changes.len(),
        bench.points_file.display()
    );
    let mut cost = |chosen: &[Change]| bench.measure(&base, chosen);
    let from = cost(&[])?.context("the first configuration does not come to /init")?;
    let (findings, to, failed) = if args.each {
        let (findings, failed) = each(&changes, from, &mut cost)?;
        (findings, None, failed)
    } else {
        let to = cost(&changes)?.context("the second configuration does not come to /init")?;
        let threshold = args.threshold * 1000;
        let mut points = BTreeMap::from([(0, from), (changes.len(), to)]);
        let findings = halve(&changes, threshold, &mut points, &mut cost)?;
        (findings, Some(to), Vec::new())
    };
    let other =
        args.other.clone().or_else(|| args.without.as_ref().map(|f| format!("without {f}")));
    let output = Output {
        schema: "cvmm-kernel-bisect/1",
        base: &args.base,
        other: other.unwrap_or_default(),
        technology: &args.technology,
        cmdline: &args.cmdline,
        memory: &args.memory,
        cpus: args.cpus,
        each: args.each,
        from,
        to,
        findings,
        failed,
    };
    print!("{}", table(&output));
    let file = args.out.join("result.json");
    fs::write(&file, serde_json::to_string_pretty(&output)? + "\n")?;
    eprintln!("{}", file.display());
    Ok(())
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

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.name.trim_start_matches("CONFIG_");
        write!(f, "{name} {} → {}", self.from, self.to.as_deref().unwrap_or("default"))
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
    text
}

/// Builds and boots.
struct Bench<'a> {
    args: &'a Args,
    tree: Tree,
    cvmm: PathBuf,
    initrd: PathBuf,
    points_file: PathBuf,
    known: BTreeMap<String, Option<Cost>>,
}

impl<'a> Bench<'a> {
    fn open(args: &'a Args) -> Result<Self> {
        let build = args.out.join("build");
        let recipe = Recipe::parse(&args.base);
        // A kernel that is there already needs only what differs to be compiled.
        if let Some(ours) = recipe.map(|recipe| recipe.build_directory())
            && ours.join("vmlinux").exists()
            && !build.exists()
        {
            run(Command::new("cp").arg("-a").arg(ours).arg(&build))?;
        }
        let initrd = match &args.initrd {
            Some(file) => file.clone(),
            None => initramfs::build(&fetch(recipe.map_or("tiny", |recipe| recipe.kernel))?)?,
        };
        let points_file = args.out.join("points.jsonl");
        Ok(Self {
            args,
            tree: Tree::open(&build)?,
            cvmm: images::tools()?.join("cvmm"),
            initrd,
            known: read_points(&points_file)?,
            points_file,
        })
    }

    /// The first configuration, and what is to be changed in it.
    fn changes(&self) -> Result<(Config, Vec<Change>)> {
        let base = self.resolved(&self.args.base)?;
        let changes = match (&self.args.other, &self.args.without) {
            (Some(other), _) => differences(&base, &self.resolved(other)?),
            (None, Some(name)) => {
                let from = |option: &str| base.get(option).unwrap_or("n").to_owned();
                let options = fragment(name)?;
                let change =
                    |option: &str| Change { name: option.to_owned(), from: from(option), to: None };
                options.options().map(|(option, _)| change(option)).collect()
            }
            (None, None) => Vec::new(),
        };
        let only = &self.args.only;
        let wanted =
            |change: &Change| only.is_empty() || only.iter().any(|p| matches(&change.name, p));
        Ok((base, changes.into_iter().filter(wanted).collect()))
    }

    fn resolved(&self, name: &str) -> Result<Config> {
        if let Some(recipe) = Recipe::parse(name) {
            return self.tree.resolve(&self.tree.tiny()?, &recipe.wanted(None)?);
        }
        let text = fs::read_to_string(name)
            .with_context(|| format!("cannot read {name}, which is no kernel's name either"))?;
        let config = Config::parse(&text).with_context(|| name.to_owned())?;
        self.tree.resolve(&config, &Config::default())
    }

    fn measure(&mut self, base: &Config, changes: &[Change]) -> Result<Option<Cost>> {
        let (mut rest, mut changed) = (base.clone(), Config::default());
        for change in changes {
            rest.set(&change.name, None);
            changed.set(&change.name, change.to.as_deref());
        }
        let config = self.tree.resolve(&rest, &changed)?;
        let key = self.key(&config)?;
        if let Some(cost) = self.known.get(&key) {
            return Ok(*cost);
        }
        let begin = std::time::Instant::now();
        let cost = self.boot().unwrap_or_else(|error| {
            eprintln!("no point: {error:#}");
            None
        });
        eprintln!(
            "point {} ({} changes): {} µs, {} s",
            self.known.len() + 1,
            changes.len(),
            cost.map_or("–".to_owned(), |cost| (cost.modelled_ns / 1000).to_string()),
            begin.elapsed().as_secs()
        );
        let mut file = OpenOptions::new().create(true).append(true).open(&self.points_file)?;
        writeln!(file, "{}", serde_json::to_string(&Point { key: key.clone(), cost })?)?;
        self.known.insert(key, cost);
        Ok(cost)
    }

    /// What a point is known by: all that its time depends on.
    fn key(&self, config: &Config) -> Result<String> {
        let args = self.args;
        let mut digest = Sha256::new();
        for part in [&args.technology, &args.cmdline, &args.memory, &args.cpus.to_string()] {
            digest.update(part);
            digest.update([0]);
        }
        digest.update(Sha256::digest(fs::read(&self.initrd)?));
        digest.update(config.to_string());
        Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn boot(&self) -> Result<Option<Cost>> {
        self.tree.build()?;
        let args = self.args;
        let report = args.out.join("report.json");
        let _ = fs::remove_file(&report);
        let image = self.tree.image();
        Command::new(&self.cvmm)
            .args([&format!("--{}", args.technology), "--emulate", "--console", "none"])
            .args(["--timeout", "300", "--memory", &args.memory, "--cpus", &args.cpus.to_string()])
            .args(["--cmdline", &args.cmdline, "--until", "U0", "--kernel"])
            .arg(&image)
            .arg("--initrd")
            .arg(&self.initrd)
            .arg("--report")
            .arg(&report)
            .stderr(Stdio::null())
            .status()
            .context("cannot start cvmm")?;
        let report = serde_json::from_slice(&fs::read(&report)?)?;
        Ok(cost(&report).map(|(modelled_ns, exits)| Cost {
            modelled_ns,
            exits,
            image_bytes: fs::metadata(&image).map_or(0, |file| file.len()),
        }))
    }
}

/// Modelled time and exits until `/init` runs, if it does.
fn cost(report: &serde_json::Value) -> Option<(u64, u64)> {
    let marks = report["marks"].as_array()?;
    let mark = marks.iter().find(|mark| mark["name"] == "init-entry")?;
    Some((mark["modelled_ns"].as_u64()?, mark["exits_before"].as_u64()?))
}

fn differences(base: &Config, other: &Config) -> Vec<Change> {
    let mut names: Vec<_> = base.options().chain(other.options()).map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    let value = |config: &Config, name: &str| config.get(name).unwrap_or("n").to_owned();
    names
        .into_iter()
        .map(|name| Change {
            name: name.to_owned(),
            from: value(base, name),
            to: Some(value(other, name)),
        })
        .filter(|change| change.to.as_ref() != Some(&change.from))
        .collect()
}

fn matches(option: &str, pattern: &str) -> bool {
    let name = option.trim_start_matches("CONFIG_");
    match pattern.strip_suffix('*') {
        Some(begin) => name.starts_with(begin),
        None => name == pattern,
    }
}

/// Reads what earlier runs have measured; a line that was cut off is left out.
fn read_points(file: &Path) -> Result<BTreeMap<String, Option<Cost>>> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| file.display().to_string()),
    };
    let mut known = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        match serde_json::from_str::<Point>(line) {
            Ok(point) => known.insert(point.key, point.cost),
            Err(_) if !text.ends_with('\n') && index + 1 == text.lines().count() => None,
            Err(error) => bail!("{}, line {}: {error}", file.display(), index + 1),
        };
    }
    if !text.is_empty() && !text.ends_with('\n') {
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        fs::write(file, &text[..whole])?;
    }
    Ok(known)
}

#[cfg(test)]
#[path = "bisect_test.rs"]
mod tests;
