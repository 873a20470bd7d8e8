//! The kernel: finds the entry of a bzImage, or places the segments of an ELF file, which it may have to unpack.
//!
//! All read only bytes that are private and verified.

use abi::boot::{
    BOOT_FLAG, ENTRY_64_OFFSET, HEADER_MAGIC, LOADED_HIGH, SETUP_HEADER_OFFSET, SetupHeader,
    VERSION_XLOADFLAGS, XLF_KERNEL_64,
};
use abi::shim::{HIGH_RAM_START, KernelKind, LARGE_PAGE, LOAD_END_MAX, ParameterPage, Termination};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::platform::Platform;
use crate::range::{Range, destination, in_ram, is_accepted, unpacked};
use crate::{lz4, zero_page};

/// Places the kernel, builds `boot_params` and returns the entry.
pub fn place<P: Platform>(platform: &mut P, params: &ParameterPage) -> Result<u64, Termination> {
    let mut file = destination(&params.kernel);
    let (entry, header) = if params.kernel_kind == KernelKind::BZIMAGE {
        bzimage(contents(platform, file), params)?
    } else {
        let room = unpacked(params);
        if !room.is_empty() {
            lz4::unpack(platform, file, room).ok_or(Termination::BAD_LZ4)?;
            file = room;
        }
        (place_elf(platform, params, file)?, elf_header())
    };
    zero_page::build(platform, params, &header)?;
    Ok(entry)
}

fn contents<P: Platform>(platform: &P, file: Range) -> &[u8] {
    platform.bytes(file.start, file.end - file.start)
}

/// Checks a bzImage and returns its 64-bit entry and its setup header.
fn bzimage(file: &[u8], params: &ParameterPage) -> Result<(u64, SetupHeader), Termination> {
    let bad = Termination::BAD_BZIMAGE;
    let rest = file.get(SETUP_HEADER_OFFSET..).ok_or(bad)?;
    let (mut header, _) = SetupHeader::read_from_prefix(rest).map_err(|_| bad)?;
    let load = params.kernel.dest + header.setup_bytes();
    let needed = Range::sized(load, u64::from(header.init_size)).ok_or(bad)?;
    let align = u64::from(header.kernel_alignment).max(LARGE_PAGE);
    let fits = header.boot_flag == BOOT_FLAG
        && header.header == HEADER_MAGIC
        && header.version >= VERSION_XLOADFLAGS
        && header.loadflags & LOADED_HIGH != 0
        && header.xloadflags & XLF_KERNEL_64 != 0
        && header.setup_bytes() + ENTRY_64_OFFSET < params.kernel.size
        && align.is_power_of_two()
        && load & (align - 1) == 0
        && (header.relocatable_kernel != 0 || load == header.pref_address)
        && free_for_kernel(params, needed);
    if !fits {
        return Err(bad);
    }
    let initrd = destination(&params.initrd);
    if !initrd.is_empty() && initrd.end - 1 > u64::from(header.initrd_addr_max) {
        return Err(Termination::BAD_RANGE);
    }
    if params.cmdline.size - 1 > u64::from(header.cmdline_size) {
        return Err(Termination::BAD_CMDLINE);
    }
    // The jump at 0x200 tells where the header ends: what follows is code, not ours to pass on.
    let [_, offset] = { header.jump }.to_le_bytes();
    let end = 0x202 + usize::from(offset) - SETUP_HEADER_OFFSET;
    if let Some(beyond) = header.as_mut_bytes().get_mut(end..) {
        beyond.fill(0);
    }
    header.code32_start = u32::try_from(load).map_err(|_| bad)?;
    Ok((load + ENTRY_64_OFFSET, header))
}

/// Whether the kernel may use a range: accepted RAM between 1 MiB and 4 GiB that does not hold the initrd.
fn free_for_kernel(params: &ParameterPage, range: Range) -> bool {
    range.start >= HIGH_RAM_START
        && range.end <= LOAD_END_MAX
        && is_accepted(params, range)
        && in_ram(params, range)
        && !range.overlaps(destination(&params.initrd).pages())
}

/// The setup header of a kernel that has none.
fn elf_header() -> SetupHeader {
    let mut header = SetupHeader::new_zeroed();
    header.boot_flag = BOOT_FLAG;
    header.header = HEADER_MAGIC;
    header.version = 0x020F;
    header.loadflags = LOADED_HIGH;
    header
}

/// `Elf64_Ehdr` (System V ABI, chapter 4).
#[repr(C)]
#[derive(FromBytes, KnownLayout, Immutable)]
struct ElfHeader {
    ident: [u8; 16],
    kind: u16,
    machine: u16,
    version: u32,
    entry: u64,
    program_headers: u64,
    section_headers: u64,
    flags: u32,
    size: u16,
    program_header_size: u16,
    program_header_count: u16,
    section_fields: [u16; 3],
}

/// `Elf64_Phdr`.
#[repr(C)]
#[derive(FromBytes, KnownLayout, Immutable)]
struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    virtual_address: u64,
    physical_address: u64,
    file_size: u64,
    memory_size: u64,
    align: u64,
}

/// "\x7fELF", 64-bit, little endian, version 1.
const ELF_IDENT: [u8; 7] = [0x7F, b'E', b'L', b'F', 2, 1, 1];
const ELF_EXECUTABLE: u16 = 2;
const ELF_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
/// Program headers a kernel may have; Linux has five.
const PROGRAM_HEADERS_MAX: u16 = 16;

/// Brings the segments of the verified file to their physical addresses; returns the entry. The file may
/// lie where they belong, so that little or nothing has to move: then each stays or moves down, in the
/// file's order, over nothing that is still needed.
fn place_elf<P: Platform>(
    platform: &mut P,
    params: &ParameterPage,
    file: Range,
) -> Result<u64, Termination> {
    let bad = Termination::BAD_ELF;
    let Range { start: base, end } = file;
    let size = end - base;
    let bytes = contents(platform, file);
    let (header, _) = ElfHeader::read_from_prefix(bytes).map_err(|_| bad)?;
    if !header.ident.starts_with(&ELF_IDENT)
        || header.kind != ELF_EXECUTABLE
        || header.machine != ELF_X86_64
        || usize::from(header.program_header_size) != size_of::<ProgramHeader>()
        || header.program_header_count > PROGRAM_HEADERS_MAX
    {
        return Err(bad);
    }
    let headers = u64::from(header.program_header_count) * size_of::<ProgramHeader>() as u64;
    let headers_end = header.program_headers.checked_add(headers).ok_or(bad)?;
    let mut entered = false;
    // Where what was placed over the file ends.
    let mut placed = base;
    for index in 0..u64::from(header.program_header_count) {
        let offset = index * size_of::<ProgramHeader>() as u64;
        let at = header.program_headers.checked_add(offset).ok_or(bad)?;
        let bytes = contents(platform, file);
        let rest = bytes.get(usize::try_from(at).map_err(|_| bad)?..).ok_or(bad)?;
        let (segment, _) = ProgramHeader::read_from_prefix(rest).map_err(|_| bad)?;
        if segment.kind != PT_LOAD {
            continue;
        }
        let source = Range::sized(segment.offset, segment.file_size).ok_or(bad)?;
        let target = Range::sized(segment.physical_address, segment.memory_size).ok_or(bad)?;
        if source.end > size
            || segment.file_size > segment.memory_size
            || headers_end > size
            || !free_for_kernel(params, target)
        {
            return Err(bad);
        }
        let from = base + source.start;
        if from < placed {
            return Err(bad);
        }
        if target.overlaps(file) {
            if target.start > from || target.start < base + headers_end {
                return Err(bad);
            }
            placed = placed.max(target.end);
        }
        if target.start != from {
            platform.copy(target.start, from, segment.file_size);
        }
        let bss = segment.memory_size - segment.file_size;
        platform.clear(target.start + segment.file_size, bss);
        entered |= target.start <= header.entry && header.entry < target.end;
    }
    if entered { Ok(header.entry) } else { Err(bad) }
}
