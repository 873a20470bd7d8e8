//! TDCALL: the few leaves and requests the shim makes (TDX Module 1.5 ABI specification; GHCI for
//! Intel TDX 1.5, chapter 3).
//!
//! UNSAFETY: each function wraps one TDCALL, of which it names every register that may change.
#![allow(unsafe_code)]

use core::arch::asm;

use abi::shim::Termination;
use abi::tdx::vmcall::{self, Status};
use abi::tdx::{TdAttributes, TdxStatus, leaf};
use shim::range::Range;
use shim::tdx::info::VpInfo;
use shim::tdx::map_gpa::Answer;

/// Registers that the host sees and may set: R10 to R15. The module hides all others from it.
const REGISTERS: u64 = 0xFC00;

/// TDG.VP.INFO.
pub fn vp_info() -> Result<VpInfo, Termination> {
    let (status, width, attributes, vcpus): (u64, u64, u64, u64);
    // SAFETY: only reads; changes no memory.
    unsafe {
        asm!(
            ".byte 0x66, 0x0F, 0x01, 0xCC",
            inout("rax") u64::from(leaf::VP_INFO) => status,
            out("rcx") width,
            out("rdx") attributes,
            out("r8") vcpus,
            out("r9") _,
            out("r10") _,
            out("r11") _,
            options(nomem, nostack),
        );
    }
    if status != TdxStatus::SUCCESS.0 {
        return Err(Termination::TD_INFO);
    }
    Ok(VpInfo { width, attributes: TdAttributes(attributes), vcpus: vcpus as u32 })
}

/// TDG.MEM.PAGE.ACCEPT. The module clears the page.
pub fn page_accept(rcx: u64) -> TdxStatus {
    let status: u64;
    // SAFETY: the page is one that nothing refers to yet.
    unsafe {
        asm!(
            ".byte 0x66, 0x0F, 0x01, 0xCC",
            inout("rax") u64::from(leaf::MEM_PAGE_ACCEPT) => status,
            inout("rcx") rcx => _,
            options(nostack),
        );
    }
    TdxStatus(status)
}

/// A 32-bit OUT.
pub fn out32(port: u16, value: u32) -> Result<(), Termination> {
    const SIZE: u64 = 4;
    const OUT: u64 = 1;
    match vmcall(vmcall::IO, [SIZE, OUT, u64::from(port), u64::from(value)]).status {
        Status::SUCCESS => Ok(()),
        _ => Err(Termination::TDVMCALL),
    }
}

/// Asks the host to make a range private.
pub fn map_gpa(range: Range) -> Answer {
    vmcall(vmcall::MAP_GPA, [range.start, range.end - range.start, 0, 0])
}

/// TDG.VP.VMCALL with R11 and R12 to R15.
fn vmcall(function: u64, arguments: [u64; 4]) -> Answer {
    let [r12, r13, r14, r15] = arguments;
    let (refused, status, next): (u64, u64, u64);
    // SAFETY: the host can change the registers of the mask, all named here, and shared memory,
    // which no reference points to.
    unsafe {
        asm!(
            ".byte 0x66, 0x0F, 0x01, 0xCC",
            inout("rax") u64::from(leaf::VP_VMCALL) => refused,
            inout("rcx") REGISTERS => _,
            inout("r10") 0u64 => status,
            inout("r11") function => next,
            inout("r12") r12 => _,
            inout("r13") r13 => _,
            inout("r14") r14 => _,
            inout("r15") r15 => _,
            options(nostack),
        );
    }
    // The module refuses only a wrong mask. Its error then stands where the host's would.
    let status = if refused == 0 { status } else { refused };
    Answer { status: Status(status), next }
}
