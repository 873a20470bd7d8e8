//! `cvmm model`: a boot as a sum of counts times unit costs, beside what a run on the same profile took.
//!
//! The estimate has no instruction in it: what it misses of a run is work between the operations that the profile prices.

mod plain;
pub mod profile;
mod snp;
mod table;
mod tdx;
pub mod term;

use serde::Serialize;

use crate::cli::bench::ModelFlags;
use crate::emulate;
use crate::error::{Error, ExitCode};
use crate::report::RunReport;
use profile::{Price, Profile};
use term::{KERNEL, Term, Work};

/// The version of `--json`'s layout: changes when a reader would break.
pub const SCHEMA: &str = "cvmm-model/1";

/// How fast the shim hashes and copies, in bytes each second (SEVeriFast, ASPLOS 2024, EPYC 7003: SHA-256 1.6 to 2.3 GB/s, copies
/// from shared to private memory 4.6 to 13 GB/s).
const HASHED: f64 = 2.0e9;
const COPIED: f64 = 5.0e9;
/// What a kernel needs for itself where nobody says (SEVeriFast, the Lupine kernel in a plain guest).
const KERNEL_NS: f64 = 16.8e6;

/// Everything that is said.
#[derive(Debug, Serialize)]
pub struct Model {
    /// The version of the layout.
    pub schema: &'static str,
    /// `plain`, `snp` or `tdx`.
    pub technology: String,
    /// The profile.
    pub profile: String,
    /// What was counted.
    pub work: Work,
    /// Where the kernel's own time is from.
    pub kernel_from: String,
    /// The terms.
    pub terms: Vec<Term>,
    /// Their sum.
    pub estimate_modelled_ns: f64,
    /// The part of it that rests on placeholders.
    pub placeholder_ns: f64,
    /// What the run took, in all.
    pub run_modelled_ns: Option<f64>,
    /// The part of that which rests on placeholders, where softkvm says so.
    pub run_placeholder_ns: Option<f64>,
    /// Phases of the run that no term is for: id and time.
    pub not_modelled: Vec<(String, f64)>,
    /// The costs that terms are made of, with their sources.
    pub costs: Vec<CostFacts>,
}

/// A cost of the profile.
#[derive(Debug, Serialize)]
pub struct CostFacts {
    /// Its name.
    pub name: String,
    /// Nanoseconds.
    pub modelled_ns: u64,
    /// How sure it is.
    pub confidence: String,
    /// Where it comes from.
    pub source: String,
}

/// Does what the flags say.
///
/// # Errors
/// Something cannot be read, or does not fit the rest.
pub fn run(flags: &ModelFlags) -> Result<ExitCode, Error> {
    let model = model(flags)?;
    crate::print_out(&if flags.json { crate::json(&model)? } else { table::render(&model) })
}

fn usage(flag: &str, problem: String, cure: &str) -> Error {
    Error::Usage { flag: flag.into(), problem, cure: cure.into() }
}

fn model(flags: &ModelFlags) -> Result<Model, Error> {
    let run = flags.report.as_deref().map(RunReport::read).transpose()?;
    let plain = flags.plain_report.as_deref().map(RunReport::read).transpose()?;
    let technology =
        flags.technology.clone().or_else(|| run.as_ref().map(|run| run.technology.clone()));
    let technology = technology.ok_or_else(|| {
        usage(
            "--technology",
            "neither it nor a report was given".into(),
            "add --technology snp, tdx or plain",
        )
    })?;
    if let Some(run) = &run {
        if run.platform.guest_time != "modelled" {
            let problem = format!("its guest's time is {}", run.platform.guest_time);
            return Err(usage(
                "--report",
                problem,
                "give a report of a run with --emulate: only modelled times can be explained",
            ));
        }
        if run.technology != technology {
            let problem =
                format!("it is of a {} guest, and --technology says {technology}", run.technology);
            return Err(usage("--report", problem, "leave --technology out"));
        }
    }
    let of_run = run.as_ref().and_then(|run| run.platform.profile.clone());
    let name = flags.profile.clone().or_else(|| of_run.clone());
    let name = emulate::profile_for(&technology, name.as_deref());
    if !emulate::suits(&name, &technology) {
        let problem = format!("{name} is of a processor without {technology}");
        return Err(usage("--profile", problem, "leave it out, or name one that fits"));
    }
    let profile = Profile::load(&name)?;
    if let Some(other) = of_run.filter(|other| *other != profile.name) {
        let problem = format!("it ran on {other}, and --profile is {}", profile.name);
        return Err(usage("--report", problem, "give a report of the same profile"));
    }
    let (kernel_ns, kernel_from) = kernel(flags, plain.as_ref(), &profile)?;
    let work = work(flags, run.as_ref(), kernel_ns);
    let mut terms = match technology.as_str() {
        "snp" => snp::launch(&profile, &work),
        "tdx" => tdx::launch(&profile, &work),
        _ => plain::launch(),
    };
    terms.push(loading(&work));
    terms.push(match technology.as_str() {
        "snp" => snp::kernel(&profile, &work),
        "tdx" => tdx::kernel(&profile, &work),
        _ => plain::kernel(&profile, &work),
    });
    Ok(finish(technology, profile, work, kernel_from, terms, run.as_ref()))
}

/// The shim's work on files, the same with and without protection.
fn loading(work: &Work) -> Term {
    let ns = work.payload_bytes as f64 * (1e9 / COPIED + 1e9 / HASHED);
    Term::new(
        "files copied and verified",
        &["G4"],
        format!("{} bytes / 5 GB/s + the same / 2 GB/s", work.payload_bytes),
        Price::known(ns),
        "softkvm counts instructions and has no memory bandwidth; the run's files' copies are accepted here too",
    )
}

/// The kernel's own time, and where that is from.
fn kernel(
    flags: &ModelFlags,
    plain: Option<&RunReport>,
    profile: &Profile,
) -> Result<(f64, String), Error> {
    if let Some(ms) = flags.kernel_ms {
        return Ok((ms * 1e6, "--kernel-ms".into()));
    }
    let Some(plain) = plain else {
        return Ok((
            KERNEL_NS,
            "16.8 ms of a small kernel, published by SEVeriFast (ASPLOS 2024)".into(),
        ));
    };
    if plain.technology != "plain" || plain.platform.guest_time != "modelled" {
        let problem = "it is not of a plain guest with modelled time".to_owned();
        return Err(usage("--plain-report", problem, "run the same kernel with --plain --emulate"));
    }
    let exits = exits(plain);
    let outside = plain::monitor_exit(profile, exits).ns;
    let ns = (phases_ns(plain, KERNEL) - outside).max(0.0);
    Ok((ns, format!("a plain run of it, without its {exits} exits")))
}

fn phases_ns(run: &RunReport, phases: &[&str]) -> f64 {
    let of = run.phases.iter().filter(|phase| phases.contains(&phase.id.as_str()));
    of.filter_map(|phase| phase.modelled_ns).sum::<u64>() as f64
}

/// Exits to the monitor while the kernel boots.
fn exits(run: &RunReport) -> u64 {
    kernel_sum(run, |phase| phase.exits)
}

fn kernel_sum(run: &RunReport, pick: fn(&crate::report::Phase) -> u64) -> u64 {
    run.phases.iter().filter(|phase| KERNEL.contains(&phase.id.as_str())).map(pick).sum()
}

/// What flags say, else what the run did, else nothing.
fn work(flags: &ModelFlags, run: Option<&RunReport>, kernel_ns: f64) -> Work {
    let of = |given: Option<u64>, pick: &dyn Fn(&RunReport) -> u64| {
        given.or_else(|| run.map(pick)).unwrap_or(0)
    };
    let all_exits =
        |run: &RunReport| kernel_sum(run, |phase| phase.kvm_exits.unwrap_or(phase.exits));
    let monitor_exits = of(flags.exits, &exits);
    Work {
        launch_pages: of(flags.pages, &|run| run.launch.pages),
        vcpus: of(flags.cpus.map(u64::from), &|run| run.guest.vcpus.into()).max(1),
        memory_pages: of(flags.memory.map(|memory| memory.bytes()), &|run| run.guest.memory_bytes)
            / abi::shim::PAGE,
        prefaulted_pages: of(None, &|run| {
            run.launch.prefault.as_ref().and_then(|done| done.mapped_pages).unwrap_or(0)
        }),
        payload_bytes: of(flags.payload, &|run| {
            run.launch.staged.iter().map(|file| file.bytes).sum()
        }),
        monitor_exits,
        kvm_exits: of(flags.kvm_exits, &|run| all_exits(run).saturating_sub(exits(run))),
        changed_pages: of(flags.changed_pages, &|run| {
            kernel_sum(run, |phase| phase.to_private_pages + phase.to_shared_pages)
        }),
        kernel_ns,
    }
}

fn finish(
    technology: String,
    profile: Profile,
    work: Work,
    kernel_from: String,
    mut terms: Vec<Term>,
    run: Option<&RunReport>,
) -> Model {
    for term in &mut terms {
        term.run_modelled_ns = run.map(|run| phases_ns(run, term.phases));
    }
    let covered: Vec<&str> = terms.iter().flat_map(|term| term.phases).copied().collect();
    let not_modelled = run
        .into_iter()
        .flat_map(|run| &run.phases)
        .filter(|phase| !covered.contains(&phase.id.as_str()));
    let is_in =
        |term: &Term, name: &str| term.formula.split([' ', '(', ')']).any(|word| word == name);
    let used = |name: &str| terms.iter().any(|term| is_in(term, name));
    Model {
        schema: SCHEMA,
        estimate_modelled_ns: terms.iter().map(|term| term.estimate_modelled_ns).sum(),
        placeholder_ns: terms.iter().map(|term| term.placeholder_ns).sum(),
        run_modelled_ns: run.and_then(|run| run.total.modelled_ns).map(|ns| ns as f64),
        run_placeholder_ns: run
            .and_then(|run| run.total.placeholder_modelled_ns)
            .map(|ns| ns as f64),
        not_modelled: not_modelled
            .filter_map(|phase| {
                Some((format!("{} {}", phase.id, phase.name), phase.modelled_ns? as f64))
            })
            .filter(|(_, ns)| *ns > 0.0)
            .collect(),
        costs: profile
            .costs
            .iter()
            .filter(|(name, _)| used(name))
            .map(|(name, cost)| CostFacts {
                name: name.clone(),
                modelled_ns: cost.ns,
                confidence: cost.confidence.clone(),
                source: cost.source.clone(),
            })
            .collect(),
        technology,
        profile: profile.name,
        work,
        kernel_from,
        terms,
    }
}
