//! The VMSA: where the processor keeps an encrypted guest's registers.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A segment register in a save area (APM vol. 2, table B-4).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct VmsaSegment {
    /// Selector.
    pub selector: u16,
    /// Type 3:0, S 4, DPL 6:5, P 7, AVL 8, L 9, D/B 10, G 11.
    pub attrib: u16,
    /// Limit.
    pub limit: u32,
    /// Base.
    pub base: u64,
}

/// Size of the save area inside its page.
pub const VMSA_SIZE: usize = 0x670;

/// The save area (APM vol. 2, table B-4 "VMSA Layout, State Save Area for SEV-ES"; Linux
/// arch/x86/include/asm/svm.h `sev_es_save_area`). The rest of its 4 KiB page is zero.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "fields bear the names of the architectural registers")]
pub struct Vmsa {
    pub es: VmsaSegment,
    pub cs: VmsaSegment,
    pub ss: VmsaSegment,
    pub ds: VmsaSegment,
    pub fs: VmsaSegment,
    pub gs: VmsaSegment,
    pub gdtr: VmsaSegment,
    pub ldtr: VmsaSegment,
    pub idtr: VmsaSegment,
    pub tr: VmsaSegment,
    pub pl_ssp: [u64; 4],
    pub u_cet: u64,
    pub reserved_c8: [u8; 2],
    pub vmpl: u8,
    pub cpl: u8,
    pub reserved_cc: [u8; 4],
    pub efer: u64,
    pub reserved_d8: [u8; 104],
    pub xss: u64,
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub dr7: u64,
    pub dr6: u64,
    pub rflags: u64,
    pub rip: u64,
    pub dr: [u64; 4],
    pub dr_addr_mask: [u64; 4],
    pub reserved_1c0: [u8; 24],
    pub rsp: u64,
    pub s_cet: u64,
    pub ssp: u64,
    pub isst_addr: u64,
    pub rax: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub cr2: u64,
    pub reserved_248: [u8; 32],
    pub g_pat: u64,
    pub dbgctl: u64,
    pub br_from: u64,
    pub br_to: u64,
    pub last_excp_from: u64,
    pub last_excp_to: u64,
    pub reserved_298: [u8; 72],
    pub spec_ctrl: u64,
    pub pkru: u32,
    pub tsc_aux: u32,
    pub tsc_scale: u64,
    pub tsc_offset: u64,
    pub reserved_300: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    pub reserved_320: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r8_15: [u64; 8],
    pub reserved_380: [u8; 16],
    pub guest_exit_info_1: u64,
    pub guest_exit_info_2: u64,
    pub guest_exit_int_info: u64,
    pub guest_nrip: u64,
    pub sev_features: SevFeatures,
    pub vintr_ctrl: u64,
    pub guest_exit_code: u64,
    pub virtual_tom: u64,
    pub tlb_id: u64,
    pub pcpu_id: u64,
    pub event_inj: u64,
    pub xcr0: u64,
    pub reserved_3f0: [u8; 16],
    pub x87_dp: u64,
    pub mxcsr: u32,
    pub x87_ftw: u16,
    pub x87_fsw: u16,
    pub x87_fcw: u16,
    pub x87_fop: u16,
    pub x87_ds: u16,
    pub x87_cs: u16,
    pub x87_rip: u64,
    /// Eight times the low 8 bytes, then eight times the high 2 bytes, as Linux packs it.
    pub fpreg_x87: [u8; 80],
    pub fpreg_xmm: [u8; 256],
    pub fpreg_ymm: [u8; 256],
}

const _: () = assert!(size_of::<Vmsa>() == VMSA_SIZE);
const _: () = assert!(offset_of!(Vmsa, tr) == 0x90);
const _: () = assert!(offset_of!(Vmsa, vmpl) == 0xca);
const _: () = assert!(offset_of!(Vmsa, efer) == 0xd0);
const _: () = assert!(offset_of!(Vmsa, xss) == 0x140);
const _: () = assert!(offset_of!(Vmsa, rip) == 0x178);
const _: () = assert!(offset_of!(Vmsa, rsp) == 0x1d8);
const _: () = assert!(offset_of!(Vmsa, rax) == 0x1f8);
const _: () = assert!(offset_of!(Vmsa, cr2) == 0x240);
const _: () = assert!(offset_of!(Vmsa, g_pat) == 0x268);
const _: () = assert!(offset_of!(Vmsa, spec_ctrl) == 0x2e0);
const _: () = assert!(offset_of!(Vmsa, tsc_aux) == 0x2ec);
const _: () = assert!(offset_of!(Vmsa, rcx) == 0x308);
const _: () = assert!(offset_of!(Vmsa, r8_15) == 0x340);
const _: () = assert!(offset_of!(Vmsa, guest_exit_info_1) == 0x390);
const _: () = assert!(offset_of!(Vmsa, sev_features) == 0x3b0);
const _: () = assert!(offset_of!(Vmsa, xcr0) == 0x3e8);
const _: () = assert!(offset_of!(Vmsa, mxcsr) == 0x408);
const _: () = assert!(offset_of!(Vmsa, x87_rip) == 0x418);
const _: () = assert!(offset_of!(Vmsa, fpreg_xmm) == 0x470);
const _: () = assert!(offset_of!(Vmsa, fpreg_ymm) == 0x570);

/// SEV_FEATURES of a VMSA (APM vol. 2, table B-4); shifted left by two they are bits of the
/// SEV_STATUS MSR.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct SevFeatures(pub u64);

bitflags::bitflags! {
    impl SevFeatures: u64 {
        /// SEV-SNP is active.
        const SNP_ACTIVE = 1 << 0;
        /// Virtual top of memory.
        const VIRTUAL_TOM = 1 << 1;
        /// All #VC are reflected to VMPL0.
        const REFLECT_VC = 1 << 2;
        /// Restricted injection.
        const RESTRICTED_INJECTION = 1 << 3;
        /// Alternate injection.
        const ALTERNATE_INJECTION = 1 << 4;
        /// Debug registers are swapped.
        const DEBUG_SWAP = 1 << 5;
        /// Host IBS is prevented.
        const PREVENT_HOST_IBS = 1 << 6;
        /// Branch target buffer isolation.
        const SNP_BTB_ISOLATION = 1 << 7;
        /// Supervisor shadow stacks per VMPL.
        const VMPL_SSS = 1 << 8;
        /// Secure TSC.
        const SECURE_TSC = 1 << 9;
        /// Exit reports to the VMGEXIT parameter MSR.
        const VMGEXIT_PARAMETER = 1 << 10;
        /// IBS virtualisation.
        const IBS_VIRTUALIZATION = 1 << 12;
        /// VMSA register protection.
        const VMSA_REG_PROT = 1 << 14;
        /// SMT protection.
        const SMT_PROTECTION = 1 << 15;
        /// Secure AVIC.
        const SECURE_AVIC = 1 << 16;
        /// Branch predictor barrier on entry.
        const IBPB_ON_ENTRY = 1 << 21;
    }
}

impl SevFeatures {
    /// What a guest with these features reads from SEV_STATUS (MSR 0xC0010131; APM vol. 2,
    /// 15.34.10): SEV and SEV-ES enabled, then the features.
    pub const fn sev_status(self) -> u64 {
        self.0 << 2 | 3
    }
}

/// The SEV_STATUS MSR.
pub const MSR_SEV_STATUS: u32 = 0xc001_0131;
/// The GHCB MSR.
pub const MSR_GHCB: u32 = 0xc001_0130;
/// The guest TSC frequency in MHz with Secure TSC.
pub const MSR_GUEST_TSC_FREQ: u32 = 0xc001_0134;
