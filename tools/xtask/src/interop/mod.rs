//! `cargo xtask interop`: other people's monitors and test programs on softkvm, unchanged.
//!
//! They were proven on real hardware; what they find wrong here is softkvm's fault until shown otherwise.

mod expected;
mod kvm_selftests;
mod linux;
mod qemu;
mod row;
mod x86_selftests;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use row::{Outcome, Row};

use crate::images;

/// What to run.
#[derive(clap::Args)]
pub struct Args {
    /// Only these witnesses (all when none is named).
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(WITNESSES.iter().map(|w| w.name)))]
    witnesses: Vec<String>,
    /// Write the table to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

struct Witness {
    name: &'static str,
    what: &'static str,
    run: fn(&Stage) -> Result<Vec<Row>>,
}

const WITNESSES: [Witness; 3] = [
    Witness {
        name: "qemu",
        what: "Debian's QEMU as a plain guest, a TD and an SNP guest",
        run: qemu::run,
    },
    Witness {
        name: "kvm-selftests",
        what: "the kernel's own tests of KVM",
        run: kvm_selftests::run,
    },
    Witness {
        name: "x86-selftests",
        what: "the kernel's own tests of x86 system calls and exceptions, in guests",
        run: x86_selftests::run,
    },
];

/// What every witness is given.
pub struct Stage {
    /// The directory that holds `softkvm` and its library.
    pub tools: PathBuf,
    /// When everything has to be over.
    pub deadline: Instant,
}

impl Stage {
    /// How long one part may take: `limit`, or what is left of the whole.
    pub fn limit(&self, limit: Duration) -> Duration {
        limit.min(self.deadline.saturating_duration_since(Instant::now()))
    }
}

/// The limit of the whole.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Runs the witnesses one after the other and prints one table.
pub fn interop(args: &Args) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    eprintln!("building softkvm (release mode, a few minutes the first time)");
    let stage = Stage { tools: images::tools()?, deadline };
    let mut rows = Vec::new();
    for witness in &WITNESSES {
        if !args.witnesses.is_empty() && !args.witnesses.iter().any(|name| name == witness.name) {
            continue;
        }
        eprintln!("==> {}: {}", witness.name, witness.what);
        let start = Instant::now();
        // A witness that cannot even be fetched does not keep the others from testifying.
        match (witness.run)(&stage) {
            Ok(found) => rows.extend(found),
            Err(error) => {
                rows.push(Row::new(witness.name, "", Outcome::Failed, format!("{error:#}")))
            }
        }
        eprintln!("<== {}: {} s\n", witness.name, start.elapsed().as_secs());
    }
    rows.iter_mut().for_each(expected::judge);
    print!("{}", row::table(&rows));
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    match rows.iter().filter(|row| row.outcome == Outcome::Failed).count() {
        0 => Ok(()),
        failed => bail!("{failed} of {} failed", rows.len()),
    }
}
