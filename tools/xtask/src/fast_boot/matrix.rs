//! Every combination of a boot's options: what each is worth beside all others.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::Result;

use super::{Guest, bench, figure, list, ms, setting};

/// Kernels and compressions that are tried in every combination, when they are among those of the run.
const KERNELS: [&str; 5] = ["tiny", "tiny-zstd", "tiny-gzip", "tiny-none", "micro"];
/// How the host backs private memory, and the flag of cvmm for it.
const PAGES: [(&str, &str); 2] = [("4K", "--emulate"), ("2M", "--emulate=:2m")];
/// What is varied: key, how it is without, how with.
const CHANGES: [(&str, &str, &str); 10] = [
    ("pages", "4K", "2M"),
    ("accept", "eager", "lazy"),
    ("accept", "eager", "lazy,window=64M"),
    ("load", "hashed", "measured"),
    ("kernel", "tiny", "tiny-zstd"),
    ("kernel", "tiny", "tiny-gzip"),
    ("kernel", "tiny", "tiny-none"),
    ("kernel", "tiny", "micro"),
    ("cpus", "1", "4"),
    ("memory", "256M", "1G"),
];
const KEYS: [&str; 4] = ["accept", "load", "cpus", "memory"];
const TECHNOLOGIES: [(&str, &str); 3] = [("plain", "plain"), ("snp", "SEV-SNP"), ("tdx", "TDX")];

type Settings = BTreeMap<&'static str, String>;

/// Boot times by settings, of one technology.
type Boots = BTreeMap<Settings, f64>;

/// Runs all of it, and writes its table.
pub fn matrix(text: &mut String, tools: &Path, out: &Path, all: &[(String, Guest)]) -> Result<()> {
    let mut boots: BTreeMap<&str, Boots> = BTreeMap::new();
    for (name, guest) in all.iter().filter(|(name, _)| KERNELS.contains(&name.as_str())) {
        for (pages, emulate) in PAGES {
            let results = bench(tools, out, "boot-matrix", emulate, Some(guest))?;
            for cell in list(&results["cells"]) {
                let own = |key: &'static str| (key, setting(cell, key).to_owned());
                let mut settings: Settings = KEYS.into_iter().map(own).collect();
                settings.insert("kernel", name.clone());
                settings.insert("pages", pages.to_owned());
                let technology = setting(cell, "technology");
                let known = TECHNOLOGIES.iter().find(|(known, _)| *known == technology);
                // KVM maps TDs in pages, whatever is behind them; a plain guest's memory is not softkvm's to give.
                let varies = pages == PAGES[0].0 || technology == "snp";
                if let Some(((known, _), ns)) = known.zip(figure(cell, "boot/modelled_ns"))
                    && varies
                {
                    boots.entry(known).or_default().insert(settings, ns);
                }
            }
        }
    }
    let runs: usize = boots.values().map(BTreeMap::len).sum();
    writeln!(text, "### Every combination (`cvmm bench boot-matrix`, {runs} guests, to /init)\n")?;
    writeln!(
        text,
        "What a change makes of the modelled ms: the median of all pairs of guests that differ in nothing else, and the"
    )?;
    writeln!(text, "least and the most of it.\n")?;
    let heads = TECHNOLOGIES.map(|(_, name)| name);
    writeln!(text, "| from | to | {} |\n|---|---|---:|---:|---:|", heads.join(" | "))?;
    for (key, from, to) in CHANGES {
        write!(text, "| {key} {from} | {to} |")?;
        for (technology, _) in TECHNOLOGIES {
            let changes = boots.get(technology).map(|boots| changes(boots, (key, from, to)));
            match changes.as_deref() {
                Some([least, .., most]) => {
                    let all = changes.as_deref().unwrap_or_default();
                    let middle = all[all.len() / 2];
                    write!(text, " {middle:+.1} ({least:+.1} to {most:+.1}) |")?;
                }
                _ => write!(text, " – |")?,
            }
        }
        writeln!(text)?;
    }
    writeln!(text, "\nThe quickest of them:\n")?;
    for (technology, name) in TECHNOLOGIES {
        let best = boots.get(technology).into_iter().flatten();
        let Some((settings, ns)) = best.min_by(|a, b| a.1.total_cmp(b.1)) else { continue };
        let words: Vec<String> = settings
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(key, value)| format!("{key} {value}"))
            .collect();
        writeln!(text, "- {name}: {} ms with {}", ms(*ns), words.join(", "))?;
    }
    writeln!(text)?;
    Ok(())
}

/// What a change makes of every guest that has its like, in ms, sorted.
fn changes(boots: &Boots, (key, from, to): (&'static str, &str, &str)) -> Vec<f64> {
    let mut all: Vec<f64> = boots
        .iter()
        .filter(|(settings, _)| settings[key] == from)
        .filter_map(|(settings, ns)| {
            let mut other = settings.clone();
            other.insert(key, to.to_owned());
            Some((boots.get(&other)? - ns) / 1e6)
        })
        .collect();
    all.sort_by(f64::total_cmp);
    all
}
