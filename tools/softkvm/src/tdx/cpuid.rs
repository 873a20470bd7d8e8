//! CPUID of a TD: what TDH.MNG.INIT makes of the processor's own and of the host's configuration, and what CPUID answers.

use abi::kvm_tdx::CpuidEntry;
use abi::tdx::{TdParams, TdxStatus};

use super::{Td, TdVcpu, TdxPlatform};
use crate::cpu::Core;

/// What CPUID does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuidAnswer {
    /// EAX, EBX, ECX, EDX.
    Value([u32; 4]),
    /// #VE, with reason 10.
    Ve,
}

/// Features that other modules ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidFlags {
    /// MONITOR and MWAIT.
    pub monitor: bool,
    /// Direct cache access.
    pub dca: bool,
    /// TSC deadline timer.
    pub tsc_deadline: bool,
    /// TSX.
    pub tsx: bool,
    /// WAITPKG.
    pub waitpkg: bool,
    /// TME.
    pub tme: bool,
    /// MKTME.
    pub mktme: bool,
    /// 5-level paging.
    pub la57: bool,
    /// XFD.
    pub xfd: bool,
}

/// A TD's CPUID.
#[derive(Clone, Debug, Default)]
pub struct CpuidTable {
    flags: CpuidFlags,
}

impl CpuidTable {
    /// TDH.MNG.INIT's computation.
    pub(super) fn build(_: &TdxPlatform, _: &TdParams) -> Result<Self, TdxStatus> {
        Ok(Self::default())
    }

    /// Features that other modules ask for.
    pub fn flags(&self) -> CpuidFlags {
        self.flags
    }

    /// What TDH.MNG.RD finds, in the order in which KVM_TDX_GET_CPUID asks: base leaves, then extended ones. KVM adds the
    /// address width to 8000_0008 itself.
    pub fn entries(&self) -> impl Iterator<Item = CpuidEntry> + '_ {
        std::iter::empty()
    }
}

/// CPUID by the guest.
pub fn answer(td: &Td, vcpu: &TdVcpu, core: &Core, leaf: u32, subleaf: u32) -> CpuidAnswer {
    let _ = (td, vcpu, core, leaf, subleaf);
    CpuidAnswer::Ve
}
