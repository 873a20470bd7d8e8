//! What a TD's processor does with instructions that the module always looks at (TDX module source, TD exit dispatcher):
//! #VE, #UD, #GP, or nothing special. CPUID, MSRs, control registers and TDCALL have modules of their own.

use abi::tdx::TdAttributes;
use abi::tdx::vmcall::{self, reason};

use super::{Td, VeInfo};
use crate::cpu::Exception;

/// An instruction that the module intercepts, privilege checks passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intercepted {
    /// HLT.
    Hlt,
    /// IN, OUT, INS, OUTS.
    Io(IoAccess),
    /// WBINVD, WBNOINVD.
    Wbinvd,
    /// INVD.
    Invd,
    /// VMCALL.
    Vmcall,
    /// MONITOR.
    Monitor,
    /// MWAIT.
    Mwait,
    /// PCONFIG.
    Pconfig,
    /// RDPMC.
    Rdpmc,
    /// ENQCMD.
    Enqcmd,
    /// VMX instructions, SEAMCALL, GETSEC, RSM, VMFUNC, INVEPT, INVVPID, ENCLS, ENCLV.
    Forbidden,
}

/// A port access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoAccess {
    /// Port.
    pub port: u16,
    /// Bytes: 1, 2 or 4.
    pub size: u8,
    /// IN or INS.
    pub input: bool,
    /// INS or OUTS.
    pub string: bool,
    /// With a REP prefix.
    pub rep: bool,
    /// The port is an immediate operand.
    pub immediate: bool,
    /// Linear address of the memory operand, of INS and OUTS.
    pub gla: u64,
    /// VMX instruction information, of INS and OUTS.
    pub instruction_info: u32,
}

impl IoAccess {
    /// The exit qualification (Intel SDM volume 3, table "Exit Qualification for I/O Instructions").
    pub fn qualification(&self) -> u64 {
        u64::from(self.size.wrapping_sub(1) & 7)
            | u64::from(self.input) << 3
            | u64::from(self.string) << 4
            | u64::from(self.rep) << 5
            | u64::from(self.immediate) << 6
            | u64::from(self.port) << 16
    }
}

/// What an intercepted instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It executes.
    Native,
    /// #VE: [`super::TdVcpu::raise_ve`].
    Ve(VeInfo),
    /// Another fault.
    Fault(Exception),
}

/// Decides about an instruction of `length` bytes.
pub fn intercept(td: &Td, instruction: Intercepted, length: u8) -> Verdict {
    let ve = |reason| Verdict::Ve(VeInfo::of(reason, u32::from(length)));
    let wait = |reason| match td.cpuid_table().flags().monitor {
        true => Verdict::Native,
        false if td.module().monitor_ud => Verdict::Fault(Exception::UD),
        false => ve(reason),
    };
    match instruction {
        Intercepted::Hlt => ve(vmcall::HLT as u32),
        Intercepted::Io(access) => Verdict::Ve(VeInfo {
            qualification: access.qualification(),
            gla: access.gla,
            instruction_info: access.instruction_info,
            ..VeInfo::of(vmcall::IO as u32, u32::from(length))
        }),
        Intercepted::Wbinvd => ve(reason::WBINVD),
        Intercepted::Invd => ve(reason::INVD),
        Intercepted::Vmcall => ve(reason::VMCALL),
        Intercepted::Pconfig => ve(reason::PCONFIG),
        Intercepted::Monitor => wait(reason::MONITOR),
        Intercepted::Mwait => wait(reason::MWAIT),
        Intercepted::Rdpmc if td.attributes().contains(TdAttributes::PERFMON) => Verdict::Native,
        Intercepted::Rdpmc | Intercepted::Enqcmd => Verdict::Fault(Exception::gp(0)),
        Intercepted::Forbidden => Verdict::Fault(Exception::UD),
    }
}
