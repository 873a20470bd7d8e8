//! What the modelled platform is: the processor, its TDX module, and what their operations cost.
//!
//! Pure data that the front end fills from a profile file.

use abi::kvm_tdx::CpuidEntry;
use abi::tdx::{TdAttributes, Xfam};

mod configurable;
mod costs;

pub use configurable::CpuidConfig;
pub use costs::TdxCosts;

/// One version of the TDX module: what guests and KVM can tell versions apart by.
#[derive(Debug, PartialEq, Eq)]
pub struct TdxModule {
    /// Version as the kernel shows it.
    pub name: &'static str,
    /// The CPUID bits that TDH.MNG.INIT can configure, in the order of TD_PARAMS.
    pub cpuid_config: &'static [CpuidConfig],
    /// TDX_FEATURES0, as far as KVM looks at it ([`features0`]).
    pub features0: u64,
    /// MONITOR and MWAIT raise #UD where CPUID hides them; older modules raise #VE.
    pub monitor_ud: bool,
    /// Bits of TD_CTLS that a guest may write.
    pub td_ctls: u64,
}

/// Bits of TDX_FEATURES0 (Linux arch/x86/include/asm/tdx.h).
pub mod features0 {
    /// The module can leave RBP alone: Linux does not use one that cannot.
    pub const NO_RBP_MOD: u64 = 1 << 18;
    /// CPUID topology leaves can be answered by the module: KVM does not load without it.
    pub const TOPOLOGY_ENUM: u64 = 1 << 20;
}

/// The processor with its module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdxPlatform {
    /// The module.
    pub module: &'static TdxModule,
    /// CPUID family, extended and base added.
    pub family: u8,
    /// CPUID model, extended and base combined.
    pub model: u8,
    /// CPUID stepping.
    pub stepping: u8,
    /// Physical address bits.
    pub phys_bits: u8,
    /// Whether the secure EPT can have five levels: guest addresses of 52 bits need it.
    pub five_level_ept: bool,
    /// Host TSC frequency.
    pub tsc_khz: u32,
    /// Key identifiers for TDs: TDs that can exist at once.
    pub hkids: u16,
    /// Most vCPUs of a TD.
    pub max_vcpus_per_td: u16,
    /// ATTRIBUTES bits that may be 1.
    pub attributes_fixed0: TdAttributes,
    /// ATTRIBUTES bits that must be 1.
    pub attributes_fixed1: TdAttributes,
    /// XFAM bits that may be 1.
    pub xfam_fixed0: Xfam,
    /// XFAM bits that must be 1.
    pub xfam_fixed1: Xfam,
    /// CPUID of the processor itself; a leaf that is absent reads as zeros.
    pub native_cpuid: Vec<CpuidEntry>,
    /// IA32_ARCH_CAPABILITIES as a TD sees it.
    pub arch_capabilities: u64,
    /// IA32_MISC_ENABLE of the processor, as a TD sees it but for the bits that the module sets.
    pub misc_enable: u64,
    /// What operations cost.
    pub costs: TdxCosts,
}

impl TdxPlatform {
    /// CPUID(1).EAX: family, model, stepping.
    pub fn signature(&self) -> u32 {
        let (base, extended) =
            if self.family > 0xf { (0xf, self.family - 0xf) } else { (self.family, 0) };
        u32::from(self.stepping & 0xf)
            | u32::from(self.model & 0xf) << 4
            | u32::from(base) << 8
            | u32::from(self.model >> 4) << 16
            | u32::from(extended) << 20
    }

    /// The processor's own CPUID: EAX, EBX, ECX, EDX.
    pub fn native(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.native_cpuid
            .iter()
            .find(|e| e.function == leaf && (e.index == subleaf || e.flags & 1 == 0))
            .map_or([0; 4], |e| [e.eax, e.ebx, e.ecx, e.edx])
    }
}

impl Default for TdxPlatform {
    /// A Sapphire Rapids part with module 1.5.05 and no CPUID of its own: the front end fills that in.
    fn default() -> Self {
        Self {
            module: &TdxModule::V1_5_05,
            family: 6,
            model: 0x8f,
            stepping: 8,
            phys_bits: 52,
            five_level_ept: true,
            tsc_khz: 2_000_000,
            hkids: 63,
            max_vcpus_per_td: 576,
            attributes_fixed0: TdAttributes(
                TdAttributes::DEBUG.0 | TdAttributes::SEPT_VE_DISABLE.0 | TdAttributes::PKS.0,
            ),
            attributes_fixed1: TdAttributes(0),
            xfam_fixed0: Xfam(
                Xfam::FIXED1.0 | Xfam::AVX.0 | Xfam::AVX512.0 | Xfam::PKRU.0 | Xfam::AMX.0,
            ),
            xfam_fixed1: Xfam::FIXED1,
            native_cpuid: Vec::new(),
            arch_capabilities: 0,
            misc_enable: 1,
            costs: TdxCosts::default(),
        }
    }
}
