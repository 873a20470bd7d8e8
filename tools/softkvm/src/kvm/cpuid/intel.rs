//! CPUID of Intel parts: what KVM offers a plain VM, and the processor's own, of which the TDX module makes a TD's.
//!
//! A TD cannot be without XSAVE and most of SSE, so these parts have them; AVX and what builds on it they do not have, nor
//! what the software processor does not execute or no kernel needs (see the parent module).

use abi::kvm_tdx::CpuidEntry;
use kvm_bindings::kvm_cpuid_entry2;

use super::{EDX_1, brand_string, entry, text, widths};
use crate::kvm::profile::Profile;
use crate::tdx::TdxPlatform;

/// SSE3, PCLMULQDQ, SSSE3, CX16, PCID, SSE4.1, SSE4.2, x2APIC, MOVBE, POPCNT, TSC_DEADLINE, AES, XSAVE, RDRAND. PCID is of no
/// use here, but nobody can hide it from a TD, and OVMF's code for processors that Linux gives back takes it for granted
/// (edk2 OvmfPkg/TdxDxe/X64/ApRunLoop.nasm).
const ECX_1: u32 = 1
    | 1 << 1
    | 1 << 9
    | 1 << 13
    | 1 << 17
    | 1 << 19
    | 1 << 20
    | 1 << 21
    | 1 << 22
    | 1 << 23
    | 1 << 24
    | 1 << 25
    | 1 << 26
    | 1 << 30;
/// A hypervisor is present.
const HYPERVISOR: u32 = 1 << 31;
/// RDSEED, CLFLUSHOPT, CLWB, SHA. A real part has BMI and ADX as well: decompressing and signing with them takes the software
/// processor several times as long as without.
const EBX_7: u32 = 1 << 18 | 1 << 23 | 1 << 24 | 1 << 29;
/// RDPID.
const ECX_7: u32 = 1 << 22;
/// LA57, which KVM offers to nobody here: a kernel that finds it walks one more level for nothing.
const LA57: u32 = 1 << 16;
/// SYSCALL, NX, PDPE1GB, RDTSCP, LM.
const EDX_8000_0001: u32 = 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29;
/// LAHF, PREFETCHW.
const ECX_8000_0001: u32 = 1 | 1 << 8;
/// XSAVEOPT, XSAVEC, XGETBV(1), XSAVES.
const EAX_D_1: u32 = 0xf;
/// Legacy region and header: the whole area, as x87 and SSE are all there is.
const XSAVE_AREA: u32 = 576;
/// Highest functions of the processor: those of a TD (TDX module source, "CPUID lookup").
const MAX_BASIC: u32 = 0x23;
/// CLOCKSOURCE, NOP_IO_DELAY, CLOCKSOURCE2, PV_SEND_IPI, PV_SCHED_YIELD, CLOCKSOURCE_STABLE.
const KVM_FEATURES: u32 = 1 | 1 << 1 | 1 << 3 | 1 << 11 | 1 << 13 | 1 << 24;
/// Highest basic function that KVM offers.
const MAX_OFFERED: u32 = 0xd;

/// The functions that do not differ between the processor and a VM.
fn common(profile: &Profile, platform: &TdxPlatform, features_1: u32) -> Vec<kvm_cpuid_entry2> {
    let vendor = text::<3>("GenuineIntel");
    let max_extended = 0x8000_0008;
    let phys = u32::from(platform.phys_bits);
    let mut table = vec![
        // CLFLUSH lines of 64 bytes, one logical processor.
        entry(1, None, [platform.signature(), 0x0001_0800, features_1, EDX_1]),
        // Caches: 48 and 32 KiB, 2 MiB, 105 MiB.
        entry(4, Some(0), [0x121, 0x02c0_003f, 0x3f, 0]),
        entry(4, Some(1), [0x122, 0x01c0_003f, 0x3f, 0]),
        entry(4, Some(2), [0x143, 0x03c0_003f, 0x7ff, 0]),
        entry(4, Some(3), [0x163, 0x0380_003f, 0x1_bfff, 4]),
        entry(0xd, Some(0), [3, XSAVE_AREA, XSAVE_AREA, 0]),
        entry(0xd, Some(1), [EAX_D_1, XSAVE_AREA, 0, 0]),
        entry(0x8000_0000, None, [max_extended, vendor[0], vendor[2], vendor[1]]),
        entry(0x8000_0001, None, [0, 0, ECX_8000_0001, EDX_8000_0001]),
    ];
    table.extend(brand_string(profile));
    table.extend([
        entry(0x8000_0006, None, [0, 0, 0x0800_7040, 0]),
        // Invariant TSC.
        entry(0x8000_0007, None, [0, 0, 0, 1 << 8]),
        // WBNOINVD.
        entry(0x8000_0008, None, [phys | 48 << 8, 1 << 9, 0, 0]),
    ]);
    table
}

/// KVM_GET_SUPPORTED_CPUID.
pub fn supported(profile: &Profile, platform: &TdxPlatform) -> Vec<kvm_cpuid_entry2> {
    let vendor = text::<3>("GenuineIntel");
    let kvm = text::<3>("KVMKVMKVM");
    let mut table = common(profile, platform, ECX_1 | HYPERVISOR);
    table.extend([
        entry(0, None, [MAX_OFFERED, vendor[0], vendor[2], vendor[1]]),
        // ARAT.
        entry(6, None, [1 << 2, 0, 0, 0]),
        entry(7, Some(0), [0, EBX_7, ECX_7, 0]),
        entry(0xb, Some(0), [0, 0, 0, 0]),
        entry(0x4000_0000, None, [0x4000_0001, kvm[0], kvm[1], kvm[2]]),
        entry(0x4000_0001, None, [KVM_FEATURES, 0, 0, 0]),
    ]);
    if let Some(entry) = table.iter_mut().find(|entry| entry.function == 0x8000_0008) {
        entry.eax = widths(platform.phys_bits);
    }
    table.sort_by_key(|e| (e.function, e.index));
    table
}

/// The processor's own CPUID.
pub fn native(profile: &Profile, platform: &TdxPlatform) -> Vec<CpuidEntry> {
    let vendor = text::<3>("GenuineIntel");
    let mut table = common(profile, platform, ECX_1);
    table.extend([
        entry(0, None, [MAX_BASIC, vendor[0], vendor[2], vendor[1]]),
        entry(7, Some(0), [2, EBX_7, ECX_7 | LA57, 0]),
        entry(7, Some(1), [0; 4]),
        entry(7, Some(2), [0; 4]),
        // Crystal of 25 MHz.
        entry(0x15, None, [1, platform.tsc_khz / 25_000, 25_000_000, 0]),
    ]);
    table.sort_by_key(|e| (e.function, e.index));
    table
        .iter()
        .map(|e| CpuidEntry {
            function: e.function,
            index: e.index,
            flags: e.flags,
            eax: e.eax,
            ebx: e.ebx,
            ecx: e.ecx,
            edx: e.edx,
            padding: [0; 3],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::profile::Part;

    #[test]
    fn what_a_td_always_sees_of_the_processor_is_there() {
        let profile = Profile::load("xeon-spr").unwrap();
        let Part::Intel(xeon) = profile.part(0).unwrap() else { panic!("not Intel's") };
        let leaf = |table: &[CpuidEntry], leaf| {
            let entry = table.iter().find(|e| e.function == leaf).unwrap();
            [entry.eax, entry.ebx, entry.ecx, entry.edx]
        };
        let table = native(&profile, &xeon.tdx);
        // PCID, XSAVE, x2APIC.
        let always = 1 << 17 | 1 << 26 | 1 << 21;
        assert_eq!(leaf(&table, 1)[2] & always, always);
    }
}
