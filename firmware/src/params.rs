//! The parameter page: nothing of it is used before all of it is checked.

use abi::boot::E820Type;
use abi::shim::snp::SECOND_STAGE_PAGES;
use abi::shim::{
    Blob, CMDLINE_GPA, CMDLINE_MAX, Extent, Flags, HIGH_RAM_START, KernelKind, LARGE_PAGE,
    LOAD_END_MAX, LOW_E820, LoadMode, PAGE, ParameterPage, SHIM_BASE, Technology, Termination,
    WORK_END,
};

use crate::efi;
use crate::range::{self, Range, accepted, destinations, in_ram, is_accepted, is_lazy, ram};

/// Highest end of memory: the 48-bit space less one bit, so that no sum below can wrap.
const MEMORY_END_MAX: u64 = 1 << 47;
/// The unit that holds the shim, its work area and the ROM area.
const FIRST_UNIT: Range = Range { start: 0, end: LARGE_PAGE };
/// Lowest position a C-bit can have, as the first instructions assume.
const C_BIT_MIN: u32 = 40;
/// First position it cannot have: physical addresses end at bit 51.
const C_BIT_END: u32 = 52;

/// Checks every field. `technology` is what the processor is.
pub fn check(params: &ParameterPage, technology: Technology) -> Result<(), Termination> {
    if params.magic != ParameterPage::MAGIC {
        return Err(Termination::BAD_MAGIC);
    }
    if params.version != ParameterPage::VERSION {
        return Err(Termination::BAD_VERSION);
    }
    if params.technology != technology {
        return Err(Termination::BAD_TECHNOLOGY);
    }
    let snp = technology == Technology::SNP;
    let c_bit_fits =
        if snp { (C_BIT_MIN..C_BIT_END).contains(&params.c_bit) } else { params.c_bit == 0 };
    let waits = (params.second_stage != 0) == snp;
    // A TD has no CPUID page that could have a digest.
    let no_page = technology == Technology::TDX && params.flags & Flags::CPUID_DIGEST.bits() != 0;
    let no_help = technology != Technology::TDX && params.flags & Flags::PARALLEL.bits() != 0;
    let known = c_bit_fits
        && waits
        && !no_page
        && !no_help
        && Flags::from_bits(params.flags).is_some()
        && params.vcpu_count != 0
        && matches!(params.load_mode, LoadMode::HASHED | LoadMode::MEASURED)
        && (KernelKind::BZIMAGE.0..=KernelKind::LZ4.0).contains(&params.kernel_kind.0)
        && (params.unpacked != Extent::UNUSED) == (params.kernel_kind == KernelKind::LZ4)
        && params.reserved_038 == 0
        && params.reserved_170.iter().all(|&word| word == 0)
        && params.reserved_780.iter().all(|&word| word == 0);
    if !known {
        return Err(Termination::BAD_PARAMETER);
    }
    check_e820(params)?;
    check_blobs(params)?;
    check_accepted(params)
}

/// The map starts with [`LOW_E820`], is sorted, in pages, and within what we can address.
fn check_e820(params: &ParameterPage) -> Result<(), Termination> {
    let bad = Termination::BAD_E820;
    let entries = params.e820.get(..params.e820_count as usize).ok_or(bad)?;
    let (low, high) = entries.split_at_checked(LOW_E820.len()).ok_or(bad)?;
    for (entry, (start, end, kind)) in low.iter().zip(LOW_E820) {
        if entry.addr != start || entry.size != end - start || entry.kind != kind {
            return Err(bad);
        }
    }
    let mut floor = HIGH_RAM_START;
    for entry in high {
        let range = Range::sized(entry.addr, entry.size).ok_or(bad)?;
        let fits = range.start >= floor
            && range.end <= MEMORY_END_MAX
            && !range.is_empty()
            && range.pages() == range
            && matches!(
                entry.kind,
                E820Type::RAM | E820Type::RESERVED | E820Type::ACPI | E820Type::NVS
            );
        if !fits {
            return Err(bad);
        }
        floor = range.end;
    }
    if entries.iter().any(|entry| entry.reserved != 0) {
        return Err(bad);
    }
    Ok(())
}

/// Every blob and its staging lies in RAM below 4 GiB, on pages of its own.
fn check_blobs(params: &ParameterPage) -> Result<(), Termination> {
    let bad = Termination::BAD_RANGE;
    if params.kernel.size == 0
        || params.cmdline.size == 0
        || params.cmdline.size > CMDLINE_MAX
        || params.cmdline.dest != CMDLINE_GPA
        || !params.initrd.dest.is_multiple_of(PAGE)
    {
        return Err(bad);
    }
    if !params.second_stage.is_multiple_of(PAGE) {
        return Err(bad);
    }
    Range::sized(params.second_stage, SECOND_STAGE_PAGES * PAGE).ok_or(bad)?;
    for blob in [&params.kernel, &params.initrd, &params.cmdline] {
        check_mode(params, blob)?;
    }
    let [kernel, initrd, cmdline, unpacked] = destinations(params);
    let [waits_0, waits_1, waits_2, second_stage] = range::stagings(params);
    let ranges = [
        // The shim's own pages, and the one with the BIOS data area, which must stay zero.
        Range { start: SHIM_BASE, end: WORK_END },
        Range { start: 0, end: PAGE },
        kernel,
        initrd,
        cmdline,
        unpacked,
        waits_0,
        waits_1,
        waits_2,
        second_stage,
    ];
    for (index, range) in ranges.iter().enumerate().skip(2) {
        let fits = range.is_empty()
            || range.end <= LOAD_END_MAX
                && in_ram(params, *range)
                && !ranges.iter().take(index).any(|other| other.overlaps(*range));
        if !fits {
            return Err(bad);
        }
    }
    Ok(())
}

/// What is accepted is whole units of RAM, and what is not can be told in whole units. All destinations are in the first,
/// staging is in the second.
fn check_accepted(params: &ParameterPage) -> Result<(), Termination> {
    let bad = Err(Termination::BAD_ACCEPTED);
    let mut floor = 0;
    let mut ended = false;
    for (index, extent) in params.accepted.iter().enumerate() {
        if *extent == Extent::UNUSED {
            ended = true;
            continue;
        }
        let Some(range) = Range::sized(extent.addr, extent.size) else { return bad };
        let placed = if index == 0 { range == FIRST_UNIT } else { in_ram(params, range) };
        if ended || range.is_empty() || range.start < floor || !in_units(range) || !placed {
            return bad;
        }
        floor = range.end;
    }
    if !is_lazy(params) {
        return Ok(());
    }
    let told = |ram: Range| {
        let ram = Range { start: ram.start.max(FIRST_UNIT.end), end: ram.end.max(FIRST_UNIT.end) };
        in_units(ram) && ram.end <= efi::MEMORY_END_MAX
    };
    let fits = params.technology != Technology::PLAIN
        && ram(params).all(told)
        && destinations(params).iter().all(|range| is_accepted(params, *range))
        && range::stagings(params)
            .iter()
            .all(|waits| !accepted(params).iter().any(|range| range.overlaps(*waits)));
    if fits { Ok(()) } else { bad }
}

/// Whether it starts and ends where units do.
fn in_units(range: Range) -> bool {
    range.start.is_multiple_of(LARGE_PAGE) && range.end.is_multiple_of(LARGE_PAGE)
}

#[inline(never)]
/// The fields of a blob fit the load mode, and its ranges do not wrap.
fn check_mode(params: &ParameterPage, blob: &Blob) -> Result<(), Termination> {
    let bad = Termination::BAD_RANGE;
    let dest = Range::sized(blob.dest, blob.size).ok_or(bad)?;
    let wait = Range::sized(blob.staging, blob.size).ok_or(bad)?;
    let hashed = params.load_mode == LoadMode::HASHED && blob.size != 0;
    let staged = blob.staging != 0 && blob.staging.is_multiple_of(PAGE);
    let unhashed = blob.staging == 0 && blob.digest == [0; 32];
    let fits = blob.reserved == 0
        && dest.end <= LOAD_END_MAX
        && wait.end <= LOAD_END_MAX
        && if hashed { staged } else { unhashed };
    if fits { Ok(()) } else { Err(bad) }
}
