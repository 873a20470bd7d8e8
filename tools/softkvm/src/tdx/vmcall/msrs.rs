//! The MSRs that KVM emulates for a TD.

/// Whether KVM emulates an MSR (Linux 7.2 arch/x86/kvm/vmx/tdx.c `tdx_has_emulated_msr`), and lets it be written
/// (`tdx_is_read_only_msr`).
pub fn emulated(index: u32, write: bool) -> bool {
    let _ = (index, write);
    false
}
