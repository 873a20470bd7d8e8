//! What a firmware image says of itself (TDX Virtual Firmware Design Guide, chapter 11), and the list of hand-off blocks
//! that it is given (UEFI Platform Initialization specification 1.8, volume 3, chapter 4).

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Head of the TDVF metadata; `count` [`TdvfSection`]s follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TdvfDescriptor {
    /// "TDVF".
    pub signature: [u8; 4],
    /// Bytes of the descriptor with its sections.
    pub length: u32,
    /// 1.
    pub version: u32,
    /// Sections.
    pub count: u32,
}

const _: () = assert!(size_of::<TdvfDescriptor>() == 16);

/// A section of the image or of memory.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TdvfSection {
    /// Where its contents lie in the image.
    pub data_offset: u32,
    /// How many bytes of contents.
    pub raw_size: u32,
    /// Guest physical address.
    pub address: u64,
    /// Bytes of memory.
    pub size: u64,
    /// [`TdvfSection::BFV`] and so on.
    pub kind: u32,
    /// [`TdvfSection::MR_EXTEND`], [`TdvfSection::PAGE_AUG`].
    pub attributes: u32,
}

impl TdvfSection {
    /// Boot firmware volume: code.
    pub const BFV: u32 = 0;
    /// Configuration firmware volume.
    pub const CFV: u32 = 1;
    /// Where the hand-off blocks go.
    pub const TD_HOB: u32 = 2;
    /// Scratch memory, added as zeros.
    pub const TEMP_MEM: u32 = 3;
    /// Attribute: contents are measured.
    pub const MR_EXTEND: u32 = 1 << 0;
    /// Attribute: not added; the firmware accepts it.
    pub const PAGE_AUG: u32 = 1 << 1;
}

const _: () = assert!(size_of::<TdvfSection>() == 32);
const _: () = assert!(offset_of!(TdvfSection, address) == 8);
const _: () = assert!(offset_of!(TdvfSection, kind) == 24);

/// Head of every hand-off block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HobHeader {
    /// [`HobHeader::HANDOFF`] and so on.
    pub kind: u16,
    /// Bytes, head included.
    pub length: u16,
    /// Zero.
    pub reserved: u32,
}

impl HobHeader {
    /// The first block.
    pub const HANDOFF: u16 = 0x0001;
    /// A range of addresses.
    pub const RESOURCE: u16 = 0x0003;
    /// Something with a GUID.
    pub const GUID: u16 = 0x0004;
    /// The last block.
    pub const END: u16 = 0xFFFF;
}

const _: () = assert!(size_of::<HobHeader>() == 8);

/// EFI_HOB_RESOURCE_DESCRIPTOR.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HobResource {
    /// Head.
    pub header: HobHeader,
    /// Zero.
    pub owner: [u8; 16],
    /// [`HobResource::SYSTEM_MEMORY`] and so on.
    pub kind: u32,
    /// Attributes; 7 is present, initialised, tested.
    pub attributes: u32,
    /// First address.
    pub start: u64,
    /// Bytes.
    pub length: u64,
}

impl HobResource {
    /// Memory that was added: accepted.
    pub const SYSTEM_MEMORY: u32 = 0;
    /// Devices.
    pub const MMIO: u32 = 1;
    /// Memory that the firmware must accept.
    pub const UNACCEPTED: u32 = 7;
}

const _: () = assert!(size_of::<HobResource>() == 48);
const _: () = assert!(offset_of!(HobResource, kind) == 24);
const _: () = assert!(offset_of!(HobResource, start) == 32);
