//! The report of a run: what `--report` writes as JSON, and what the summary table shows. `docs/report.md` documents it.
//!
//! Times are either *measured* on this host or *modelled* by softkvm's platform profile; no number mixes the two.

mod identity;
mod phases;
mod table;

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::config::Config;
use crate::device::bus::StrayAccess;
use crate::digest::{self, hex, launch_digest};
use crate::error::Error;
use crate::outcome::Outcome;
use crate::plan::{PageKind, Plan};
use crate::recorder::{Op, Recorder};
use crate::run::{Conversions, RunRecord};
use crate::sys::signals::Held;
use crate::sys::vcpu::EXIT_KINDS;
pub use identity::TdFacts;
use identity::{policy, td};
pub use phases::Phase;

/// The version of the report's layout: changes when a reader would break.
pub const SCHEMA: &str = "cvmm-report/1";

/// How many pages a launch with OVMF measures (OVMF.amdsev.fd of edk2-stable202408: 4 MiB of flash and its metadata
/// pages). For comparison.
pub const OVMF_PAGES: u64 = 1055;

/// Load and accept mode where a firmware image decides them.
const BY_FIRMWARE: &str = "firmware";

/// A report.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct RunReport {
    pub schema: &'static str,
    pub cvmm_version: &'static str,
    pub platform: Platform,
    pub technology: &'static str,
    pub confidential: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What only a TD has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub td: Option<TdFacts>,
    pub guest: GuestFacts,
    pub launch: LaunchFacts,
    pub phases: Vec<Phase>,
    pub marks: Vec<MarkFacts>,
    pub vcpus: Vec<VcpuFacts>,
    pub exits: ExitFacts,
    pub page_state_changes: Conversions,
    pub stray_ports: Vec<StrayAccess>,
    pub console_bytes: u64,
    pub outcome: OutcomeFacts,
}

/// What the guest ran on.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Platform {
    /// `kvm` or `softkvm`.
    pub kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// What the `guest_ns` and `modelled_ns` of this report are.
    pub guest_time: &'static str,
    /// The profile's costs that nobody has measured: the times that come of them are orders of magnitude.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placeholder_costs: Option<Vec<String>>,
}

/// The guest's configuration.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct GuestFacts {
    /// The image that was started in place of the shim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    pub kernel: Option<String>,
    pub initrd: Option<String>,
    pub cmdline: String,
    pub memory_bytes: u64,
    pub vcpus: u16,
    pub load: &'static str,
    pub accept: &'static str,
}

/// What was launched.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct LaunchFacts {
    pub regions: Vec<RegionFacts>,
    /// Launch pages without VMSAs.
    pub pages: u64,
    /// VMSA pages: one per vCPU of an SEV-SNP guest.
    pub vmsa_pages: u64,
    pub staged: Vec<StagedFacts>,
    /// What the platform profile charges for measuring the launch pages and sealing the launch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measuring_modelled_ns: Option<u64>,
    /// The same, of an SEV-SNP guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psp_modelled_ns: Option<u64>,
    /// What it would charge at the same rate for a launch with OVMF.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psp_ovmf_modelled_ns: Option<u64>,
    /// Page count of that launch.
    pub ovmf_pages: u64,
}

/// A region of launch pages.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct RegionFacts {
    pub tag: &'static str,
    pub gpa: u64,
    pub pages: u64,
    /// PAGE_TYPE of the SEV-SNP firmware ABI, or what the TDX module does with the page.
    pub page_type: &'static str,
    /// Do its contents enter the digest?
    pub measured: bool,
}

/// A blob in shared memory.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct StagedFacts {
    pub tag: &'static str,
    pub gpa: u64,
    pub bytes: u64,
}

/// A mark.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct MarkFacts {
    pub name: String,
    pub number: u32,
    pub vcpu: u16,
    pub wall_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modelled_ns: Option<u64>,
    pub exits_before: u64,
}

/// A vCPU at the end of the run.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct VcpuFacts {
    pub id: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub halted: Option<bool>,
}

/// Exits.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct ExitFacts {
    pub total: u64,
    pub guest_wall_ns: u64,
    pub monitor_wall_ns: u64,
    pub by_reason: Vec<ReasonFacts>,
    /// SHA-256 over each vCPU's exits in order.
    pub streams: Vec<String>,
}

/// Exits of one reason, all vCPUs together.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct ReasonFacts {
    pub reason: &'static str,
    pub count: u64,
    pub guest_wall_ns: u64,
    pub monitor_wall_ns: u64,
}

/// The end.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct OutcomeFacts {
    pub kind: &'static str,
    pub exit_code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

impl RunReport {
    /// Puts a report together.
    pub fn build(config: &Config, plan: &Plan, recorder: &Recorder, run: &RunRecord) -> RunReport {
        let profile = crate::emulate::profile_in_use();
        let guest = &config.guest;
        RunReport {
            schema: SCHEMA,
            cvmm_version: env!("CARGO_PKG_VERSION"),
            confidential: guest.technology.protected()
                && !guest.technology.debug()
                && profile.is_none(),
            platform: Platform {
                kind: if profile.is_some() { "softkvm" } else { "kvm" },
                guest_time: if crate::emulate::time_is_modelled() {
                    "modelled"
                } else {
                    "measured"
                },
                placeholder_costs: crate::emulate::placeholder_costs(),
                profile,
            },
            technology: guest.technology.name(),
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
                },
                accept: match guest.accept {
                    _ if plan.firmware.is_some() => BY_FIRMWARE,
                    crate::config::AcceptMode::Eager => "eager",
                },
            },
            launch: launch_facts(config, plan, recorder),
            phases: phases::derive(recorder, run),
            marks: marks(run),
            vcpus: run
                .vcpus
                .iter()
                .map(|v| VcpuFacts {
                    id: v.id,
                    rip: v.position.map(|(rip, _)| format!("{rip:#x}")),
                    halted: v.position.map(|(_, halted)| halted),
                })
                .collect(),
            exits: exits(run),
            page_state_changes: run.conversions,
            stray_ports: run.strays.clone(),
            console_bytes: run.console_bytes,
            outcome: outcome(&run.outcome),
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

/// Writes a file beside its place, then moves it there: nobody ever sees half of it.
///
/// # Errors
/// The file's.
pub fn write_atomically(
    what: &'static str,
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), Error> {
    let fail = |source| Error::WriteFile { what, path: path.to_owned(), source };
    if is_special(path) {
        // A pipe or a device cannot be replaced.
        let mut file = std::fs::OpenOptions::new().write(true).open(path).map_err(fail)?;
        return fill(&mut file).map_err(fail);
    }
    let temporary = temporary_name(path);
    let _held = Held::back();
    let result = (|| {
        let mut file = std::io::BufWriter::new(std::fs::File::create(&temporary)?);
        fill(&mut file)?;
        file.into_inner().map_err(|e| e.into_error())?.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    result.map_err(|source| {
        // Best effort: the error that matters is the one being reported.
        let _ = std::fs::remove_file(&temporary);
        fail(source)
    })
}

/// Finds out before the run whether a file can be written after it.
///
/// # Errors
/// It cannot.
pub fn check_writable(what: &'static str, path: &Path) -> Result<(), Error> {
    let fail = |source| Error::WriteFile { what, path: path.to_owned(), source };
    if path.is_dir() {
        return Err(fail(std::io::Error::from(std::io::ErrorKind::IsADirectory)));
    }
    if is_special(path) {
        return Ok(());
    }
    let temporary = temporary_name(path);
    let _held = Held::back();
    std::fs::File::create(&temporary).map_err(fail)?;
    std::fs::remove_file(&temporary).map_err(fail)
}

fn is_special(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir())
}

fn temporary_name(path: &Path) -> std::path::PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

fn launch_facts(config: &Config, plan: &Plan, recorder: &Recorder) -> LaunchFacts {
    let protected = config.guest.technology.protected();
    let regions = plan.regions.iter().map(|r| RegionFacts {
        tag: r.tag,
        gpa: r.gpa,
        pages: r.bytes.len() as u64 / abi::shim::PAGE,
        page_type: digest::page_type(plan, r.kind),
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
            .map(|s| StagedFacts { tag: s.tag, gpa: s.gpa, bytes: s.bytes.len() as u64 })
            .collect(),
        measuring_modelled_ns: modelled.then_some(measuring),
        psp_modelled_ns: psp.then_some(measuring),
        // A launch with OVMF is not compared with itself.
        psp_ovmf_modelled_ns: (psp && pages > 0 && plan.firmware.is_none())
            .then(|| updates / pages * OVMF_PAGES),
        ovmf_pages: OVMF_PAGES,
    }
}

fn marks(run: &RunRecord) -> Vec<MarkFacts> {
    let facts = run.marks.iter().map(|m| MarkFacts {
        name: crate::device::marks::name(m.value),
        number: abi::marks::Mark(m.value).number(),
        vcpu: m.vcpu,
        wall_ns: m.wall.0,
        modelled_ns: m.guest.map(|g| g.0),
        exits_before: m.exits,
    });
    facts.collect()
}

fn exits(run: &RunRecord) -> ExitFacts {
    let by_reason: Vec<ReasonFacts> = EXIT_KINDS
        .iter()
        .enumerate()
        .map(|(kind, reason)| {
            let sum = |pick: fn(&crate::run::ExitCount) -> u64| {
                run.vcpus.iter().map(|v| pick(&v.exits[kind])).sum()
            };
            ReasonFacts {
                reason,
                count: sum(|e| e.count),
                guest_wall_ns: sum(|e| e.guest_ns),
                monitor_wall_ns: sum(|e| e.monitor_ns),
            }
        })
        .filter(|r| r.count > 0)
        .collect();
    ExitFacts {
        total: by_reason.iter().map(|r| r.count).sum(),
        guest_wall_ns: by_reason.iter().map(|r| r.guest_wall_ns).sum(),
        monitor_wall_ns: by_reason.iter().map(|r| r.monitor_wall_ns).sum(),
        by_reason,
        streams: run.vcpus.iter().map(|v| hex(&v.stream)).collect(),
    }
}

fn outcome(outcome: &Outcome) -> OutcomeFacts {
    let complaint = outcome.complaint();
    OutcomeFacts {
        kind: outcome.name(),
        exit_code: outcome.exit_code() as u8,
        error: complaint.as_ref().map(|c| c.error.clone()),
        cause: complaint.as_ref().map(|c| c.cause.clone()),
        cure: complaint.map(|c| c.cure),
    }
}
