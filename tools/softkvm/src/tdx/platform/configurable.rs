//! The CPUID bits that a host can configure, per version of the module (TDX module source, "CPUID configurations").

use abi::tdx::leaf::td_ctls;

use super::{TdxModule, features0};

/// A configurable CPUID leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidConfig {
    /// Leaf.
    pub leaf: u32,
    /// Subleaf, if the leaf has some.
    pub subleaf: Option<u32>,
    /// Bits that take the configured value, EAX to EDX.
    pub direct: [u32; 4],
    /// Bits that are the processor's where configured as 1, else 0.
    pub allow: [u32; 4],
}

impl CpuidConfig {
    /// All bits that may be configured as 1.
    pub fn bits(&self) -> [u32; 4] {
        std::array::from_fn(|i| self.direct[i] | self.allow[i])
    }
}

const fn direct(leaf: u32, subleaf: Option<u32>, direct: [u32; 4]) -> CpuidConfig {
    CpuidConfig { leaf, subleaf, direct, allow: [0; 4] }
}

const fn allow(leaf: u32, subleaf: Option<u32>, allow: [u32; 4]) -> CpuidConfig {
    CpuidConfig { leaf, subleaf, direct: [0; 4], allow }
}

const fn cache(subleaf: u32, edx: u32) -> CpuidConfig {
    direct(4, Some(subleaf), [0xffff_c3ff, 0xffff_f000, 0xffff_ffff, edx])
}

const fn topology(subleaf: u32) -> CpuidConfig {
    direct(0x1f, Some(subleaf), [0x1f, 0xffff, 0xffff, 0])
}

const LEAF_1: CpuidConfig = CpuidConfig {
    leaf: 1,
    subleaf: None,
    direct: [0x0fff_3fff, 0x00ff_0000, 0, 0],
    allow: [0, 0, 0x3104_4d88, 0xb844_0000],
};

/// Module 1.5.05.
const V1_5_05: [CpuidConfig; 18] = [
    LEAF_1,
    cache(0, 0xffff_fffb),
    cache(1, 0xffff_fffb),
    cache(2, 0xffff_fffb),
    cache(3, 7),
    allow(7, Some(0), [0, 0xdc2b_9b18, 0x0241_7f65, 0x0005_411c]),
    allow(7, Some(1), [0x0400_1d30, 0, 0, 0x430]),
    allow(0xa, None, [0; 4]),
    allow(0x1c, None, [0xff, 0, 0, 0]),
    allow(0x8000_0008, None, [0, 0x200, 0, 0]),
    allow(7, Some(2), [0, 0, 0, 0x28]),
    allow(0x23, Some(0), [0xf, 0, 0, 0]),
    topology(0),
    topology(1),
    topology(2),
    topology(3),
    topology(4),
    topology(5),
];

/// Module 1.5.01: no topology leaf.
const V1_5_01: [CpuidConfig; 12] = {
    let mut table = [LEAF_1; 12];
    let mut i = 0;
    while i < 12 {
        table[i] = V1_5_05[i];
        i += 1;
    }
    table
};

impl TdxModule {
    /// The first public module of the 1.5 line. Linux 7.2 does not use it: it lacks both bits of [`features0`].
    pub const V1_5_01: Self = Self {
        name: "1.5.01",
        cpuid_config: &V1_5_01,
        features0: 0,
        monitor_ud: false,
        td_ctls: td_ctls::PENDING_VE_DISABLE,
    };
    /// The oldest module that KVM of Linux 7.2 works with.
    pub const V1_5_05: Self = Self {
        name: "1.5.05",
        cpuid_config: &V1_5_05,
        features0: features0::NO_RBP_MOD | features0::TOPOLOGY_ENUM,
        monitor_ud: true,
        td_ctls: td_ctls::PENDING_VE_DISABLE | td_ctls::ENUM_TOPOLOGY,
    };
    /// A younger module, in which a guest can ask for fewer #VEs.
    pub const REDUCE_VE: Self = Self {
        name: "1.5.05 with REDUCE_VE",
        td_ctls: td_ctls::PENDING_VE_DISABLE
            | td_ctls::ENUM_TOPOLOGY
            | td_ctls::VIRT_CPUID2
            | td_ctls::REDUCE_VE
            | td_ctls::LOCK,
        ..Self::V1_5_05
    };

    /// Every version.
    pub const ALL: &'static [&'static Self] = &[&Self::V1_5_01, &Self::V1_5_05, &Self::REDUCE_VE];
}
