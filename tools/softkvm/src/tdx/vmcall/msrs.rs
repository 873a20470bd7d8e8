//! The MSRs that KVM emulates for a TD (Linux 7.2 arch/x86/kvm/vmx/tdx.c `tdx_has_emulated_msr`, `tdx_is_read_only_msr`).

/// Ranges, ends included.
const EMULATED: &[(u32, u32)] = &[
    (0x1b, 0x1b),   // APIC_BASE
    (0x3a, 0x3a),   // FEAT_CTL
    (0x8b, 0x8b),   // UCODE_REV
    (0xce, 0xce),   // PLATFORM_INFO
    (0xfe, 0xfe),   // MTRRcap
    (0x10a, 0x10a), // ARCH_CAPABILITIES
    (0x140, 0x140), // MISC_FEATURES_ENABLES
    (0x179, 0x17b), // MCG_CAP, MCG_STATUS, MCG_CTL
    (0x1a0, 0x1a0), // MISC_ENABLE
    (0x1fc, 0x1fc), // POWER_CTL
    (0x200, 0x26f), // MTRRs, variable and fixed
    (0x277, 0x277), // PAT
    (0x280, 0x29f), // MCi_CTL2
    (0x2ff, 0x2ff), // MTRRdefType
    (0x400, 0x47f), // MCi
    (0x4d0, 0x4d0), // MCG_EXT_CTL
    (0x6e0, 0x6e0), // TSC_DEADLINE
    (0x802, 0x803), // x2APIC: what the processor does not virtualise
    (0x80d, 0x80d),
    (0x80f, 0x80f),
    (0x828, 0x828),
    (0x82f, 0x830),
    (0x832, 0x839),
    (0x83e, 0x83e),
    (0x4b56_4d05, 0x4b56_4d05), // KVM_POLL_CONTROL
    (EFER, EFER),
];

const APIC_BASE: u32 = 0x1b;
const FEAT_CTL: u32 = 0x3a;
const EFER: u32 = 0xc000_0080;

/// Whether KVM emulates an MSR, and lets it be written.
pub fn emulated(index: u32, write: bool) -> bool {
    let read_only = matches!(index, APIC_BASE | FEAT_CTL | EFER);
    EMULATED.iter().any(|&(first, last)| (first..=last).contains(&index)) && !(write && read_only)
}
