//! Control registers of a TD (TDX module source, `write_guest_cr0`, `write_guest_cr4`, `check_guest_xcr0_value`).

use abi::tdx::vmcall::reason;
use abi::tdx::{TdAttributes, Xfam};

use super::instr::Verdict;
use super::{Td, VeInfo};
use crate::cpu::Exception;
use crate::cpu::state::{Core, cr0, cr4};

/// CR4 bits that the processor has no names for: it refuses them itself.
mod cr4_bit {
    pub const VMXE: u64 = 1 << 13;
    pub const SMXE: u64 = 1 << 14;
    pub const KL: u64 = 1 << 19;
    pub const PKE: u64 = 1 << 22;
    pub const CET: u64 = 1 << 23;
    pub const PKS: u64 = 1 << 24;
    pub const UINTR: u64 = 1 << 25;
    pub const LASS: u64 = 1 << 27;
}

/// User interrupts in XFAM.
const XFAM_UINTR: u64 = 1 << 14;

/// MOV to CR0 or CR4, as VMX names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MovToCr {
    /// The value.
    pub value: u64,
    /// Number of the general-purpose register that held it.
    pub gpr: u8,
    /// Bytes of the instruction.
    pub length: u8,
}

impl MovToCr {
    fn ve(self, register: u8) -> Verdict {
        Verdict::Ve(VeInfo {
            qualification: u64::from(register) | u64::from(self.gpr & 0xf) << 8,
            ..VeInfo::of(reason::CR_ACCESS, u32::from(self.length))
        })
    }
}

const GP: Verdict = Verdict::Fault(Exception::gp(0));

/// MOV to CR0. What is native goes on to the processor's own checks.
pub fn write_cr0(mov: MovToCr) -> Verdict {
    let set = |bits| mov.value & bits != 0;
    // Refused by the processor before the module sees it, or by the module's list of natively invalid values.
    if set(cr0::PG) && !set(cr0::PE)
        || set(cr0::NW) && !set(cr0::CD)
        || !set(cr0::NE)
        || mov.value >> 32 != 0
    {
        return GP;
    }
    if !set(cr0::PE) || set(cr0::CD | cr0::NW) { mov.ve(0) } else { Verdict::Native }
}

/// LMSW: only MP, EM and TS can change.
pub fn lmsw(core: &Core, source: u16) -> u64 {
    const WRITABLE: u64 = cr0::MP | cr0::EM | cr0::TS;
    core.cr0 & !WRITABLE | u64::from(source) & WRITABLE
}

/// MOV to CR4. What is native goes on to the processor's own checks.
pub fn write_cr4(td: &Td, mov: MovToCr) -> Verdict {
    let set = |bits| mov.value & bits != 0;
    let xfam = |bits: u64| td.xfam().0 & bits == bits;
    if set(cr4_bit::PKE) && !xfam(Xfam::PKRU.0)
        || set(cr4_bit::CET) && !xfam(Xfam::CET.0)
        || set(cr4_bit::UINTR) && !xfam(XFAM_UINTR)
        || set(cr4_bit::PKS) && !td.attributes().contains(TdAttributes::PKS)
        || set(cr4_bit::LASS) && !td.attributes().contains(TdAttributes::LASS)
        || set(cr4_bit::KL)
        || set(cr4::LA57) && !td.cpuid_table().flags().la57
        || mov.value >> 32 != 0
    {
        return GP;
    }
    if !set(cr4::MCE) || set(cr4_bit::VMXE | cr4_bit::SMXE) { mov.ve(4) } else { Verdict::Native }
}

/// XSETBV: only what XFAM has, in legal combinations.
pub fn xsetbv(td: &Td, register: u32, value: u64) -> Verdict {
    const X87: u64 = 1;
    const SSE: u64 = 2;
    let all_or_none = |group: Xfam| value & group.0 == 0 || value & group.0 == group.0;
    let bad = register != 0
        || value & !td.xfam().0 != 0
        || value & !XCR0 != 0
        || value & X87 == 0
        || value & Xfam::AVX.0 != 0 && value & SSE == 0
        || value & Xfam::AVX512.0 != 0 && value & Xfam::AVX.0 == 0
        || !all_or_none(Xfam::AVX512)
        || !all_or_none(Xfam::AMX);
    if bad { GP } else { Verdict::Native }
}

/// The states of XFAM that XCR0 enables; IA32_XSS has the others.
pub(super) const XCR0: u64 =
    Xfam::FIXED1.0 | Xfam::AVX.0 | Xfam::AVX512.0 | Xfam::PKRU.0 | Xfam::AMX.0;
