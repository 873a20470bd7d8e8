//! Quotes: GetQuote's buffer (GHCI 1.5, `TDG.VP.VMCALL<GetQuote>`; Linux drivers/virt/coco/tdx-guest/tdx-guest.c
//! `tdx_quote_buf`) and what comes back in it ("Intel TDX DCAP: Quote Generation Library and Quote Verification Library",
//! appendix A.3, version 4).

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{TdAttributes, TdReport, Xfam};

/// Head of the shared buffer; the TDREPORT follows, and is replaced by the quote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct QuoteBuffer {
    /// [`QuoteBuffer::VERSION`].
    pub version: u64,
    /// [`QuoteBuffer::IN_FLIGHT`] until the host is done.
    pub status: u64,
    /// Bytes that the guest put there.
    pub in_len: u32,
    /// Bytes that the host put there.
    pub out_len: u32,
}

impl QuoteBuffer {
    /// Version of this layout.
    pub const VERSION: u64 = 1;
    /// The quote is there.
    pub const SUCCESS: u64 = 0;
    /// The host works on it.
    pub const IN_FLIGHT: u64 = u64::MAX;
    /// The host failed.
    pub const ERROR: u64 = 1 << 63;
    /// The quoting service cannot be reached.
    pub const UNAVAILABLE: u64 = 1 << 63 | 1;
}

const _: () = assert!(size_of::<QuoteBuffer>() == 24);
const _: () = assert!(offset_of!(QuoteBuffer, in_len) == 16);

/// Head of a quote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct QuoteHeader {
    /// [`QuoteHeader::VERSION`].
    pub version: u16,
    /// [`QuoteHeader::ECDSA_P256`].
    pub attestation_key_type: u16,
    /// [`QuoteHeader::TEE_TDX`].
    pub tee_type: u32,
    /// Zero.
    pub reserved: [u8; 4],
    /// [`QuoteHeader::INTEL`].
    pub qe_vendor_id: [u8; 16],
    /// Identifier of the quoting enclave on its platform, then zeros.
    pub user_data: [u8; 20],
}

impl QuoteHeader {
    /// This layout.
    pub const VERSION: u16 = 4;
    /// ECDSA with P-256 and SHA-256.
    pub const ECDSA_P256: u16 = 2;
    /// A TD's.
    pub const TEE_TDX: u32 = 0x81;
    /// 939a7233-f79c-4ca9-940a-0db3957f0607.
    pub const INTEL: [u8; 16] = [
        0x93, 0x9A, 0x72, 0x33, 0xF7, 0x9C, 0x4C, 0xA9, 0x94, 0x0A, 0x0D, 0xB3, 0x95, 0x7F, 0x06,
        0x07,
    ];
}

const _: () = assert!(size_of::<QuoteHeader>() == 48);
const _: () = assert!(offset_of!(QuoteHeader, qe_vendor_id) == 12);
const _: () = assert!(offset_of!(QuoteHeader, user_data) == 28);

/// Body of a quote: what a TDREPORT says (TD Quote Body, TDX 1.0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct QuoteBody {
    /// Security version of the module.
    pub tee_tcb_svn: [u8; 16],
    /// SHA-384 of the module.
    pub mr_seam: [u8; 48],
    /// SHA-384 of the module's signer; zero for Intel.
    pub mr_signer_seam: [u8; 48],
    /// Attributes of the module.
    pub seam_attributes: [u8; 8],
    /// Attributes of the TD.
    pub td_attributes: TdAttributes,
    /// Extended features of the TD.
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
    /// What the guest wanted in it.
    pub report_data: [u8; 64],
}

impl QuoteBody {
    /// What a quote takes over from a report.
    pub const fn of(report: &TdReport) -> Self {
        let (module, td) = (&report.tee_tcb_info, &report.td_info);
        Self {
            tee_tcb_svn: module.tee_tcb_svn,
            mr_seam: module.mr_seam,
            mr_signer_seam: module.mr_signer_seam,
            seam_attributes: module.attributes,
            td_attributes: td.attributes,
            xfam: td.xfam,
            mrtd: td.mrtd,
            mrconfigid: td.mrconfigid,
            mrowner: td.mrowner,
            mrownerconfig: td.mrownerconfig,
            rtmr: td.rtmr,
            report_data: report.mac.report_data,
        }
    }
}

const _: () = assert!(size_of::<QuoteBody>() == 584);
const _: () = assert!(offset_of!(QuoteBody, td_attributes) == 120);
const _: () = assert!(offset_of!(QuoteBody, mrtd) == 136);
const _: () = assert!(offset_of!(QuoteBody, rtmr) == 328);
const _: () = assert!(offset_of!(QuoteBody, report_data) == 520);

/// Kinds of certification data (table "QE Certification Data").
pub mod certification {
    /// The PCK certificate and its issuers, leaf first, in PEM.
    pub const PCK_CHAIN: u16 = 5;
    /// An enclave report and its signature, the enclave's authentication data, and certification data of another kind.
    pub const QE_REPORT: u16 = 6;
}

/// REPORTBODY of an SGX enclave: how the quoting enclave is vouched for (Intel SDM volume 3D, "REPORT").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EnclaveReport {
    /// Security version of the processor.
    pub cpu_svn: [u8; 16],
    /// Selected state.
    pub misc_select: u32,
    /// Zero.
    pub reserved_14: [u8; 28],
    /// Flags and XFRM.
    pub attributes: [u8; 16],
    /// SHA-256 of the enclave.
    pub mr_enclave: [u8; 32],
    /// Zero.
    pub reserved_60: [u8; 32],
    /// SHA-256 of its signer's key.
    pub mr_signer: [u8; 32],
    /// Zero.
    pub reserved_a0: [u8; 96],
    /// Which of the signer's enclaves.
    pub isv_prod_id: u16,
    /// Its security version.
    pub isv_svn: u16,
    /// Zero.
    pub reserved_104: [u8; 60],
    /// SHA-256 of attestation key and authentication data, then zeros.
    pub report_data: [u8; 64],
}

const _: () = assert!(size_of::<EnclaveReport>() == 384);
const _: () = assert!(offset_of!(EnclaveReport, mr_signer) == 128);
const _: () = assert!(offset_of!(EnclaveReport, isv_prod_id) == 256);
const _: () = assert!(offset_of!(EnclaveReport, report_data) == 320);
