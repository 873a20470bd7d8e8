//! What the module keeps of a vCPU (TDVPS) beyond its registers.

use abi::tdx::VE_VECTOR;

use crate::cpu::state::Core;
use crate::cpu::{Exception, flags};

/// #DF.
const DF_VECTOR: u8 = 8;

/// What a #VE is about: TDG.VP.VEINFO.GET hands it to the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VeInfo {
    /// VMX exit reason ([`abi::tdx::vmcall`], [`abi::tdx::vmcall::reason`]).
    pub reason: u32,
    /// VMX exit qualification.
    pub qualification: u64,
    /// Guest linear address, of an EPT violation.
    pub gla: u64,
    /// Guest physical address with shared bit, of an EPT violation.
    pub gpa: u64,
    /// Bytes of the instruction; 0 for an EPT violation.
    pub instruction_length: u32,
    /// VMX instruction information.
    pub instruction_info: u32,
}

impl VeInfo {
    /// Of an instruction that has no more to say than its reason.
    pub const fn of(reason: u32, instruction_length: u32) -> Self {
        Self { reason, qualification: 0, gla: 0, gpa: 0, instruction_length, instruction_info: 0 }
    }
}

/// At which privilege levels every CPUID raises #VE (TDG.VP.CPUIDVE.SET).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidVe {
    /// CPL 0.
    pub supervisor: bool,
    /// CPL 1 to 3.
    pub user: bool,
}

/// One vCPU of a TD, made by [`super::Td::init_vcpu`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdVcpu {
    /// In the order of TDH.VP.INIT.
    pub(super) index: u32,
    /// As the host said at TDH.VP.INIT.
    pub(super) x2apic_id: u32,
    /// RCX and R8 at first entry.
    pub(super) initial_rcx: u64,
    /// Information that waits for VEINFO.GET.
    pub(super) ve: Option<VeInfo>,
    /// Levels at which CPUID always raises #VE.
    pub(super) cpuid_ve: CpuidVe,
    /// After a triple fault.
    pub(super) non_recoverable: bool,
}

impl TdVcpu {
    /// The vCPU's index: RSI at first entry, R9 of TDG.VP.INFO.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its x2APIC ID.
    pub fn x2apic_id(&self) -> u32 {
        self.x2apic_id
    }

    /// RCX and R8 at first entry.
    pub fn initial_rcx(&self) -> u64 {
        self.initial_rcx
    }

    /// Information of a #VE that the guest has not fetched.
    pub fn ve_info(&self) -> Option<VeInfo> {
        self.ve
    }

    /// Levels at which CPUID always raises #VE.
    pub fn cpuid_ve(&self) -> CpuidVe {
        self.cpuid_ve
    }

    /// Raises #VE: the exception to deliver, RIP being still at the instruction. While information of an earlier #VE has
    /// not been fetched, it is #DF. RFLAGS.RF is set in both cases.
    pub fn raise_ve(&mut self, core: &mut Core, info: VeInfo) -> Exception {
        core.rflags |= flags::RF;
        if self.ve.is_some() {
            return Exception::with(DF_VECTOR, 0);
        }
        self.ve = Some(info);
        Exception::plain(VE_VECTOR)
    }

    /// Whether the module holds back an NMI: it does until the information of a #VE is fetched.
    pub fn holds_nmi(&self) -> bool {
        self.ve.is_some()
    }

    /// A triple fault: TDH.VP.ENTER returns [`abi::tdx::TdxStatus::NON_RECOVERABLE_VCPU`] now and for ever.
    pub fn triple_fault(&mut self) {
        self.non_recoverable = true;
    }

    /// Whether the vCPU can be entered.
    pub fn recoverable(&self) -> bool {
        !self.non_recoverable
    }
}
