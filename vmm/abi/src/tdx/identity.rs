//! What a TD is allowed: ATTRIBUTES and XFAM.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// TD attributes (ABI specification, table "ATTRIBUTES Definition"; Linux arch/x86/include/asm/shared/tdx.h).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct TdAttributes(pub u64);

impl TdAttributes {
    /// The host may read and write the TD: not confidential.
    pub const DEBUG: Self = Self(1 << 0);
    /// Linear address space separation.
    pub const LASS: Self = Self(1 << 27);
    /// An access to a page that is not accepted ends in an exit to the host, not in #VE. Linux insists on it.
    pub const SEPT_VE_DISABLE: Self = Self(1 << 28);
    /// May be migrated.
    pub const MIGRATABLE: Self = Self(1 << 29);
    /// Supervisor protection keys.
    pub const PKS: Self = Self(1 << 30);
    /// Key Locker.
    pub const KL: Self = Self(1 << 31);
    /// Performance monitoring.
    pub const PERFMON: Self = Self(1 << 63);

    /// Every known bit with its name.
    pub const NAMES: &'static [(Self, &'static str)] = &[
        (Self::DEBUG, "DEBUG"),
        (Self::LASS, "LASS"),
        (Self::SEPT_VE_DISABLE, "SEPT_VE_DISABLE"),
        (Self::MIGRATABLE, "MIGRATABLE"),
        (Self::PKS, "PKS"),
        (Self::KL, "KL"),
        (Self::PERFMON, "PERFMON"),
    ];

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Extended features available to a TD, in the layout of XCR0 and IA32_XSS.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Xfam(pub u64);

impl Xfam {
    /// x87 and SSE, which every TD has (XFAM_FIXED1).
    pub const FIXED1: Self = Self(0x3);
    /// AVX.
    pub const AVX: Self = Self(1 << 2);
    /// The three AVX-512 states, all or none, and only with AVX.
    pub const AVX512: Self = Self(0b111 << 5);
    /// Processor trace.
    pub const PT: Self = Self(1 << 8);
    /// Protection keys of user pages.
    pub const PKRU: Self = Self(1 << 9);
    /// The two CET states, both or none.
    pub const CET: Self = Self(0b11 << 11);
    /// The two AMX states, both or none.
    pub const AMX: Self = Self(0b11 << 17);
}

/// Width of guest physical addresses: the highest bit of an address says that the page is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gpaw {
    /// 48 bits, bit 47 is the shared bit.
    Bits48,
    /// 52 bits, bit 51 is the shared bit.
    Bits52,
}

impl Gpaw {
    /// From what TDG.VP.INFO or CPUID say.
    pub const fn from_bits(bits: u64) -> Option<Self> {
        match bits {
            48 => Some(Self::Bits48),
            52 => Some(Self::Bits52),
            _ => None,
        }
    }

    /// The width.
    pub const fn bits(self) -> u8 {
        match self {
            Self::Bits48 => 48,
            Self::Bits52 => 52,
        }
    }

    /// Position of the shared bit.
    pub const fn shared_bit(self) -> u8 {
        self.bits() - 1
    }

    /// The shared bit.
    pub const fn shared_mask(self) -> u64 {
        1 << self.shared_bit()
    }
}
