//! Memory: mappings of several kinds, none of which is ever taken back. What a child maps goes when it ends.

use core::sync::atomic::AtomicU32;

use super::{Errno, File, Sys, call};

const READ: usize = 1;
const READ_WRITE: usize = 3;
const SHARED: usize = 0x01;
const PRIVATE: usize = 0x02;
const ANONYMOUS: usize = 0x20;
const POPULATE: usize = 0x8000;
const LARGE_PAGE: usize = 2 << 20;

/// What is valid when it is all zeros.
///
/// # Safety
/// Any bytes make one.
pub unsafe trait Number: Copy + 'static {}
// SAFETY: numbers.
unsafe impl Number for u32 {}
// SAFETY: numbers.
unsafe impl Number for u64 {}
// SAFETY: numbers.
unsafe impl Number for f64 {}

/// Zeroed numbers, in memory that is there already.
pub fn map_numbers<T: Number>(count: usize) -> Sys<&'static mut [T]> {
    let at = map(count * size_of::<T>(), READ_WRITE, PRIVATE | ANONYMOUS | POPULATE)?;
    // SAFETY: the kernel has just mapped zeroed memory there for us alone, aligned to a page, and nothing unmaps it.
    Ok(unsafe {
        core::slice::from_raw_parts_mut(core::ptr::with_exposed_provenance_mut(at), count)
    })
}

/// Which pages memory is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Those of 4 KiB.
    Small,
    /// Those of 2 MiB; the memory begins at such a page.
    Large,
}

/// Zeroed memory that nobody has touched yet. What pages it will have is the kernel's affair.
pub fn map_fresh(len: usize, pages: Pages) -> Sys<&'static mut [u8]> {
    let more = if pages == Pages::Large { LARGE_PAGE } else { 0 };
    let mut at = map(len + more, READ_WRITE, PRIVATE | ANONYMOUS)?;
    if pages == Pages::Large {
        at = at.next_multiple_of(LARGE_PAGE);
    }
    // SAFETY: as for `map_numbers`; the larger mapping holds the aligned part.
    Ok(unsafe { core::slice::from_raw_parts_mut(core::ptr::with_exposed_provenance_mut(at), len) })
}

/// Asks for large pages in untouched memory, or for none. A kernel that knows no large pages says EINVAL.
pub fn use_large_pages(memory: &mut [u8], pages: Pages) -> Sys {
    const HUGEPAGE: usize = 14;
    const NO_HUGEPAGE: usize = 15;
    let advice = if pages == Pages::Large { HUGEPAGE } else { NO_HUGEPAGE };
    sys!(28, memory.as_mut_ptr(), memory.len(), advice).map(drop)
}

/// Two words that parent and child share, a cache line apart.
pub fn map_shared() -> Sys<[&'static AtomicU32; 2]> {
    let at = map(4096, READ_WRITE, SHARED | ANONYMOUS | POPULATE)?;
    // SAFETY: the kernel has just mapped zeroed memory there, which nothing unmaps; all its users take it for atomic.
    let words = [0, 64]
        .map(|offset| unsafe { &*core::ptr::with_exposed_provenance::<AtomicU32>(at + offset) });
    Ok(words)
}

/// A word of a device's memory, by its address, which is a page's.
pub fn map_device(file: &File, address: usize) -> Sys<&'static u32> {
    // SAFETY: arguments as mmap has them.
    let at = unsafe { call(9, [0, 4096, READ, SHARED, file.0, address]) }?;
    // SAFETY: mapped, aligned, and never unmapped; it is only read by `machine::look`, which expects it to change.
    Ok(unsafe { &*core::ptr::with_exposed_provenance(at) })
}

fn map(len: usize, protection: usize, flags: usize) -> Sys<usize> {
    const ENOMEM: Errno = Errno(12);
    if len == 0 {
        return Err(ENOMEM);
    }
    sys!(9, 0, len, protection, flags, usize::MAX)
}

/// Page faults of this process that needed no input.
pub fn faults() -> Sys<u64> {
    const MINOR_FAULTS: usize = 8;
    let mut usage = [0u64; 18];
    sys!(98, 0, usage.as_mut_ptr())?;
    Ok(usage[MINOR_FAULTS])
}
