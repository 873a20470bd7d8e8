//! The page tables the shim works with and enters the kernel with.
//!
//! The first 4 GiB are mapped to themselves, private, with 2 MiB pages except for the first 2 MiB,
//! whose 4 KiB pages let one page alone be shared. Two windows of 1 GiB follow: one private,
//! to accept memory above 4 GiB through, and one shared, to read staging through. So the tables
//! have a fixed size whatever the guest's memory is.

use abi::shim::{LARGE_PAGE, LOAD_END_MAX, PAGE, PAGE_TABLES_GPA, PAGE_TABLES_PAGES, Termination};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::platform::{Platform, object_mut};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
/// What a window shows.
pub const GIB: u64 = 1 << 30;

/// One table.
type Table = [u64; 512];

/// All tables, in the order in which they lie in memory.
#[repr(C)]
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct PageTables {
    /// Level 4.
    pub pml4: Table,
    /// Level 3 of the first 512 GiB.
    pub pdpt: Table,
    /// Level 2 of the first 4 GiB.
    pub pd: [Table; 4],
    /// Level 1 of the first 2 MiB.
    pub pt: Table,
    /// Level 2 of [`Window::Private`] and [`Window::Shared`].
    pub windows: [Table; 2],
}

const _: () = assert!(size_of::<PageTables>() as u64 == PAGE_TABLES_PAGES * PAGE);

const PDPT: u64 = PAGE_TABLES_GPA + PAGE;
const PD: u64 = PAGE_TABLES_GPA + 2 * PAGE;
const PT: u64 = PAGE_TABLES_GPA + 6 * PAGE;
const WINDOWS: u64 = PAGE_TABLES_GPA + 7 * PAGE;
/// Entry of the PDPT where the windows start.
const WINDOW_SLOT: usize = (LOAD_END_MAX / GIB) as usize;

/// A movable mapping of 1 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Private memory above 4 GiB, for a platform that accepts what is mapped.
    Private = 0,
    /// Staging.
    Shared = 1,
}

impl Window {
    /// Virtual address at which it starts.
    pub const fn base(self) -> u64 {
        LOAD_END_MAX + self as u64 * GIB
    }
}

/// Which GiB a window shows; moving it costs a TLB flush.
#[derive(Clone, Copy, Debug)]
pub struct WindowView {
    window: Window,
    mask: u64,
    shown: Option<u64>,
}

impl WindowView {
    /// A view of private memory that shows nothing yet; entries get the bits of `mask`.
    pub const fn private(mask: u64) -> Self {
        Self { window: Window::Private, mask, shown: None }
    }

    /// A view of shared memory that shows nothing yet; entries get the bits of `mask`.
    pub const fn shared(mask: u64) -> Self {
        Self { window: Window::Shared, mask, shown: None }
    }

    /// The virtual address that shows `gpa`, valid up to the end of its GiB.
    pub fn show<P: Platform>(&mut self, platform: &mut P, gpa: u64) -> Result<u64, Termination> {
        let start = gpa & !(GIB - 1);
        if self.shown != Some(start) {
            let tables: &mut PageTables = object_mut(platform, PAGE_TABLES_GPA)?;
            let slot = self.window as usize;
            if let Some(entry) = tables.pdpt.get_mut(WINDOW_SLOT + slot) {
                *entry = (WINDOWS + slot as u64 * PAGE) | PRESENT | WRITABLE;
            }
            if let Some(table) = tables.windows.get_mut(slot) {
                fill(table, start, LARGE_PAGE, LARGE | self.mask);
            }
            platform.flush();
            self.shown = Some(start);
        }
        Ok(self.window.base() + (gpa - start))
    }
}

/// Mask of a C-bit position, 0 without protection.
pub const fn c_mask(protected: bool, c_bit: u32) -> u64 {
    if protected { 1 << (c_bit & 63) } else { 0 }
}

/// Fills the tables, `mask` in every entry; the windows stay closed. The caller then loads CR3.
pub fn build(tables: &mut PageTables, mask: u64) {
    tables.pml4.fill(0);
    tables.pdpt.fill(0);
    tables.pml4[0] = PDPT | PRESENT | WRITABLE | mask;
    let mut start = 0;
    let mut level2 = PD;
    for (entry, table) in tables.pdpt.iter_mut().zip(tables.pd.iter_mut()) {
        *entry = level2 | PRESENT | WRITABLE | mask;
        fill(table, start, LARGE_PAGE, LARGE | mask);
        start += GIB;
        level2 += PAGE;
    }
    tables.pd[0][0] = PT | PRESENT | WRITABLE | mask;
    fill(&mut tables.pt, 0, PAGE, mask);
}

/// Closes the windows again, so that the kernel is entered with the identity mapping alone.
pub fn close_windows<P: Platform>(platform: &mut P) -> Result<(), Termination> {
    let tables: &mut PageTables = object_mut(platform, PAGE_TABLES_GPA)?;
    tables.pdpt[WINDOW_SLOT] = 0;
    tables.pdpt[WINDOW_SLOT + 1] = 0;
    platform.flush();
    Ok(())
}

/// Maps one page of the first 2 MiB, private or shared as `mask` says. The caller flushes.
pub fn set_page(tables: &mut PageTables, gpa: u64, mask: u64) {
    if let Some(entry) = tables.pt.get_mut((gpa / PAGE) as usize) {
        *entry = gpa | PRESENT | WRITABLE | mask;
    }
}

/// Maps consecutive pages.
fn fill(table: &mut Table, start: u64, step: u64, bits: u64) {
    let mut address = start;
    for entry in table {
        *entry = address | PRESENT | WRITABLE | bits;
        address += step;
    }
}
