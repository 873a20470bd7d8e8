//! The report of a run: what `--report` writes as JSON, and what the summary table shows. `docs/report.md` documents it.
//!
//! Times are either *measured* on this host or *modelled* by softkvm's platform profile; no number mixes the two.

pub mod cells;
pub mod clock;
pub mod csv;
mod exits;
pub mod facts;
mod file;
pub mod html;
mod identity;
mod ledger;
pub mod number;
pub mod probes;
pub mod runs;
mod schema;
pub mod show;
pub mod side_by_side;
mod table;
mod timeline;
pub mod trace;

use std::path::Path;

use thiserror::Error as ThisError;

use crate::config::{Config, ConsoleDevice, UnpackMode};
use crate::digest::{self, launch_digest};
use crate::error::Error;
use crate::launch::Prefaulted;
use crate::outcome::Outcome;
use crate::plan::{PageKind, Plan};
use crate::recorder::{Op, Recorder};
use crate::run::RunRecord;
pub use file::{check_writable, write_atomically};
use identity::{policy, td};
pub use ledger::*;
pub use schema::*;
use timeline::Timeline;

/// How many pages a launch with OVMF measures (OVMF.amdsev.fd of edk2-stable202408: 4 MiB of flash and its metadata
/// pages). For comparison.
pub const OVMF_PAGES: u64 = 1055;

/// Load and accept mode where a firmware image decides them.
const BY_FIRMWARE: &str = "firmware";

/// How every version's `schema` begins.
const FAMILY: &str = "cvmm-report/";

/// Why a file cannot be read as a report.
#[derive(Debug, ThisError)]
pub enum ReportProblem {
    /// It is damaged.
    #[error("it is not whole, or no JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It is of another version.
    #[error("its layout is {0}, and this cvmm reads {SCHEMA}")]
    Version(String),
    /// A line of a file of `cvmm bench` is damaged.
    #[error("line {0} of it is damaged: {1}")]
    Line(usize, serde_json::Error),
    /// A file of `cvmm bench` in which no run has ended well.
    #[error("no run in it has ended well")]
    NoRuns,
    /// It is something else.
    #[error("it is JSON, but no report of cvmm")]
    NoReport,
}

impl ReportProblem {
    /// What to do about it.
    pub fn cure(&self) -> &'static str {
        match self {
            ReportProblem::Json(_) => "make it again: cvmm writes reports completely or not at all",
            ReportProblem::Version(_) => {
                "make it again with this cvmm, or read it with the one that made it"
            }
            ReportProblem::Line(..) => "take the line out: the other runs are whole",
            ReportProblem::NoRuns => {
                "go on with the experiment, or look into the file for why they failed"
            }
            ReportProblem::NoReport => "name a file that --report has made",
        }
    }
}

impl RunReport {
    /// Puts a report together.
    pub fn build(config: &Config, plan: &Plan, recorder: &Recorder, run: &RunRecord) -> RunReport {
        let profile = crate::emulate::profile_in_use();
        let guest = &config.guest;
        let timeline = Timeline::of(recorder, run);
        let (probes, records) = probes::probes(run);
        let phases = timeline.phases(recorder, run);
        RunReport {
            schema: SCHEMA.into(),
            cvmm_version: env!("CARGO_PKG_VERSION").into(),
            confidential: guest.technology.protected()
                && !guest.technology.debug()
                && profile.is_none(),
            platform: Platform {
                kind: if profile.is_some() { "softkvm" } else { "kvm" }.into(),
                guest_time: if crate::emulate::time_is_modelled() {
                    "modelled"
                } else {
                    "measured"
                }
                .into(),
                placeholder_costs: crate::emulate::placeholder_costs(),
                profile,
            },
            technology: guest.technology.name().into(),
            digest: launch_digest(plan).map(|digest| digest.to_string()),
            policy: policy(&guest.technology),
            td: td(&guest.technology, plan, run.xfam),
            guest: GuestFacts {
                firmware: guest.firmware.as_ref().map(|p| p.display().to_string()),
                kernel: guest.kernel.as_ref().map(|p| p.display().to_string()),
                initrd: guest.initrd.as_ref().map(|p| p.display().to_string()),
                cmdline: guest.cmdline.clone(),
                memory_bytes: guest.memory.bytes(),
                vcpus: config.cpus.get(),
                load: match guest.load {
                    _ if plan.firmware.is_some() => BY_FIRMWARE,
                    crate::config::LoadMode::Hashed => "hashed",
                    crate::config::LoadMode::Measured => "measured",
                }
                .into(),
                accept: match plan.firmware {
                    Some(_) => BY_FIRMWARE.into(),
                    None => guest.accept.to_string(),
                },
                unpack: (guest.unpack == UnpackMode::Shim).then(|| "shim".into()),
                console_device: match guest.console_device {
                    ConsoleDevice::Serial => None,
                    device => Some(device.name().into()),
                },
            },
            launch: launch_facts(config, plan, recorder, run),
            total: timeline.total(run),
            timeline: timeline.segments(),
            beside: Timeline::beside(recorder),
            ledger: LedgerFacts::of(&run.ledger, &run.usage, recorder, &phases),
            phases,
            landmarks: Timeline::landmarks(recorder, run),
            marks: marks(run, recorder),
            vcpus: run
                .vcpus
                .iter()
                .map(|v| VcpuFacts {
                    id: v.id,
                    rip: v.position.map(|(rip, _)| format!("{rip:#x}")),
                    halted: v.position.map(|(_, halted)| halted),
                })
                .collect(),
            exits: exits::exits(run, recorder.started()),
            kvm_stats: run.stats.clone(),
            probes,
            records,
            page_state_changes: run.conversions,
            stray_ports: run.strays.clone(),
            console_bytes: run.console_bytes,
            outcome: outcome(&run.outcome),
        }
    }

    /// Reads a report.
    ///
    /// # Errors
    /// The file's, or it is no report, or one of another layout.
    pub fn read(path: &Path) -> Result<RunReport, Error> {
        let text = std::fs::read(path).map_err(|source| Error::ReadFile {
            what: "report",
            path: path.to_owned(),
            source,
        })?;
        RunReport::parse(&text).map_err(|problem| Error::Report { path: path.to_owned(), problem })
    }

    /// Reads a report from its text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &[u8]) -> Result<RunReport, ReportProblem> {
        #[derive(serde::Deserialize)]
        struct Versioned {
            schema: Option<String>,
        }
        let Versioned { schema } = serde_json::from_slice(text)?;
        match schema {
            Some(schema) if schema == SCHEMA => Ok(serde_json::from_slice(text)?),
            Some(schema) if schema.starts_with(FAMILY) => Err(ReportProblem::Version(schema)),
            _ => Err(ReportProblem::NoReport),
        }
    }

    /// Writes the report as JSON: completely, or not at all.
    ///
    /// # Errors
    /// The file's.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let mut json = serde_json::to_vec_pretty(self).map_err(|e| Error::WriteFile {
            what: "report",
            path: path.to_owned(),
            source: e.into(),
        })?;
        json.push(b'\n');
        write_atomically("report", path, |out| out.write_all(&json))
    }

    /// The summary for people.
    pub fn table(&self) -> String {
        table::render(self)
    }
}

fn launch_facts(config: &Config, plan: &Plan, recorder: &Recorder, run: &RunRecord) -> LaunchFacts {
    let protected = config.guest.technology.protected();
    let regions = plan.regions.iter().map(|r| RegionFacts {
        tag: r.tag.into(),
        gpa: r.gpa,
        pages: r.bytes.len() as u64 / abi::shim::PAGE,
        page_type: digest::page_type(plan, r.kind).into(),
        measured: protected && r.kind == PageKind::Measured,
    });
    let pages = plan.page_count();
    let vmsa_pages = digest::pages_of_vcpus(plan);
    let charged = |op: Op| {
        let events = recorder.events().iter().filter(|e| e.op == op);
        events.filter_map(|e| e.guest).map(|(begin, end)| end.0 - begin.0).sum::<u64>()
    };
    let modelled = protected && crate::emulate::time_is_modelled();
    // Only a launch with VMSAs has a security processor.
    let psp = modelled && vmsa_pages > 0;
    let updates = charged(Op::LaunchUpdate);
    let measuring = updates + charged(Op::LaunchFinish);
    LaunchFacts {
        regions: regions.collect(),
        pages,
        vmsa_pages,
        staged: plan
            .staged
            .iter()
            .map(|s| StagedFacts { tag: s.tag.into(), gpa: s.gpa, bytes: s.bytes.len() as u64 })
            .collect(),
        prefault: run.prefaulted.map(|done| prefault(done, recorder)),
        measuring_modelled_ns: modelled.then_some(measuring),
        psp_modelled_ns: psp.then_some(measuring),
        // A launch with OVMF is not compared with itself.
        psp_ovmf_modelled_ns: (psp && pages > 0 && plan.firmware.is_none())
            .then(|| updates / pages * OVMF_PAGES),
        ovmf_pages: OVMF_PAGES,
    }
}

fn prefault(done: Prefaulted, recorder: &Recorder) -> PrefaultFacts {
    let pages = |bytes: u64| bytes / abi::shim::PAGE;
    let mapping = recorder.events().iter().filter(|event| event.op == Op::PreFault);
    let guest = mapping.clone().filter_map(|event| event.guest).map(|(from, to)| to.0 - from.0);
    PrefaultFacts {
        allocated_pages: pages(done.allocated),
        threads: done.threads as u64,
        mapped_pages: done.mapped.map(pages),
        wall_ns: mapping.clone().map(|event| event.end.0 - event.begin.0).sum(),
        modelled_ns: mapping.clone().any(|event| event.guest.is_some()).then(|| guest.sum()),
    }
}

fn marks(run: &RunRecord, recorder: &Recorder) -> Vec<MarkFacts> {
    let facts = run.marks.iter().map(|m| MarkFacts {
        name: crate::device::marks::name(m.value),
        number: abi::marks::Mark(m.value).number(),
        vcpu: m.vcpu,
        wall_ns: recorder.since_exec(m.wall),
        modelled_ns: m.guest.map(|g| g.0),
        exits_before: m.exits,
    });
    facts.collect()
}

fn outcome(outcome: &Outcome) -> OutcomeFacts {
    let complaint = outcome.complaint();
    OutcomeFacts {
        kind: outcome.name().into(),
        exit_code: outcome.exit_code() as u8,
        error: complaint.as_ref().map(|c| c.error.clone()),
        cause: complaint.as_ref().map(|c| c.cause.clone()),
        cure: complaint.map(|c| c.cure),
    }
}
