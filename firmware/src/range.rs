//! A range of guest-physical addresses.

use abi::boot::E820Type;
use abi::shim::snp::SECOND_STAGE_PAGES;
use abi::shim::{ACCEPTED_EXTENTS, Blob, Extent, LARGE_PAGE, PAGE, ParameterPage};

/// `start..end`; empty when they are equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
}

impl Range {
    /// A range without addresses.
    pub const EMPTY: Self = Self { start: 0, end: 0 };

    /// A range by its length; `None` when it does not fit the address space.
    pub const fn sized(start: u64, size: u64) -> Option<Self> {
        match start.checked_add(size) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// Whether there is nothing in it.
    pub const fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// Whether the two have an address in common.
    pub const fn overlaps(self, other: Self) -> bool {
        !self.is_empty() && !other.is_empty() && self.start < other.end && other.start < self.end
    }

    /// Whether all of `other` is in it.
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// What both have in common; empty where that is nothing.
    pub const fn common(self, other: Self) -> Self {
        let start = if self.start > other.start { self.start } else { other.start };
        let end = if self.end < other.end { self.end } else { other.end };
        if start < end { Self { start, end } } else { Self::EMPTY }
    }

    /// Rounded out to whole pages. Saturates at the end of the address space.
    #[inline(never)]
    pub const fn pages(self) -> Self {
        let end = match self.end.checked_next_multiple_of(PAGE) {
            Some(end) => end,
            None => u64::MAX - (PAGE - 1),
        };
        Self { start: self.start & !(PAGE - 1), end }
    }
}

/// Whether the range starts with a whole large page.
pub const fn large_fits(range: Range) -> bool {
    range.start.is_multiple_of(LARGE_PAGE) && range.end - range.start >= LARGE_PAGE
}

/// Whether the kernel accepts what of RAM is outside of the ranges that the parameters name.
pub fn is_lazy(params: &ParameterPage) -> bool {
    params.accepted[0] != Extent::UNUSED
}

/// What the shim accepts of RAM: the ranges that the parameters name, or everything; unused ones are empty.
#[inline(never)]
pub fn accepted(params: &ParameterPage) -> [Range; ACCEPTED_EXTENTS] {
    let mut ranges = [Range::EMPTY; ACCEPTED_EXTENTS];
    for (range, extent) in ranges.iter_mut().zip(&params.accepted) {
        *range = Range { start: extent.addr, end: extent.addr.saturating_add(extent.size) };
    }
    if !is_lazy(params) {
        ranges[0].end = u64::MAX;
    }
    ranges
}

/// Whether one range that the shim accepts holds all of `range`.
#[inline(never)]
pub fn is_accepted(params: &ParameterPage, range: Range) -> bool {
    accepted(params).iter().any(|accepted| accepted.contains(range))
}

/// Where a blob waits, in whole pages; empty for a blob that does not wait.
pub fn staging(blob: &Blob) -> Range {
    if blob.staging == 0 || blob.size == 0 {
        return Range::EMPTY;
    }
    Range::sized(blob.staging, blob.size).unwrap_or(Range::EMPTY).pages()
}

/// Where the second stage has waited; empty where there is none.
pub fn second_stage(params: &ParameterPage) -> Range {
    if params.second_stage == 0 {
        return Range::EMPTY;
    }
    Range::sized(params.second_stage, SECOND_STAGE_PAGES * PAGE).unwrap_or(Range::EMPTY)
}

/// Everything that has waited in shared memory, in whole pages; empty for what has not.
pub fn stagings(params: &ParameterPage) -> [Range; 4] {
    let [kernel, initrd, cmdline] = [&params.kernel, &params.initrd, &params.cmdline].map(staging);
    [kernel, initrd, cmdline, second_stage(params)]
}

/// Where an ELF file is unpacked to; empty where none is.
pub fn unpacked(params: &ParameterPage) -> Range {
    let Extent { addr, size } = params.unpacked;
    Range { start: addr, end: addr.saturating_add(size) }
}

/// Where a blob belongs; empty for an absent one.
pub fn destination(blob: &Blob) -> Range {
    if blob.size == 0 {
        return Range::EMPTY;
    }
    Range::sized(blob.dest, blob.size).unwrap_or(Range::EMPTY)
}

/// Everything that is loaded or unpacked, in whole pages; empty for what is not.
#[inline(never)]
pub fn destinations(params: &ParameterPage) -> [Range; 4] {
    let [kernel, initrd, cmdline] =
        [&params.kernel, &params.initrd, &params.cmdline].map(destination);
    [kernel, initrd, cmdline, unpacked(params)].map(Range::pages)
}

/// The ranges of RAM in the memory map.
pub fn ram(params: &ParameterPage) -> impl Iterator<Item = Range> + '_ {
    params
        .e820
        .iter()
        .take(params.e820_count as usize)
        .filter(|entry| entry.kind == E820Type::RAM)
        .filter_map(|entry| Range::sized(entry.addr, entry.size))
}

/// Whether one range of RAM holds all of `range`.
pub fn in_ram(params: &ParameterPage, range: Range) -> bool {
    ram(params).any(|ram| ram.contains(range))
}
