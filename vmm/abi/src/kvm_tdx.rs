//! Linux's user ABI for TDX guests: what `KVM_MEMORY_ENCRYPT_OP` takes on a TD and on its vCPUs, and `KVM_EXIT_TDX`, as
//! of Linux 7.2 (arch/x86/include/uapi/asm/kvm.h, include/uapi/linux/kvm.h).
//!
//! kvm-bindings 0.14 has none of it. The request number, memory slots, attributes and guest memory descriptors are those
//! of every confidential guest and stand in [`crate::kvm`].

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::tdx::{TdAttributes, TdxStatus, Xfam};

/// VM type of a TD (`KVM_X86_TDX_VM`).
pub const KVM_X86_TDX_VM: u64 = 5;

/// Sub-command of `KVM_MEMORY_ENCRYPT_OP` (`enum kvm_tdx_cmd_id`).
pub mod cmd {
    /// `KVM_TDX_CAPABILITIES`, on the VM.
    pub const CAPABILITIES: u32 = 0;
    /// `KVM_TDX_INIT_VM`, on the VM.
    pub const INIT_VM: u32 = 1;
    /// `KVM_TDX_INIT_VCPU`, on a vCPU.
    pub const INIT_VCPU: u32 = 2;
    /// `KVM_TDX_INIT_MEM_REGION`, on a vCPU.
    pub const INIT_MEM_REGION: u32 = 3;
    /// `KVM_TDX_FINALIZE_VM`, on the VM.
    pub const FINALIZE_VM: u32 = 4;
    /// `KVM_TDX_GET_CPUID`, on a vCPU.
    pub const GET_CPUID: u32 = 5;
}

/// Flag of [`cmd::INIT_MEM_REGION`]: extend the measurement by the contents (`KVM_TDX_MEASURE_MEMORY_REGION`).
pub const MEASURE_MEMORY_REGION: u32 = 1;

/// `struct kvm_tdx_cmd`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct TdxCmd {
    /// One of [`cmd`].
    pub id: u32,
    /// Flags of the sub-command.
    pub flags: u32,
    /// Address of the sub-command's structure; of INIT_VCPU the value itself.
    pub data: u64,
    /// In: 0. Out (INIT_VM and FINALIZE_VM only): what the TDX module answered.
    pub hw_error: TdxStatus,
}

const _: () = assert!(size_of::<TdxCmd>() == 24);
const _: () = assert!(offset_of!(TdxCmd, data) == 8);
const _: () = assert!(offset_of!(TdxCmd, hw_error) == 16);

/// `struct kvm_cpuid2` without its entries, which follow.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct CpuidHeader {
    /// In: room for so many entries. Out: how many there are.
    pub nent: u32,
    /// Zero.
    pub padding: u32,
}

/// `struct kvm_cpuid_entry2`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct CpuidEntry {
    /// Leaf.
    pub function: u32,
    /// Subleaf.
    pub index: u32,
    /// Bit 0: the subleaf counts (`KVM_CPUID_FLAG_SIGNIFCANT_INDEX`).
    pub flags: u32,
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
    /// Zero.
    pub padding: [u32; 3],
}

const _: () = assert!(size_of::<CpuidEntry>() == 40);

/// `struct kvm_tdx_capabilities` up to the entries of its CPUID table, which follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TdxCapabilities {
    /// Attributes that INIT_VM accepts.
    pub supported_attrs: TdAttributes,
    /// Extended features that INIT_VM accepts.
    pub supported_xfam: Xfam,
    /// GetTdVmCallInfo, leaf 1, R11: what the kernel handles.
    pub kernel_tdvmcallinfo_1_r11: u64,
    /// As above: what user space may offer.
    pub user_tdvmcallinfo_1_r11: u64,
    /// R12: what the kernel handles.
    pub kernel_tdvmcallinfo_1_r12: u64,
    /// R12: what user space may offer.
    pub user_tdvmcallinfo_1_r12: u64,
    /// Zero.
    pub reserved: [u64; 250],
    /// The CPUID bits that INIT_VM can configure, by leaf.
    pub cpuid: CpuidHeader,
}

const _: () = assert!(size_of::<TdxCapabilities>() == 2056);
const _: () = assert!(offset_of!(TdxCapabilities, reserved) == 48);
const _: () = assert!(offset_of!(TdxCapabilities, cpuid) == 2048);

/// `struct kvm_tdx_init_vm` up to the entries of its CPUID table, which follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TdxInitVm {
    /// Attributes.
    pub attributes: TdAttributes,
    /// Extended features.
    pub xfam: Xfam,
    /// SHA-384-sized identifier of the configuration.
    pub mrconfigid: [u8; 48],
    /// SHA-384-sized identifier of the owner.
    pub mrowner: [u8; 48],
    /// SHA-384-sized identifier of the owner's configuration.
    pub mrownerconfig: [u8; 48],
    /// Zero.
    pub reserved: [u64; 12],
    /// Values of the configurable CPUID bits; 8000_0008 EAX 23:16 chooses the guest's address width.
    pub cpuid: CpuidHeader,
}

const _: () = assert!(size_of::<TdxInitVm>() == 264);
const _: () = assert!(offset_of!(TdxInitVm, mrconfigid) == 16);
const _: () = assert!(offset_of!(TdxInitVm, mrowner) == 64);
const _: () = assert!(offset_of!(TdxInitVm, mrownerconfig) == 112);
const _: () = assert!(offset_of!(TdxInitVm, reserved) == 160);
const _: () = assert!(offset_of!(TdxInitVm, cpuid) == 256);

/// `struct kvm_tdx_init_mem_region`. The kernel rewrites it to what is left, on success and on failure.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct TdxInitMemRegion {
    /// User address of the contents.
    pub source_addr: u64,
    /// Guest physical address.
    pub gpa: u64,
    /// Pages of 4 KiB.
    pub nr_pages: u64,
}

const _: () = assert!(size_of::<TdxInitMemRegion>() == 24);

/// `KVM_EXIT_TDX`: a TDVMCALL that user space answers.
pub const KVM_EXIT_TDX: u32 = 40;
/// `KVM_SYSTEM_EVENT_TDX_FATAL`: the guest reported a fatal error; the data are its registers, by their x86 numbers.
pub const KVM_SYSTEM_EVENT_TDX_FATAL: u32 = 7;

/// `struct kvm_run`'s `tdx` member: what [`KVM_EXIT_TDX`] carries. `nr` is the TDVMCALL's number
/// ([`crate::tdx::vmcall`]) and says what `data` holds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct TdxExit {
    /// Zero.
    pub flags: u64,
    /// The TDVMCALL's number.
    pub nr: u64,
    /// In: what the guest gets if user space does nothing. Out: R10 of the guest ([`crate::tdx::vmcall::Status`]).
    pub ret: u64,
    /// GetQuote: address without the shared bit, size. GetTdVmCallInfo: leaf, then answers R11 to R14.
    /// SetupEventNotifyInterrupt: vector.
    pub data: [u64; 5],
}

const _: () = assert!(size_of::<TdxExit>() == 64);
const _: () = assert!(offset_of!(TdxExit, ret) == 16);
const _: () = assert!(offset_of!(TdxExit, data) == 24);
