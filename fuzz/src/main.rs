//! Fuzzing on the stable toolchain.
//!
//! Built plainly, the driver mutates a corpus at random. Built as `cargo xtask test fuzz` does, with
//! `-C instrument-coverage --cfg fuzz_coverage`, it keeps every input that reaches new code.

mod coverage;
mod driver;
mod mutate;
mod targets;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

/// Fuzz targets of cvmm and softkvm.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the names of the targets.
    List,
    /// Fuzz one target.
    Run {
        /// Its name.
        name: String,
        /// For how long.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Seed of the mutations; the same seed makes the same inputs.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Where failing inputs are kept.
        #[arg(long, default_value = "target/fuzz-findings")]
        findings: PathBuf,
    },
    /// Run one saved input again.
    Replay {
        /// Name of the target.
        name: String,
        /// The input.
        file: PathBuf,
    },
}

fn main() -> Result<()> {
    match Args::parse().command {
        Command::List => {
            for target in targets::ALL {
                println!("{}", target.name);
            }
            Ok(())
        }
        Command::Run { name, seconds, seed, findings } => {
            driver::fuzz(targets::find(&name)?, Duration::from_secs(seconds), seed, &findings)
        }
        Command::Replay { name, file } => {
            let input =
                std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            (targets::find(&name)?.run)(&input);
            Ok(())
        }
    }
}
