//! ACPI, CPUID and secrets pages, right and wrong.

use abi::shim::{ACPI_GPA, CPUID_GPA, Flags, LoadMode, PAGE, SECRETS_GPA, Technology, Termination};
use abi::snp::{CpuidFunction, CpuidPage, SecretsPage};
use zerocopy::FromZeros;

use crate::checks::{check_acpi, check_cpuid, check_secrets, page_has_sha, page_is_coherent};
use crate::mock::{C_BIT, Guest};
use crate::platform::{Platform, object_mut};
use crate::sha256;

fn row(eax_in: u32, eax: u32, ebx: u32, ecx: u32) -> CpuidFunction {
    CpuidFunction { eax_in, eax, ebx, ecx, ..CpuidFunction::new_zeroed() }
}

fn guest() -> Guest {
    let mut guest = Guest::bzimage(Technology::SNP, LoadMode::HASHED);
    let mut rsdp = *b"RSD PTR \0CVMM  \x02\0\0\0\0\x24\0\0\0\x24\x50\x01\0\0\0\0\0\0\0\0\0";
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    rsdp[8] = sum(&rsdp[..20]).wrapping_neg();
    rsdp[32] = sum(&rsdp).wrapping_neg();
    guest.mock.write(ACPI_GPA, &rsdp);
    let page: &mut CpuidPage = object_mut(&mut guest.mock, CPUID_GPA).unwrap();
    let rows = [
        row(0, 0x10, 0, 0),
        row(1, 0, 0, 1 << 9 | 1 << 19),
        row(7, 0, 1 << 29, 0),
        row(0x8000_0000, 0x8000_001F, 0, 0),
        row(0x8000_001F, 0x1A, C_BIT | 1 << 6, 0),
    ];
    page.count = rows.len() as u32;
    page.functions[..rows.len()].copy_from_slice(&rows);
    let page: &mut SecretsPage = object_mut(&mut guest.mock, SECRETS_GPA).unwrap();
    page.version = 3;
    guest
}

#[test]
fn good_pages_pass() {
    let guest = guest();
    assert_eq!(check_acpi(&guest.mock, &guest.params), Ok(()));
    assert_eq!(check_cpuid(&guest.mock, &guest.params), Ok(()));
    assert_eq!(check_secrets(&guest.mock), Ok(()));
}

#[test]
fn sha_is_found_in_the_cpuid_page() {
    let mut guest = guest();
    let page: &mut CpuidPage = object_mut(&mut guest.mock, CPUID_GPA).unwrap();
    assert!(page_has_sha(page));
    page.functions[1].ecx = 1 << 9;
    assert!(!page_has_sha(page));
}

#[test]
fn coherence_is_found_in_the_cpuid_page() {
    let mut guest = guest();
    let page: &mut CpuidPage = object_mut(&mut guest.mock, CPUID_GPA).unwrap();
    assert!(!page_is_coherent(page));
    page.functions[4].ebx |= 1 << 31;
    assert!(page_is_coherent(page));
    page.count = 1;
    assert!(!page_is_coherent(page));
}

#[test]
fn a_damaged_rsdp_is_refused() {
    for at in 0..36 {
        let mut guest = guest();
        guest.mock.bytes_mut(ACPI_GPA + at, 1)[0] ^= 0x10;
        assert_eq!(check_acpi(&guest.mock, &guest.params), Err(Termination::BAD_ACPI), "{at}");
    }
    for rsdp in [0, ACPI_GPA - 1, ACPI_GPA + PAGE - 35, u64::MAX] {
        let mut guest = guest();
        guest.params.acpi_rsdp = rsdp;
        assert_eq!(check_acpi(&guest.mock, &guest.params), Err(Termination::BAD_ACPI), "{rsdp}");
    }
}

#[test]
fn a_cpuid_page_that_linux_could_not_use_is_refused() {
    let cases: [fn(&mut CpuidPage); 7] = [
        |p| p.count = 0,
        |p| p.count = 65,
        |p| p.count = 4,
        |p| p.functions[0].eax_in = 2,
        |p| p.functions[3].eax = 0x8000_001E,
        |p| p.functions[4].eax = 0x0A,
        |p| p.functions[4].ebx = 47,
    ];
    for (index, damage) in cases.into_iter().enumerate() {
        let mut guest = guest();
        damage(object_mut(&mut guest.mock, CPUID_GPA).unwrap());
        let outcome = check_cpuid(&guest.mock, &guest.params);
        assert_eq!(outcome, Err(Termination::CPUID_PAGE), "case {index}");
    }
}

#[test]
fn a_pinned_cpuid_page_may_not_differ() {
    let mut guest = guest();
    guest.params.flags |= Flags::CPUID_DIGEST.bits();
    guest.params.cpuid_digest = sha256::digest(guest.mock.bytes(CPUID_GPA, PAGE), false);
    assert_eq!(check_cpuid(&guest.mock, &guest.params), Ok(()));
    guest.mock.bytes_mut(CPUID_GPA + 0x30, 1)[0] ^= 1;
    assert_eq!(check_cpuid(&guest.mock, &guest.params), Err(Termination::CPUID_PAGE));
}

#[test]
fn an_empty_secrets_page_is_refused() {
    let mut guest = guest();
    guest.mock.write(SECRETS_GPA, &[0; 4]);
    assert_eq!(check_secrets(&guest.mock), Err(Termination::SECRETS_PAGE));
}
