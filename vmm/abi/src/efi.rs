//! The little of EFI that leads Linux to a table of unaccepted memory.
//!
//! Linux accepts memory when it needs it if an EFI configuration table says what is not accepted yet. It looks at nothing
//! else of EFI for that, so a loader that is no firmware can give it these tables; without a memory descriptor that has
//! the runtime attribute it does not try to call any service.
//!
//! Sources: UEFI specification 2.10A, sections 4.3, 4.6 and 7.2.3; Linux 7.2 include/linux/efi.h
//! (`efi_unaccepted_memory`, `LINUX_EFI_UNACCEPTED_MEM_TABLE_GUID`), arch/x86/include/uapi/asm/bootparam.h (`efi_info`).

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct efi_info` of the zero page.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct EfiInfo {
    /// [`Self::LOADER_64`], or 0 where there is no EFI.
    pub loader_signature: u32,
    /// Address of the [`SystemTable`].
    pub systab: u32,
    /// Bytes from one [`MemoryDescriptor`] to the next. The decompressor divides by it.
    pub memdesc_size: u32,
    /// [`MemoryDescriptor::VERSION`].
    pub memdesc_version: u32,
    /// Address of the memory map.
    pub memmap: u32,
    /// Its bytes.
    pub memmap_size: u32,
    /// Upper half of `systab`.
    pub systab_hi: u32,
    /// Upper half of `memmap`.
    pub memmap_hi: u32,
}

impl EfiInfo {
    /// "EL64".
    pub const LOADER_64: u32 = u32::from_le_bytes(*b"EL64");
}

const _: () = assert!(size_of::<EfiInfo>() == 32);

/// `EFI_SYSTEM_TABLE` of a 64-bit firmware.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct SystemTable {
    /// [`Self::SIGNATURE`].
    pub signature: u64,
    /// [`Self::REVISION`].
    pub revision: u32,
    /// Bytes of this table.
    pub header_size: u32,
    /// Linux does not look at it.
    pub crc32: u32,
    /// Zero.
    pub reserved: u32,
    /// Address of a name in UTF-16.
    pub vendor: u64,
    /// Of the firmware.
    pub vendor_revision: u32,
    /// Padding.
    pub pad: u32,
    /// Console handles and services, of which there are none.
    pub services: [u64; 8],
    /// Configuration tables.
    pub tables: u64,
    /// Address of the [`ConfigTable`]s.
    pub config: u64,
}

impl SystemTable {
    /// "IBI SYST".
    pub const SIGNATURE: u64 = u64::from_le_bytes(*b"IBI SYST");
    /// 2.10.
    pub const REVISION: u32 = 2 << 16 | 100;
}

const _: () = assert!(size_of::<SystemTable>() == 120);
const _: () = assert!(offset_of!(SystemTable, vendor) == 0x18);
const _: () = assert!(offset_of!(SystemTable, tables) == 0x68);

/// `EFI_CONFIGURATION_TABLE`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct ConfigTable {
    /// What it points to.
    pub guid: [u8; 16],
    /// Where that is.
    pub table: u64,
}

/// D5D1DE3C-105C-44F9-9EA9-BCEF98120031: the [`UnacceptedTable`].
pub const UNACCEPTED_GUID: [u8; 16] = [
    0x3C, 0xDE, 0xD1, 0xD5, 0x5C, 0x10, 0xF9, 0x44, 0x9E, 0xA9, 0xBC, 0xEF, 0x98, 0x12, 0x00, 0x31,
];

/// `EFI_MEMORY_DESCRIPTOR`, in the stride that firmwares use.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct MemoryDescriptor {
    /// [`Self::CONVENTIONAL`].
    pub kind: u32,
    /// Padding.
    pub pad: u32,
    /// First address.
    pub start: u64,
    /// Zero: nothing is mapped for runtime services.
    pub virtual_start: u64,
    /// Pages of 4 KiB.
    pub pages: u64,
    /// [`Self::WRITE_BACK`].
    pub attribute: u64,
    /// Fills the stride.
    pub reserved: u64,
}

impl MemoryDescriptor {
    /// `EfiConventionalMemory`.
    pub const CONVENTIONAL: u32 = 7;
    /// `EFI_MEMORY_WB`.
    pub const WRITE_BACK: u64 = 8;
    /// `EFI_MEMORY_DESCRIPTOR_VERSION`.
    pub const VERSION: u32 = 1;
}

const _: () = assert!(size_of::<MemoryDescriptor>() == 48);

/// All tables but the one of unaccepted memory, as the shim lays them out.
#[repr(C)]
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Tables {
    /// What `efi_info` points to.
    pub system: SystemTable,
    /// What that points to.
    pub config: ConfigTable,
    /// The name of the vendor.
    pub vendor: [u16; 8],
    /// The memory map. Linux places itself at random in what it lists, and nowhere else (arch/x86/boot/compressed/kaslr.c
    /// `process_efi_entries`), so it lists what is accepted.
    pub memory: [MemoryDescriptor; crate::shim::ACCEPTED_EXTENTS],
}

/// `struct efi_unaccepted_memory`; the bitmap follows. Bit *n* is set while the unit at `phys_base + n * unit_size` is not
/// accepted; the kernel clears it.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct UnacceptedTable {
    /// [`Self::VERSION`].
    pub version: u32,
    /// Bytes for which one bit stands.
    pub unit_size: u32,
    /// Address for which bit 0 stands.
    pub phys_base: u64,
    /// Bytes of the bitmap.
    pub bitmap_bytes: u64,
}

impl UnacceptedTable {
    /// The only version there is.
    pub const VERSION: u32 = 1;
}

const _: () = assert!(size_of::<UnacceptedTable>() == 24);
