//! TDCALL: what a guest asks the module for (ABI specification, "Guest-Side (TDCALL) Interface Functions").
//!
//! The functions that Linux calls, at version 0. Others (VP.RD, VP.WR, SYS.RD, service TDs, nested VMs, page attributes)
//! return OPERAND_INVALID with the detail RAX, as the module does for numbers that it does not know; TDG.VP.INFO says
//! that SYS.RD is not there. Of the TD's metadata, the four fields that Linux uses exist.

mod memory;
mod metadata;

use abi::tdx::leaf;
use abi::tdx::{TdParams, TdxStatus, operand};

pub use self::memory::{MemoryFault, TdMemory};
use self::memory::{accept, report, rtmr_extend};
use super::vcpu::CpuidVe;
use super::{Td, TdVcpu};
use crate::cpu::state::{Core, RAX, RCX, RDX};
use crate::cpu::{Exception, Mode};

/// Numbers of registers that have no name in [`crate::cpu::state`].
const R8: usize = 8;
const R9: usize = 9;
const R10: usize = 10;
const R11: usize = 11;

/// What follows from TDCALL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tdcall {
    /// The module has answered; RIP moves on.
    Done,
    /// TDG.VP.VMCALL: a TD exit. RIP moves on and [`super::Vmcall::handle`] acts.
    Vmcall,
    /// A TD exit by EPT violation: the host maps the page, and TDCALL is executed again.
    EptViolation {
        /// Address of the page, without shared bit.
        gpa: u64,
        /// The access was to shared memory.
        shared: bool,
        /// It was TDG.MEM.PAGE.ACCEPT (extended exit qualification ACCEPT, a write).
        accept: bool,
    },
    /// A TD exit because the page is pending. KVM ends the VM.
    PendingExit {
        /// Address of the page.
        gpa: u64,
    },
    /// A fault; RIP stays.
    Fault(Exception),
}

/// How a function ends when it does not end with a status.
type Leaf = Result<TdxStatus, Tdcall>;

/// Executes TDCALL, of 4 bytes, on the registers of `core`. It changes RAX and what the function returns, nothing else.
pub fn tdcall(
    td: &mut Td,
    vcpu: &mut TdVcpu,
    core: &mut Core,
    memory: &mut dyn TdMemory,
) -> Tdcall {
    if core.mode != Mode::Long64 || core.cpl != 0 {
        return Tdcall::Fault(Exception::gp(0));
    }
    match dispatch(td, vcpu, core, memory) {
        Ok(status) => {
            core.gpr[RAX] = status.0;
            Tdcall::Done
        }
        Err(outcome) => outcome,
    }
}

fn dispatch(td: &mut Td, vcpu: &mut TdVcpu, core: &mut Core, memory: &mut dyn TdMemory) -> Leaf {
    // Bits 15:0 are the function, 23:16 its version, the others 0.
    let Ok(number) = u16::try_from(core.gpr[RAX]) else { return invalid(operand::RAX) };
    match number {
        leaf::VP_VMCALL => vmcall(td, core),
        leaf::VP_INFO => Ok(info(td, vcpu, core)),
        leaf::MR_RTMR_EXTEND => rtmr_extend(td, vcpu, core, memory),
        leaf::VP_VEINFO_GET => Ok(ve_info(vcpu, core)),
        leaf::MR_REPORT => report(td, vcpu, core, memory),
        leaf::VP_CPUIDVE_SET => cpuid_ve(vcpu, core),
        leaf::MEM_PAGE_ACCEPT => accept(td, core, memory),
        leaf::VM_RD => Ok(metadata::read(td, core)),
        leaf::VM_WR => Ok(metadata::write(td, core)),
        _ => invalid(operand::RAX),
    }
}

fn invalid(id: u32) -> Leaf {
    Ok(TdxStatus::OPERAND_INVALID.with(id))
}

/// TDG.VP.VMCALL: RAX, RCX and RSP cannot be passed, nor RBP if the TD was promised that nobody touches it.
fn vmcall(td: &Td, core: &Core) -> Leaf {
    const UPPER: u64 = 0xffff_ffff_0000_0000;
    let mut forbidden = UPPER | 1 << 0 | 1 << 1 | 1 << 4;
    if td.config_flags() & TdParams::NO_RBP_MOD != 0 {
        forbidden |= 1 << 5;
    }
    if core.gpr[RCX] & forbidden != 0 { invalid(operand::RCX) } else { Err(Tdcall::Vmcall) }
}

/// TDG.VP.INFO.
fn info(td: &Td, vcpu: &TdVcpu, core: &mut Core) -> TdxStatus {
    core.gpr[RCX] = u64::from(td.gpaw().bits());
    core.gpr[RDX] = td.attributes().0;
    core.gpr[R8] = u64::from(td.num_vcpus()) | u64::from(td.max_vcpus()) << 32;
    core.gpr[R9] = u64::from(vcpu.index());
    core.gpr[R10] = 0;
    core.gpr[R11] = 0;
    TdxStatus::SUCCESS
}

/// TDG.VP.VEINFO.GET.
fn ve_info(vcpu: &mut TdVcpu, core: &mut Core) -> TdxStatus {
    let (info, status) = match vcpu.ve.take() {
        Some(info) => (info, TdxStatus::SUCCESS),
        None => (Default::default(), TdxStatus::NO_VALID_VE_INFO),
    };
    core.gpr[RCX] = u64::from(info.reason);
    core.gpr[RDX] = info.qualification;
    core.gpr[R8] = info.gla;
    core.gpr[R9] = info.gpa;
    core.gpr[R10] = u64::from(info.instruction_length) | u64::from(info.instruction_info) << 32;
    status
}

/// TDG.VP.CPUIDVE.SET.
fn cpuid_ve(vcpu: &mut TdVcpu, core: &Core) -> Leaf {
    let control = core.gpr[RCX];
    if control >> 2 != 0 {
        return invalid(operand::RCX);
    }
    vcpu.cpuid_ve = CpuidVe { supervisor: control & 1 != 0, user: control & 2 != 0 };
    Ok(TdxStatus::SUCCESS)
}
