//! Linux's user ABI that confidential guests of every technology share: guest memory descriptors, memory attributes,
//! page conversions, as of Linux 7.2 (include/uapi/linux/kvm.h, arch/x86/include/uapi/asm/kvm.h).
//!
//! kvm-bindings has some of this; the structures stand here because ours must be plain bytes on both sides of the ABI.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `KVM_MEMORY_ENCRYPT_OP`. The size that the number encodes is that of `unsigned long`, not of
/// its argument.
pub const KVM_MEMORY_ENCRYPT_OP: u64 = 0xc008_aeba;
/// `KVM_SET_USER_MEMORY_REGION2`.
pub const KVM_SET_USER_MEMORY_REGION2: u64 = 0x40a0_ae49;
/// `KVM_SET_MEMORY_ATTRIBUTES`.
pub const KVM_SET_MEMORY_ATTRIBUTES: u64 = 0x4020_aed2;
/// `KVM_CREATE_GUEST_MEMFD`.
pub const KVM_CREATE_GUEST_MEMFD: u64 = 0xc040_aed4;
/// `KVM_PRE_FAULT_MEMORY`.
pub const KVM_PRE_FAULT_MEMORY: u64 = 0xc040_aed5;
/// `KVM_GET_DEVICE_ATTR`.
pub const KVM_GET_DEVICE_ATTR: u64 = 0x4018_aee2;
/// `KVM_HAS_DEVICE_ATTR`.
pub const KVM_HAS_DEVICE_ATTR: u64 = 0x4018_aee3;

/// `KVM_CAP_GUEST_MEMFD_FLAGS`.
pub const KVM_CAP_GUEST_MEMFD_FLAGS: u32 = 244;
/// `KVM_CAP_GUEST_MEMFD`.
pub const KVM_CAP_GUEST_MEMFD: u32 = 234;
/// `KVM_CAP_VM_TYPES`.
pub const KVM_CAP_VM_TYPES: u32 = 235;
/// `KVM_CAP_MEMORY_ATTRIBUTES`.
pub const KVM_CAP_MEMORY_ATTRIBUTES: u32 = 233;
/// `KVM_CAP_MEMORY_FAULT_INFO`.
pub const KVM_CAP_MEMORY_FAULT_INFO: u32 = 232;
/// `KVM_CAP_EXIT_HYPERCALL`.
pub const KVM_CAP_EXIT_HYPERCALL: u32 = 201;
/// `KVM_CAP_PRE_FAULT_MEMORY`.
pub const KVM_CAP_PRE_FAULT_MEMORY: u32 = 236;
/// `GUEST_MEMFD_FLAG_MMAP`.
pub const GUEST_MEMFD_FLAG_MMAP: u64 = 1;
/// `GUEST_MEMFD_FLAG_INIT_SHARED`.
pub const GUEST_MEMFD_FLAG_INIT_SHARED: u64 = 2;
/// `KVM_MEMORY_ATTRIBUTE_PRIVATE`.
pub const KVM_MEMORY_ATTRIBUTE_PRIVATE: u64 = 1 << 3;
/// `KVM_MEMORY_EXIT_FLAG_PRIVATE`.
pub const KVM_MEMORY_EXIT_FLAG_PRIVATE: u64 = 1 << 3;

/// `struct kvm_userspace_memory_region2`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UserMemoryRegion2 {
    /// Slot, address space in bits 31:16.
    pub slot: u32,
    /// LOG_DIRTY 1, READONLY 2, GUEST_MEMFD 4.
    pub flags: u32,
    /// Guest physical address.
    pub guest_phys_addr: u64,
    /// Bytes; 0 deletes.
    pub memory_size: u64,
    /// Host address of the shared half.
    pub userspace_addr: u64,
    /// Offset in the guest memory descriptor.
    pub guest_memfd_offset: u64,
    /// Guest memory descriptor of the private half.
    pub guest_memfd: u32,
    /// Zero.
    pub pad1: u32,
    /// Zero.
    pub pad2: [u64; 14],
}

const _: () = assert!(size_of::<UserMemoryRegion2>() == 160);

/// `struct kvm_memory_attributes`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryAttributes {
    /// First guest physical address.
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// 0 or [`KVM_MEMORY_ATTRIBUTE_PRIVATE`].
    pub attributes: u64,
    /// Zero.
    pub flags: u64,
}

const _: () = assert!(size_of::<MemoryAttributes>() == 32);

/// `struct kvm_create_guest_memfd`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CreateGuestMemfd {
    /// Bytes.
    pub size: u64,
    /// [`GUEST_MEMFD_FLAG_MMAP`] and friends.
    pub flags: u64,
    /// Zero.
    pub reserved: [u64; 6],
}

const _: () = assert!(size_of::<CreateGuestMemfd>() == 64);

/// `struct kvm_pre_fault_memory`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PreFaultMemory {
    /// First guest physical address; advanced by the kernel.
    pub gpa: u64,
    /// Bytes; reduced by the kernel.
    pub size: u64,
    /// Zero.
    pub flags: u64,
    /// Zero.
    pub padding: [u64; 5],
}

const _: () = assert!(size_of::<PreFaultMemory>() == 64);

/// `struct kvm_device_attr`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DeviceAttr {
    /// Zero.
    pub flags: u32,
    /// Group.
    pub group: u32,
    /// Attribute.
    pub attr: u64,
    /// User address of the value.
    pub addr: u64,
}

const _: () = assert!(size_of::<DeviceAttr>() == 24);

/// Offset of the exit union in `struct kvm_run`.
pub const KVM_RUN_EXIT_OFFSET: usize = 32;
/// `KVM_EXIT_HYPERCALL`.
pub const KVM_EXIT_HYPERCALL: u32 = 3;
/// `KVM_EXIT_SYSTEM_EVENT`.
pub const KVM_EXIT_SYSTEM_EVENT: u32 = 24;
/// `KVM_EXIT_MEMORY_FAULT`.
pub const KVM_EXIT_MEMORY_FAULT: u32 = 39;

/// `KVM_EXIT_HYPERCALL` in `struct kvm_run`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExitHypercall {
    /// Number of the hypercall.
    pub nr: u64,
    /// Arguments.
    pub args: [u64; 6],
    /// Answer.
    pub ret: u64,
    /// Origin flags.
    pub flags: u64,
}

const _: () = assert!(offset_of!(ExitHypercall, ret) == 56);

/// `KVM_EXIT_MEMORY_FAULT` in `struct kvm_run`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExitMemoryFault {
    /// [`KVM_MEMORY_EXIT_FLAG_PRIVATE`] if the access was private.
    pub flags: u64,
    /// First guest physical address.
    pub gpa: u64,
    /// Bytes.
    pub size: u64,
}

/// `KVM_HC_MAP_GPA_RANGE` (include/uapi/linux/kvm_para.h).
pub const KVM_HC_MAP_GPA_RANGE: u64 = 12;
/// Bit of `KVM_CAP_EXIT_HYPERCALL` for [`KVM_HC_MAP_GPA_RANGE`].
pub const KVM_EXIT_HYPERCALL_MAP_GPA: u64 = 1 << KVM_HC_MAP_GPA_RANGE;

/// Third argument of [`KVM_HC_MAP_GPA_RANGE`] (`KVM_MAP_GPA_RANGE_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct MapGpaAttributes(pub u64);

impl MapGpaAttributes {
    /// Guest page size 2 MiB, in bits 3:0.
    pub const PAGE_2M: u64 = 1;
    /// Guest page size 1 GiB, in bits 3:0.
    pub const PAGE_1G: u64 = 2;
    /// The range shall be private.
    pub const ENCRYPTED: u64 = 1 << 4;

    /// Whether the range shall be private. The page size in the low bits must not be mistaken
    /// for it.
    pub const fn private(self) -> bool {
        self.0 & Self::ENCRYPTED != 0
    }
}
