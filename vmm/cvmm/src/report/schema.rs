//! The layout of a report, for those who write it and those who read it.
//!
//! A field's name says its clock: `wall_ns` is this host's CLOCK_MONOTONIC_RAW, `modelled_ns` the virtual time of softkvm's
//! platform profile.

use serde::{Deserialize, Serialize};

use super::ledger::LedgerFacts;
use super::probes::{ProbeFacts, RecordFacts};
use crate::device::bus::StrayAccess;
use crate::run::Conversions;

/// The version of the report's layout: changes when a reader would break.
pub const SCHEMA: &str = "cvmm-report/2";

/// A report.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct RunReport {
    pub schema: String,
    pub cvmm_version: String,
    pub platform: Platform,
    pub technology: String,
    pub confidential: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What only a TD has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub td: Option<TdFacts>,
    pub guest: GuestFacts,
    pub launch: LaunchFacts,
    pub total: Total,
    /// Whose turn it was when: from exec to the end of the teardown, without gap or overlap.
    pub timeline: Vec<Segment>,
    /// What other threads did while the timeline went on, and what it in the end waited for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<BesideFacts>,
    /// The timeline by phase: the times add up to `total`.
    pub phases: Vec<Phase>,
    /// What the timeline was cut by.
    pub landmarks: Vec<Landmark>,
    pub marks: Vec<MarkFacts>,
    pub vcpus: Vec<VcpuFacts>,
    pub exits: ExitFacts,
    #[serde(default)]
    pub kvm_stats: KvmStats,
    /// What a test guest has measured.
    #[serde(default)]
    pub probes: Vec<ProbeFacts>,
    /// How it arrived.
    #[serde(default)]
    pub records: RecordFacts,
    pub page_state_changes: Conversions,
    #[serde(default)]
    pub ledger: LedgerFacts,
    pub stray_ports: Vec<StrayAccess>,
    pub console_bytes: u64,
    pub outcome: OutcomeFacts,
}

/// What the guest ran on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Platform {
    /// `kvm` or `softkvm`.
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// `modelled` where the guest's time is the profile's, else `measured`.
    pub guest_time: String,
    /// The profile's costs that nobody has measured: the times that come of them are orders of magnitude.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placeholder_costs: Option<Vec<String>>,
}

/// The identity of a TD.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct TdFacts {
    pub attributes: String,
    /// Their names.
    pub attribute_names: Vec<String>,
    pub xfam: String,
    /// The same as `digest`.
    pub mrtd: String,
    /// As the kernel finds them, where that is known before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtmr: Option<Vec<String>>,
    pub mrconfigid: String,
    pub mrowner: String,
    pub mrownerconfig: String,
}

/// The guest's configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct GuestFacts {
    /// The image that was started in place of the shim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    pub kernel: Option<String>,
    pub initrd: Option<String>,
    pub cmdline: String,
    pub memory_bytes: u64,
    pub vcpus: u16,
    pub load: String,
    pub accept: String,
    /// Who unpacked the kernel, if not it itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpack: Option<String>,
    /// Which device the console is, if it is no serial line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console_device: Option<String>,
}

/// What was launched.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct LaunchFacts {
    pub regions: Vec<RegionFacts>,
    /// Launch pages without VMSAs.
    pub pages: u64,
    /// VMSA pages: one per vCPU of an SEV-SNP guest.
    pub vmsa_pages: u64,
    pub staged: Vec<StagedFacts>,
    /// What `--accept prefault` did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefault: Option<PrefaultFacts>,
    /// What the platform profile charges for measuring the launch pages and sealing the launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measuring_modelled_ns: Option<u64>,
    /// The same, of an SEV-SNP guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub psp_modelled_ns: Option<u64>,
    /// What it would charge at the same rate for a launch with OVMF.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub psp_ovmf_modelled_ns: Option<u64>,
    /// Page count of that launch.
    pub ovmf_pages: u64,
}

/// Private memory that the host found and mapped before the guest ran. How long finding it took is in `beside`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PrefaultFacts {
    pub allocated_pages: u64,
    pub threads: u64,
    /// Mapped by KVM_PRE_FAULT_MEMORY; absent where the host's KVM does not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapped_pages: Option<u64>,
    /// What mapping took.
    pub wall_ns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modelled_ns: Option<u64>,
}

/// A region of launch pages.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct RegionFacts {
    pub tag: String,
    pub gpa: u64,
    pub pages: u64,
    /// PAGE_TYPE of the SEV-SNP firmware ABI, or what the TDX module does with the page.
    pub page_type: String,
    /// Do its contents enter the digest?
    pub measured: bool,
}

/// A blob in shared memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct StagedFacts {
    pub tag: String,
    pub gpa: u64,
    pub bytes: u64,
}

/// From exec to the end of the teardown.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Total {
    pub wall_ns: u64,
    /// From KVM_CREATE_VM on: no profile says what comes before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modelled_ns: Option<u64>,
    /// How much of that comes of costs that nobody has measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placeholder_modelled_ns: Option<u64>,
    /// Time that the process spent on processors, by getrusage: with `kvm` the guest's is in it.
    pub cpu_user_ns: u64,
    pub cpu_system_ns: u64,
}

/// A piece of the timeline.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Segment {
    pub phase: String,
    pub begin_wall_ns: u64,
    pub end_wall_ns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begin_modelled_ns: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_modelled_ns: Option<u64>,
}

/// A phase: all of its segments together.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Phase {
    pub id: String,
    pub name: String,
    pub wall_ns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modelled_ns: Option<u64>,
    /// Calls to the host that launching took.
    pub operations: u64,
    /// Bytes that they were about.
    pub bytes: u64,
    /// Exits to the monitor.
    pub exits: u64,
    /// All exits, by KVM's own count, where its statistics are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kvm_exits: Option<u64>,
    pub to_private_pages: u64,
    pub to_shared_pages: u64,
}

/// Work beside the timeline. It is in no sum.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct BesideFacts {
    pub name: String,
    /// The phase that it would have lengthened.
    pub phase: String,
    pub bytes: u64,
    pub begin_wall_ns: u64,
    pub end_wall_ns: u64,
}

/// A moment at which the timeline is cut.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Landmark {
    pub name: String,
    /// The phase that begins here.
    pub phase: String,
    /// `mark`, `console`, `exit` or `symbol`.
    pub source: String,
    pub wall_ns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modelled_ns: Option<u64>,
    /// It happened at most this long before.
    pub uncertainty_wall_ns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncertainty_modelled_ns: Option<u64>,
}

/// A mark.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct MarkFacts {
    pub name: String,
    pub number: u32,
    pub vcpu: u16,
    pub wall_ns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modelled_ns: Option<u64>,
    pub exits_before: u64,
}

/// A vCPU at the end of the run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct VcpuFacts {
    pub id: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rip: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halted: Option<bool>,
}

/// Exits to the monitor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ExitFacts {
    pub total: u64,
    pub guest_wall_ns: u64,
    pub monitor_wall_ns: u64,
    pub by_reason: Vec<ReasonFacts>,
    /// The same exits by phase and vCPU.
    pub by_phase: Vec<PhaseExits>,
    pub histograms: Vec<HistogramFacts>,
    /// SHA-256 over each vCPU's exits in order.
    pub streams: Vec<String>,
    pub recorder: RecorderFacts,
}

/// Exits of one reason, all vCPUs together.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ReasonFacts {
    pub reason: String,
    pub count: u64,
    /// In KVM_RUN before them.
    pub guest_wall_ns: u64,
    /// In the monitor after them.
    pub monitor_wall_ns: u64,
}

/// Exits of one reason, phase and vCPU.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PhaseExits {
    pub phase: String,
    pub vcpu: u16,
    pub reason: String,
    pub count: u64,
    pub guest_wall_ns: u64,
    pub monitor_wall_ns: u64,
}

/// How long exits of one reason and vCPU took.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct HistogramFacts {
    pub vcpu: u16,
    pub reason: String,
    /// `guest`: in KVM_RUN before the exit; `monitor`: from there to the next KVM_RUN.
    pub of: String,
    pub count: u64,
    pub min_wall_ns: u64,
    pub mean_wall_ns: u64,
    pub p50_wall_ns: u64,
    pub p90_wall_ns: u64,
    pub p99_wall_ns: u64,
    pub max_wall_ns: u64,
    /// `[from, to, count]` in wall-clock nanoseconds, both ends inclusive; empty ones are left out.
    pub wall_ns_buckets: Vec<[u64; 3]>,
}

/// What the recording itself costs.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct RecorderFacts {
    /// Measured at the end of the run, by recording exits that were none.
    pub wall_ns_per_exit: f64,
    /// Of the time that vCPUs were in KVM_RUN or had an exit handled.
    pub wall_share_of_run: f64,
}

/// KVM's binary statistics (Linux Documentation/virt/kvm/api.rst, KVM_GET_STATS_FD) at the end of the run: those that are
/// not 0. Histograms have more than one value.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct KvmStats {
    pub vm: Statistics,
    pub vcpus: Vec<Statistics>,
}

/// Values by name.
pub type Statistics = std::collections::BTreeMap<String, Vec<u64>>;

/// The end.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct OutcomeFacts {
    pub kind: String,
    pub exit_code: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}
