//! Linux's user ABI for SNP guests: what `KVM_MEMORY_ENCRYPT_OP`, the SEV device attributes
//! and `/dev/sev` take, as of Linux 7.2 (arch/x86/include/uapi/asm/kvm.h,
//! include/uapi/linux/kvm.h, include/uapi/linux/psp-sev.h).
//!
//! kvm-bindings has some of this; the structures stand here because ours must be plain bytes on
//! both sides of the ABI, and because published wrappers got the size of LAUNCH_FINISH wrong.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::snp::{SnpPolicy, TcbVersion};

/// VM type of an SNP guest (`KVM_X86_SNP_VM`).
pub const KVM_X86_SNP_VM: u64 = 4;
/// `KVM_MEMORY_ENCRYPT_REG_REGION`.
pub const KVM_MEMORY_ENCRYPT_REG_REGION: u64 = 0x8010_aebb;
/// `KVM_MEMORY_ENCRYPT_UNREG_REGION`.
pub const KVM_MEMORY_ENCRYPT_UNREG_REGION: u64 = 0x8010_aebc;

/// Device attribute group of SEV on `/dev/kvm` (`KVM_X86_GRP_SEV`).
pub const KVM_X86_GRP_SEV: u32 = 1;
/// Attribute: VMSA features that INIT2 accepts.
pub const KVM_X86_SEV_VMSA_FEATURES: u64 = 0;
/// Attribute: policy bits that LAUNCH_START accepts.
pub const KVM_X86_SNP_POLICY_BITS: u64 = 1;
/// Attribute: whether `KVM_SEV_SNP_ENABLE_REQ_CERTS` exists.
pub const KVM_X86_SEV_SNP_REQ_CERTS: u64 = 2;

/// Sub-command of `KVM_MEMORY_ENCRYPT_OP` (`enum sev_cmd_id`).
pub mod cmd {
    /// `KVM_SEV_INIT` (legacy).
    pub const SEV_INIT: u32 = 0;
    /// `KVM_SEV_ES_INIT` (legacy).
    pub const SEV_ES_INIT: u32 = 1;
    /// `KVM_SEV_INIT2`.
    pub const SEV_INIT2: u32 = 22;
    /// `KVM_SEV_SNP_LAUNCH_START`.
    pub const SNP_LAUNCH_START: u32 = 100;
    /// `KVM_SEV_SNP_LAUNCH_UPDATE`.
    pub const SNP_LAUNCH_UPDATE: u32 = 101;
    /// `KVM_SEV_SNP_LAUNCH_FINISH`.
    pub const SNP_LAUNCH_FINISH: u32 = 102;
    /// `KVM_SEV_SNP_ENABLE_REQ_CERTS`.
    pub const SNP_ENABLE_REQ_CERTS: u32 = 103;
}

/// `struct kvm_sev_cmd`, the argument of `KVM_MEMORY_ENCRYPT_OP`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SevCmd {
    /// One of [`cmd`].
    pub id: u32,
    /// Zero.
    pub pad0: u32,
    /// User address of the sub-command's structure.
    pub data: u64,
    /// Out: firmware status.
    pub error: u32,
    /// `/dev/sev`.
    pub sev_fd: u32,
}

const _: () = assert!(size_of::<SevCmd>() == 24);
const _: () = assert!(offset_of!(SevCmd, error) == 16);

/// `struct kvm_sev_init` (INIT2).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SevInit {
    /// VMSA features, without SNP_ACTIVE.
    pub vmsa_features: u64,
    /// Zero.
    pub flags: u32,
    /// 0 or 2.
    pub ghcb_version: u16,
    /// Zero.
    pub pad1: u16,
    /// Zero.
    pub pad2: [u32; 8],
}

const _: () = assert!(size_of::<SevInit>() == 48);
const _: () = assert!(offset_of!(SevInit, ghcb_version) == 12);

/// `struct kvm_sev_snp_launch_start`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnpLaunchStart {
    /// Guest policy.
    pub policy: SnpPolicy,
    /// Guest OS visible workarounds.
    pub gosvw: [u8; 16],
    /// Zero.
    pub flags: u16,
    /// Zero.
    pub pad0: [u8; 6],
    /// Zero.
    pub pad1: [u64; 4],
}

const _: () = assert!(size_of::<SnpLaunchStart>() == 64);
const _: () = assert!(offset_of!(SnpLaunchStart, flags) == 24);

/// `struct kvm_sev_snp_launch_update`; the kernel advances it over the pages it has done.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnpLaunchUpdate {
    /// First guest frame.
    pub gfn_start: u64,
    /// User address of the contents.
    pub uaddr: u64,
    /// Bytes.
    pub len: u64,
    /// [`crate::snp::PageType`].
    pub page_type: u8,
    /// Zero.
    pub pad0: u8,
    /// Zero.
    pub flags: u16,
    /// Zero.
    pub pad1: u32,
    /// Zero.
    pub pad2: [u64; 4],
}

const _: () = assert!(size_of::<SnpLaunchUpdate>() == 64);
const _: () = assert!(offset_of!(SnpLaunchUpdate, page_type) == 24);
const _: () = assert!(offset_of!(SnpLaunchUpdate, flags) == 26);

/// `struct kvm_sev_snp_launch_finish`: 88 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnpLaunchFinish {
    /// User address of an [`crate::snp::IdBlock`].
    pub id_block_uaddr: u64,
    /// User address of an [`crate::snp::IdAuth`].
    pub id_auth_uaddr: u64,
    /// Whether there is an ID block.
    pub id_block_en: u8,
    /// Whether the ID key is signed by an author key.
    pub auth_key_en: u8,
    /// Refuse reports signed by the VCEK.
    pub vcek_disabled: u8,
    /// Opaque data for the report.
    pub host_data: [u8; 32],
    /// Zero.
    pub pad0: [u8; 3],
    /// Zero.
    pub flags: u16,
    /// Zero.
    pub pad1: [u64; 4],
}

const _: () = assert!(size_of::<SnpLaunchFinish>() == 88);
const _: () = assert!(offset_of!(SnpLaunchFinish, vcek_disabled) == 18);
const _: () = assert!(offset_of!(SnpLaunchFinish, host_data) == 19);
const _: () = assert!(offset_of!(SnpLaunchFinish, flags) == 54);
/// `KVM_EXIT_AP_RESET_HOLD`.
pub const KVM_EXIT_AP_RESET_HOLD: u32 = 32;
/// `KVM_EXIT_SNP_REQ_CERTS`.
pub const KVM_EXIT_SNP_REQ_CERTS: u32 = 43;
/// `KVM_SYSTEM_EVENT_SEV_TERM`.
pub const KVM_SYSTEM_EVENT_SEV_TERM: u32 = 6;

/// `KVM_EXIT_SNP_REQ_CERTS` in `struct kvm_run`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExitSnpReqCerts {
    /// Where the certificate table goes, in shared memory.
    pub gpa: u64,
    /// Pages there; on ENOSPC the monitor writes how many it needs.
    pub npages: u64,
    /// Answer: 0, ENOSPC, EAGAIN or EIO.
    pub ret: u64,
}

/// `SEV_ISSUE_CMD` on `/dev/sev`.
pub const SEV_ISSUE_CMD: u64 = 0xc010_5300;

/// `struct sev_issue_cmd`, packed.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
pub struct SevIssueCmd {
    /// One of [`platform_cmd`].
    pub cmd: u32,
    /// User address of the command's structure.
    pub data: u64,
    /// Out: firmware status.
    pub error: u32,
}

const _: () = assert!(size_of::<SevIssueCmd>() == 16);

/// Commands of `/dev/sev`.
pub mod platform_cmd {
    /// `SEV_FACTORY_RESET`.
    pub const FACTORY_RESET: u32 = 0;
    /// `SEV_PLATFORM_STATUS`.
    pub const PLATFORM_STATUS: u32 = 1;
    /// `SEV_GET_ID` (deprecated).
    pub const GET_ID: u32 = 7;
    /// `SEV_GET_ID2`.
    pub const GET_ID2: u32 = 8;
    /// `SNP_PLATFORM_STATUS`.
    pub const SNP_PLATFORM_STATUS: u32 = 9;
    /// `SNP_COMMIT`.
    pub const SNP_COMMIT: u32 = 10;
    /// `SNP_SET_CONFIG`.
    pub const SNP_SET_CONFIG: u32 = 11;
    /// `SNP_VLEK_LOAD`.
    pub const SNP_VLEK_LOAD: u32 = 12;
}

/// `struct sev_user_data_status`: the platform as guests before SNP see it.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
pub struct SevPlatformStatus {
    /// API major version.
    pub api_major: u8,
    /// API minor version.
    pub api_minor: u8,
    /// 0 uninitialised, 1 initialised, 2 with guests.
    pub state: u8,
    /// [`SevPlatformStatus::CONFIG_ES`] and bit 0, which tells that somebody owns the platform.
    pub flags: u32,
    /// Build of this API version.
    pub build: u8,
    /// Guests of SEV and SEV-ES.
    pub guest_count: u32,
}

const _: () = assert!(size_of::<SevPlatformStatus>() == 12);

impl SevPlatformStatus {
    /// Initialised for SEV-ES.
    pub const CONFIG_ES: u32 = 0x100;
}

/// `struct sev_user_data_snp_status` (packed in the kernel; natural alignment gives the same).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnpPlatformStatus {
    /// API major version.
    pub api_major: u8,
    /// API minor version.
    pub api_minor: u8,
    /// 0 uninitialised, 1 initialised.
    pub state: u8,
    /// Bit 0: the RMP is initialised.
    pub is_rmp_initialized: u8,
    /// Firmware build.
    pub build_id: u32,
    /// Bits of [`status_flags`].
    pub flags: u32,
    /// Guests the firmware knows.
    pub guest_count: u32,
    /// TCB in use.
    pub current_tcb_version: TcbVersion,
    /// TCB in reports.
    pub reported_tcb_version: TcbVersion,
}

const _: () = assert!(size_of::<SnpPlatformStatus>() == 32);
const _: () = assert!(offset_of!(SnpPlatformStatus, guest_count) == 12);

/// Bits of [`SnpPlatformStatus::flags`].
pub mod status_flags {
    /// Reports do not show the chip id.
    pub const MASK_CHIP_ID: u32 = 1 << 0;
    /// Reports are not signed.
    pub const MASK_CHIP_KEY: u32 = 1 << 1;
    /// A VLEK is installed.
    pub const VLEK_EN: u32 = 1 << 2;
    /// FEATURE_INFO exists.
    pub const FEATURE_INFO: u32 = 1 << 3;
    /// RAPL is off.
    pub const RAPL_DIS: u32 = 1 << 4;
    /// Ciphertext hiding is possible.
    pub const CIPHERTEXT_HIDING_CAP: u32 = 1 << 5;
    /// Ciphertext hiding is on.
    pub const CIPHERTEXT_HIDING_EN: u32 = 1 << 6;
}

/// `struct sev_user_data_get_id2` (packed in the kernel; 12 bytes).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
pub struct SevGetId2 {
    /// User address of the buffer.
    pub address: u64,
    /// Its bytes; out: bytes of the id.
    pub length: u32,
}

const _: () = assert!(size_of::<SevGetId2>() == 12);
