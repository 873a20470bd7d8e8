//! The ACPI page as a guest reads it.

use super::*;

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, b| sum.wrapping_add(*b))
}

fn u32_at(page: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(page[at..at + 4].try_into().unwrap())
}

fn u64_at(page: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(page[at..at + 8].try_into().unwrap())
}

/// A table, its checksum checked.
fn table(page: &[u8], gpa: u64, at: u64) -> &[u8] {
    let at = usize::try_from(at - gpa).unwrap();
    let len = u32_at(page, at + 4) as usize;
    let table = &page[at..at + len];
    assert_eq!(sum(table), 0, "checksum of {:?}", std::str::from_utf8(&table[..4]));
    table
}

#[test]
fn every_table_is_found_and_sums_to_zero() {
    let gpa = 0x1_5000;
    for count in [1, 2, 64, 254] {
        let page = page(gpa, CpuCount::new(count).unwrap(), None, ConsoleDevice::Serial).unwrap();
        assert_eq!(&page[..8], b"RSD PTR ");
        assert_eq!(sum(&page[..20]), 0);
        assert_eq!(sum(&page[..36]), 0);
        let xsdt = table(&page, gpa, u64_at(&page, 24));
        assert_eq!(&xsdt[..4], b"XSDT");
        let fadt = table(&page, gpa, u64_at(xsdt, 36));
        let madt = table(&page, gpa, u64_at(xsdt, 44));
        assert_eq!((&fadt[..4], &madt[..4]), (&b"FACP"[..], &b"APIC"[..]));
        assert_eq!(&table(&page, gpa, u64_at(fadt, 140))[..4], b"DSDT");
        let locals = madt[44..].chunks(8).filter(|e| e[..2] == [0, 8] && e[4] & 1 == 1).count();
        assert_eq!(locals, usize::from(count));
        // Hardware-reduced, with a reset register.
        assert_eq!(u32_at(fadt, 112) & (1 << 20 | 1 << 10), 1 << 20 | 1 << 10);
        // Sleep control: one byte at a port.
        assert_eq!(&fadt[244..247], &[1, 8, 0]);
        assert_eq!(u64_at(fadt, 248), u64::from(acpi_pm::SLEEP_CONTROL_PORT));
    }
}

#[test]
fn a_mailbox_is_named_with_a_right_checksum() {
    let gpa = 0x1_5000;
    let wakeup = Wakeup { mailbox: 0x1122_3344_5566_7000, reset_vector: 0x8899_aabb_ccdd_eef0 };
    for count in [1, 254] {
        let page =
            page(gpa, CpuCount::new(count).unwrap(), Some(wakeup), ConsoleDevice::Virtio).unwrap();
        let xsdt = table(&page, gpa, u64_at(&page, 24));
        let madt = table(&page, gpa, u64_at(xsdt, 44));
        let structure = &madt[madt.len() - 24..];
        assert_eq!(structure[..8], [0x10, 24, 1, 0, 0, 0, 0, 0]);
        assert_eq!(u64_at(structure, 8), wakeup.mailbox);
        assert_eq!(u64_at(structure, 16), wakeup.reset_vector);
    }
}

#[test]
fn the_console_has_the_device_that_was_chosen_and_no_other() {
    let dsdt = |console| {
        let page = page(0, CpuCount::ONE, None, console).unwrap();
        let fadt = u64_at(table(&page, 0, u64_at(&page, 24)), 36);
        table(&page, 0, u64_at(table(&page, 0, fadt), 140)).to_vec()
    };
    let names = |dsdt: &[u8]| {
        [&b"COM1"[..], b"VCON", b"LNRO0005\0"].map(|n| dsdt.windows(n.len()).any(|w| w == n))
    };
    assert_eq!(names(&dsdt(ConsoleDevice::Serial)), [true, false, false]);
    assert_eq!(names(&dsdt(ConsoleDevice::None)), [false; 3]);
    let virtio = dsdt(ConsoleDevice::Virtio);
    assert_eq!(names(&virtio), [false, true, true]);
    // A 32-bit memory descriptor (ACPI specification 6.5, section 6.4.3.4): writable, base, length.
    let memory = [0x86, 9, 0, 1, 0, 0, 0, 0xd0, 0, 0x10, 0, 0];
    assert!(virtio.windows(memory.len()).any(|window| window == memory));
}
