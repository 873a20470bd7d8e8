//! The firmware's check of a CPUID page: what would mislead a guest about the part is refused, and
//! the page comes back corrected (firmware ABI 56860, section 8.17).
//!
//! Functions outside 0..=0xffff and 0x8000_0000..=0x8000_ffff are not looked at.

use abi::snp::{CPUID_COUNT_MAX, CpuidFunction, CpuidPage};
use zerocopy::{FromBytes, IntoBytes};

use super::Page;
use super::platform::Platform;

#[derive(Clone, Copy)]
enum Reg {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// Bits that no guest may see set: features that belong to the hypervisor or that the part lacks
/// under SNP. Gathered from the masks of monitors that run on hardware.
const FORBIDDEN: &[(u32, Option<u32>, Reg, u32)] = &[
    (1, None, Reg::Ecx, 1 << 24),                          // TSC_DEADLINE
    (7, Some(0), Reg::Ebx, 1 << 1),                        // TSC_ADJUST
    (7, Some(0), Reg::Edx, 1 << 26 | 1 << 27 | 0xf << 28), // SPEC_CTRL .. SSBD
    (0x8000_0008, None, Reg::Ebx, 1 << 25),                // VIRT_SSBD
    (0x8000_0021, None, Reg::Eax, 1 << 9),                 // NO_SMM_CTL_MSR
    (0x8000_0021, None, Reg::Ecx, !0),
    // Caches: what is not defined. Their sizes are not compared: QEMU's EPYC-v4 boots on later parts with those of the first.
    (0x8000_001d, None, Reg::Edx, !3),
];

/// Feature words: a guest may see only what the part has. The mask names bits that depend on more
/// than the part (OSXSAVE, x2APIC, hypervisor; APIC id).
const FEATURES: &[(u32, Option<u32>, Reg, u32)] = &[
    (1, None, Reg::Ecx, 1 << 21 | 1 << 27 | 1 << 31),
    (1, None, Reg::Edx, 1 << 28),
    (7, Some(0), Reg::Ebx, 0),
    (7, Some(0), Reg::Ecx, 1 << 4),
    (7, Some(0), Reg::Edx, 0),
    (0xd, Some(1), Reg::Eax, 0),
    (0x8000_0001, None, Reg::Ecx, 1 << 1),
    (0x8000_0001, None, Reg::Edx, 0),
    (0x8000_0007, None, Reg::Edx, 0),
    (0x8000_0008, None, Reg::Ebx, 0),
    (0x8000_0021, None, Reg::Eax, 0),
];

/// Bytes of the legacy region and the XSAVE header.
const XSAVE_BASE: u32 = 0x240;

/// Checks a page, correcting it in place. `true` if it was acceptable as it was.
pub fn check(platform: &Platform, page: &mut Page) -> bool {
    let Ok(mut table) = CpuidPage::read_from_bytes(page) else { return false };
    let mut good = true;
    if table.count as usize > CPUID_COUNT_MAX {
        table.count = CPUID_COUNT_MAX as u32;
        good = false;
    }
    for function in &mut table.functions[..table.count as usize] {
        let corrected = correct(platform, *function);
        good &= corrected == *function;
        *function = corrected;
    }
    page.copy_from_slice(table.as_bytes());
    good
}

fn correct(platform: &Platform, mut f: CpuidFunction) -> CpuidFunction {
    if !matches!(f.eax_in >> 16, 0 | 0x8000) {
        return f;
    }
    let applies = |f: &CpuidFunction, leaf, sub: Option<u32>| {
        f.eax_in == leaf && sub.is_none_or(|s| s == f.ecx_in)
    };
    for &(leaf, sub, reg, mask) in FORBIDDEN {
        if applies(&f, leaf, sub) {
            *register(&mut f, reg) &= !mask;
        }
    }
    let host = platform.host_cpuid.iter().find(|host| {
        host.eax_in == f.eax_in && (host.ecx_in == f.ecx_in || !has_subleaves(f.eax_in))
    });
    if let Some(mut host) = host.copied() {
        for &(leaf, sub, reg, free) in FEATURES {
            if applies(&f, leaf, sub) {
                *register(&mut f, reg) &= *register(&mut host, reg) | free;
            }
        }
    }
    match (f.eax_in, f.ecx_in) {
        (0xd, 0 | 1) => {
            if let Some(size) = xsave_size(platform, &f) {
                f.ebx = size;
            }
        }
        (0x8000_001f, _) => {
            let [eax, ebx, _, _] = platform.cpuid_sev();
            f.eax &= eax;
            f.ebx = f.ebx & !0x3f | ebx & 0x3f;
            f.ecx = 0;
            f.edx = 0;
        }
        _ => {}
    }
    f
}

/// Functions whose answer depends on ECX.
fn has_subleaves(leaf: u32) -> bool {
    matches!(leaf, 4 | 7 | 0xb | 0xd | 0xf | 0x10 | 0x14 | 0x8000_001d | 0x8000_0020 | 0x8000_0026)
}

/// The size that the entry must state for its XCR0 and XSS; `None` if a component is unknown.
fn xsave_size(platform: &Platform, f: &CpuidFunction) -> Option<u32> {
    let components = (f.xcr0_in | if f.ecx_in == 1 { f.xss_in } else { 0 }) & !3;
    let mut size = XSAVE_BASE;
    for component in (2..63).filter(|bit| components & 1 << bit != 0) {
        let host = platform.host_cpuid.iter().find(|h| h.eax_in == 0xd && h.ecx_in == component)?;
        size = if f.ecx_in == 1 { size + host.eax } else { size.max(host.ebx + host.eax) };
    }
    Some(size)
}

fn register(f: &mut CpuidFunction, reg: Reg) -> &mut u32 {
    match reg {
        Reg::Eax => &mut f.eax,
        Reg::Ebx => &mut f.ebx,
        Reg::Ecx => &mut f.ecx,
        Reg::Edx => &mut f.edx,
    }
}
