//! TDREPORT_STRUCT: what TDG.MR.REPORT writes (ABI specification, "TDREPORT_STRUCT"; Linux
//! drivers/virt/coco/tdx-guest/tdx-guest.c).

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{TdAttributes, Xfam};

/// A TDREPORT.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TdReport {
    /// What the processor vouches for.
    pub mac: ReportMac,
    /// About the module.
    pub tee_tcb_info: TeeTcbInfo,
    /// Zero.
    pub reserved: [u8; 17],
    /// About the TD.
    pub td_info: TdInfo,
}

const _: () = assert!(size_of::<TdReport>() == 1024);
const _: () = assert!(offset_of!(TdReport, tee_tcb_info) == 256);
const _: () = assert!(offset_of!(TdReport, td_info) == 512);

/// REPORTMACSTRUCT.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReportMac {
    /// Type [`ReportMac::TYPE_TDX`], subtype, version (1 if a service TD is bound), 0.
    pub report_type: [u8; 4],
    /// Zero.
    pub reserved_04: [u8; 12],
    /// Security version of the processor.
    pub cpu_svn: [u8; 16],
    /// SHA-384 of [`TeeTcbInfo`].
    pub tee_tcb_info_hash: [u8; 48],
    /// SHA-384 of [`TdInfo`].
    pub tee_info_hash: [u8; 48],
    /// What the guest wanted in it.
    pub report_data: [u8; 64],
    /// Zero.
    pub reserved_c0: [u8; 32],
    /// HMAC-SHA-256 of everything before, by a key that the processor keeps.
    pub mac: [u8; 32],
}

impl ReportMac {
    /// `report_type[0]` of a TD.
    pub const TYPE_TDX: u8 = 0x81;
}

const _: () = assert!(size_of::<ReportMac>() == 256);
const _: () = assert!(offset_of!(ReportMac, tee_tcb_info_hash) == 32);
const _: () = assert!(offset_of!(ReportMac, report_data) == 128);
const _: () = assert!(offset_of!(ReportMac, mac) == 224);

/// TEE_TCB_INFO: 239 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TeeTcbInfo {
    /// Which of the following fields are valid.
    pub valid: [u8; 8],
    /// Security version of the module.
    pub tee_tcb_svn: [u8; 16],
    /// SHA-384 of the module.
    pub mr_seam: [u8; 48],
    /// SHA-384 of the module's signer; zero for Intel.
    pub mr_signer_seam: [u8; 48],
    /// Attributes of the module.
    pub attributes: [u8; 8],
    /// Security version of the running module.
    pub tee_tcb_svn2: [u8; 16],
    /// Zero.
    pub reserved: [u8; 95],
}

const _: () = assert!(size_of::<TeeTcbInfo>() == 239);
const _: () = assert!(offset_of!(TeeTcbInfo, mr_seam) == 24);
const _: () = assert!(offset_of!(TeeTcbInfo, tee_tcb_svn2) == 128);

/// TDINFO_STRUCT: the identity of a TD.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TdInfo {
    /// Attributes.
    pub attributes: TdAttributes,
    /// Extended features.
    pub xfam: Xfam,
    /// Measurement of the launch pages.
    pub mrtd: [u8; 48],
    /// From INIT_VM.
    pub mrconfigid: [u8; 48],
    /// From INIT_VM.
    pub mrowner: [u8; 48],
    /// From INIT_VM.
    pub mrownerconfig: [u8; 48],
    /// Run-time measurements.
    pub rtmr: [[u8; 48]; 4],
    /// Hash over the bound service TDs.
    pub servtd_hash: [u8; 48],
    /// Zero.
    pub reserved: [u8; 64],
}

const _: () = assert!(size_of::<TdInfo>() == 512);
const _: () = assert!(offset_of!(TdInfo, mrtd) == 16);
const _: () = assert!(offset_of!(TdInfo, mrconfigid) == 64);
const _: () = assert!(offset_of!(TdInfo, mrowner) == 112);
const _: () = assert!(offset_of!(TdInfo, mrownerconfig) == 160);
const _: () = assert!(offset_of!(TdInfo, rtmr) == 208);
const _: () = assert!(offset_of!(TdInfo, servtd_hash) == 400);
