//! CPUID of the host's processor.

use super::preloaded;

/// EAX, EBX, ECX and EDX. Below softkvm those of the modelled host, not of the one that softkvm runs on.
pub fn host(leaf: u32, subleaf: u32) -> [u32; 4] {
    preloaded::cpuid(leaf, subleaf).unwrap_or_else(|| {
        let out = core::arch::x86_64::__cpuid_count(leaf, subleaf);
        [out.eax, out.ebx, out.ecx, out.edx]
    })
}
