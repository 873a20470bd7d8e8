//! The `cvmm` command: parse the flags, do what they say, turn the result into an exit code.

use std::io::Write;
use std::process::ExitCode;

use cvmm::cli::{self, Cli, Verb};
use cvmm::error::{self, Complaint};
use cvmm::sys::ahead::Ahead;

/// musl's own gives memory back to the kernel as soon as it is free, and each time the other processors are interrupted:
/// nearly a millisecond of a start.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    let started = cvmm::recorder::Started::now();
    let words: Vec<_> = std::env::args_os().collect();
    let ahead = Ahead::begin(&words, started);
    let cli = match Cli::parse_quickly(&words) {
        Ok(cli) => cli,
        // Help and version are answers, not errors.
        Err(answer) if !answer.use_stderr() => answer.exit(),
        Err(error) => return complain(&cli::complaint(&error), error::ExitCode::Usage),
    };
    let result = match &cli.verb {
        None => cvmm::run_verb(&cli.flags, started, ahead),
        Some(Verb::Run(flags)) => cvmm::run_verb(flags, started, ahead),
        Some(Verb::Measure { flags, json }) => cvmm::measure_verb(flags, *json),
        Some(Verb::Check(flags)) => cvmm::check_verb(flags, started),
        Some(Verb::Selftest(flags)) => cvmm::selftest_verb(flags),
        Some(Verb::Report(flags)) => cvmm::report_verb(flags),
        Some(Verb::Bench(flags)) => cvmm::bench_verb(flags),
        Some(Verb::Compare(flags)) => cvmm::compare_verb(flags),
        Some(Verb::Model(flags)) => cvmm::model_verb(flags),
        Some(Verb::Pool(verb)) => cvmm::pool_verb(verb),
        Some(Verb::Explain { code }) => cvmm::explain_verb(code),
    };
    match result {
        Ok(code) => ExitCode::from(code as u8),
        Err(error) => complain(&error.complaint(), error.exit_code()),
    }
}

fn complain(complaint: &Complaint, code: error::ExitCode) -> ExitCode {
    // Where nobody can be told, the exit code still says it.
    let _ = writeln!(std::io::stderr(), "{complaint}");
    ExitCode::from(code as u8)
}
