//! TDG.VP.VMCALL: what a guest asks the host for (GHCI 1.5, chapter 3). R10 is 0, R11 the number; R10 returns a [`Status`].
//!
//! The first numbers are VMX basic exit reasons (Intel SDM volume 3, appendix C), which are also what VEINFO reports.

/// CPUID: R12 leaf, R13 subleaf; answers in R12 to R15.
pub const CPUID: u64 = 10;
/// HLT: R12 whether interrupts are blocked.
pub const HLT: u64 = 12;
/// Port I/O: R12 size, R13 1 for OUT, R14 port, R15 data; R11 answers.
pub const IO: u64 = 30;
/// RDMSR: R12 index; R11 answers.
pub const RDMSR: u64 = 31;
/// WRMSR: R12 index, R13 value.
pub const WRMSR: u64 = 32;
/// MMIO: R12 size, R13 1 for a write, R14 address with shared bit, R15 data; R11 answers.
pub const MMIO: u64 = 48;
/// GetTdVmCallInfo: R12 leaf; answers in R11 to R14.
pub const GET_TD_VMCALL_INFO: u64 = 0x1_0000;
/// MapGPA: R12 address, R13 size; R11 how far it got.
pub const MAP_GPA: u64 = 0x1_0001;
/// GetQuote: R12 address of a shared buffer ([`super::quote::QuoteBuffer`]), R13 its size.
pub const GET_QUOTE: u64 = 0x1_0002;
/// ReportFatalError: R12 the error, R13 address of a message or 0.
pub const REPORT_FATAL_ERROR: u64 = 0x1_0003;
/// SetupEventNotifyInterrupt: R12 vector.
pub const SETUP_EVENT_NOTIFY_INTERRUPT: u64 = 0x1_0004;
/// Service: for service TDs.
pub const SERVICE: u64 = 0x1_0005;

/// R12 of ReportFatalError: R13 holds the address of a message.
pub const FATAL_HAS_MESSAGE: u64 = 1 << 63;

/// #VE reasons that are not TDVMCALL numbers above.
pub mod reason {
    /// INVD.
    pub const INVD: u32 = 13;
    /// VMCALL.
    pub const VMCALL: u32 = 18;
    /// A change of a control register that the module does not allow.
    pub const CR_ACCESS: u32 = 28;
    /// MWAIT.
    pub const MWAIT: u32 = 36;
    /// MONITOR.
    pub const MONITOR: u32 = 39;
    /// Access to memory that is not mapped: MMIO.
    pub const EPT_VIOLATION: u32 = 48;
    /// WBINVD or WBNOINVD.
    pub const WBINVD: u32 = 54;
    /// A write to the virtual APIC page.
    pub const APIC_WRITE: u32 = 56;
    /// PCONFIG.
    pub const PCONFIG: u32 = 65;
    /// TDCALL itself, as the host sees it.
    pub const TDCALL: u32 = 77;
}

/// What R10 returns (GHCI 1.5, table "TDCALL[TDG.VP.VMCALL] status codes").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u64);

impl Status {
    /// Done.
    pub const SUCCESS: Self = Self(0);
    /// Done in part; R11 says how far.
    pub const RETRY: Self = Self(1);
    /// An operand is wrong.
    pub const INVALID_OPERAND: Self = Self(1 << 63);
    /// The address is in use.
    pub const GPA_INUSE: Self = Self(1 << 63 | 1);
    /// Address or size is not aligned.
    pub const ALIGN_ERROR: Self = Self(1 << 63 | 2);
    /// The host does not offer the function.
    pub const SUBFUNC_UNSUPPORTED: Self = Self(1 << 63 | 3);

    /// The name, if the status is a known one.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::SUCCESS => "SUCCESS",
            Self::RETRY => "RETRY",
            Self::INVALID_OPERAND => "INVALID_OPERAND",
            Self::GPA_INUSE => "GPA_INUSE",
            Self::ALIGN_ERROR => "ALIGN_ERROR",
            Self::SUBFUNC_UNSUPPORTED => "SUBFUNC_UNSUPPORTED",
            _ => return None,
        })
    }
}
