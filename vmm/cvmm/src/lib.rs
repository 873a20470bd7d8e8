//! The monitor: `flags → Config → Plan → launch → run → RunReport`.
//!
//! A library so that every step can be tested by itself; the binary parses flags and calls one function of this file.

pub mod bench;
pub mod check;
pub mod child;
pub mod cli;
pub mod compare;
pub mod config;
pub mod device;
pub mod digest;
pub mod emulate;
pub mod error;
pub mod explain;
pub mod figures;
pub mod launch;
pub mod ledger;
pub mod model;
pub mod outcome;
pub mod phase;
pub mod plan;
pub mod pool;
pub mod recorder;
pub mod report;
pub mod run;
pub mod selftest;
pub mod shim_image;
pub mod stats;
pub mod sys;
pub mod termination;

use std::io::Write;
use std::thread;

use check::{Asked, CheckReport};
use cli::bench::{BenchFlags, CompareFlags, ModelFlags};
use cli::pool::PoolVerb;
use cli::{CheckFlags, Flags, ReportFlags, SelftestFlags};
use config::{Config, Console, MeasureConfig};
use device::output::Sink;
use error::{Error, ExitCode};
use launch::Planning;
use plan::{HostCaps, Inputs, Plan, Technology};
use recorder::{Recorder, Started};
use report::{RunReport, check_writable, write_atomically};
use sys::ahead::Ahead;

/// Runs a guest: what `cvmm` does without a verb.
///
/// # Errors
/// Everything up to the first guest instruction; how the guest ends is the exit code.
pub fn run_verb(flags: &Flags, started: Started, ahead: Ahead) -> Result<ExitCode, Error> {
    let config = Config::parse(flags)?;
    if let Some(profile) = &flags.emulate {
        let technology = config.guest.technology.name();
        emulate::ensure(&emulate::profile_for(technology, profile.as_deref()))?;
    }
    if config.guest.technology.debug() {
        say(
            "cvmm: WARNING: this guest may be debugged, that is READ, by the host: it is NOT confidential\n",
        );
    }
    let mut recorder = Recorder::new(started, emulate::time_is_modelled());
    let recorder = &mut recorder;
    let (guest, plan, sink) = thread::scope(|scope| -> Result<_, Error> {
        let planning = Planning::begin(scope, &config, ahead, recorder)?;
        // Whatever can be refused is refused before anything is launched.
        start_log(flags)?;
        for (what, path) in [("report", &config.report), ("page list", &config.dump_pages)] {
            path.as_deref().map_or(Ok(()), |path| check_writable(what, path))?;
        }
        let sink = open_sink(&config.console)?;
        let system = match launch::open(&config, recorder) {
            Ok(system) => system,
            Err(error) => return Err(planning.blame(error, recorder)),
        };
        let (guest, plan) = launch::launch(&config, planning, &system, recorder)?;
        Ok((guest, plan, sink))
    })?;
    tracing::info!("launched");
    let taken = match config.hold {
        false => None,
        true => match pool::wait(&config, &plan, recorder)? {
            None => return Ok(ExitCode::Interrupted),
            taken => taken,
        },
    };
    let record = run::run(guest, &config, sink, recorder)?;

    let report = RunReport::build(&config, &plan, recorder, &record);
    let path = taken.as_ref().and_then(pool::Taken::report);
    match path.as_ref().or(config.report.as_ref()) {
        Some(path) => report.write(path)?,
        None => say(&report.table()),
    }
    if let Some(complaint) = record.outcome.complaint() {
        say(&format!("{complaint}\n"));
    }
    Ok(record.outcome.exit_code())
}

/// What goes into a TD's launch digest, for people.
const MRTD_COVERS: &str = "shim, kernel, initrd, command line, memory size, vCPU count, load mode and ACPI tables; not \
                           attributes, XFAM, CPUID and the mr* identifiers, of which a report shows all but CPUID";
/// The same for a TD that starts in a firmware image.
const MRTD_COVERS_FIRMWARE: &str = "the firmware's code and where its memory is; not its variables, nor kernel, initrd, \
                                    command line and ACPI tables: it measures what it uses of them into RTMRs";
/// What goes into the run-time registers.
const RTMRS_COVER: &str = "# RTMR0 to RTMR3 cover nothing when the kernel is entered; from then on they are the guest's to extend\n";

/// Prints launch digests: `cvmm measure`.
///
/// # Errors
/// Unusable flags or files.
pub fn measure_verb(flags: &Flags, json: bool) -> Result<ExitCode, Error> {
    start_log(flags)?;
    let config = MeasureConfig::parse(flags, json)?;
    let inputs = Inputs::read(&config.guest)?;
    let host = HostCaps::assumed();
    let mut digests = Vec::new();
    let mut last = None;
    for cpus in config.cpus.counts() {
        let plan = Plan::build(&config.guest, &inputs, cpus, &host)?;
        digests.extend(digest::launch_digest(&plan).map(|digest| (cpus, digest)));
        last = Some(plan);
    }
    let registers = last.as_ref().and_then(digest::runtime_registers);
    let covers = last
        .as_ref()
        .filter(|plan| plan.technology == Technology::Tdx)
        .map(|plan| if plan.firmware.is_some() { MRTD_COVERS_FIRMWARE } else { MRTD_COVERS });
    if let (Some(path), Some(plan)) = (&config.dump_pages, &last) {
        write_atomically("page list", path, |out| digest::dump::write(plan, out))?;
    }
    let mut out = String::new();
    if config.json {
        let rows: Vec<_> = digests
            .iter()
            .map(|(cpus, digest)| serde_json::json!({ "vcpus": cpus.get(), "digest": digest.to_string() }))
            .collect();
        let mut value = serde_json::json!({
            "schema": "cvmm-measure/1",
            "technology": config.guest.technology.name(),
            "digests": rows,
        });
        if let Some(registers) = &registers {
            value["rtmr"] = registers.iter().map(ToString::to_string).collect();
        }
        if let Some(covers) = covers {
            value["covers"] = covers.into();
        }
        out.push_str(&format!("{value:#}\n"));
    } else if let [(_, digest)] = digests.as_slice() {
        out.push_str(&format!("{digest}\n"));
    } else {
        for (cpus, digest) in &digests {
            out.push_str(&format!("{:>3}  {digest}\n", cpus.get()));
        }
    }
    if let (false, Some(covers)) = (config.json, covers) {
        out.push_str(&format!("# the above is MRTD: {covers}\n"));
    }
    if let (false, Some(registers)) = (config.json, registers) {
        for (at, register) in registers.iter().enumerate() {
            out.push_str(&format!("# RTMR{at} {register}\n"));
        }
        out.push_str(RTMRS_COVER);
    }
    print_out(&out)
}

/// Says whether this host can run guests: `cvmm check`.
///
/// # Errors
/// softkvm cannot be loaded, or nobody can be told.
pub fn check_verb(flags: &CheckFlags, started: Started) -> Result<ExitCode, Error> {
    let asked = flags.asked();
    if let Some(profile) = &flags.emulate {
        let default = if asked == Some(Asked::TDX) { "tdx" } else { "snp" };
        emulate::ensure(&emulate::profile_for(default, profile.as_deref()))?;
    }
    let host = check::Host::gather(&mut Recorder::new(started, false));
    let report = CheckReport::judge(&host, asked);
    let text = if flags.json { json(&report)? } else { check::table::render(&report) };
    print_out(&text)?;
    Ok(report.exit_code())
}

/// Runs everything that this host can run: `cvmm selftest`.
///
/// # Errors
/// It could not be run; what it found is the exit code.
pub fn selftest_verb(flags: &SelftestFlags) -> Result<ExitCode, Error> {
    selftest::run(flags)
}

/// Shows runs: `cvmm report`.
///
/// # Errors
/// A file is no report, or nothing can be written.
pub fn report_verb(flags: &ReportFlags) -> Result<ExitCode, Error> {
    report::show::show(flags)
}

/// Runs a matrix of guests again and again: `cvmm bench`.
///
/// # Errors
/// It could not be done; how runs ended is the exit code.
pub fn bench_verb(flags: &BenchFlags) -> Result<ExitCode, Error> {
    bench::run(flags)
}

/// Says what changed: `cvmm compare`.
///
/// # Errors
/// A file cannot be read, or the two cannot be compared.
pub fn compare_verb(flags: &CompareFlags) -> Result<ExitCode, Error> {
    compare::run(flags)
}

/// Estimates a boot: `cvmm model`.
///
/// # Errors
/// Something cannot be read, or does not fit the rest.
pub fn model_verb(flags: &ModelFlags) -> Result<ExitCode, Error> {
    model::run(flags)
}

/// Keeps guests ready, or takes one: `cvmm pool`.
///
/// # Errors
/// It could not be done; how a guest ends is the exit code.
pub fn pool_verb(verb: &PoolVerb) -> Result<ExitCode, Error> {
    pool::run(verb)
}

/// Explains a number: `cvmm explain`.
///
/// # Errors
/// It means nothing.
pub fn explain_verb(code: &str) -> Result<ExitCode, Error> {
    print_out(&explain::explain(code)?)
}

/// Tells the user. Where nobody is left to be told (a terminal that hung up), nothing is lost.
pub(crate) fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

pub(crate) fn json(value: &impl serde::Serialize) -> Result<String, Error> {
    let text = serde_json::to_string_pretty(value).map_err(|source| Error::WriteFile {
        what: "result",
        path: "standard output".into(),
        source: source.into(),
    })?;
    Ok(text + "\n")
}

pub(crate) fn print_out(text: &str) -> Result<ExitCode, Error> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|source| {
        Error::WriteFile { what: "result", path: "standard output".into(), source }
    })?;
    Ok(ExitCode::Ok)
}

fn open_sink(console: &Console) -> Result<Sink, Error> {
    match console {
        Console::Stdio => Ok(Sink::Stdout),
        Console::None => Ok(Sink::Nowhere),
        Console::File(path) => std::fs::File::create(path).map(Sink::File).map_err(|source| {
            Error::WriteFile { what: "console output", path: path.clone(), source }
        }),
    }
}

/// Diagnostics for people: never boot phases, never inside a loop.
fn start_log(flags: &Flags) -> Result<(), Error> {
    let level = match flags.verbose {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .without_time()
        .log_internal_errors(false);
    let result = match &flags.log {
        Some(path) => {
            let file = std::fs::File::create(path).map_err(|source| Error::WriteFile {
                what: "log",
                path: path.clone(),
                source,
            })?;
            builder.with_ansi(false).with_writer(std::sync::Mutex::new(file)).try_init()
        }
        None => builder.with_ansi(false).with_writer(std::io::stderr).try_init(),
    };
    // A second subscriber only exists where a test set one up; it stays.
    let _ = result;
    Ok(())
}
