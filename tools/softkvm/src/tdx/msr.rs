//! Model-specific registers of a TD (TDX module source, "MSR configuration" and MSR accesses).

mod rules;

use abi::tdx::TdAttributes;
use abi::tdx::leaf::td_ctls;

use self::rules::{Action, Condition};
use super::cr::XCR0;
use super::platform::features0;
use super::{Td, TdVcpu, TdxPlatform};
use crate::cpu::Core;
use crate::cpu::state::efer;

/// What RDMSR does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrRead {
    /// The processor or the virtual APIC page answers.
    Native,
    /// The module answers.
    Value(u64),
    /// #VE, with reason 31.
    Ve,
    /// #GP(0).
    Gp,
    /// The module answers with a value that is not modelled: the run ends by name.
    NotModelled,
}

/// What WRMSR does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrWrite {
    /// The processor or the virtual APIC page takes this value.
    Native(u64),
    /// #VE, with reason 32.
    Ve,
    /// #GP(0).
    Gp,
}

/// Numbers of the registers that have rules of their own.
mod index {
    pub const XAPIC_DISABLE_STATUS: u32 = 0xbd;
    pub const ARCH_CAPABILITIES: u32 = 0x10a;
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const DEBUGCTL: u32 = 0x1d9;
    pub const PERF_CAPABILITIES: u32 = 0x345;
    pub const X2APIC_ID: u32 = 0x802;
    pub const XSS: u32 = 0xda0;
    pub const EFER: u32 = 0xc000_0080;
}

/// RDMSR at CPL 0.
pub fn read(td: &Td, vcpu: &TdVcpu, platform: &TdxPlatform, index: u32) -> MsrRead {
    const PERFMON_AVAILABLE: u64 = 1 << 7;
    const PEBS_UNAVAILABLE: u64 = 1 << 12;
    let perfmon = td.attributes().contains(TdAttributes::PERFMON);
    match index {
        index::XAPIC_DISABLE_STATUS => MsrRead::Value(1),
        index::ARCH_CAPABILITIES => MsrRead::Value(platform.arch_capabilities),
        index::MISC_ENABLE if !perfmon => {
            MsrRead::Value(platform.misc_enable & !PERFMON_AVAILABLE | PEBS_UNAVAILABLE)
        }
        index::PERF_CAPABILITIES if !perfmon => MsrRead::Value(0),
        index::X2APIC_ID if td.td_ctls() & td_ctls::ENUM_TOPOLOGY != 0 => {
            MsrRead::Value(u64::from(vcpu.x2apic_id))
        }
        _ => match resolve(td, rules::find(index).map_or(Action::Ve, |rule| rule.read)) {
            Action::Native => MsrRead::Native,
            Action::Gp => MsrRead::Gp,
            Action::Module => MsrRead::NotModelled,
            _ => MsrRead::Ve,
        },
    }
}

/// WRMSR at CPL 0.
pub fn write(td: &Td, core: &Core, index: u32, value: u64) -> MsrWrite {
    match index {
        index::EFER => efer_write(core, value),
        index::DEBUGCTL => debugctl_write(core, value),
        index::XSS if value & !(td.xfam().0 & !XCR0) != 0 => MsrWrite::Gp,
        index::XSS => MsrWrite::Native(value),
        index::X2APIC_ID if td.module().features0 & features0::TOPOLOGY_ENUM != 0 => MsrWrite::Gp,
        _ => match resolve(td, rules::find(index).map_or(Action::Ve, |rule| rule.write)) {
            Action::Native => MsrWrite::Native(value),
            Action::Gp => MsrWrite::Gp,
            _ => MsrWrite::Ve,
        },
    }
}

/// EFER: only SCE can change; LMA is the processor's own.
fn efer_write(core: &Core, value: u64) -> MsrWrite {
    let new = value & !efer::LMA | core.efer & efer::LMA;
    if (new ^ core.efer) & !efer::SCE == 0 { MsrWrite::Native(new) } else { MsrWrite::Ve }
}

/// IA32_DEBUGCTL: branch trace messages need a buffer, and the uncore's interrupt is not the TD's.
fn debugctl_write(core: &Core, value: u64) -> MsrWrite {
    const RESERVED: u64 = !0xffc3;
    const TR: u64 = 1 << 6;
    const BTS: u64 = 1 << 7;
    const UNCORE_PMI: u64 = 1 << 13;
    if value & RESERVED != 0 {
        MsrWrite::Gp
    } else if value & TR != 0 && value & BTS == 0 {
        MsrWrite::Ve
    } else {
        MsrWrite::Native(value & !UNCORE_PMI | core.debugctl & UNCORE_PMI)
    }
}

/// Replaces an action that depends on the TD by what it is there.
fn resolve(td: &Td, action: Action) -> Action {
    let (condition, yes) = match action {
        Action::NativeIf(condition) => (condition, Action::Native),
        Action::VeIf(condition) => (condition, Action::Ve),
        action => return action,
    };
    let flags = td.flags();
    let met = match condition {
        Condition::Dca => flags.dca,
        Condition::Tme => flags.tme,
        Condition::Mktme => flags.mktme,
        Condition::TscDeadline => flags.tsc_deadline,
        Condition::Tsx => flags.tsx,
        Condition::Waitpkg => flags.waitpkg,
        Condition::Xfd => flags.xfd,
        Condition::Perfmon => td.attributes().contains(TdAttributes::PERFMON),
        Condition::Pks => td.attributes().contains(TdAttributes::PKS),
        Condition::Xfam(states) => td.xfam().0 & states == states,
    };
    if met { yes } else { Action::Gp }
}
