//! `cargo xtask nested`: the same guests on mainline kvm_amd, under QEMU's TCG, and on softkvm.
//!
//! QEMU emulates a processor with SVM; Debian's kernel loads kvm and kvm_amd on it, and cvmm runs guests there as on any
//! host. softkvm must show cvmm the same exits in the same order. A difference that no rule of `compare` knows is a failure.

mod compare;
mod guests;
mod machine;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::run::{capture, target};
use crate::{apt, images, kernel};
use compare::Difference;
use guests::{Guest, Guests};

/// What to run.
#[derive(clap::Args)]
pub struct Args {
    /// Write the result to this file, too, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The Debian kernel whose kvm_amd is used, and which is a guest as well.
const KERNEL: &str = "7.2";
/// How long everything may take, fetching and building included.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// What one run of a guest showed.
pub struct Seen {
    /// Its console, without carriage returns.
    pub console: String,
    /// cvmm's report.
    pub report: Value,
}

/// Runs every guest on both, prints how they compare, and fails if they differ and nobody knows why.
pub fn nested(args: &Args) -> Result<()> {
    let begin = Instant::now();
    apt::need(&[machine::QEMU], &[])?;
    let qemu = version()?;
    eprintln!("[1/4] building cvmm and softkvm");
    let cvmm = images::tools()?.join("cvmm");
    eprintln!("[2/4] fetching Debian's kernel {KERNEL} and writing the guests");
    let kernel = kernel::fetch(KERNEL)?;
    let guests = Guests::prepare(&kernel)?;
    eprintln!("[3/4] {} guests on kvm_amd, under {qemu} (a minute or two)", guests.list.len());
    let start = Instant::now();
    let nested = machine::run(&kernel, &guests, &cvmm, begin + LIMIT)?;
    let seconds = start.elapsed().as_secs();
    eprintln!("      done in {seconds} s");
    eprintln!("[4/4] the same guests on softkvm");
    let mut rows = Vec::new();
    for (guest, nested) in guests.list.iter().zip(nested) {
        let soft = on_softkvm(guest, &guests.dir, &cvmm)?;
        let differences = compare::compare(guest, &nested, &soft);
        rows.push(Row { guest, nested, soft, differences });
    }
    let release = kernel_release(&kernel);
    println!("\nkvm_amd of Linux {release} on {qemu}, -cpu {}\n", machine::CPU);
    println!("{}", compare::table(&rows));
    if let Some(path) = &args.json {
        let result = json!({
            "schema": "cvmm-nested/1",
            "kernel": release,
            "qemu": qemu,
            "cpu": machine::CPU,
            "qemu_seconds": seconds,
            "guests": rows.iter().map(Row::json).collect::<Vec<_>>(),
        });
        fs::write(path, format!("{result:#}\n"))?;
    }
    let unexplained =
        rows.iter().flat_map(|row| &row.differences).filter(|d| d.rule.is_none()).count();
    if unexplained > 0 {
        bail!("{unexplained} differences have no explanation");
    }
    eprintln!("passed in {} s", begin.elapsed().as_secs());
    Ok(())
}

/// One guest and what both sides made of it.
pub struct Row<'a> {
    guest: &'a Guest,
    nested: Seen,
    soft: Seen,
    differences: Vec<Difference>,
}

impl Row<'_> {
    fn json(&self) -> Value {
        json!({
            "name": self.guest.name,
            "words": self.guest.words,
            "streams_equal": self.nested.report["exits"]["streams"] == self.soft.report["exits"]["streams"],
            "kvm_amd": self.nested.report["exits"],
            "softkvm": self.soft.report["exits"],
            "differences": self.differences,
        })
    }
}

fn on_softkvm(guest: &Guest, dir: &Path, cvmm: &Path) -> Result<Seen> {
    let file = target().join("nested/softkvm.json");
    let output = Command::new(cvmm)
        .args(["--emulate", "--plain", "--timeout", "300", "--report"])
        .arg(&file)
        .args(&guest.words)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .context("cannot start cvmm")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{} on softkvm: {}\n{words}", guest.name, output.status);
    }
    Ok(Seen {
        console: String::from_utf8_lossy(&output.stdout).replace('\r', ""),
        report: serde_json::from_slice(&fs::read(file)?)?,
    })
}

/// QEMU's own first words.
fn version() -> Result<String> {
    let text = capture(Command::new(machine::QEMU.0).arg("--version"))?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().next().unwrap_or_default();
    Ok(line.replace("emulator version ", ""))
}

/// The release that the kernel's modules are for.
fn kernel_release(kernel: &kernel::Kernel) -> String {
    let name = kernel.modules.as_deref().and_then(Path::file_name);
    name.map_or_else(|| kernel.name.clone(), |name| name.to_string_lossy().into_owned())
}
