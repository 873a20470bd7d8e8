//! TDCALL: what a guest asks the module for (ABI specification, "Guest-Side (TDCALL) Interface Functions").
//!
//! The functions that Linux calls, at version 0. Others (VP.RD, VP.WR, SYS.RD, service TDs, nested VMs, page attributes)
//! return OPERAND_INVALID with the detail RAX, as the module does for numbers that it does not know; TDG.VP.INFO says
//! that SYS.RD is not there.

use super::{Td, TdVcpu};
use crate::cpu::{Core, Exception};

/// Guest memory, as the module reaches it.
pub trait TdMemory {
    /// Reads memory within one page. Private pages are asked for only if they are mapped. `gpa` is without shared bit.
    fn read(&mut self, gpa: u64, shared: bool, out: &mut [u8]) -> Result<(), MemoryFault>;
    /// Writes memory within one page.
    fn write(&mut self, gpa: u64, shared: bool, data: &[u8]) -> Result<(), MemoryFault>;
    /// Clears a private page that has just been accepted.
    fn clear(&mut self, gpa: u64) -> Result<(), MemoryFault>;
}

/// Why memory cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryFault {
    /// The host has not mapped it (yet): a TD exit.
    EptViolation,
    /// Shared, and there is no memory but a device: #VE.
    Mmio,
}

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

/// Executes TDCALL, of 4 bytes, on the registers of `core`. It changes RAX and what the function returns, nothing else.
pub fn tdcall(
    td: &mut Td,
    vcpu: &mut TdVcpu,
    core: &mut Core,
    memory: &mut dyn TdMemory,
) -> Tdcall {
    let _ = (td, vcpu, core, memory);
    Tdcall::Done
}
