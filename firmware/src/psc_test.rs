//! How ranges become page state changes.

use abi::ghcb::{PSC_ENTRIES_MAX, psc_op};
use abi::shim::{LARGE_PAGE, PAGE};

use crate::psc::Batch;
use crate::range::Range;

#[test]
fn batches_cover_a_range_exactly_once_with_the_largest_pages() {
    let range = Range { start: 0x1F_D000, end: 0x1F_D000 + 600 * LARGE_PAGE };
    let mut rest = range;
    let mut next = range.start;
    let mut batches = 0;
    while !rest.is_empty() {
        let batch = Batch::take(&mut rest);
        assert!((1..=PSC_ENTRIES_MAX).contains(&batch.entries().len()));
        for entry in batch.entries() {
            assert_eq!(entry.gfn() * PAGE, next);
            assert_eq!(entry.operation(), psc_op::PRIVATE);
            assert_eq!(entry.current_page(), 0);
            let large = next.is_multiple_of(LARGE_PAGE) && range.end - next >= LARGE_PAGE;
            assert_eq!(entry.huge(), large);
            next += if large { LARGE_PAGE } else { PAGE };
        }
        batches += 1;
    }
    assert_eq!(next, range.end);
    assert_eq!(batches, (3 + 599 + 509usize).div_ceil(PSC_ENTRIES_MAX));
}

#[test]
fn an_empty_range_has_no_entries() {
    assert!(Batch::take(&mut Range { start: PAGE, end: PAGE }).entries().is_empty());
}
