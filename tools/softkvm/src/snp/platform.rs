//! What the modelled part is: its identity, its firmware and what its operations cost.
//!
//! Pure data that the front end fills from a profile file; the same profile gives the same keys,
//! the same reports and the same times.

use abi::snp::{CpuidFunction, SevFeatures, SnpPolicy, TcbLayout, TcbParts, TcbVersion};

use crate::price::Price;

/// The modelled part and its firmware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// CPUID family, extended and base added: 0x19 for Milan and Genoa, 0x1a for Turin.
    pub family: u8,
    /// CPUID model, extended and base combined.
    pub model: u8,
    /// CPUID stepping.
    pub stepping: u8,
    /// Position of the C-bit in page-table entries.
    pub c_bit: u8,
    /// Firmware ABI, major and minor version.
    pub api: (u8, u8),
    /// Firmware build.
    pub build: u8,
    /// TCB: current, committed, reported and launch TCB are all this one.
    pub tcb: TcbParts,
    /// What the chip's identity and every key are derived from.
    pub chip_seed: u64,
    /// Whether simultaneous multithreading is on.
    pub smt: bool,
    /// Whether CR4.MCE is set on the host: KVM copies it into every guest's CR4.
    pub host_mce: bool,
    /// Whether guests may have Secure TSC.
    pub secure_tsc: bool,
    /// Whether debug registers can be swapped by hardware.
    pub debug_swap: bool,
    /// Host TSC frequency.
    pub tsc_khz: u32,
    /// Version of attestation reports: 2 to 5.
    pub report_version: u32,
    /// Policy bits beyond the basic ones that FEATURE_INFO advertises.
    pub extra_policy: SnpPolicy,
    /// Guests that can be active at once (ASIDs).
    pub asids: u32,
    /// The part's own CPUID functions, against which the firmware checks a guest's feature bits;
    /// a function that is absent is not checked.
    pub host_cpuid: Vec<CpuidFunction>,
    /// What operations cost.
    pub costs: Costs,
}

/// Costs in TSC cycles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Costs {
    /// PSP: GCTX_CREATE, LAUNCH_START and ACTIVATE together.
    pub launch_start: Price,
    /// PSP: LAUNCH_UPDATE of one 4 KiB page.
    pub launch_update: Price,
    /// PSP: LAUNCH_FINISH.
    pub launch_finish: Price,
    /// PSP: one guest request.
    pub guest_request: Price,
    /// RMPUPDATE of one page, with its flushes.
    pub rmpupdate: Price,
    /// PVALIDATE of one page.
    pub pvalidate: Price,
    /// RMPADJUST of one page.
    pub rmpadjust: Price,
    /// VMGEXIT and return, handled in the kernel.
    pub vmgexit: Price,
    /// Another exit handled in the kernel (nested page fault, HLT).
    pub exit: Price,
    /// What IN and OUT cost beyond other exits: their emulation.
    pub port_io: Price,
    /// Return to user space and back, on top of [`Self::vmgexit`] or [`Self::exit`].
    pub user_exit: Price,
    /// Delivery of #VC; the guest's handler is not in it.
    pub vc: Price,
}

impl Default for Costs {
    /// Orders of magnitude of a 2.45 GHz Milan part: a page through the PSP takes more than a
    /// millisecond, a world switch about two microseconds.
    fn default() -> Self {
        Self {
            launch_start: Price::known(24_500_000),
            launch_update: Price::known(2_700_000),
            launch_finish: Price::known(12_000_000),
            guest_request: Price::known(22_000_000),
            rmpupdate: Price::known(2_500),
            pvalidate: Price::known(1_200),
            rmpadjust: Price::known(1_200),
            vmgexit: Price::known(5_000),
            exit: Price::known(3_500),
            port_io: Price::known(1_000),
            user_exit: Price::known(4_000),
            vc: Price::known(1_000),
        }
    }
}

impl Default for Platform {
    /// A Milan part with firmware 1.55.
    fn default() -> Self {
        Self {
            family: 0x19,
            model: 1,
            stepping: 1,
            c_bit: 51,
            api: (1, 55),
            build: 29,
            tcb: TcbParts { fmc: 0, boot_loader: 4, tee: 0, snp: 24, microcode: 219 },
            chip_seed: 0x736f_6674_6b76_6d00,
            smt: true,
            host_mce: true,
            secure_tsc: false,
            debug_swap: false,
            tsc_khz: 2_450_000,
            report_version: 3,
            extra_policy: SnpPolicy(0),
            asids: 509,
            host_cpuid: Vec::new(),
            costs: Costs::default(),
        }
    }
}

impl Platform {
    /// How this family packs a TCB version.
    pub fn tcb_layout(&self) -> TcbLayout {
        if self.family >= 0x1a { TcbLayout::Turin } else { TcbLayout::Milan }
    }

    /// The packed TCB version.
    pub fn tcb_version(&self) -> TcbVersion {
        self.tcb.pack(self.tcb_layout())
    }

    /// CPUID function 1 EAX.
    pub fn signature(&self) -> u32 {
        let (base, extended) =
            if self.family > 0xf { (0xf, self.family - 0xf) } else { (self.family, 0) };
        u32::from(self.stepping & 0xf)
            | u32::from(self.model & 0xf) << 4
            | u32::from(base) << 8
            | u32::from(self.model >> 4) << 16
            | u32::from(extended) << 20
    }

    /// The policy bits that KVM accepts on this platform: `KVM_X86_SNP_POLICY_BITS` (Linux
    /// arch/x86/kvm/svm/sev.c `KVM_SNP_POLICY_MASK_VALID`, drivers/crypto/ccp/sev-dev.c
    /// `sev_get_snp_policy_bits`).
    pub fn policy_bits(&self) -> SnpPolicy {
        let optional = SnpPolicy::CXL_ALLOW
            | SnpPolicy::MEM_AES_256_XTS
            | SnpPolicy::RAPL_DIS
            | SnpPolicy::CIPHERTEXT_HIDING_DRAM;
        let mut bits = SnpPolicy::ABI_MINOR
            | SnpPolicy::ABI_MAJOR
            | SnpPolicy::SMT
            | SnpPolicy::MUST_BE_ONE
            | SnpPolicy::DEBUG
            | SnpPolicy::SINGLE_SOCKET
            | (self.extra_policy & optional);
        if self.api >= (1, 58) {
            bits |= SnpPolicy::PAGE_SWAP_DISABLE;
        }
        bits
    }

    /// The features that INIT2 accepts: `KVM_X86_SEV_VMSA_FEATURES`.
    pub fn vmsa_features(&self) -> SevFeatures {
        let mut bits = SevFeatures(0);
        bits.set(SevFeatures::DEBUG_SWAP, self.debug_swap);
        bits.set(SevFeatures::SECURE_TSC, self.secure_tsc);
        bits
    }

    /// CPUID function 8000001F as a guest sees it: EAX, EBX, ECX, EDX.
    pub fn cpuid_sev(&self) -> [u32; 4] {
        let features = 1 << 1 | 1 << 3 | 1 << 4 | u32::from(self.secure_tsc) << 8;
        [features, u32::from(self.c_bit) | 1 << 6, 0, 0]
    }
}
