//! Where everything lies: RAM, kernel, initrd, command line and their staging copies.

use abi::boot::E820Type;
use abi::shim::{
    CMDLINE_GPA, CMDLINE_MAX, E820Entry, HIGH_RAM_START, LARGE_PAGE, LOW_E820, LOW_RAM_END, PAGE,
};

use super::PlanError;
use super::kernel::KernelLayout;
use crate::config::{AcceptMode, LoadMode, MemorySize};

/// RAM from here on is moved above 4 GiB, to leave room for the interrupt controllers and whatever needs 32 bits.
pub const LOW_MEMORY_END_MAX: u64 = 3 << 30;
/// Where it goes.
pub const HIGH_MEMORY: u64 = 4 << 30;
/// Memory that no kernel runs without, beside its image: page tables, per-CPU data, user space.
const RUNNING_KERNEL: u64 = 8 << 20;

/// A piece of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub gpa: u64,
    /// Bytes.
    pub len: u64,
}

impl Range {
    /// None.
    pub const EMPTY: Range = Range { gpa: 0, len: 0 };

    /// The first address after it.
    pub fn end(self) -> u64 {
        self.gpa + self.len
    }

    /// What of it is in others.
    pub fn common(self, others: &[Range]) -> impl Iterator<Item = Range> {
        others.iter().filter_map(move |other| {
            let (begin, end) = (self.gpa.max(other.gpa), self.end().min(other.end()));
            (begin < end).then(|| Range { gpa: begin, len: end - begin })
        })
    }

    /// Do the two share a byte?
    pub fn overlaps(self, other: Range) -> bool {
        self.gpa < other.end() && other.gpa < self.end()
    }
}

/// Where a file goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Where it waits, in shared memory; 0 if it is a launch page.
    pub staging: u64,
    /// Where it belongs.
    pub dest: u64,
    /// Its length.
    pub len: u64,
}

/// The guest's address map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Memory slots.
    pub ram: Vec<Range>,
    /// The staging area: shared until the shim has read it. Empty if nothing is staged.
    pub staging: Range,
    /// The kernel file, or what it is packed in.
    pub kernel: Place,
    /// Where the shim unpacks the kernel file; empty if it comes unpacked.
    pub unpacked: Range,
    /// The initrd; length 0 without one.
    pub initrd: Place,
    /// The command line with its NUL.
    pub cmdline: Place,
    /// What the shim accepts, in units of [`LARGE_PAGE`]; empty where that is all of RAM.
    pub accepted: Vec<Range>,
    /// Where the second stage of the shim waits, in the staging area; 0 if it is launch pages.
    pub second_stage: u64,
}

/// The sizes that a layout depends on.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Of the kernel file, or what it is packed in.
    pub kernel: u64,
    /// Of the initrd.
    pub initrd: u64,
    /// Of the command line, NUL included.
    pub cmdline: u64,
    /// Of the shim's second stage, if it waits in shared memory.
    pub second_stage: u64,
}

fn pages(len: u64) -> u64 {
    len.next_multiple_of(PAGE)
}

/// Where low memory ends. What does not fit below the hole for devices goes above it, and so does the window: Linux takes
/// memory of the zone above 4 GiB first, and accepts nothing of another zone until it needs that one (Linux 7.2
/// mm/page_alloc.c `cond_accept_memory`).
fn low_end(memory: MemorySize, window: u64) -> u64 {
    memory.bytes().saturating_sub(window).min(LOW_MEMORY_END_MAX)
}

/// Memory slots.
fn ram(memory: MemorySize, low_end: u64) -> Vec<Range> {
    let mut ram = vec![Range { gpa: 0, len: low_end }];
    if memory.bytes() > low_end {
        ram.push(Range { gpa: HIGH_MEMORY, len: memory.bytes() - low_end });
    }
    ram
}

/// What the shim accepts for a kernel that accepts the rest: the unit that holds the shim, the units of kernel and files,
/// and the window at the end of memory.
fn accepted(begin: u64, end: u64, window: u64, ram: &[Range]) -> Vec<Range> {
    let begin = (begin & !(LARGE_PAGE - 1)).max(LARGE_PAGE);
    let mut accepted =
        vec![Range { gpa: 0, len: LARGE_PAGE }, Range { gpa: begin, len: end - begin }];
    let top = ram.last().map_or(0, |ram| ram.end());
    if window > 0 {
        accepted.push(Range { gpa: top - window, len: window });
    }
    accepted
}

impl Layout {
    /// The memory slots of so much RAM, which are known before anything else.
    pub fn ram_of(memory: MemorySize, accept: AcceptMode) -> Vec<Range> {
        ram(memory, low_end(memory, accept.window()))
    }

    /// Places everything.
    ///
    /// # Errors
    /// It does not fit.
    pub fn build(
        memory: MemorySize,
        kernel: &KernelLayout,
        sizes: Sizes,
        load: LoadMode,
        accept: AcceptMode,
    ) -> Result<Layout, PlanError> {
        let longest = match kernel {
            KernelLayout::BzImage { cmdline_max, .. } => (CMDLINE_MAX - 1).min(*cmdline_max),
            KernelLayout::Elf { .. } => CMDLINE_MAX - 1,
        };
        if sizes.cmdline - 1 > longest {
            return Err(PlanError::CmdlineTooLong { len: sizes.cmdline - 1, max: longest });
        }
        let lazy = accept.is_lazy();
        let window = accept.window();
        if lazy && [memory.bytes(), window].iter().any(|len| len % LARGE_PAGE != 0) {
            return Err(PlanError::NotInUnits { memory });
        }
        let low_end = low_end(memory, window);

        let unpacked = match kernel {
            KernelLayout::BzImage { .. } => None,
            KernelLayout::Elf { unpacked, .. } => *unpacked,
        };

        // From the bottom: the kernel where it wants to be, with all the memory it will use there.
        let (file_at, begin, bottom) = match kernel {
            KernelLayout::BzImage { setup_bytes, preferred, alignment, memory, .. } => {
                let load =
                    (*preferred).max(HIGH_RAM_START + LARGE_PAGE).next_multiple_of(*alignment);
                (Some(load - setup_bytes), load - setup_bytes, load + memory)
            }
            KernelLayout::Elf { segments, in_place, .. } => {
                let begin = segments.iter().map(|s| s.addr).chain(*in_place).min();
                let file_end = in_place.map(|at| at + unpacked.unwrap_or(sizes.kernel));
                let end = segments.iter().map(|s| s.addr + s.size).chain(file_end).max();
                (*in_place, begin.unwrap_or(HIGH_RAM_START), end.unwrap_or(HIGH_RAM_START))
            }
        };
        let bottom = pages(bottom);

        // From the top: the initrd, the scratch copies (an ELF file that cannot lie where it belongs, and what one is packed
        // in), then the staging area on large-page boundaries, so that what remains on either side can be accepted in large
        // pages. For a kernel that accepts memory itself, initrd and scratch copies lie behind the kernel: they are accepted,
        // so they had better share its units.
        let initrd_limit = match kernel {
            KernelLayout::BzImage { initrd_max, .. } => low_end.min((initrd_max + 1) & !(PAGE - 1)),
            KernelLayout::Elf { .. } => low_end,
        };
        let blobs = match load {
            LoadMode::Hashed => pages(sizes.kernel) + pages(sizes.initrd) + pages(sizes.cmdline),
            LoadMode::Measured => 0,
        };
        let staged = blobs + pages(sizes.second_stage);
        let packed = if unpacked.is_some() { pages(sizes.kernel) } else { 0 };
        let file_copy = if file_at.is_none() { pages(unpacked.unwrap_or(sizes.kernel)) } else { 0 };
        let scratch = packed + file_copy;
        let staging_len = staged.next_multiple_of(LARGE_PAGE);
        let needed = window
            + bottom
            + pages(sizes.initrd)
            + scratch
            + staging_len
            + LARGE_PAGE
            + RUNNING_KERNEL;
        let too_small = || PlanError::TooLittleMemory {
            given: memory,
            needed_mib: needed.next_multiple_of(16 << 20) >> 20,
        };
        if low_end + window < needed {
            return Err(too_small());
        }
        let files = scratch + pages(sizes.initrd);
        let scratch_at = match lazy {
            false => initrd_limit.checked_sub(files),
            true => (bottom + files <= initrd_limit).then_some(bottom),
        };
        let scratch_at = scratch_at.filter(|at| *at >= bottom).ok_or_else(too_small)?;
        let initrd_dest = scratch_at + scratch;
        let (floor, top) = match lazy {
            false => (bottom, scratch_at),
            true => ((scratch_at + files).next_multiple_of(LARGE_PAGE), low_end),
        };
        let staging_at = top
            .checked_sub(staging_len)
            .map(|at| at & !(LARGE_PAGE - 1))
            .filter(|at| *at >= floor)
            .ok_or_else(too_small)?;

        let mut next = staging_at;
        let mut wait = |len: u64, waits: bool| {
            if !waits || len == 0 {
                return 0;
            }
            let at = next;
            next += pages(len);
            at
        };
        let mut stage = |len: u64| wait(len, load == LoadMode::Hashed);
        let file_at = file_at.unwrap_or(scratch_at + packed);
        let kernel = Place {
            staging: stage(sizes.kernel),
            dest: if unpacked.is_some() { scratch_at } else { file_at },
            len: sizes.kernel,
        };
        let unpacked = unpacked.map_or(Range::EMPTY, |len| Range { gpa: file_at, len });
        let initrd = match sizes.initrd {
            0 => Place::default(),
            len => Place { staging: stage(len), dest: initrd_dest, len },
        };
        let cmdline =
            Place { staging: stage(sizes.cmdline), dest: CMDLINE_GPA, len: sizes.cmdline };
        let second_stage = wait(sizes.second_stage, true);
        let staging = Range { gpa: staging_at, len: next - staging_at };

        let ram = ram(memory, low_end);
        let accepted = if lazy { accepted(begin, floor, window, &ram) } else { Vec::new() };
        Ok(Layout { ram, staging, kernel, unpacked, initrd, cmdline, accepted, second_stage })
    }

    /// A guest whose firmware places everything.
    pub fn without_kernel(memory: MemorySize) -> Layout {
        Layout {
            ram: Self::ram_of(memory, AcceptMode::Eager),
            staging: Range { gpa: 0, len: 0 },
            kernel: Place::default(),
            unpacked: Range::EMPTY,
            initrd: Place::default(),
            cmdline: Place::default(),
            accepted: Vec::new(),
            second_stage: 0,
        }
    }

    /// The memory map that the kernel is told.
    pub fn e820(&self) -> Vec<E820Entry> {
        let entry =
            |addr: u64, end: u64, kind| E820Entry { addr, size: end - addr, kind, reserved: 0 };
        let mut map: Vec<E820Entry> =
            LOW_E820.iter().map(|(addr, end, kind)| entry(*addr, *end, *kind)).collect();
        for range in &self.ram {
            map.push(entry(range.gpa.max(HIGH_RAM_START), range.end(), E820Type::RAM));
        }
        map
    }

    /// What is private from the start: RAM without the staging area and without the video memory of a PC.
    ///
    /// The hole stays shared, because an SNP kernel maps what is not RAM as shared (Linux 7.2 arch/x86/mm/ioremap.c).
    pub fn private(&self) -> Vec<Range> {
        let mut ranges = vec![Range { gpa: 0, len: LOW_RAM_END }];
        for ram in &self.ram {
            let begin = ram.gpa.max(HIGH_RAM_START);
            if self.staging.len == 0 || !ram.overlaps(self.staging) {
                ranges.push(Range { gpa: begin, len: ram.end() - begin });
                continue;
            }
            ranges.push(Range { gpa: begin, len: self.staging.gpa - begin });
            if self.staging.end() < ram.end() {
                ranges.push(Range { gpa: self.staging.end(), len: ram.end() - self.staging.end() });
            }
        }
        ranges
    }
}

#[cfg(test)]
#[path = "layout_test.rs"]
mod tests;
