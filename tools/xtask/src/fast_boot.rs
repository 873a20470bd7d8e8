//! `cargo xtask fast-boot`: the tables of docs/fast-boot.md, from runs of this tree.

mod matrix;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::run::{capture, put_between, target};
use crate::{images, initramfs, kernel};

/// What to run.
#[derive(clap::Args)]
pub struct Args {
    /// The kernel that the options are tried on.
    #[arg(long, default_value = "tiny")]
    kernel: String,
    /// Kernels that are booted with all options.
    #[arg(long, value_delimiter = ',', default_value = KERNELS)]
    kernels: Vec<String>,
    /// Only print the tables; leave docs/fast-boot.md as it is.
    #[arg(long)]
    print: bool,
}

const KERNELS: &str = "tiny,tiny-zstd,tiny-gzip,tiny-none,micro,6.12,7.2";
const TECHNOLOGIES: [&str; 3] = ["plain", "snp", "tdx"];
/// What only a kernel packed by LZ4 can be tried with, so that cvmm's own spec has it not.
const UNPACK: &str = r#"
name = "unpack"
about = "A kernel that the shim unpacks."
repetitions = 1
compare = []

[guest]
kernel = "$kernel"
initrd = "$initrd"
technology = ["plain", "snp", "tdx"]
memory = "256M"

[[matrix]]
label = "unpacked by the shim"
cmdline = "console=ttyS0 panic=-1"
flags = "--unpack shim"

[[matrix]]
label = "all and unpacked by the shim"
cmdline = "console=hvc0 panic=-1 quiet swiotlb=512 setcpuid=tsc_deadline_timer"
flags = "--console-device virtio --unpack shim"
accept = "lazy,window=20M"
"#;
/// What the tables stand between.
const BEGIN: &str = "<!-- tables: cargo xtask fast-boot -->\n";
const END: &str = "<!-- end of tables -->\n";
/// All options for a kernel whose configuration nobody chose; its console driver may be a module.
const OPTIONS: &str = "quiet panic=-1 console=ttyS0 swiotlb=512 setcpuid=tsc_deadline_timer";
/// The parts of a boot: name, and the letters that its phases begin with.
const PARTS: [(&str, &str); 6] = [
    ("monitor and security processor", "HS"),
    ("shim: acceptance", "G0 G1 G2"),
    ("shim: files", "G4"),
    ("kernel: decompression, early", "K0"),
    ("kernel: rest, to /init", "K"),
    ("total", ""),
];

/// SEVeriFast's bars for the same parts, in ms: Firecracker with the kernel Lupine, plain and as an SNP guest with an LZ4 bzImage, 1 vCPU,
/// 256 MiB (ASPLOS 2024; the plots' data in its repository, commit c71bf6a). There the kernel accepts memory, and the shim's bar is
/// one; an initrd of 26 MB is most of it.
const SEVERIFAST: [(&str, [Option<f64>; 6]); 2] = [
    ("SEVeriFast, plain", [Some(10.4), None, None, None, Some(16.8), Some(27.2)]),
    ("SEVeriFast, SNP", [Some(74.7), None, Some(20.4), Some(6.1), Some(69.1), Some(170.4)]),
];

/// Runs the experiments and writes the tables.
pub fn fast_boot(args: &Args) -> Result<()> {
    let tools = images::tools()?;
    let out = target().join("fast-boot");
    fs::create_dir_all(&out)?;
    let tried = guest(&args.kernel)?;
    let mut text = String::new();
    let results = bench(&tools, &out, "goals", "--emulate", Some(&tried))?;
    goals(&mut text, &args.kernel, &results)?;
    let results = bench(&tools, &out, "fast-boot", "--emulate", Some(&tried))?;
    let unpack = out.join("unpack.toml");
    fs::write(&unpack, UNPACK)?;
    let unpacked = unpack.display().to_string();
    let unpacked = bench(&tools, &out, &unpacked, "--emulate", Some(&tried))?;
    let cells = [list(&results["cells"]), list(&unpacked["cells"])].concat();
    options(&mut text, &args.kernel, &cells)?;
    let guests = args.kernels.iter().map(|name| Ok((name.clone(), guest(name)?)));
    let guests = guests.collect::<Result<Vec<_>>>()?;
    let spec = out.join("kernels.toml");
    fs::write(&spec, kernels_spec(&guests)?)?;
    let results = bench(&tools, &out, &spec.display().to_string(), "--emulate", None)?;
    kernels(&mut text, &guests, &results)?;
    matrix::matrix(&mut text, &tools, &out, &guests)?;
    print!("{text}");
    if args.print {
        return Ok(());
    }
    put_between("docs/fast-boot.md", BEGIN, END, &text)
}

/// A kernel to start, and its initramfs.
struct Guest {
    kernel: PathBuf,
    initrd: PathBuf,
}

fn guest(name: &str) -> Result<Guest> {
    let kernel = kernel::fetch(name)?;
    let initrd = initramfs::build(&kernel)?;
    Ok(Guest { kernel: kernel.bzimage, initrd })
}

/// Runs an experiment anew.
fn bench(
    tools: &Path,
    out: &Path,
    spec: &str,
    emulate: &str,
    guest: Option<&Guest>,
) -> Result<Value> {
    let name = Path::new(spec).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let runs = out.join(format!("{name}.jsonl"));
    let _ = fs::remove_file(&runs);
    let mut command = Command::new(tools.join("cvmm"));
    command.args(["bench", spec, emulate, "--json", "--out"]).arg(&runs);
    if let Some(guest) = guest {
        command.arg("--kernel").arg(&guest.kernel).arg("--initrd").arg(&guest.initrd);
    }
    command.stderr(std::process::Stdio::inherit());
    let results: Value = serde_json::from_slice(&capture(&mut command)?)?;
    for cell in list(&results["cells"]) {
        if let Some(failure) = list(&cell["failures"]).first() {
            bail!("{spec}, cell {}: {failure}", cell["name"]);
        }
    }
    Ok(results)
}

/// Every kernel with all options, each technology.
fn kernels_spec(guests: &[(String, Guest)]) -> Result<String> {
    let mut text = String::from(
        "name = \"kernels\"\nabout = \"Kernels with all options.\"\nrepetitions = 1\ncompare = []\n",
    );
    write!(text, "\n[guest]\ntechnology = [\"plain\", \"snp\", \"tdx\"]\nmemory = \"512M\"\n")?;
    writeln!(text, "accept = \"lazy,window=192M\"\ncmdline = \"{OPTIONS}\"")?;
    for (name, guest) in guests {
        let (kernel, initrd) = (guest.kernel.display(), guest.initrd.display());
        writeln!(
            text,
            "\n[[matrix]]\nlabel = \"{name}\"\nkernel = \"{kernel}\"\ninitrd = \"{initrd}\""
        )?;
    }
    Ok(text)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn setting<'a>(cell: &'a Value, key: &str) -> &'a str {
    cell["settings"][key].as_str().unwrap_or_default()
}

fn figure(cell: &Value, id: &str) -> Option<f64> {
    list(&cell["figures"]).iter().find(|figure| figure["id"] == id)?["median"].as_f64()
}

fn ms(ns: f64) -> String {
    // Less than nothing is nothing.
    format!("{:.1}", ns / 1e6 + 0.0)
}

fn goals(text: &mut String, kernel: &str, results: &Value) -> Result<()> {
    writeln!(text, "### Goals (`cvmm bench goals`, kernel {kernel})\n")?;
    writeln!(
        text,
        "| at most | published | goal | aim | today | with other costs | clock, profile | placeholders |"
    )?;
    writeln!(text, "|---|---|---:|---:|---:|---:|---|---:|")?;
    for goal in list(&results["goals"]) {
        let ns = goal["unit"] == "ns";
        let show = |value: &Value| match value.as_f64() {
            None => "–".to_owned(),
            Some(value) if ns => format!("{} ms", ms(value)),
            Some(value) => format!("{value}"),
        };
        let word = |key: &str| goal[key].as_str().unwrap_or("–");
        let today = match goal["open"].as_str() {
            Some(open) => format!("open: {open}"),
            None => format!("**{}**", show(&goal["today"])),
        };
        let range = match list(&goal["range"]) {
            [low, high] if low != high => format!("{} to {}", show(low), show(high)),
            _ => "–".to_owned(),
        };
        let share = goal["placeholder_share"].as_f64();
        let share = share.map_or("–".into(), |share| format!("{:.0} %", share * 100.0));
        writeln!(
            text,
            "| {} | {} | {} | {} | {today} | {range} | {} {} | {share} |",
            word("what"),
            word("anchor"),
            show(&goal["goal"]),
            show(&goal["aim"]),
            word("clock"),
            goal["profile"].as_str().unwrap_or(""),
        )?;
    }
    writeln!(text)?;
    breakdown(text, kernel, results)
}

/// Where the time of the goals' guests goes.
fn breakdown(text: &mut String, kernel: &str, results: &Value) -> Result<()> {
    // Without those that have costs at an end of their range.
    let usual = |cell: &&Value| !cell["profile"].as_str().unwrap_or_default().contains(':');
    let cells: Vec<&Value> = list(&results["cells"]).iter().filter(usual).collect();
    writeln!(text, "### Where the time goes (kernel {kernel}, modelled ms)\n")?;
    let labels = cells.iter().map(|cell| setting(cell, "label"));
    let labels: Vec<&str> = labels.chain(SEVERIFAST.iter().map(|(name, _)| *name)).collect();
    writeln!(text, "| | {} |\n|---|{}", labels.join(" | "), "---:|".repeat(labels.len()))?;
    for (row, (name, phases)) in PARTS.into_iter().enumerate() {
        let sum = |cell: &Value| -> f64 {
            let ids = list(&cell["figures"]).iter().filter_map(|figure| figure["id"].as_str());
            let ids = ids.filter_map(|id| id.strip_prefix("phase/")?.strip_suffix("/modelled_ns"));
            let wanted = |id: &&str| match phases {
                "" => id.starts_with(['H', 'S', 'G', 'K']),
                "HS" => id.starts_with(['H', 'S']),
                "K" => id.starts_with('K') && *id != "K0",
                list => list.split(' ').any(|one| one == *id),
            };
            ids.filter(wanted)
                .filter_map(|id| figure(cell, &format!("phase/{id}/modelled_ns")))
                .sum()
        };
        let published = SEVERIFAST.iter().map(|(_, bars)| bars[row]);
        let published =
            published.map(|bar| bar.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.1}")));
        let times: Vec<String> = cells.iter().map(|cell| ms(sum(cell))).chain(published).collect();
        writeln!(text, "| {name} | {} |", times.join(" | "))?;
    }
    writeln!(text)?;
    Ok(())
}

/// Boot time and exits to `/init`, by technology.
type Row<'a> = BTreeMap<&'a str, (f64, f64)>;

fn rows<'a>(
    cells: &'a [Value],
    name: impl Fn(&'a Value) -> Option<String>,
) -> Vec<(String, Row<'a>)> {
    let mut rows: Vec<(String, Row<'_>)> = Vec::new();
    for cell in cells {
        let Some(name) = name(cell) else { continue };
        let boot = figure(cell, "boot/modelled_ns").zip(figure(cell, "boot/exits"));
        let Some(boot) = boot else { continue };
        let at = rows.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
            rows.push((name, Row::new()));
            rows.len() - 1
        });
        rows[at].1.insert(setting(cell, "technology"), boot);
    }
    rows
}

fn options(text: &mut String, kernel: &str, cells: &[Value]) -> Result<()> {
    const SIZES: &str = "by memory";
    writeln!(text, "### Options (`cvmm bench fast-boot`, kernel {kernel}, 256 MiB, to /init)\n")?;
    writeln!(
        text,
        "| | plain ms | | exits | SEV-SNP ms | | exits | TDX ms | | exits |\n|---|{}",
        "---:|".repeat(9)
    )?;
    let all = rows(cells, |cell| {
        (setting(cell, "label") != SIZES).then(|| setting(cell, "label").to_owned())
    });
    let base = |name: &str| {
        let of = if name.starts_with("all") && name != "all" { "all" } else { "as it comes" };
        all.iter().find(|(known, _)| known == of).map(|(_, row)| row)
    };
    for (name, row) in &all {
        write!(text, "| {name} |")?;
        for technology in TECHNOLOGIES {
            let Some((ns, exits)) = row.get(technology) else {
                write!(text, " – | | – |")?;
                continue;
            };
            let base = base(name).and_then(|base| base.get(technology));
            let change = base.map_or(0.0, |(base, _)| (ns - base) / 1e6);
            let change = if change.abs() < 0.05 { String::new() } else { format!("{change:+.1}") };
            write!(text, " {} | {change} | {exits} |", ms(*ns))?;
        }
        writeln!(text)?;
    }
    writeln!(
        text,
        "\n### Acceptance by size (kernel {kernel}, 4 KiB pages, modelled ms to /init)\n"
    )?;
    let sizes = rows(cells, |cell| {
        (setting(cell, "label") == SIZES)
            .then(|| format!("{}|{}", setting(cell, "memory"), setting(cell, "accept")))
    });
    let mut modes: Vec<&str> = Vec::new();
    let mut memory: Vec<&str> = Vec::new();
    for (name, _) in &sizes {
        let (size, mode) = name.split_once('|').unwrap_or_default();
        if !modes.contains(&mode) {
            modes.push(mode);
        }
        if !memory.contains(&size) {
            memory.push(size);
        }
    }
    let columns: Vec<String> = ["SEV-SNP", "TDX"]
        .iter()
        .flat_map(|technology| modes.iter().map(move |mode| format!("{technology} {mode}")))
        .collect();
    writeln!(text, "| memory | {} |\n|---|{}", columns.join(" | "), "---:|".repeat(columns.len()))?;
    for size in memory {
        write!(text, "| {size} |")?;
        for technology in ["snp", "tdx"] {
            for mode in &modes {
                let row = sizes.iter().find(|(name, _)| *name == format!("{size}|{mode}"));
                let time = row.and_then(|(_, row)| row.get(technology)).map(|(ns, _)| ms(*ns));
                write!(text, " {} |", time.unwrap_or_else(|| "–".into()))?;
            }
        }
        writeln!(text)?;
    }
    writeln!(text)?;
    Ok(())
}

fn kernels(text: &mut String, guests: &[(String, Guest)], results: &Value) -> Result<()> {
    writeln!(text, "### Kernels (512 MiB, `--accept lazy,window=192M`, `{OPTIONS}`, to /init)\n")?;
    writeln!(
        text,
        "| | file MB | plain ms | exits | SEV-SNP ms | exits | TDX ms | exits |\n|---|{}",
        "---:|".repeat(7)
    )?;
    for (name, row) in rows(list(&results["cells"]), |cell| Some(setting(cell, "label").to_owned()))
    {
        let file = guests.iter().find(|(known, _)| *known == name);
        let bytes =
            file.and_then(|(_, guest)| fs::metadata(&guest.kernel).ok()).map(|meta| meta.len());
        write!(text, "| {name} | {:.1} |", bytes.unwrap_or(0) as f64 / 1e6)?;
        for technology in TECHNOLOGIES {
            match row.get(technology) {
                Some((ns, exits)) => write!(text, " {} | {exits} |", ms(*ns))?,
                None => write!(text, " – | – |")?,
            }
        }
        writeln!(text)?;
    }
    Ok(())
}
