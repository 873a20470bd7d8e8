//! From a plan to a guest that can run: the one place that chooses by technology.

mod beside;
mod plain;
mod planning;
mod prefault;
mod snp;
mod tdx;

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use abi::tdx::Xfam;
use vmm_sys_util::eventfd::EventFd;

use crate::config::tdx::QuoteService;
use crate::config::{Config, CpuCount, Technology};
use crate::device::serial;
use crate::digest::{LaunchDigest, launch_digest};
use crate::error::Error;
use crate::ledger::Ledger;
use crate::plan::cpuid::CpuidTable;
use crate::plan::fw_cfg::FwCfg;
use crate::plan::layout::Range;
use crate::plan::{self, HostCaps, Plan, PlanError, StagedBlob};
use crate::recorder::{Op, Recorder};
use crate::sys::ahead::Ahead;
use crate::sys::memory::GuestRam;
use crate::sys::stats::AllStats;
use crate::sys::system::{Capability, System};
use crate::sys::vcpu::Vcpu;
use crate::sys::vm::{Visibility, Vm};
use crate::sys::{SysError, snp::SevDevice};
use beside::Beside;
pub use planning::Planning;
pub use prefault::Prefaulted;

/// What every launch insists on.
pub const PLAIN_CAPABILITIES: [Capability; 2] = [Capability::IRQCHIP, Capability::IRQFD];
pub use snp::CAPABILITIES as SNP_CAPABILITIES;
pub use tdx::CAPABILITIES as TDX_CAPABILITIES;

/// What any launch insists on.
pub fn capabilities() -> Vec<Capability> {
    [PLAIN_CAPABILITIES.as_slice(), &SNP_CAPABILITIES, &TDX_CAPABILITIES].concat()
}

/// A guest that is ready to run. The VM goes before the memory it uses: fields are dropped in this order.
#[derive(Debug)]
pub struct Guest {
    /// Its processors.
    pub vcpus: Vec<Vcpu>,
    /// The VM.
    pub vm: Vm,
    /// Raises COM1's interrupt.
    pub serial_interrupt: EventFd,
    /// Its memory.
    pub memory: GuestMemory,
    /// Whose its every page is.
    pub ledger: Ledger,
    /// What its technology asks of the monitor while it runs.
    pub services: Services,
    /// KVM's statistics of it.
    pub stats: AllStats,
    /// What `--accept prefault` has done.
    pub prefaulted: Option<Prefaulted>,
}

/// What a guest may ask of the monitor beside devices.
#[derive(Clone, Debug, Default)]
pub struct Services {
    /// The certificate table for extended reports.
    pub certs: Option<Vec<u8>>,
    /// A TD's.
    pub td: Option<TdServices>,
    /// What a firmware image may fetch.
    pub fw_cfg: Option<FwCfg>,
}

/// What a TD needs of the monitor.
#[derive(Clone, Debug)]
pub struct TdServices {
    /// The extended features that it was given.
    pub xfam: Xfam,
    /// GetTdVmCallInfo, leaf 1, R11: the optional calls that user space may offer on this host.
    pub optional_calls: u64,
    /// Who signs its quotes.
    pub quote: Option<QuoteService>,
}

/// Both halves of a guest's memory.
#[derive(Debug)]
pub struct GuestMemory {
    /// What the host can see.
    pub ram: GuestRam,
    /// What it cannot: one file per region of `ram`; none for an unprotected guest.
    pub private: Vec<File>,
    /// What of `ram` the launch has written.
    pub written: Vec<Range>,
    /// `/dev/sev`: KVM resolves its descriptor again for every request of the guest.
    pub(crate) _sev: Option<SevDevice>,
}

/// Opens the host's KVM, if it has what this guest needs.
///
/// # Errors
/// It cannot be opened, or lacks something.
pub fn open(config: &Config, recorder: &mut Recorder) -> Result<System, Error> {
    let system = System::open(recorder)?;
    require(config, &system, recorder)?;
    Ok(system)
}

fn require(config: &Config, system: &System, recorder: &mut Recorder) -> Result<(), Error> {
    for capability in PLAIN_CAPABILITIES {
        system.require(recorder, capability)?;
    }
    let cpus = usize::from(config.cpus.get());
    let max = system.max_vcpus(recorder)?;
    if cpus > max {
        return Err(SysError::Missing {
            what: format!("its KVM gives a guest at most {max} vCPUs, not {cpus}"),
            cure: "give fewer --cpus",
        }
        .into());
    }
    match config.guest.technology {
        Technology::Plain => {}
        Technology::Snp(_) => snp::require(system, recorder)?,
        Technology::Tdx(_) => tdx::require(system, recorder)?,
    }
    Ok(())
}

/// Insists on what a launch needs, and asks for what the plan depends on.
///
/// # Errors
/// Something is missing.
pub fn probe(config: &Config, system: &System, recorder: &mut Recorder) -> Result<HostCaps, Error> {
    require(config, system, recorder)?;
    let cpuid = planning::supported_cpuid(Ahead::default(), system, recorder)?;
    Ok(planning::host_caps(config, CpuidTable::from_kvm(&cpuid))?)
}

/// KVM has no VMs of a technology: `cure` is for a host; a software machine may be another one.
fn not_offered(what: &str, cure: &'static str) -> SysError {
    let cure = match crate::emulate::profile_in_use() {
        Some(_) => "choose the profile of a processor that has it; `softkvm info` lists them",
        None => cure,
    };
    SysError::Missing { what: what.into(), cure }
}

/// Makes the guest, and with it the plan, for which a launch waits when it needs it.
///
/// # Errors
/// Whatever the host refuses, and what is wrong with the files.
pub fn launch(
    config: &Config,
    planning: Planning,
    system: &System,
    recorder: &mut Recorder,
) -> Result<(Guest, Plan), Error> {
    let (mut guest, plan) = match &config.guest.technology {
        Technology::Plain => plain::launch(config, planning, system, recorder),
        Technology::Snp(snp) => snp::launch(config, snp, planning, system, recorder),
        Technology::Tdx(tdx) => tdx::launch(config, tdx, planning, system, recorder),
    }?;
    if let Some(ns) = config.halt_poll_ns {
        guest.vm.set_halt_poll(recorder, ns)?;
    }
    guest.memory.written = written(&plan);
    if let Some(done) = guest.prefaulted {
        let mapped = prefault::map(&guest, &plan, system, recorder)?;
        guest.prefaulted = Some(Prefaulted { mapped, ..done });
    }
    guest.services.fw_cfg = plan.firmware.as_ref().map(|firmware| firmware.fw_cfg.clone());
    Ok((guest, plan))
}

/// What a launch writes into memory that the host can see.
fn written(plan: &Plan) -> Vec<Range> {
    let range = |gpa, bytes: &[u8]| Range { gpa, len: bytes.len() as u64 };
    let staged = plan.staged.iter().map(|blob| range(blob.gpa, &blob.bytes));
    let pages = plan.regions.iter().map(|region| range(region.gpa, &region.bytes));
    let pages = pages.filter(|_| plan.technology == plan::Technology::Plain);
    staged.chain(pages).chain(plain::written(plan)).collect()
}

/// The serial line's interrupt.
fn serial_interrupt(vm: &Vm, recorder: &mut Recorder) -> Result<EventFd, Error> {
    let event = EventFd::new(libc::EFD_NONBLOCK)
        .map_err(|source| Error::Setup { what: "the serial line's interrupt", source })?;
    vm.register_irqfd(recorder, &event, serial::IRQ)?;
    Ok(event)
}

/// Memory of a confidential guest: a shared and a private half for every slot, and the private ranges marked. The files are
/// the private halves, in the order of the regions.
fn guarded_memory(
    plan: &Plan,
    vm: &Vm,
    recorder: &mut Recorder,
) -> Result<(GuestRam, Vec<File>), Error> {
    let ram = GuestRam::map(recorder, &ranges(&plan.slots))?;
    let mut private = Vec::new();
    for (slot, region) in ram.regions().iter().enumerate() {
        let memfd = vm.create_guest_memfd(recorder, region.len())?;
        vm.set_private_region(recorder, slot as u32, region, &memfd)?;
        private.push(memfd);
    }
    for range in &plan.private {
        recorder.record(Op::SetMemoryAttributes, "private", range.len, || {
            vm.set_visibility(range.gpa, range.len, Visibility::Private)
        })?;
    }
    Ok((ram, private))
}

/// Measures launch pages by `measure`. At the same time puts into memory what the host and the guest share, and allocates the
/// other half where that is wanted: the security processor is slow, and neither it nor KVM's lock on the VM keeps this
/// process from its own memory.
fn measure_and_stage(
    config: &Config,
    plan: &Plan,
    (ram, private): (&GuestRam, &[File]),
    recorder: &mut Recorder,
    measure: impl FnOnce(&mut Recorder) -> Result<(), Error>,
) -> Result<Option<Prefaulted>, Error> {
    let bytes = plan.staged.iter().map(|blob| blob.bytes.len() as u64).sum();
    let ahead = plan.accepted_by_shim(&plan.slots);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stage = || plan.staged.iter().try_for_each(|blob| ram.write(blob.gpa, &blob.bytes));
        let staging = Beside::begin(scope, recorder, (Op::CopyIn, "staged", bytes), stage)?;
        let wanted = config.guest.accept.prefaults();
        let all = ahead.iter().map(|range| range.len).sum();
        let allocating = wanted.then(|| {
            let allocate = || prefault::allocate(ram.regions(), private, &ahead, &stop);
            Beside::begin(scope, recorder, (Op::Allocate, "private", all), allocate)
        });
        let allocating = allocating.transpose()?;
        let measured = measure(recorder);
        stop.store(measured.is_err(), Ordering::Relaxed);
        let staged = staging.wait(recorder)?;
        let allocated = allocating.map(|allocating| allocating.wait(recorder)).transpose()?;
        measured?;
        staged?;
        Ok(allocated.transpose()?)
    })
}

/// Puts what the host and the guest share into memory.
fn write_staged(
    staged: &[StagedBlob],
    ram: &GuestRam,
    recorder: &mut Recorder,
) -> Result<(), Error> {
    for blob in staged {
        recorder.record(Op::CopyIn, blob.tag, blob.bytes.len() as u64, || {
            ram.write(blob.gpa, &blob.bytes)
        })?;
    }
    Ok(())
}

/// The vCPUs, and what KVM counts of them and their VM.
fn create_vcpus(
    cpus: CpuCount,
    vm: &Vm,
    recorder: &mut Recorder,
) -> Result<(Vec<Vcpu>, AllStats), Error> {
    let ids = 0..cpus.get();
    let vcpus = ids.map(|id| vm.create_vcpu(recorder, id)).collect::<Result<Vec<_>, _>>()?;
    let stats = AllStats::open(vm, &vcpus, recorder)?;
    Ok((vcpus, stats))
}

/// Tells KVM what CPUID says on a vCPU.
fn set_cpuid(vcpu: &Vcpu, table: &CpuidTable, recorder: &mut Recorder) -> Result<(), Error> {
    let cpuid = kvm_bindings::CpuId::from_entries(&table.for_vcpu(vcpu.id()))
        .map_err(|_| PlanError::TooManyCpuidRows { max: 256 })?;
    Ok(vcpu.set_cpuid(recorder, &cpuid)?)
}

/// Ends the launch if the plan's digest is not the expected one.
fn check_digest(expect: Option<&LaunchDigest>, plan: &Plan) -> Result<(), Error> {
    let (Some(expected), Some(actual)) = (expect, launch_digest(plan)) else { return Ok(()) };
    if actual != *expected {
        return Err(Error::Expect { expected: expected.clone(), actual });
    }
    Ok(())
}

/// (gpa, len) of every memory slot.
fn ranges(slots: &[Range]) -> Vec<(u64, u64)> {
    slots.iter().map(|r| (r.gpa, r.len)).collect()
}
