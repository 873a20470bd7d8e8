//! Guest messages: what a guest and the firmware say to each other under a VMPCK.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::report::AttestationReport;
use super::{FirmwareStatus, TcbVersion};

/// Kind of a guest message (firmware ABI 56860, chapter 7, table "Message Type Encodings").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct MessageType(pub u8);

#[expect(missing_docs, reason = "the names are the specification's")]
impl MessageType {
    pub const CPUID_REQ: Self = Self(1);
    pub const CPUID_RSP: Self = Self(2);
    pub const KEY_REQ: Self = Self(3);
    pub const KEY_RSP: Self = Self(4);
    pub const REPORT_REQ: Self = Self(5);
    pub const REPORT_RSP: Self = Self(6);
    pub const EXPORT_REQ: Self = Self(7);
    pub const EXPORT_RSP: Self = Self(8);
    pub const IMPORT_REQ: Self = Self(9);
    pub const IMPORT_RSP: Self = Self(10);
    pub const ABSORB_REQ: Self = Self(11);
    pub const ABSORB_RSP: Self = Self(12);
    pub const VMRK_REQ: Self = Self(13);
    pub const VMRK_RSP: Self = Self(14);
    pub const ABSORB_NOMA_REQ: Self = Self(15);
    pub const ABSORB_NOMA_RSP: Self = Self(16);
    pub const TSC_INFO_REQ: Self = Self(17);
    pub const TSC_INFO_RSP: Self = Self(18);
}

/// The AEAD algorithm AES-256-GCM (firmware ABI 56860, chapter 7, table "AEAD Algorithms").
pub const AEAD_AES_256_GCM: u8 = 1;
/// Version of [`MessageHeader`].
pub const MESSAGE_HEADER_VERSION: u8 = 1;

/// Header of a guest message (firmware ABI 56860, chapter 7, table "Message Header Format").
/// Bytes 0x30..0x60 are the additional authenticated data; the payload follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MessageHeader {
    /// Authentication tag: 16 bytes, then zeros.
    pub authtag: [u8; 32],
    /// Sequence number, also the low 8 bytes of the IV.
    pub msg_seqno: u64,
    /// Zero.
    pub reserved_28: [u8; 8],
    /// [`AEAD_AES_256_GCM`].
    pub algo: u8,
    /// [`MESSAGE_HEADER_VERSION`].
    pub hdr_version: u8,
    /// Size of this header.
    pub hdr_size: u16,
    /// Kind.
    pub msg_type: MessageType,
    /// Version of the payload.
    pub msg_version: u8,
    /// Bytes of payload.
    pub msg_size: u16,
    /// Zero.
    pub reserved_38: u32,
    /// Which VMPCK.
    pub msg_vmpck: u8,
    /// Zero.
    pub reserved_3d: [u8; 35],
}

const _: () = assert!(size_of::<MessageHeader>() == 0x60);
const _: () = assert!(offset_of!(MessageHeader, msg_seqno) == 0x20);
const _: () = assert!(offset_of!(MessageHeader, algo) == 0x30);
const _: () = assert!(offset_of!(MessageHeader, msg_type) == 0x34);
const _: () = assert!(offset_of!(MessageHeader, msg_vmpck) == 0x3c);

/// Where the additional authenticated data starts in [`MessageHeader`].
pub const MESSAGE_AAD_OFFSET: usize = 0x30;
/// Bytes that a message's payload can have.
pub const MESSAGE_PAYLOAD_MAX: usize = 4000;

/// A message page: header and payload.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MessagePage {
    /// Header.
    pub header: MessageHeader,
    /// Encrypted payload, `header.msg_size` bytes of it used.
    pub payload: [u8; MESSAGE_PAYLOAD_MAX],
}

const _: () = assert!(size_of::<MessagePage>() == 4096);

/// MSG_REPORT_REQ (firmware ABI 56860, section 7.3).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReportReq {
    /// Guest-provided data for the report.
    pub report_data: [u8; 64],
    /// VMPL to put in the report; not below the requester's.
    pub vmpl: u32,
    /// Bits 1:0: 0 VLEK if installed else VCEK, 1 VCEK, 2 VLEK.
    pub key_sel: u32,
    /// Zero.
    pub reserved: [u8; 24],
}

const _: () = assert!(size_of::<ReportReq>() == 96);

/// MSG_REPORT_RSP (firmware ABI 56860, section 7.3).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReportRsp {
    /// 0, 0x16 invalid parameters or 0x27 invalid key selection.
    pub status: FirmwareStatus,
    /// Bytes of the report.
    pub report_size: u32,
    /// Zero.
    pub reserved: [u8; 24],
    /// The report.
    pub report: AttestationReport,
}

const _: () = assert!(size_of::<ReportRsp>() == 0x4c0);

/// MSG_KEY_REQ (firmware ABI 56860, section 7.2; Linux include/uapi/linux/sev-guest.h
/// `snp_derived_key_req`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct KeyReq {
    /// Bit 0: 0 VCEK, 1 VMRK. Bits 2:1 key selection as in [`ReportReq`].
    pub root_key_select: u32,
    /// Zero.
    pub reserved: u32,
    /// Which guest data is mixed into the key.
    pub guest_field_select: u64,
    /// VMPL to mix into the key; not below the requester's.
    pub vmpl: u32,
    /// Guest SVN to mix in; not above the guest's.
    pub guest_svn: u32,
    /// TCB version to mix in; not above the committed one.
    pub tcb_version: TcbVersion,
}

const _: () = assert!(size_of::<KeyReq>() == 32);

/// Bits of [`KeyReq::guest_field_select`].
pub mod guest_field {
    /// The guest policy.
    pub const GUEST_POLICY: u64 = 1 << 0;
    /// The image id.
    pub const IMAGE_ID: u64 = 1 << 1;
    /// The family id.
    pub const FAMILY_ID: u64 = 1 << 2;
    /// The launch digest.
    pub const MEASUREMENT: u64 = 1 << 3;
    /// The guest SVN of the request.
    pub const GUEST_SVN: u64 = 1 << 4;
    /// The TCB version of the request.
    pub const TCB_VERSION: u64 = 1 << 5;
    /// The launch mitigation vector (message version 2).
    pub const LAUNCH_MIT_VECTOR: u64 = 1 << 6;
}

/// MSG_KEY_RSP (firmware ABI 56860, section 7.2).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct KeyRsp {
    /// 0, 0x16 invalid parameters or 0x27 invalid key selection.
    pub status: FirmwareStatus,
    /// Zero.
    pub reserved: [u8; 28],
    /// The derived key.
    pub key: [u8; 32],
}

const _: () = assert!(size_of::<KeyRsp>() == 0x40);

/// Bytes of MSG_TSC_INFO_REQ, all zero (firmware ABI 56860, section 7.11).
pub const TSC_INFO_REQ_SIZE: usize = 128;

/// MSG_TSC_INFO_RSP (firmware ABI 56860, section 7.11).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TscInfoRsp {
    /// 0 or 0x16 invalid parameters.
    pub status: FirmwareStatus,
    /// Zero.
    pub reserved_4: u32,
    /// Guest TSC scale, 8.32 fixed point.
    pub tsc_scale: u64,
    /// Guest TSC offset.
    pub tsc_offset: u64,
    /// Deviation of the mean TSC frequency, in 1/100000.
    pub tsc_factor: u32,
    /// Zero.
    pub reserved_1c: [u8; 100],
}

const _: () = assert!(size_of::<TscInfoRsp>() == 128);
const _: () = assert!(offset_of!(TscInfoRsp, tsc_factor) == 0x18);
