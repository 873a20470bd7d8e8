//! CPUID as a guest sees it.

use super::*;

fn host() -> CpuidTable {
    let row = |function, index, out| CpuidRow { function, index, out };
    CpuidTable::from_rows(vec![
        row(0, None, [0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
        row(1, None, [0xa0_0f11, 0x7f10_0800, u32::MAX, u32::MAX]),
        row(7, Some(0), [0, u32::MAX, u32::MAX, u32::MAX]),
        row(0xb, Some(0), [1, 2, 0x100, 9]),
        row(0xd, Some(0), [7, 0x340, 0x340, 0]),
        row(0xd, Some(1), [1, 0x340, 0, 0]),
        row(2, None, [0; 4]),
        row(0x4000_0000, None, [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d]),
        row(0x4000_0001, None, [u32::MAX, 0, 0, 0]),
        row(0x8000_0000, None, [0x8000_0021, 0, 0, 0]),
        row(0x8000_0008, None, [0x3030, u32::MAX, 0, 0]),
        row(0x8000_001e, None, [5, 0x105, 1, 0]),
        row(0x8000_001f, None, [0x1e, 51 | 5 << 6, 509, 1]),
        row(0x8000_0021, None, [u32::MAX, 0, u32::MAX, 0]),
    ])
}

#[test]
fn an_snp_guest_is_not_offered_what_the_firmware_refuses() {
    let table = host().for_snp(CpuCount::new(2).unwrap(), 51);
    let out = |function, index| table.get(function, index).unwrap().out;
    let page = CpuidPage::read_from_bytes(&table.to_page().unwrap()).unwrap();
    let first = page.functions.iter().find(|row| row.eax_in == 1).unwrap();
    assert_eq!(first.ecx & TSC_DEADLINE, 0);
    assert_eq!(out(1, 0)[ECX] & TSC_DEADLINE, TSC_DEADLINE, "the vCPU's timer has it all the same");
    assert_eq!(out(7, 0)[EBX] & 2, 0);
    assert_eq!(out(7, 0)[ECX] & 1 << 16, 0, "five-level paging");
    assert_eq!(out(7, 0)[EDX] >> 26, 0);
    assert_eq!(out(0x8000_0008, 0)[EBX] & 1 << 25, 0);
    assert_eq!(out(0x8000_001f, 0), [0x1a, 51 | 1 << 6, 0, 0]);
    assert_eq!(out(0x4000_0001, 0)[EAX] & (3 << 16 | 1 << 4), 0);
    assert_eq!(host().c_bit(), Some(51));
}

#[test]
fn a_plain_guest_sees_no_encryption() {
    assert!(host().for_plain(CpuCount::ONE).get(0x8000_001f, 0).is_none());
}

#[test]
fn each_vcpu_has_its_own_apic_id() {
    let table = host().for_plain(CpuCount::new(3).unwrap());
    let rows = table.for_vcpu(2);
    let find =
        |function, index| rows.iter().find(|r| r.function == function && r.index == index).unwrap();
    assert_eq!(find(1, 0).ebx >> 24, 2);
    assert_eq!(find(1, 0).ebx >> 16 & 0xff, 3);
    assert_eq!(find(0xb, 0).edx, 2);
    assert_eq!((find(0xb, 1).eax, find(0xb, 1).ebx), (2, 3));
    assert_eq!(find(0x8000_001e, 0).eax, 2);
}

#[test]
fn the_page_holds_rows_that_say_something() {
    let page = host().for_snp(CpuCount::ONE, 51).to_page().unwrap();
    let page = CpuidPage::read_from_bytes(&page).unwrap();
    let rows = &page.functions[..page.count as usize];
    assert!(rows.iter().all(|r| r.eax_in != 2), "a row of zeros");
    for start in [0, 0x4000_0000, 0x8000_0000] {
        assert!(rows.iter().any(|r| r.eax_in == start));
    }
    let xsave = rows.iter().find(|r| r.eax_in == 0xd && r.ecx_in == 1).unwrap();
    assert_eq!((xsave.xcr0_in, xsave.xss_in, xsave.ebx), (1, 0, 0x240));
}

#[test]
fn more_rows_than_a_page_holds_are_an_error() {
    let rows = (0..65).map(|function| CpuidRow { function, index: None, out: [1; 4] }).collect();
    assert_eq!(CpuidTable::from_rows(rows).to_page(), Err(PlanError::TooManyCpuidRows { max: 64 }));
}

#[test]
fn a_refused_page_is_told_row_by_row() {
    let ours = host().for_snp(CpuCount::ONE, 51).to_page().unwrap();
    let mut theirs = CpuidPage::read_from_bytes(&ours).unwrap();
    theirs.functions[1].ecx &= !1;
    let found = differences(&ours, theirs.as_bytes());
    assert_eq!(found.len(), 1);
    assert!(found[0].to_string().contains("leaf 0x1.0x0 ecx given"), "{}", found[0]);
    assert!(differences(&ours, &ours).is_empty());
}
