//! What the page tables map.

use abi::shim::{
    GHCB_GPA, INITIAL_PAGE_TABLE_GPA, LOAD_END_MAX, LOW_RAM_END, PAGE, PAGE_TABLES_GPA, Technology,
    initial_page_table,
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
