//! The tables of a kernel that accepts memory itself: what is not accepted, and the way there.

use core::mem::offset_of;

use abi::efi::{
    ConfigTable, EfiInfo, MemoryDescriptor, SystemTable, Tables, UNACCEPTED_GUID, UnacceptedTable,
};
use abi::shim::{
    EFI_TABLES_GPA, LARGE_PAGE, LOW_RAM_END, PAGE, ParameterPage, Termination, UNACCEPTED_GPA,
};

use crate::platform::{Platform, object_mut};
use crate::range::{self, Range};

/// Where the bitmap begins.
pub const BITMAP_GPA: u64 = UNACCEPTED_GPA + size_of::<UnacceptedTable>() as u64;
/// Memory ends at or below it, or the bitmap would not end below [`LOW_RAM_END`].
pub const MEMORY_END_MAX: u64 = (LOW_RAM_END - BITMAP_GPA) / 8 * 64 * LARGE_PAGE;
/// "cvmm", which the kernel prints.
const VENDOR: [u16; 8] = [b'c' as u16, b'v' as u16, b'm' as u16, b'm' as u16, 0, 0, 0, 0];

/// Builds all of them; returns what `boot_params` says of them.
pub fn build<P: Platform>(
    platform: &mut P,
    params: &ParameterPage,
) -> Result<EfiInfo, Termination> {
    build_unaccepted(platform, params)?;
    platform.clear(EFI_TABLES_GPA, PAGE);
    let tables: &mut Tables = object_mut(platform, EFI_TABLES_GPA)?;
    tables.system.signature = SystemTable::SIGNATURE;
    tables.system.revision = SystemTable::REVISION;
    tables.system.header_size = size_of::<SystemTable>() as u32;
    tables.system.vendor = EFI_TABLES_GPA + offset_of!(Tables, vendor) as u64;
    tables.system.tables = 1;
    tables.system.config = EFI_TABLES_GPA + offset_of!(Tables, config) as u64;
    tables.config = ConfigTable { guid: UNACCEPTED_GUID, table: UNACCEPTED_GPA };
    tables.vendor = VENDOR;
    let mut descriptors = 0;
    for (slot, extent) in tables.memory.iter_mut().zip(range::accepted(params)) {
        if !extent.is_empty() {
            slot.kind = MemoryDescriptor::CONVENTIONAL;
            slot.start = extent.start;
            slot.pages = (extent.end - extent.start) / PAGE;
            slot.attribute = MemoryDescriptor::WRITE_BACK;
            descriptors += 1;
        }
    }
    let stride = size_of::<MemoryDescriptor>() as u32;
    Ok(EfiInfo {
        loader_signature: EfiInfo::LOADER_64,
        systab: EFI_TABLES_GPA as u32,
        memdesc_size: stride,
        memdesc_version: MemoryDescriptor::VERSION,
        memmap: EFI_TABLES_GPA as u32 + offset_of!(Tables, memory) as u32,
        memmap_size: descriptors * stride,
        systab_hi: 0,
        memmap_hi: 0,
    })
}

/// One bit for each unit of RAM outside of what is accepted.
fn build_unaccepted<P: Platform>(
    platform: &mut P,
    params: &ParameterPage,
) -> Result<(), Termination> {
    let top = range::ram(params).fold(0, |top, ram| ram.end.max(top));
    let bitmap_bytes = (top / LARGE_PAGE).div_ceil(64) * 8;
    platform.clear(BITMAP_GPA, bitmap_bytes);
    let table: &mut UnacceptedTable = object_mut(platform, UNACCEPTED_GPA)?;
    *table = UnacceptedTable {
        version: UnacceptedTable::VERSION,
        unit_size: LARGE_PAGE as u32,
        phys_base: 0,
        bitmap_bytes,
    };
    let bitmap = platform.bytes_mut(BITMAP_GPA, bitmap_bytes);
    for ram in range::ram(params) {
        for unit in units(ram) {
            set(bitmap, unit, true);
        }
    }
    for extent in range::accepted(params) {
        for unit in units(extent) {
            set(bitmap, unit, false);
        }
    }
    Ok(())
}

/// The units that lie in a range as a whole.
fn units(range: Range) -> core::ops::Range<u64> {
    range.start.div_ceil(LARGE_PAGE)..range.end / LARGE_PAGE
}

fn set(bitmap: &mut [u8], unit: u64, value: bool) {
    let bit = 1 << (unit % 8);
    if let Some(byte) = usize::try_from(unit / 8).ok().and_then(|at| bitmap.get_mut(at)) {
        *byte = if value { *byte | bit } else { *byte & !bit };
    }
}
