//! The launch: TD_PARAMS, and the blocks that the measurement absorbs.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{TdAttributes, Xfam};

/// TD_PARAMS: input of TDH.MNG.INIT (ABI specification, "TD_PARAMS"; Linux arch/x86/kvm/vmx/tdx_arch.h `td_params`). KVM
/// makes it out of `struct kvm_tdx_init_vm`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TdParams {
    /// Attributes.
    pub attributes: TdAttributes,
    /// Extended features.
    pub xfam: Xfam,
    /// Most vCPUs.
    pub max_vcpus: u16,
    /// Zero.
    pub reserved_12: [u8; 6],
    /// Memory type and levels of the secure EPT.
    pub eptp_controls: u64,
    /// [`TdParams::MAX_GPAW`] and [`TdParams::NO_RBP_MOD`].
    pub config_flags: u64,
    /// In units of 25 MHz.
    pub tsc_frequency: u16,
    /// Zero.
    pub reserved_2a: [u8; 38],
    /// Identifier of the configuration.
    pub mrconfigid: [u8; 48],
    /// Identifier of the owner.
    pub mrowner: [u8; 48],
    /// Identifier of the owner's configuration.
    pub mrownerconfig: [u8; 48],
    /// Zero.
    pub reserved_e0: [u8; 32],
    /// Values of the configurable CPUID leaves, EAX to EDX, in the module's order.
    pub cpuid_values: [[u32; 4]; 48],
}

impl TdParams {
    /// `config_flags`: guest addresses have 52 bits.
    pub const MAX_GPAW: u64 = 1 << 0;
    /// `config_flags`: the module leaves RBP alone.
    pub const NO_RBP_MOD: u64 = 1 << 2;
}

const _: () = assert!(size_of::<TdParams>() == 1024);
const _: () = assert!(offset_of!(TdParams, eptp_controls) == 24);
const _: () = assert!(offset_of!(TdParams, tsc_frequency) == 40);
const _: () = assert!(offset_of!(TdParams, mrconfigid) == 80);
const _: () = assert!(offset_of!(TdParams, mrowner) == 128);
const _: () = assert!(offset_of!(TdParams, mrownerconfig) == 176);
const _: () = assert!(offset_of!(TdParams, cpuid_values) == 256);

/// What MRTD absorbs for a page or a chunk: a name, zeros, the address (ABI specification, TDH.MEM.PAGE.ADD and
/// TDH.MR.EXTEND). 128 bytes, one block of SHA-384.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExtendBlock {
    /// [`ExtendBlock::PAGE_ADD`] or [`ExtendBlock::MR_EXTEND`], padded with zeros.
    pub name: [u8; 16],
    /// Guest physical address, without shared bit.
    pub gpa: u64,
    /// Zero.
    pub reserved: [u8; 104],
}

impl ExtendBlock {
    /// Name of an added page.
    pub const PAGE_ADD: [u8; 16] = *b"MEM.PAGE.ADD\0\0\0\0";
    /// Name of an extended chunk, whose [`ExtendBlock::CHUNK`] bytes follow.
    pub const MR_EXTEND: [u8; 16] = *b"MR.EXTEND\0\0\0\0\0\0\0";
    /// Bytes of a chunk.
    pub const CHUNK: usize = 256;

    /// A block.
    pub const fn new(name: [u8; 16], gpa: u64) -> Self {
        Self { name, gpa, reserved: [0; 104] }
    }
}

const _: () = assert!(size_of::<ExtendBlock>() == 128);
const _: () = assert!(offset_of!(ExtendBlock, gpa) == 16);
