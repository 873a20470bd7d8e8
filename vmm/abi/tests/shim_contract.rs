//! The contract between monitor and shim: what a third party may rely on.
#![allow(clippy::unwrap_used, missing_docs)]

use abi::boot::E820Type;
use abi::ghcb::msr;
use abi::marks::{Mark, MarkId};
use abi::shim::{
    ACPI_GPA, BOOT_PARAMS_GPA, CPUID_GPA, HIGH_RAM_START, LOW_E820, LOW_RAM_END, PAGE,
    PARAMETER_GPA, SECRETS_GPA, SHIM_BASE, SHIM_CODE_GPA, TERMINATION_SET, Termination, WORK_END,
    tdx,
};

#[test]
fn low_memory_map_has_no_gap_and_reserves_launch_pages() {
    let mut next = 0;
    for (start, end, _) in LOW_E820 {
        assert_eq!(start, next);
        assert!(end > start);
        next = end;
    }
    assert_eq!(next, LOW_RAM_END);
    assert!(next < HIGH_RAM_START);
    let kind = |gpa| LOW_E820.iter().find(|(s, e, _)| (*s..*e).contains(&gpa)).unwrap().2;
    for gpa in [SHIM_BASE, SHIM_CODE_GPA, PARAMETER_GPA] {
        assert_eq!(kind(gpa), E820Type::RESERVED, "{gpa:#x}");
    }
    // What Linux reads later must not be mapped shared, as it maps what is reserved.
    for gpa in [ACPI_GPA, CPUID_GPA, SECRETS_GPA] {
        assert_eq!(kind(gpa), E820Type::ACPI, "{gpa:#x}");
    }
    assert_eq!(kind(BOOT_PARAMS_GPA), E820Type::RAM);
    assert_eq!(kind(WORK_END), E820Type::RAM);
}

#[test]
fn a_td_has_its_own_pages_where_others_have_theirs() {
    let page = tdx::reset_page();
    let at = (tdx::RESET_VECTOR - tdx::RESET_PAGE_GPA) as usize;
    assert_eq!(page[at], 0xE9);
    let displacement = u32::from_le_bytes(page[at + 1..at + 5].try_into().unwrap());
    let next = tdx::RESET_VECTOR as u32 + 5;
    assert_eq!(u64::from(next.wrapping_add(displacement)), tdx::ENTRY_GPA);
    assert!(page[..at].iter().chain(&page[at + 5..]).all(|byte| *byte == 0));
    // A kernel maps the page of the reset vector alone.
    assert_eq!(tdx::AP_RESET_VECTOR_GPA / PAGE, SHIM_CODE_GPA / PAGE);
    // The work area takes up where the launch pages end, and reaches as far as everywhere.
    assert_eq!(tdx::WORK_BASE, tdx::MAILBOX_GPA + PAGE);
    assert!((ACPI_GPA + PAGE..WORK_END).contains(&tdx::MAILBOX_GPA));
}

#[test]
fn termination_values_come_back() {
    for (code, _) in Termination::TEXTS {
        let value = code.msr_value();
        assert_eq!(value, msr::terminate(TERMINATION_SET, code.0));
        assert_eq!(Termination::from_msr_value(value), Some(*code));
        assert!(code.describe().is_some());
    }
    for vector in 0..32 {
        let code = Termination::exception(vector);
        assert_eq!(Termination::from_msr_value(code.msr_value()), Some(code));
        assert!(code.describe().is_some());
    }
    // Linux' own: general, SNP unsupported.
    assert_eq!(Termination::from_msr_value(msr::terminate(0, 2)), None);
    assert_eq!(Termination(0x7F).describe(), None);
}

#[test]
fn termination_codes_are_distinct() {
    for (index, (code, _)) in Termination::TEXTS.iter().enumerate() {
        assert!(code.0 < Termination::EXCEPTION_BASE);
        assert!(Termination::TEXTS[index + 1..].iter().all(|(other, _)| other != code));
    }
}

#[test]
fn marks_carry_names_and_numbers() {
    for (id, name) in MarkId::NAMES {
        assert_eq!(id.name(), Some(*name));
        assert_eq!(MarkId::from_name(name), Some(*id));
        let mark = Mark::new(*id, 7);
        assert_eq!((mark.id(), mark.number()), (*id, 7));
    }
    assert_eq!(Mark::new(MarkId::ACCEPT_END, u32::MAX).number(), Mark::NUMBER_MAX);
    assert_eq!(Mark::new(MarkId::ACCEPT_END, u32::MAX).id(), MarkId::ACCEPT_END);
    assert_eq!(MarkId::from_name("no such mark"), None);
}
