//! Linux x86 boot protocol: the setup header, the zero page, E820 and `setup_data`.
//!
//! Source: Linux 7.2 Documentation/arch/x86/boot.rst and zero-page.rst, arch/x86/include/uapi/asm/bootparam.h and
//! setup_data.h, arch/x86/include/asm/sev.h (`cc_blob_sev_info`). Fields that a loader never touches are padding here.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// File offset of the setup header, and its offset in the zero page.
pub const SETUP_HEADER_OFFSET: usize = 0x1F1;
/// `boot_flag` of a valid setup header.
pub const BOOT_FLAG: u16 = 0xAA55;
/// `header`: "HdrS".
pub const HEADER_MAGIC: u32 = 0x5372_6448;
/// First protocol version with `xloadflags` (Linux 3.8).
pub const VERSION_XLOADFLAGS: u16 = 0x020C;
/// `xloadflags` bit 0: the 64-bit entry at 0x200 exists.
pub const XLF_KERNEL_64: u16 = 1 << 0;
/// `xloadflags` bit 1: kernel, boot_params, command line and initrd may lie above 4 GiB.
pub const XLF_CAN_BE_LOADED_ABOVE_4G: u16 = 1 << 1;
/// `loadflags` bit 0: protected-mode code is loaded high.
pub const LOADED_HIGH: u8 = 1 << 0;
/// `loadflags` bit 7: the heap end field is valid (not used by 64-bit entries).
pub const CAN_USE_HEAP: u8 = 1 << 7;
/// `type_of_loader` of a loader without an assigned number.
pub const LOADER_UNDEFINED: u8 = 0xFF;
/// `setup_sects` of 0 means this many.
pub const SETUP_SECTS_DEFAULT: u8 = 4;
/// Unit of `setup_sects`.
pub const SECTOR: u64 = 512;
/// Distance from the load address to the 64-bit entry of a bzImage.
pub const ENTRY_64_OFFSET: u64 = 0x200;
/// Code selector the 64-bit protocol wants.
pub const BOOT_CS: u16 = 0x10;
/// Data selector the 64-bit protocol wants.
pub const BOOT_DS: u16 = 0x18;
/// Most entries the zero page holds.
pub const E820_MAX: usize = 128;

/// The setup header as it stands in a bzImage at 0x1F1 and in the zero page at the same offset.
#[repr(C, packed)]
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct SetupHeader {
    /// 0x1F1: sectors of real-mode code after the boot sector; 0 means 4.
    pub setup_sects: u8,
    /// 0x1F2
    pub root_flags: u16,
    /// 0x1F4: protected-mode code in units of 16 bytes.
    pub syssize: u32,
    /// 0x1F8
    pub ram_size: u16,
    /// 0x1FA
    pub vid_mode: u16,
    /// 0x1FC
    pub root_dev: u16,
    /// 0x1FE: [`BOOT_FLAG`].
    pub boot_flag: u16,
    /// 0x200: a jump; its second byte tells where the header ends.
    pub jump: u16,
    /// 0x202: [`HEADER_MAGIC`].
    pub header: u32,
    /// 0x206: protocol version, major in the high byte.
    pub version: u16,
    /// 0x208
    pub realmode_swtch: u32,
    /// 0x20C
    pub start_sys_seg: u16,
    /// 0x20E
    pub kernel_version: u16,
    /// 0x210
    pub type_of_loader: u8,
    /// 0x211
    pub loadflags: u8,
    /// 0x212
    pub setup_move_size: u16,
    /// 0x214
    pub code32_start: u32,
    /// 0x218
    pub ramdisk_image: u32,
    /// 0x21C
    pub ramdisk_size: u32,
    /// 0x220
    pub bootsect_kludge: u32,
    /// 0x224
    pub heap_end_ptr: u16,
    /// 0x226
    pub ext_loader_ver: u8,
    /// 0x227
    pub ext_loader_type: u8,
    /// 0x228
    pub cmd_line_ptr: u32,
    /// 0x22C: highest address of the initrd's last byte.
    pub initrd_addr_max: u32,
    /// 0x230
    pub kernel_alignment: u32,
    /// 0x234
    pub relocatable_kernel: u8,
    /// 0x235
    pub min_alignment: u8,
    /// 0x236
    pub xloadflags: u16,
    /// 0x238: longest command line, without its NUL.
    pub cmdline_size: u32,
    /// 0x23C
    pub hardware_subarch: u32,
    /// 0x240
    pub hardware_subarch_data: u64,
    /// 0x248
    pub payload_offset: u32,
    /// 0x24C
    pub payload_length: u32,
    /// 0x250: head of the [`SetupData`] list.
    pub setup_data: u64,
    /// 0x258: where the kernel would like to be.
    pub pref_address: u64,
    /// 0x260: linear memory it needs from there, decompressed.
    pub init_size: u32,
    /// 0x264
    pub handover_offset: u32,
    /// 0x268
    pub kernel_info_offset: u32,
}

const _: () = assert!(size_of::<SetupHeader>() == 0x26C - SETUP_HEADER_OFFSET);
const _: () = assert!(offset_of!(SetupHeader, header) + SETUP_HEADER_OFFSET == 0x202);
const _: () = assert!(offset_of!(SetupHeader, ramdisk_image) + SETUP_HEADER_OFFSET == 0x218);
const _: () = assert!(offset_of!(SetupHeader, cmd_line_ptr) + SETUP_HEADER_OFFSET == 0x228);
const _: () = assert!(offset_of!(SetupHeader, xloadflags) + SETUP_HEADER_OFFSET == 0x236);
const _: () = assert!(offset_of!(SetupHeader, setup_data) + SETUP_HEADER_OFFSET == 0x250);
const _: () = assert!(offset_of!(SetupHeader, init_size) + SETUP_HEADER_OFFSET == 0x260);

impl SetupHeader {
    /// Bytes of real-mode code in front of the protected-mode code, boot sector included.
    pub const fn setup_bytes(&self) -> u64 {
        let sectors = if self.setup_sects == 0 { SETUP_SECTS_DEFAULT } else { self.setup_sects };
        (sectors as u64 + 1) * SECTOR
    }
}

/// One entry of the E820 memory map (20 bytes in the zero page).
#[repr(C, packed)]
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct BootE820Entry {
    /// First address.
    pub addr: u64,
    /// Bytes.
    pub size: u64,
    /// [`E820Type`].
    pub kind: u32,
}

const _: () = assert!(size_of::<BootE820Entry>() == 20);

/// Type of an E820 entry.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct E820Type(pub u32);

impl E820Type {
    /// Usable memory.
    pub const RAM: Self = Self(1);
    /// Not usable; an SNP guest maps it shared when it maps it as a device.
    pub const RESERVED: Self = Self(2);
    /// ACPI tables, mapped private by an SNP guest.
    pub const ACPI: Self = Self(3);
    /// ACPI non-volatile storage.
    pub const NVS: Self = Self(4);
}

/// The zero page, `struct boot_params`: 4096 bytes.
#[repr(C, packed)]
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct BootParams {
    /// 0x000: screen_info, apm_bios_info, tboot and IST, none of which a direct boot fills.
    pub screen_and_bios: [u8; 0x70],
    /// 0x070: physical address of the ACPI RSDP; 0 makes the kernel scan low memory.
    pub acpi_rsdp_addr: u64,
    /// 0x078
    pub pad_078: [u8; 0xC0 - 0x78],
    /// 0x0C0: upper half of the initrd's address.
    pub ext_ramdisk_image: u32,
    /// 0x0C4: upper half of the initrd's size.
    pub ext_ramdisk_size: u32,
    /// 0x0C8: upper half of the command line's address.
    pub ext_cmd_line_ptr: u32,
    /// 0x0CC
    pub pad_0cc: [u8; 0x13C - 0xCC],
    /// 0x13C: address of [`CcBlobSevInfo`], for a kernel entered without its decompressor.
    pub cc_blob_address: u32,
    /// 0x140: edid_info.
    pub pad_140: [u8; 0x1C0 - 0x140],
    /// 0x1C0
    pub efi_info: crate::efi::EfiInfo,
    /// 0x1E0
    pub alt_mem_k: u32,
    /// 0x1E4
    pub scratch: u32,
    /// 0x1E8: entries in `e820_table`.
    pub e820_entries: u8,
    /// 0x1E9
    pub pad_1e9: [u8; 0x1EF - 0x1E9],
    /// 0x1EF: not 0 makes the kernel distrust, and clear, what the header does not cover.
    pub sentinel: u8,
    /// 0x1F0
    pub pad_1f0: u8,
    /// 0x1F1
    pub hdr: SetupHeader,
    /// 0x26C
    pub pad_26c: [u8; 0x2D0 - 0x26C],
    /// 0x2D0
    pub e820_table: [BootE820Entry; E820_MAX],
    /// 0xCD0
    pub tail: [u8; 0x1000 - 0xCD0],
}

const _: () = assert!(size_of::<BootParams>() == 4096);
const _: () = assert!(offset_of!(BootParams, acpi_rsdp_addr) == 0x70);
const _: () = assert!(offset_of!(BootParams, ext_ramdisk_image) == 0xC0);
const _: () = assert!(offset_of!(BootParams, cc_blob_address) == 0x13C);
const _: () = assert!(offset_of!(BootParams, efi_info) == 0x1C0);
const _: () = assert!(offset_of!(BootParams, e820_entries) == 0x1E8);
const _: () = assert!(offset_of!(BootParams, sentinel) == 0x1EF);
const _: () = assert!(offset_of!(BootParams, hdr) == SETUP_HEADER_OFFSET);
const _: () = assert!(offset_of!(BootParams, e820_table) == 0x2D0);

/// `setup_data` type of a confidential-computing blob.
pub const SETUP_CC_BLOB: u32 = 7;

/// `struct setup_data` with the one payload we pass: `struct cc_setup_data`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct SetupData {
    /// Physical address of the next element, 0 at the end.
    pub next: u64,
    /// [`SETUP_CC_BLOB`].
    pub kind: u32,
    /// Bytes after this header.
    pub len: u32,
    /// Physical address of [`CcBlobSevInfo`], below 4 GiB.
    pub cc_blob_address: u32,
    /// Fills the struct up to its alignment; not counted in `len`.
    pub pad: u32,
}

const _: () = assert!(size_of::<SetupData>() == 24);
const _: () = assert!(offset_of!(SetupData, cc_blob_address) == 16);

/// `struct cc_blob_sev_info`: where an SNP guest finds its secrets and CPUID pages.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct CcBlobSevInfo {
    /// [`Self::MAGIC`].
    pub magic: u32,
    /// Version, 0.
    pub version: u16,
    /// Zero.
    pub reserved: u16,
    /// Physical address of the secrets page.
    pub secrets_phys: u64,
    /// Its length: exactly 4096.
    pub secrets_len: u32,
    /// Zero.
    pub rsvd1: u32,
    /// Physical address of the CPUID page.
    pub cpuid_phys: u64,
    /// Its length, at least 4096.
    pub cpuid_len: u32,
    /// Zero.
    pub rsvd2: u32,
}

impl CcBlobSevInfo {
    /// "AMDE".
    pub const MAGIC: u32 = 0x4544_4D41;
}

const _: () = assert!(size_of::<CcBlobSevInfo>() == 40);
const _: () = assert!(offset_of!(CcBlobSevInfo, secrets_phys) == 8);
const _: () = assert!(offset_of!(CcBlobSevInfo, cpuid_phys) == 24);
