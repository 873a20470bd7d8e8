//! A kernel that accepts memory itself: what it is told, and what the shim refuses to tell.

use abi::boot::BootParams;
use abi::efi::{EfiInfo, MemoryDescriptor, SystemTable, Tables, UNACCEPTED_GUID, UnacceptedTable};
use abi::marks::MarkId;
use abi::shim::{
    BOOT_PARAMS_GPA, EFI_TABLES_GPA, Extent, HIGH_RAM_START, KernelKind, LARGE_PAGE, LOW_E820,
    LoadMode, PAGE, ParameterPage, Technology, Termination, UNACCEPTED_GPA,
};

use crate::efi::BITMAP_GPA;
use crate::mock::{Guest, INITRD, KERNEL_LOAD, MEMORY, STAGING, bzimage, setup_header};
use crate::platform::object;
use crate::range::stagings;
use crate::run_test::{expected, number};

/// The first unit; the kernel with its setup code and 16 MiB of its own; the initrd.
const ACCEPTED: [(u64, u64); 3] = [
    (0, LARGE_PAGE),
    (KERNEL_LOAD - LARGE_PAGE, KERNEL_LOAD + 0x100_0000),
    (INITRD, INITRD + LARGE_PAGE),
];

fn lazy(technology: Technology) -> Guest {
    let mut guest = Guest::bzimage(technology, LoadMode::HASHED);
    for (slot, (start, end)) in guest.params.accepted.iter_mut().zip(ACCEPTED) {
        *slot = Extent { addr: start, size: end - start };
    }
    guest
}

fn is_accepted(address: u64) -> bool {
    ACCEPTED.iter().any(|(start, end)| (*start..*end).contains(&address))
}

fn bit(guest: &Guest, unit: u64) -> bool {
    use crate::platform::Platform;
    guest.mock.bytes(BITMAP_GPA + unit / 8, 1)[0] & 1 << (unit % 8) != 0
}

#[test]
fn only_what_the_parameters_name_is_accepted() {
    for technology in [Technology::SNP, Technology::TDX] {
        let mut guest = lazy(technology);
        let before = guest.mock.validated.clone();
        assert_eq!(guest.run(), Ok(KERNEL_LOAD + 0x200));
        let accepted: Vec<u64> = guest.mock.validated.difference(&before).copied().collect();
        let mut all = expected(&guest);
        all.retain(|page| is_accepted(*page));
        assert_eq!(accepted, all);
        assert_eq!(number(&guest, MarkId::ACCEPT_SMALL), accepted.len() as u64);
        // Staging is private again, and the kernel's to accept.
        let waited = stagings(&guest.params).into_iter().filter(|range| !range.is_empty());
        assert_eq!(guest.mock.made_private, waited.collect::<Vec<_>>());
        assert_eq!(number(&guest, MarkId::STAGING_RECLAIMED), 0);
    }
}

#[test]
fn the_bitmap_says_what_is_not_accepted() {
    let mut guest = lazy(Technology::SNP);
    guest.run().unwrap();
    let table: &UnacceptedTable = object(&guest.mock, UNACCEPTED_GPA).unwrap();
    assert_eq!((table.version, u64::from(table.unit_size)), (1, LARGE_PAGE));
    assert_eq!((table.phys_base, table.bitmap_bytes), (0, 8));
    for unit in 0..table.bitmap_bytes * 8 {
        let address = unit * LARGE_PAGE;
        assert_eq!(bit(&guest, unit), address < MEMORY && !is_accepted(address), "unit {unit}");
    }
}

#[test]
fn a_hole_for_devices_is_not_unaccepted_memory() {
    let mut guest = lazy(Technology::SNP);
    let high = 4 << 30;
    let slot = LOW_E820.len() + 1;
    guest.params.e820[slot] = guest.params.e820[slot - 1];
    (guest.params.e820[slot].addr, guest.params.e820[slot].size) = (high, 2 * LARGE_PAGE);
    guest.params.e820_count += 1;
    guest.run().unwrap();
    let table: &UnacceptedTable = object(&guest.mock, UNACCEPTED_GPA).unwrap();
    assert_eq!(table.bitmap_bytes, (high / LARGE_PAGE + 2).div_ceil(64) * 8);
    assert!(!bit(&guest, MEMORY / LARGE_PAGE) && !bit(&guest, high / LARGE_PAGE - 1));
    assert!(bit(&guest, high / LARGE_PAGE) && bit(&guest, high / LARGE_PAGE + 1));
    assert!(!bit(&guest, high / LARGE_PAGE + 2));
}

#[test]
fn the_tables_lead_to_the_bitmap() {
    let mut guest = lazy(Technology::SNP);
    guest.run().unwrap();
    let page: &BootParams = object(&guest.mock, BOOT_PARAMS_GPA).unwrap();
    let efi = page.efi_info;
    assert_eq!(efi.loader_signature, EfiInfo::LOADER_64);
    assert_eq!(u64::from(efi.systab), EFI_TABLES_GPA);
    let tables: &Tables = object(&guest.mock, EFI_TABLES_GPA).unwrap();
    assert_eq!(tables.system.signature, SystemTable::SIGNATURE);
    assert_eq!(tables.system.tables, 1);
    let config = EFI_TABLES_GPA + core::mem::offset_of!(Tables, config) as u64;
    assert_eq!(tables.system.config, config);
    assert_eq!((tables.config.guid, tables.config.table), (UNACCEPTED_GUID, UNACCEPTED_GPA));
    // The kernel may place itself in what is accepted, and only there.
    assert_eq!(efi.memdesc_size, 48);
    assert_eq!(efi.memmap_size, 48 * ACCEPTED.len() as u32);
    for (descriptor, (start, end)) in tables.memory.iter().zip(ACCEPTED) {
        assert_eq!(descriptor.kind, MemoryDescriptor::CONVENTIONAL);
        assert_eq!((descriptor.start, descriptor.pages), (start, (end - start) / PAGE));
    }
}

#[test]
fn without_it_the_kernel_is_told_of_no_efi() {
    let mut guest = Guest::bzimage(Technology::SNP, LoadMode::HASHED);
    guest.run().unwrap();
    let page: &BootParams = object(&guest.mock, BOOT_PARAMS_GPA).unwrap();
    let efi = page.efi_info;
    assert_eq!((efi.loader_signature, efi.systab), (0, 0));
}

#[test]
fn what_cannot_be_told_is_refused() {
    type Damage = fn(&mut ParameterPage);
    let high = LOW_E820.len();
    assert_eq!(high, 4);
    let cases: [Damage; 15] = [
        // Half a unit, at either end.
        |p| p.accepted[1].addr += PAGE,
        |p| p.accepted[1].size += PAGE,
        |p| p.accepted[2].size -= PAGE,
        // The first is what holds the shim.
        |p| p.accepted[0].size = 2 * LARGE_PAGE,
        |p| p.accepted[0].addr = LARGE_PAGE,
        // Unsorted, overlapping, with a gap in the list, without end.
        |p| p.accepted.swap(1, 2),
        |p| p.accepted[2].addr = p.accepted[1].addr,
        |p| p.accepted[1] = Extent::UNUSED,
        |p| p.accepted[2].size = !(LARGE_PAGE - 1),
        // No RAM.
        |p| p.accepted[3] = Extent { addr: MEMORY, size: LARGE_PAGE },
        // A destination is left out.
        |p| p.accepted[2] = Extent::UNUSED,
        |p| p.accepted[1].addr += LARGE_PAGE,
        // Staging is in it.
        |p| p.accepted[3] = Extent { addr: STAGING, size: LARGE_PAGE },
        // Memory that ends, or begins, within a unit.
        |p| p.e820[4].size -= PAGE,
        |p| p.e820[4].size = !(LARGE_PAGE - 1) - HIGH_RAM_START,
    ];
    for (index, damage) in cases.into_iter().enumerate() {
        let mut guest = lazy(Technology::SNP);
        assert_eq!(guest.check(), Ok(()));
        damage(&mut guest.params);
        let refusal = guest.check();
        let expected = if index == 14 { Termination::BAD_E820 } else { Termination::BAD_ACCEPTED };
        assert_eq!(refusal, Err(expected), "case {index}");
    }
    let mut guest = Guest::bzimage(Technology::PLAIN, LoadMode::HASHED);
    guest.params.accepted = lazy(Technology::SNP).params.accepted;
    assert_eq!(guest.check(), Err(Termination::BAD_ACCEPTED), "nothing to accept");
}

#[test]
fn a_kernel_that_needs_more_than_is_accepted_is_refused() {
    let mut header = setup_header();
    header.init_size += LARGE_PAGE as u32;
    let file = bzimage(&header);
    let mut guest = Guest::new(Technology::SNP, LoadMode::HASHED, KernelKind::BZIMAGE, &file);
    guest.params.accepted = lazy(Technology::SNP).params.accepted;
    assert_eq!(guest.run(), Err(Termination::BAD_BZIMAGE));
}
