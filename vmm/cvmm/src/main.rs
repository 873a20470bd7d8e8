//! The `cvmm` command: parse the flags, do what they say, turn the result into an exit code.

use std::process::ExitCode;

use clap::Parser;
use cvmm::cli::{Cli, Verb};

fn main() -> ExitCode {
    let started = cvmm::recorder::Started::now();
    let cli = Cli::parse();
    let result = match &cli.verb {
        None => cvmm::run_verb(&cli.flags, started),
        Some(Verb::Run(flags)) => cvmm::run_verb(flags, started),
        Some(Verb::Measure { flags, json }) => cvmm::measure_verb(flags, *json),
        Some(Verb::Explain { code }) => cvmm::explain_verb(code),
    };
    let code = result.unwrap_or_else(|error| {
        eprintln!("{}", error.complaint());
        error.exit_code()
    });
    ExitCode::from(code as u8)
}
