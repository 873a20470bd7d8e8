//! CPUID of a TD.

use super::*;

fn row(function: u32, index: Option<u32>, out: [u32; 4]) -> CpuidRow {
    CpuidRow { function, index, out }
}

fn host() -> CpuidTable {
    CpuidTable::from_rows(vec![
        row(0, None, [0x23, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
        row(1, None, [0x8_06f8, 0x7f10_0800, u32::MAX, u32::MAX]),
        row(7, Some(0), [2, u32::MAX, u32::MAX, u32::MAX]),
        row(7, Some(1), [5, 0, 0, 0]),
        row(0xa, None, [u32::MAX; 4]),
        row(0x4000_0000, None, [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d]),
        row(0x4000_0001, None, [u32::MAX, 0, 0, 0]),
        row(0x8000_0000, None, [0x8000_0008, 0, 0, 0]),
        row(0x8000_0008, None, [0x0034_392e, 1 << 9, 0, 0]),
    ])
}

#[test]
fn only_configurable_bits_are_asked_for_and_every_row_is() {
    let table = host().for_tdx(CpuCount::new(3).unwrap());
    let mask = [
        row(1, Some(0), [0x0fff_3fff, 0x00ff_0000, 0x3104_4d88, 0xb844_0000]),
        row(4, Some(1), [u32::MAX; 4]),
        row(7, Some(0), [0, 0xdc2b_9b18, 0x0241_7f65, 0x0005_411c]),
        row(7, Some(1), [0x0400_1d30, 0, 0, 0x430]),
        row(0xa, Some(0), [0xff; 4]),
        row(0x1f, Some(1), [0x1f, 0xffff, 0xffff, 0]),
        row(0x8000_0008, Some(0), [0xff << 16, 1 << 9, 0, 0]),
    ];
    let rows = table.configure(&mask);
    assert_eq!(rows.len(), mask.len());
    for (row, mask) in rows.iter().zip(&mask) {
        assert_eq!((row.function, row.index), (mask.function, mask.index));
        assert!(row.out.iter().zip(&mask.out).all(|(bits, mask)| bits & !mask == 0), "{row:x?}");
    }
    assert_eq!(rows[0].out[EAX], 0x8_06f8, "the processor's own family and model");
    assert_eq!(rows[0].out[EBX], 3 << 16);
    assert_eq!(rows[0].out[ECX] & (1 << 3 | 1 << 24), 0, "MONITOR and the deadline timer");
    assert_eq!(rows[2].out[ECX] & 1 << 16, 0, "five-level paging");
    assert_eq!(rows[3].out[EAX], 5 & 0x0400_1d30, "a subleaf is not taken for another");
    assert_eq!(rows[1].out, [0; 4]);
    assert_eq!(rows[4].out, [0; 4], "no performance monitoring");
    assert_eq!(rows[5].out, [2, 3, 0x201, 0]);
    assert_eq!(rows[6].out, [48 << 16, 1 << 9, 0, 0]);
}

#[test]
fn kvm_is_told_what_it_must_know() {
    let wanted = host().for_tdx(CpuCount::new(2).unwrap());
    let entry = |function, index, flags, eax, ebx, ecx| kvm_cpuid_entry2 {
        function,
        index,
        flags,
        eax,
        ebx,
        ecx,
        ..Default::default()
    };
    let module = [
        entry(0, 0, 0, 0x23, 0x756e_6547, 0),
        entry(1, 0, 0, 0x8_06f8, 0x0102_0800, 0),
        entry(0x1f, 1, 1, 1, 2, 0x201),
        entry(0x8000_0000, 0, 0, 0x8000_0008, 0, 0),
        entry(0x8000_0008, 0, 0, 0x0030_392e, 0, 0),
    ];
    let table = wanted.for_td_vcpus(&module);
    let out = |function, index| table.get(function, index).unwrap().out;
    assert_eq!(out(1, 0)[EBX], 0x0002_0800, "no vCPU's APIC id");
    assert_ne!(out(1, 0)[ECX] & 1 << 21, 0, "x2APIC");
    assert_eq!(out(0x8000_0008, 0)[EAX], 0x0030_3930, "addresses cover the shared bit");
    assert_eq!(&out(0x4000_0000, 0)[1..], &[0x4b4d_564b, 0x564b_4d56, 0x4d]);
    let features = out(0x4000_0001, 0)[EAX];
    for clock in [0, 3, 4, 5, 6, 10, 14, 24] {
        assert_eq!(features & 1 << clock, 0, "feature {clock}");
    }
    assert!(table.get(7, 0).is_none(), "what the module does not show is not KVM's to show");
    let rows = table.for_vcpu(1);
    let find = |function| rows.iter().find(|r| r.function == function).unwrap();
    assert_eq!((find(1).ebx >> 24, find(0x1f).edx), (1, 1));
    // A module without the address leaf must not leave KVM at its default of 36 bits.
    let bare = wanted.for_td_vcpus(&module[..2]);
    assert_eq!(bare.get(0x8000_0008, 0).unwrap().out[EAX], 48 << 16 | 48);
}
