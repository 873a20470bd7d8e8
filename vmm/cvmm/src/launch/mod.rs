//! From a plan to a guest that can run: the one place that chooses by technology.

mod plain;
mod snp;

use std::fs::File;

use vmm_sys_util::eventfd::EventFd;

use crate::config::{Config, Technology};
use crate::device::serial;
use crate::error::Error;
use crate::plan::cpuid::CpuidTable;
use crate::plan::{C_BIT, HostCaps, Plan, PlanError};
use crate::recorder::{Op, Recorder};
use crate::sys::memory::GuestRam;
use crate::sys::system::{Capability, System};
use crate::sys::vcpu::Vcpu;
use crate::sys::vm::Vm;
use crate::sys::{SysError, snp::SevDevice};

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
}

/// Both halves of a guest's memory.
#[derive(Debug)]
pub struct GuestMemory {
    /// What the host can see.
    pub ram: GuestRam,
    /// What it cannot: one file per region of `ram`; none for an unprotected guest.
    pub private: Vec<File>,
    /// `/dev/sev`: KVM resolves its descriptor again for every request of the guest.
    pub(crate) _sev: Option<SevDevice>,
}

/// Insists on what a launch of this kind needs, and asks for what the plan depends on.
///
/// # Errors
/// Something is missing.
pub fn probe(config: &Config, system: &System, recorder: &mut Recorder) -> Result<HostCaps, Error> {
    system.require(recorder, Capability::IRQCHIP)?;
    system.require(recorder, Capability::IRQFD)?;
    let cpuid = CpuidTable::from_kvm(&system.supported_cpuid(recorder)?);
    let cpus = usize::from(config.cpus.get());
    if cpus > system.max_vcpus() {
        return Err(SysError::Missing {
            what: format!("its KVM gives a guest at most {} vCPUs, not {cpus}", system.max_vcpus()),
            cure: "give fewer --cpus",
        }
        .into());
    }
    match config.guest.technology {
        Technology::Plain => Ok(HostCaps { cpuid, c_bit: C_BIT }),
        Technology::Snp(_) => {
            snp::require(system, recorder)?;
            let c_bit = cpuid.c_bit().unwrap_or(C_BIT);
            if c_bit != C_BIT {
                return Err(PlanError::CBit { host: c_bit, planned: C_BIT }.into());
            }
            Ok(HostCaps { cpuid, c_bit })
        }
    }
}

/// Makes the guest.
///
/// # Errors
/// Whatever the host refuses.
pub fn launch(
    config: &Config,
    plan: &Plan,
    system: &System,
    recorder: &mut Recorder,
) -> Result<Guest, Error> {
    match &config.guest.technology {
        Technology::Plain => plain::launch(plan, system, recorder),
        Technology::Snp(snp) => snp::launch(snp, config.expect.as_ref(), plan, system, recorder),
    }
}

/// The serial line's interrupt.
fn serial_interrupt(vm: &Vm, recorder: &mut Recorder) -> Result<EventFd, Error> {
    let event = EventFd::new(libc::EFD_NONBLOCK)
        .map_err(|source| Error::Setup { what: "the serial line's interrupt", source })?;
    vm.register_irqfd(recorder, &event, serial::IRQ)?;
    Ok(event)
}

/// Puts what the host and the guest share into memory.
fn write_staged(plan: &Plan, ram: &GuestRam, recorder: &mut Recorder) -> Result<(), Error> {
    for blob in &plan.staged {
        recorder.record(Op::CopyIn, blob.tag, blob.bytes.len() as u64, || {
            ram.write(blob.gpa, &blob.bytes)
        })?;
    }
    Ok(())
}

/// A vCPU with its CPUID leaves.
fn create_vcpu(plan: &Plan, vm: &Vm, id: u16, recorder: &mut Recorder) -> Result<Vcpu, Error> {
    let vcpu = vm.create_vcpu(recorder, id)?;
    let rows = plan.cpuid.for_vcpu(id);
    let cpuid = kvm_bindings::CpuId::from_entries(&rows)
        .map_err(|_| PlanError::TooManyCpuidRows { max: 256 })?;
    vcpu.set_cpuid(recorder, &cpuid)?;
    Ok(vcpu)
}

/// (gpa, len) of every memory slot.
fn ranges(plan: &Plan) -> Vec<(u64, u64)> {
    plan.layout.ram.iter().map(|r| (r.gpa, r.len)).collect()
}
