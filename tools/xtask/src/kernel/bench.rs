//! Kernels with changed options, built and booted on softkvm, and the file of what they took.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::bisect::Args;
use super::build::{Recipe, Tree, fragment};
use super::config::Config;
use super::fetch;
use crate::{images, initramfs};

/// One option, and what it is changed to: `None` is what the kernel's dependencies make of it.
#[derive(Clone)]
pub struct Change {
    /// With CONFIG_.
    pub name: String,
    /// What it is in the first configuration.
    pub from: String,
    /// What it is to be.
    pub to: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.trim_start_matches("CONFIG_");
        write!(f, "{name} {} → {}", self.from, self.to.as_deref().unwrap_or("default"))
    }
}

/// What a kernel took until `/init` ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Modelled time.
    pub modelled_ns: u64,
    /// Exits to cvmm.
    pub exits: u64,
    /// The file's size.
    pub image_bytes: u64,
}

/// A line of the file of points.
#[derive(Serialize, Deserialize)]
struct Point {
    key: String,
    /// Missing where the kernel could not be built, or did not come to `/init`.
    cost: Option<Cost>,
}

/// Builds and boots.
pub struct Bench<'a> {
    args: &'a Args,
    tree: Tree,
    cvmm: PathBuf,
    initrd: PathBuf,
    points_file: PathBuf,
    known: BTreeMap<String, Option<Cost>>,
    /// What Kconfig has made of configurations.
    resolved: BTreeMap<String, Config>,
    /// Whether the first kernel's tree is kept in [`Self::first`].
    first_is_kept: bool,
    late: Option<Instant>,
}

impl<'a> Bench<'a> {
    /// In the tree of a kernel that is there already, which has what does not differ.
    pub fn open(args: &'a Args) -> Result<Self> {
        let recipe = Recipe::parse(&args.base);
        let build =
            recipe.map_or_else(|| args.out.join("build"), |recipe| recipe.build_directory());
        let initrd = match &args.initrd {
            Some(file) => file.clone(),
            None => initramfs::build(&fetch(recipe.map_or("tiny", |recipe| recipe.kernel))?)?,
        };
        let points_file = args.out.join("points.jsonl");
        fs::create_dir_all(args.out.join("kernels"))?;
        Ok(Self {
            args,
            tree: Tree::open(&build)?,
            cvmm: images::tools()?.join("cvmm"),
            initrd,
            known: read_points(&points_file)?,
            points_file,
            resolved: BTreeMap::new(),
            first_is_kept: false,
            late: args.minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes)),
        })
    }

    /// Where the first kernel's tree is kept, so that nothing that one option changed is compiled back for the next.
    fn first(&self) -> PathBuf {
        self.args.out.join("first")
    }

    /// Leaves the tree as it was found.
    pub fn close(self) -> Result<()> {
        if self.first_is_kept {
            self.tree.restore(&self.first())?;
            fs::remove_dir_all(self.first())?;
        }
        Ok(())
    }

    /// The first configuration, and what is to be changed in it.
    pub fn changes(&self) -> Result<(Config, Vec<Change>)> {
        let base = self.named(&self.args.base)?;
        let mut changes = match &self.args.other {
            Some(other) => differences(&base, &self.named(other)?),
            None => Vec::new(),
        };
        for name in &self.args.without {
            for (option, _) in fragment(name)?.options() {
                let from = base.get(option).unwrap_or("n").to_owned();
                let to = if self.args.each { opposite(&from) } else { None };
                changes.push(Change { name: option.to_owned(), from, to });
            }
        }
        let only = &self.args.only;
        let wanted =
            |change: &Change| only.is_empty() || only.iter().any(|p| matches(&change.name, p));
        Ok((base, changes.into_iter().filter(wanted).collect()))
    }

    fn named(&self, name: &str) -> Result<Config> {
        if let Some(recipe) = Recipe::parse(name) {
            return self.tree.resolve(&self.tree.tiny()?, &recipe.wanted(None)?);
        }
        let text = fs::read_to_string(name)
            .with_context(|| format!("cannot read {name}, which is no kernel's name either"))?;
        let config = Config::parse(&text).with_context(|| name.to_owned())?;
        self.tree.resolve(&config, &Config::default())
    }

    /// Changes that make no other kernel by themselves, and those that do.
    pub fn alone(
        &mut self,
        base: &Config,
        changes: Vec<Change>,
    ) -> Result<(Vec<Change>, Vec<Change>)> {
        let (mut stuck, mut alone) = (Vec::new(), Vec::new());
        for change in changes {
            let changed = self.changed(base, std::slice::from_ref(&change))?;
            if changed == *base { stuck.push(change) } else { alone.push(change) }
        }
        Ok((stuck, alone))
    }

    fn changed(&mut self, base: &Config, changes: &[Change]) -> Result<Config> {
        let (mut rest, mut changed) = (base.clone(), Config::default());
        for change in changes {
            rest.set(&change.name, None);
            changed.set(&change.name, change.to.as_deref());
        }
        let asked = format!("{rest}{changed}");
        if let Some(config) = self.resolved.get(&asked) {
            return Ok(config.clone());
        }
        let config = self.tree.resolve(&rest, &changed)?;
        self.resolved.insert(asked, config.clone());
        Ok(config)
    }

    /// What a kernel with these changes takes; nothing where there is none, or where it does not come to `/init`.
    pub fn measure(
        &mut self,
        technology: &str,
        base: &Config,
        changes: &[Change],
    ) -> Result<Option<Cost>> {
        let config = self.changed(base, changes)?;
        let key = self.key(technology, &config)?;
        if let Some(cost) = self.known.get(&key) {
            return Ok(*cost);
        }
        let image = self.args.out.join("kernels").join(&hex(config.to_string())[..16]);
        if !image.exists() && self.late.is_some_and(|late| late < Instant::now()) {
            eprintln!("no time is left for a kernel with {} changes", changes.len());
            return Ok(None);
        }
        let begin = Instant::now();
        let built = if image.exists() { Ok(()) } else { self.build(base, &config, &image) };
        let cost = built.and_then(|()| self.boot(technology, &image)).unwrap_or_else(|error| {
            eprintln!("no point: {error:#}");
            None
        });
        eprintln!(
            "point {} ({technology}, {}): {} µs, {} s",
            self.known.len() + 1,
            match changes {
                [one] => one.to_string(),
                _ => format!("{} changes", changes.len()),
            },
            cost.map_or("–".to_owned(), |cost| (cost.modelled_ns / 1000).to_string()),
            begin.elapsed().as_secs()
        );
        let mut file = OpenOptions::new().create(true).append(true).open(&self.points_file)?;
        writeln!(file, "{}", serde_json::to_string(&Point { key: key.clone(), cost })?)?;
        self.known.insert(key, cost);
        Ok(cost)
    }

    /// What a point is known by: all that its time depends on.
    fn key(&self, technology: &str, config: &Config) -> Result<String> {
        let args = self.args;
        let mut text = String::new();
        for part in [technology, &args.cmdline, &args.memory, &args.cpus.to_string()] {
            text += part;
            text.push('\0');
        }
        let initrd = fs::read(&self.initrd)?;
        Ok(hex(format!("{text}{}{config}", hex(initrd))))
    }

    fn build(&mut self, base: &Config, config: &Config, image: &Path) -> Result<()> {
        if self.args.each && config != base {
            if self.first_is_kept {
                self.tree.restore(&self.first())?;
            } else {
                self.tree.resolve(base, &Config::default())?;
                self.tree.build()?;
                self.tree.keep(&self.first())?;
                self.first_is_kept = true;
            }
        }
        self.tree.resolve(config, &Config::default())?;
        self.tree.build()?;
        // Whole or not at all.
        let part = image.with_extension("part");
        fs::copy(self.tree.image(), &part)?;
        Ok(fs::rename(part, image)?)
    }

    fn boot(&self, technology: &str, image: &Path) -> Result<Option<Cost>> {
        let args = self.args;
        let report = args.out.join("report.json");
        let _ = fs::remove_file(&report);
        Command::new(&self.cvmm)
            .args([&format!("--{technology}"), "--emulate", "--console", "none"])
            .args(["--timeout", "300", "--memory", &args.memory, "--cpus", &args.cpus.to_string()])
            .args(["--cmdline", &args.cmdline, "--until", "U0", "--kernel"])
            .arg(image)
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
            image_bytes: fs::metadata(image).map_or(0, |file| file.len()),
        }))
    }
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What an option that is on or off is not; anything else is left to its default.
fn opposite(value: &str) -> Option<String> {
    match value {
        "y" => Some("n".to_owned()),
        "n" => Some("y".to_owned()),
        _ => None,
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
#[path = "bench_test.rs"]
mod tests;
