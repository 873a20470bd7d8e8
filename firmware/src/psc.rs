//! Page state changes in batches (GHCB specification 56421 rev. 2.03, 4.1.6).

use abi::ghcb::{PSC_ENTRIES_MAX, PscEntry, psc_op};
use abi::shim::{LARGE_PAGE, PAGE};

use crate::range::{Range, large_fits};

/// The entries of one request.
pub struct Batch {
    entries: [PscEntry; PSC_ENTRIES_MAX],
    count: usize,
}

impl Batch {
    /// Takes as many pages from the front of `range` as one request holds, the largest that fit.
    pub fn take(range: &mut Range) -> Self {
        let mut batch = Self { entries: [PscEntry(0); PSC_ENTRIES_MAX], count: 0 };
        for slot in &mut batch.entries {
            if range.is_empty() {
                break;
            }
            let large = large_fits(*range);
            *slot = PscEntry::new(range.start / PAGE, psc_op::PRIVATE, large);
            range.start += if large { LARGE_PAGE } else { PAGE };
            batch.count += 1;
        }
        batch
    }

    /// The entries.
    pub fn entries(&self) -> &[PscEntry] {
        self.entries.get(..self.count).unwrap_or(&[])
    }
}
