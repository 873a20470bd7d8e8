//! What the page tables map.

use abi::shim::snp::{BootPage, CODE_OFFSET, PACKED_OFFSET, PROGRAM_MAX};
use abi::shim::snp::{SECOND_STAGE_PAGES, WINDOW};
use abi::shim::{
    GHCB_GPA, INITIAL_PAGE_TABLE_GPA, LARGE_PAGE, LOAD_END_MAX, LOW_RAM_END, PAGE, PAGE_TABLES_GPA,
    SHIM_BASE, Technology, WORK_END, initial_page_table,
};

use crate::mock::{C_BIT, C_MASK, Mock, SHARED_MASK};
use crate::paging::{PageTables, Window, WindowView, close_windows, set_page};
use crate::platform::{Platform, object, object_mut};

#[test]
fn first_4_gib_are_mapped_to_themselves_and_private() {
    for technology in [Technology::SNP, Technology::TDX, Technology::PLAIN] {
        let mock = Mock::new(technology);
        for address in [0, 0x1000, 0x1F_FFFF, 0x20_0000, 0x4000_0000, 0xFFFF_F000] {
            assert_eq!(mock.translate(address), (address, mock.protected()));
        }
        let tables: &PageTables = object(&mock, PAGE_TABLES_GPA).unwrap();
        assert!(tables.pml4[1..].iter().all(|entry| *entry == 0));
        assert!(tables.pdpt[4..].iter().all(|entry| *entry == 0));
    }
}

#[test]
fn one_page_can_be_shared() {
    let mut mock = Mock::new(Technology::SNP);
    let tables: &mut PageTables = object_mut(&mut mock, PAGE_TABLES_GPA).unwrap();
    set_page(tables, GHCB_GPA, 0);
    assert_eq!(mock.translate(GHCB_GPA), (GHCB_GPA, false));
    assert_eq!(mock.translate(GHCB_GPA + PAGE), (GHCB_GPA + PAGE, true));
    assert_eq!(mock.translate(GHCB_GPA - PAGE), (GHCB_GPA - PAGE, true));
}

#[test]
fn windows_move_and_close() {
    let mut mock = Mock::new(Technology::SNP);
    let mut private = WindowView::private(C_MASK);
    let mut shared = WindowView::shared(0);
    let far = 0x12_3456_7000;
    let address = private.show(&mut mock, far).unwrap();
    assert_eq!(mock.translate(address), (far, true));
    assert_eq!(mock.flushes, 1);
    private.show(&mut mock, far + PAGE).unwrap();
    assert_eq!(mock.flushes, 1, "the same GiB costs nothing");
    let near = shared.show(&mut mock, 0x300_0000).unwrap();
    assert_eq!(mock.translate(near), (0x300_0000, false));
    let address = private.show(&mut mock, far + (1 << 30)).unwrap();
    assert_eq!(address, Window::Private.base() + far % (1 << 30));
    assert_eq!(mock.translate(address), (far + (1 << 30), true));
    close_windows(&mut mock).unwrap();
    let tables: &PageTables = object(&mock, PAGE_TABLES_GPA).unwrap();
    assert!(tables.pdpt[(LOAD_END_MAX >> 30) as usize..].iter().all(|entry| *entry == 0));
}

#[test]
fn a_td_reads_staging_with_the_shared_bit() {
    let mut mock = Mock::new(Technology::TDX);
    let mut shared = WindowView::shared(SHARED_MASK);
    let near = shared.show(&mut mock, 0x300_1000).unwrap();
    assert_eq!(near, Window::Shared.base() + 0x300_1000);
    assert_eq!(mock.translate(near), (0x300_1000, false));
    let tables: &PageTables = object(&mock, PAGE_TABLES_GPA).unwrap();
    assert!(tables.windows[1].iter().all(|entry| entry & SHARED_MASK != 0));
    assert!(tables.pd.iter().flatten().all(|entry| entry & SHARED_MASK == 0));
    assert_eq!(tables.pdpt[5] & SHARED_MASK, 0, "tables are private");
}

/// Walks [`initial_page_table`] as the processor does.
fn walk(table: &[u64; 512], address: u64) -> Option<(u64, bool)> {
    let mut frame = INITIAL_PAGE_TABLE_GPA;
    let mut private = false;
    for shift in [39, 30, 21, 12] {
        assert_eq!(frame, INITIAL_PAGE_TABLE_GPA, "the walk left the page");
        let entry = table[(address >> shift) as usize % 512];
        if entry & 1 == 0 {
            return None;
        }
        frame = entry & !C_MASK & !0xFFF;
        private = entry & C_MASK != 0;
    }
    Some((frame | (address % PAGE), private))
}

#[test]
fn one_page_is_the_whole_initial_table() {
    for c_bit in [None, Some(C_BIT)] {
        let table = initial_page_table(c_bit);
        for address in (PAGE..LOW_RAM_END).step_by(PAGE as usize) {
            assert_eq!(walk(&table, address), Some((address, c_bit.is_some())));
        }
        assert_eq!(walk(&table, LOW_RAM_END), None);
        assert_eq!(walk(&table, 0x1F_F000), None);
    }
}

#[test]
fn a_boot_page_maps_what_the_first_stage_touches_and_has_no_other_entry() {
    let program: Vec<u8> = (0..PROGRAM_MAX).map(|i| (i * 3) as u8 | 1).collect();
    let waiting = 0x300_0000;
    let page = BootPage {
        c_bit: C_BIT,
        second_stage: waiting,
        digest: [0xA5; 32],
        code: &[0x90, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFA],
        program: &program,
    };
    let table = page.build().unwrap();
    let mut reached = 0;
    for address in (0..LARGE_PAGE).step_by(PAGE as usize) {
        let expected = match address {
            0 => Some((INITIAL_PAGE_TABLE_GPA, true)),
            SHIM_BASE..WORK_END => Some((address, true)),
            WINDOW.. if address < WINDOW + SECOND_STAGE_PAGES * PAGE => {
                Some((waiting + address - WINDOW, false))
            }
            _ => None,
        };
        reached += usize::from(expected.is_some());
        assert_eq!(walk(&table, address), expected, "{address:#x}");
    }
    // At every level: what is present is one of these, and a walk leaves no trace in any.
    let present: Vec<u64> = table.iter().copied().filter(|word| word & 1 != 0).collect();
    assert_eq!(present.len(), reached);
    assert!(present.iter().all(|entry| entry & 0x60 == 0x60));

    let packed = &table[(PACKED_OFFSET / 8) as usize..];
    let bytes: Vec<u8> = packed.iter().flat_map(|word| word.to_le_bytes()[1..].to_vec()).collect();
    assert_eq!(bytes[..32], [0xA5; 32]);
    assert_eq!(bytes[32..][..program.len()], program);

    let too_long = [program.as_slice(), &[0]].concat();
    assert_eq!(BootPage { program: &too_long, ..page }.build(), None);
    let room = (PACKED_OFFSET - CODE_OFFSET) as usize;
    assert!(BootPage { code: &[0x90].repeat(room), ..page }.build().is_some());
    assert_eq!(BootPage { code: &[0x90].repeat(room + 1), ..page }.build(), None);
    // An odd byte at the start of a word would make an entry of it.
    assert_eq!(BootPage { code: &[0x90, 0, 0, 0, 0, 0, 0, 0, 0x31], ..page }.build(), None);
}
