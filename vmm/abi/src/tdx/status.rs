//! Completion status of the TDX module's functions, on the host's side and on the guest's.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What a function of the module leaves in RAX (ABI specification, "Function Completion Status Codes"): bit 63 error,
/// bit 62 not recoverable, 47:40 class, 39:32 the code's number, 31:0 details, for instance which operand.
#[derive(
    Clone, Copy, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct TdxStatus(pub u64);

macro_rules! statuses {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        /// The codes, details cleared, by their names in the specification.
        #[expect(missing_docs, reason = "the name is the specification's")]
        impl TdxStatus {
            $(pub const $name: Self = Self($value << 32);)*

            /// Every known code with its name and a sentence.
            pub const TEXTS: &'static [(Self, &'static str, &'static str)] =
                &[$((Self::$name, stringify!($name), $text),)*];
        }
    };
}

statuses! {
    SUCCESS = 0x0000_0000, "the function did what it was asked for";
    NON_RECOVERABLE_VCPU = 0x4000_0001, "the vCPU cannot be entered again, as after a triple fault";
    NON_RECOVERABLE_TD = 0x6000_0002, "the TD cannot be entered again";
    NON_RECOVERABLE_TD_NON_ACCESSIBLE = 0x6000_0005, "the TD's memory is poisoned: its pages cannot even be reclaimed as they are";
    OPERAND_INVALID = 0xC000_0100, "an operand has a wrong value; the details say which";
    OPERAND_ADDR_RANGE_ERROR = 0xC000_0101, "an operand's address is outside of memory that TDX may use";
    OPERAND_BUSY = 0x8000_0200, "something the function needs is in use at this moment; try again";
    PREVIOUS_TLB_EPOCH_BUSY = 0x8000_0201, "vCPUs of the TD still run with the address translations of before";
    RND_NO_ENTROPY = 0x8000_0203, "the random number generator has run dry; try again";
    PAGE_METADATA_INCORRECT = 0xC000_0300, "the physical page is not in the state that the function needs";
    HKID_NOT_FREE = 0xC000_0820, "the key identifier is in use";
    TD_ASSOCIATED_PAGES_EXIST = 0xC000_0400, "the TD still owns pages";
    TDCX_NUM_INCORRECT = 0xC000_0610, "a control structure does not have the number of pages it needs";
    TDCS_NOT_ALLOCATED = 0xC000_0606, "the TD's control structure does not have all its pages";
    LIFECYCLE_STATE_INCORRECT = 0xC000_0607, "the TD's keys or its teardown do not allow the function";
    OP_STATE_INCORRECT = 0xC000_0608, "the TD's state does not allow the function";
    NO_VCPUS = 0xC000_0609, "the TD has no vCPU";
    X2APIC_ID_NOT_UNIQUE = 0xC000_0621, "two vCPUs have the same x2APIC ID";
    VCPU_STATE_INCORRECT = 0xC000_0700, "the vCPU's state does not allow the function";
    VCPU_ASSOCIATED = 0x8000_0701, "the vCPU is in use on another processor";
    NO_VALID_VE_INFO = 0xC000_0704, "there is no #VE information to read";
    MAX_VCPUS_EXCEEDED = 0xC000_0705, "the TD has all the vCPUs it may have";
    EPT_WALK_FAILED = 0xC000_0B00, "no mapping of that size exists at the address";
    EPT_ENTRY_FREE = 0xC000_0B01, "nothing is mapped at the address";
    EPT_ENTRY_NOT_FREE = 0xC000_0B02, "something is mapped at the address already";
    EPT_ENTRY_NOT_PRESENT = 0xC000_0B03, "the mapping cannot be used as it is";
    GPA_RANGE_NOT_BLOCKED = 0xC000_0B06, "the range is not blocked";
    GPA_RANGE_ALREADY_BLOCKED = 0x0000_0B07, "the range was blocked before";
    TLB_TRACKING_NOT_DONE = 0xC000_0B08, "vCPUs may still use the translations of before the block";
    PAGE_ALREADY_ACCEPTED = 0x0000_0B0A, "the page was accepted before, or was never the host's to add again";
    PAGE_SIZE_MISMATCH = 0xC000_0B0B, "the page is mapped with another size than asked for";
    EPT_ENTRY_STATE_INCORRECT = 0xC000_0B0D, "the mapping's state does not allow the function";
    METADATA_FIELD_ID_INCORRECT = 0xC000_0C00, "there is no such metadata field";
    METADATA_FIELD_NOT_WRITABLE = 0xC000_0C01, "the metadata field cannot be written, or not with this mask";
    METADATA_FIELD_NOT_READABLE = 0xC000_0C02, "the metadata field cannot be read";
    METADATA_FIELD_VALUE_NOT_VALID = 0xC000_0C03, "the metadata field does not take this value";
    SERVTD_NOT_BOUND = 0xC000_0D05, "no service TD is bound";
}

impl TdxStatus {
    /// Bit 63.
    pub const ERROR: u64 = 1 << 63;
    /// Bit 62.
    pub const NON_RECOVERABLE: u64 = 1 << 62;

    /// The code alone.
    pub const fn code(self) -> Self {
        Self(self.0 & 0xFFFF_FFFF_0000_0000)
    }

    /// The details alone.
    pub const fn details(self) -> u32 {
        self.0 as u32
    }

    /// The code with details: an [`operand`], a level, or what else the code defines.
    pub const fn with(self, details: u32) -> Self {
        Self(self.0 & 0xFFFF_FFFF_0000_0000 | details as u64)
    }

    /// Whether the function failed. A warning such as [`Self::PAGE_ALREADY_ACCEPTED`] does not count.
    pub const fn is_error(self) -> bool {
        self.0 & Self::ERROR != 0
    }

    /// The specification's name (without its prefix TDX_), if the code is a known one.
    pub fn name(self) -> Option<&'static str> {
        Self::TEXTS.iter().find(|(code, ..)| *code == self.code()).map(|(_, name, _)| *name)
    }

    /// What a known code means.
    pub fn meaning(self) -> Option<&'static str> {
        Self::TEXTS.iter().find(|(code, ..)| *code == self.code()).map(|(.., text)| *text)
    }
}

impl fmt::Debug for TdxStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "TDX_{name}({:#x})", self.0),
            None => write!(f, "TdxStatus({:#x})", self.0),
        }
    }
}

/// Details of [`TdxStatus::OPERAND_INVALID`] and [`TdxStatus::OPERAND_BUSY`] (ABI specification, "Operand IDs"): a
/// register's number, or a part of TD_PARAMS.
pub mod operand {
    /// RAX.
    pub const RAX: u32 = 0;
    /// RCX.
    pub const RCX: u32 = 1;
    /// RDX.
    pub const RDX: u32 = 2;
    /// R8.
    pub const R8: u32 = 8;
    /// R9.
    pub const R9: u32 = 9;
    /// TD_PARAMS.ATTRIBUTES.
    pub const ATTRIBUTES: u32 = 64;
    /// TD_PARAMS.XFAM.
    pub const XFAM: u32 = 65;
    /// TD_PARAMS.EXEC_CONTROLS.
    pub const EXEC_CONTROLS: u32 = 66;
    /// TD_PARAMS.EPTP_CONTROLS.
    pub const EPTP_CONTROLS: u32 = 67;
    /// TD_PARAMS.MAX_VCPUS.
    pub const MAX_VCPUS: u32 = 68;
    /// TD_PARAMS.CPUID_CONFIG.
    pub const CPUID_CONFIG: u32 = 69;
    /// TD_PARAMS.TSC_FREQUENCY.
    pub const TSC_FREQUENCY: u32 = 70;

    /// The name of an operand, if it is a known one.
    pub const fn name(details: u32) -> Option<&'static str> {
        Some(match details {
            RAX => "RAX",
            RCX => "RCX",
            RDX => "RDX",
            R8 => "R8",
            R9 => "R9",
            ATTRIBUTES => "ATTRIBUTES",
            XFAM => "XFAM",
            EXEC_CONTROLS => "EXEC_CONTROLS",
            EPTP_CONTROLS => "EPTP_CONTROLS",
            MAX_VCPUS => "MAX_VCPUS",
            CPUID_CONFIG => "CPUID_CONFIG",
            TSC_FREQUENCY => "TSC_FREQUENCY",
            _ => return None,
        })
    }
}
