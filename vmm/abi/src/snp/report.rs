//! The attestation report.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{EcdsaSignature, SnpPolicy, TcbVersion};

/// An attestation report (firmware ABI 56860, section 7.3, table "ATTESTATION_REPORT Structure").
/// Versions 2 to 5 share this layout; later ones name fields that were reserved.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AttestationReport {
    /// Version of this structure.
    pub version: u32,
    /// Guest security version, from the ID block.
    pub guest_svn: u32,
    /// Guest policy.
    pub policy: SnpPolicy,
    /// Family, from the ID block.
    pub family_id: [u8; 16],
    /// Image, from the ID block.
    pub image_id: [u8; 16],
    /// VMPL of the request.
    pub vmpl: u32,
    /// Signature algorithm: 1, ECDSA P-384 with SHA-384.
    pub signature_algo: u32,
    /// TCB in use.
    pub current_tcb: TcbVersion,
    /// Bits of [`platform_info`].
    pub platform_info: u64,
    /// Bit 0 author key enabled, bit 1 chip key masked, bits 4:2 signing key (0 VCEK, 1 VLEK,
    /// 7 none).
    pub flags: u32,
    /// Zero.
    pub reserved_4c: u32,
    /// Guest-provided data.
    pub report_data: [u8; 64],
    /// Launch digest.
    pub measurement: [u8; 48],
    /// Host-provided data of LAUNCH_FINISH.
    pub host_data: [u8; 32],
    /// SHA-384 of the ID key.
    pub id_key_digest: [u8; 48],
    /// SHA-384 of the author key.
    pub author_key_digest: [u8; 48],
    /// This guest's identifier.
    pub report_id: [u8; 32],
    /// The migration agent's identifier, all ones without one.
    pub report_id_ma: [u8; 32],
    /// TCB that the signing key is derived from.
    pub reported_tcb: TcbVersion,
    /// CPUID family, extended and base combined (version 3).
    pub cpuid_family: u8,
    /// CPUID model (version 3).
    pub cpuid_model: u8,
    /// CPUID stepping (version 3).
    pub cpuid_stepping: u8,
    /// Zero.
    pub reserved_18b: [u8; 21],
    /// Identifier of the chip, zero if masked.
    pub chip_id: [u8; 64],
    /// TCB that cannot be rolled back.
    pub committed_tcb: TcbVersion,
    /// Firmware build in use.
    pub current_build: u8,
    /// Firmware minor version in use.
    pub current_minor: u8,
    /// Firmware major version in use.
    pub current_major: u8,
    /// Zero.
    pub reserved_1eb: u8,
    /// Committed firmware build.
    pub committed_build: u8,
    /// Committed firmware minor version.
    pub committed_minor: u8,
    /// Committed firmware major version.
    pub committed_major: u8,
    /// Zero.
    pub reserved_1ef: u8,
    /// TCB at launch or import.
    pub launch_tcb: TcbVersion,
    /// Mitigations at launch (version 5).
    pub launch_mit_vector: u64,
    /// Mitigations now (version 5).
    pub current_mit_vector: u64,
    /// Zero.
    pub reserved_208: [u8; 152],
    /// Signature of the bytes before it.
    pub signature: EcdsaSignature,
}

/// Bytes of a report that are signed.
pub const REPORT_SIGNED_SIZE: usize = 0x2a0;

const _: () = assert!(size_of::<AttestationReport>() == 0x4a0);
const _: () = assert!(offset_of!(AttestationReport, current_tcb) == 0x38);
const _: () = assert!(offset_of!(AttestationReport, report_data) == 0x50);
const _: () = assert!(offset_of!(AttestationReport, measurement) == 0x90);
const _: () = assert!(offset_of!(AttestationReport, host_data) == 0xc0);
const _: () = assert!(offset_of!(AttestationReport, report_id) == 0x140);
const _: () = assert!(offset_of!(AttestationReport, reported_tcb) == 0x180);
const _: () = assert!(offset_of!(AttestationReport, chip_id) == 0x1a0);
const _: () = assert!(offset_of!(AttestationReport, launch_tcb) == 0x1f0);
const _: () = assert!(offset_of!(AttestationReport, signature) == REPORT_SIGNED_SIZE);

/// Bits of [`AttestationReport::platform_info`].
pub mod platform_info {
    /// Simultaneous multithreading is on.
    pub const SMT_EN: u64 = 1 << 0;
    /// Transparent memory encryption is on.
    pub const TSME_EN: u64 = 1 << 1;
    /// Memory has ECC.
    pub const ECC_EN: u64 = 1 << 2;
    /// Running average power limit is off.
    pub const RAPL_DIS: u64 = 1 << 3;
    /// DRAM ciphertext hiding is on.
    pub const CIPHERTEXT_HIDING_DRAM_EN: u64 = 1 << 4;
    /// No address aliases were found since the last reset.
    pub const ALIAS_CHECK_COMPLETE: u64 = 1 << 5;
}

/// Entry of the certificate table of an extended guest request (GHCB specification 56421,
/// section 4.1.8.1); a zero entry ends the table.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct CertTableEntry {
    /// Which certificate, in the byte order of RFC 4122's text form.
    pub guid: [u8; 16],
    /// Where it starts in the table.
    pub offset: u32,
    /// Its bytes (DER).
    pub length: u32,
}

const _: () = assert!(size_of::<CertTableEntry>() == 24);

/// GUID of the VCEK certificate: 63da758d-e664-4564-adc5-f4b93be8accd.
pub const CERT_GUID_VCEK: [u8; 16] = 0x63da758d_e664_4564_adc5_f4b93be8accdu128.to_be_bytes();
/// GUID of the VLEK certificate: a8074bc2-a25a-483e-aae6-39c045a0b8a1.
pub const CERT_GUID_VLEK: [u8; 16] = 0xa8074bc2_a25a_483e_aae6_39c045a0b8a1u128.to_be_bytes();
/// GUID of the ASK certificate: 4ab7b379-bbac-4fe4-a02f-05aef327c782.
pub const CERT_GUID_ASK: [u8; 16] = 0x4ab7b379_bbac_4fe4_a02f_05aef327c782u128.to_be_bytes();
/// GUID of the ARK certificate: c0b406a4-a803-4952-9743-3fb6014cd0ae.
pub const CERT_GUID_ARK: [u8; 16] = 0xc0b406a4_a803_4952_9743_3fb6014cd0aeu128.to_be_bytes();
