//! The other launch pages: ACPI, CPUID and secrets.

use abi::shim::{ACPI_GPA, CPUID_GPA, Flags, PAGE, ParameterPage, SECRETS_GPA, Termination};
use abi::snp::{CPUID_COUNT_MAX, CpuidFunction, CpuidPage, SecretsPage};

use crate::platform::{Platform, object};
use crate::sha256;

/// SEV, SEV-ES and SEV-SNP in EAX of CPUID 0x8000_001F (AMD APM vol. 3, appendix E.4.17).
const SEV_FEATURES: u32 = 1 << 1 | 1 << 3 | 1 << 4;
/// The extended leaf that describes encrypted memory.
const SEV_LEAF: u32 = 0x8000_001F;
/// Length of an ACPI 2.0 RSDP (ACPI 6.5, 5.2.5.3).
const RSDP_LEN: u64 = 36;
/// Length of the part that its first checksum covers.
const RSDP_V1_LEN: usize = 20;

/// The ACPI page holds a root pointer where the parameters say.
pub fn check_acpi<P: Platform>(platform: &P, params: &ParameterPage) -> Result<(), Termination> {
    let bad = Termination::BAD_ACPI;
    let rsdp = params.acpi_rsdp;
    if !(ACPI_GPA..=ACPI_GPA + PAGE - RSDP_LEN).contains(&rsdp) {
        return Err(bad);
    }
    let bytes = platform.bytes(rsdp, RSDP_LEN);
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    let first = bytes.get(..RSDP_V1_LEN).ok_or(bad)?;
    if !bytes.starts_with(b"RSD PTR ") || sum(first) != 0 || sum(bytes) != 0 {
        return Err(bad);
    }
    Ok(())
}

/// The CPUID page has the leaves Linux cannot do without and agrees with the parameters.
pub fn check_cpuid<P: Platform>(platform: &P, params: &ParameterPage) -> Result<(), Termination> {
    let bad = Termination::CPUID_PAGE;
    let page: &CpuidPage = object(platform, CPUID_GPA)?;
    if page.count == 0 || page.count as usize > CPUID_COUNT_MAX {
        return Err(bad);
    }
    let basic = cpuid(page, 0, 0);
    let extended = cpuid(page, 0x8000_0000, 0).ok_or(bad)?;
    let sev = cpuid(page, SEV_LEAF, 0).ok_or(bad)?;
    if basic.is_none()
        || extended.eax < SEV_LEAF
        || sev.eax & SEV_FEATURES != SEV_FEATURES
        || sev.ebx & 0x3F != params.c_bit
    {
        return Err(bad);
    }
    if params.flags & Flags::CPUID_DIGEST.bits() != 0 {
        let digest = sha256::digest(platform.bytes(CPUID_GPA, PAGE), platform.has_sha());
        if digest != params.cpuid_digest {
            return Err(bad);
        }
    }
    Ok(())
}

/// The secrets page was written by firmware: its version is at least 1 (SEV-SNP firmware ABI
/// 56860 rev. 1.57, table 71).
pub fn check_secrets<P: Platform>(platform: &P) -> Result<(), Termination> {
    let page: &SecretsPage = object(platform, SECRETS_GPA)?;
    if page.version == 0 { Err(Termination::SECRETS_PAGE) } else { Ok(()) }
}

/// The row of a function in the CPUID page.
fn cpuid(page: &CpuidPage, function: u32, index: u32) -> Option<&CpuidFunction> {
    page.functions
        .iter()
        .take(page.count as usize)
        .find(|row| row.eax_in == function && row.ecx_in == index)
}

/// Whether the CPUID page offers the SHA instructions and the SSE levels their code uses.
pub fn page_has_sha(page: &CpuidPage) -> bool {
    let leaf1 = cpuid(page, 1, 0).map_or(0, |row| row.ecx);
    let leaf7 = cpuid(page, 7, 0).map_or(0, |row| row.ebx);
    sha_bits(leaf1, leaf7)
}

/// Whether the processor keeps caches coherent when a page changes its owner: COHERENCY_SFW_NO, EBX
/// bit 31 of the SEV leaf. Without it every page must be touched after validation, see
/// `evict` in the binary.
pub fn page_is_coherent(page: &CpuidPage) -> bool {
    cpuid(page, SEV_LEAF, 0).is_some_and(|row| row.ebx & 1 << 31 != 0)
}

/// Whether raw registers offer SHA: ECX of leaf 1 (SSSE3, SSE4.1), EBX of leaf 7 (SHA).
pub const fn sha_bits(leaf1_ecx: u32, leaf7_ebx: u32) -> bool {
    const SSSE3_SSE41: u32 = 1 << 9 | 1 << 19;
    leaf1_ecx & SSSE3_SSE41 == SSSE3_SSE41 && leaf7_ebx & 1 << 29 != 0
}
