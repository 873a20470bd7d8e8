//! The launch: policy, page types, the record hashed per page, CPUID and secrets pages, ID block.

use core::fmt;
use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A guest policy (firmware ABI 56860, section 4.3, table "Guest Policy").
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct SnpPolicy(pub u64);

bitflags::bitflags! {
    impl SnpPolicy: u64 {
        /// The lowest minor version of the firmware ABI.
        const ABI_MINOR = 0xff;
        /// The lowest major version of the firmware ABI.
        const ABI_MAJOR = 0xff00;
        /// Simultaneous multithreading may be on.
        const SMT = 1 << 16;
        /// Reserved, must be one.
        const MUST_BE_ONE = 1 << 17;
        /// A migration agent may be associated.
        const MIGRATE_MA = 1 << 18;
        /// The host may decrypt the guest with the debug commands.
        const DEBUG = 1 << 19;
        /// The guest may run on one socket only.
        const SINGLE_SOCKET = 1 << 20;
        /// CXL devices may be populated.
        const CXL_ALLOW = 1 << 21;
        /// Memory encryption must be AES-256-XTS.
        const MEM_AES_256_XTS = 1 << 22;
        /// Running average power limit must be off.
        const RAPL_DIS = 1 << 23;
        /// DRAM ciphertext hiding must be on.
        const CIPHERTEXT_HIDING_DRAM = 1 << 24;
        /// The page swap commands are refused.
        const PAGE_SWAP_DISABLE = 1 << 25;
    }
}

impl SnpPolicy {
    /// The lowest firmware ABI minor version this guest accepts.
    pub const fn abi_minor(self) -> u8 {
        (self.0 & 0xff) as u8
    }

    /// The lowest firmware ABI major version this guest accepts.
    pub const fn abi_major(self) -> u8 {
        (self.0 >> 8 & 0xff) as u8
    }
}

/// Kind of a launch page (firmware ABI 56860, SNP_LAUNCH_UPDATE, table "PAGE_TYPE").
#[derive(Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct PageType(pub u8);

impl PageType {
    /// Contents are measured.
    pub const NORMAL: Self = Self(1);
    /// A processor's save area; contents are measured.
    pub const VMSA: Self = Self(2);
    /// The firmware fills it with zeros.
    pub const ZERO: Self = Self(3);
    /// Contents are not measured.
    pub const UNMEASURED: Self = Self(4);
    /// The firmware writes the secrets page.
    pub const SECRETS: Self = Self(5);
    /// A CPUID table that the firmware checks.
    pub const CPUID: Self = Self(6);

    /// The specification's name, if the value is a known one.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::NORMAL => "NORMAL",
            Self::VMSA => "VMSA",
            Self::ZERO => "ZERO",
            Self::UNMEASURED => "UNMEASURED",
            Self::SECRETS => "SECRETS",
            Self::CPUID => "CPUID",
            _ => return None,
        })
    }

    /// Whether the page's contents enter the launch digest.
    pub const fn measures_contents(self) -> bool {
        matches!(self, Self::NORMAL | Self::VMSA)
    }
}

impl fmt::Debug for PageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "PageType({})", self.0),
        }
    }
}

/// The guest physical address under which mainline KVM measures every VMSA
/// (Linux arch/x86/kvm/svm/sev.c `INITIAL_VMSA_GPA`).
pub const KVM_VMSA_GPA: u64 = 0xffff_ffff_f000;

/// The record whose SHA-384 becomes the next launch digest (firmware ABI 56860,
/// SNP_LAUNCH_UPDATE, table "PAGE_INFO").
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PageInfo {
    /// The launch digest so far.
    pub digest_cur: [u8; 48],
    /// SHA-384 of the page for NORMAL and VMSA, else zero.
    pub contents: [u8; 48],
    /// Length of this record.
    pub length: u16,
    /// [`PageType`].
    pub page_type: PageType,
    /// Bit 0: part of an initial migration image.
    pub imi_page: u8,
    /// Permissions of VMPL3.
    pub vmpl3_perms: u8,
    /// Permissions of VMPL2.
    pub vmpl2_perms: u8,
    /// Permissions of VMPL1.
    pub vmpl1_perms: u8,
    /// Zero.
    pub reserved: u8,
    /// Guest physical address of the page.
    pub gpa: u64,
}

const _: () = assert!(size_of::<PageInfo>() == 0x70);
const _: () = assert!(offset_of!(PageInfo, length) == 0x60);
const _: () = assert!(offset_of!(PageInfo, page_type) == 0x62);
const _: () = assert!(offset_of!(PageInfo, gpa) == 0x68);

/// One function of the CPUID page (firmware ABI 56860, section 8.17, table "CPUID_FUNCTION").
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct CpuidFunction {
    /// EAX on input.
    pub eax_in: u32,
    /// ECX on input.
    pub ecx_in: u32,
    /// XCR0 at execution.
    pub xcr0_in: u64,
    /// IA32_XSS at execution.
    pub xss_in: u64,
    /// EAX on output.
    pub eax: u32,
    /// EBX on output.
    pub ebx: u32,
    /// ECX on output.
    pub ecx: u32,
    /// EDX on output.
    pub edx: u32,
    /// Zero.
    pub reserved: u64,
}

const _: () = assert!(size_of::<CpuidFunction>() == 48);
const _: () = assert!(offset_of!(CpuidFunction, eax) == 24);

/// Entries a CPUID page can hold (Linux arch/x86/include/asm/sev-common.h `SNP_CPUID_COUNT_MAX`).
pub const CPUID_COUNT_MAX: usize = 64;

/// The CPUID page (firmware ABI 56860, section 8.17, table "CPUID Page Format").
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CpuidPage {
    /// Entries in use.
    pub count: u32,
    /// Zero.
    pub reserved_4: u32,
    /// Zero.
    pub reserved_8: u64,
    /// The entries.
    pub functions: [CpuidFunction; CPUID_COUNT_MAX],
    /// Zero.
    pub reserved_c10: [u8; 0x3f0],
}

const _: () = assert!(size_of::<CpuidPage>() == 4096);
const _: () = assert!(offset_of!(CpuidPage, functions) == 16);

/// Part of the secrets page that firmware leaves to the guest's operating system
/// (Linux arch/x86/include/asm/sev.h `secrets_os_area`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SecretsOsArea {
    /// Message counters, one per VMPCK.
    pub msg_seqno: [u32; 4],
    /// AP jump table (GHCB protocol 1; unused with AP creation).
    pub ap_jump_table: u64,
    /// Zero.
    pub reserved_b8: [u8; 40],
    /// Free for the guest.
    pub guest_usage: [u8; 32],
}

/// The secrets page (firmware ABI 56860, SNP_LAUNCH_UPDATE, table "Secrets Page Format"; version 3
/// adds SVSM and Secure TSC fields as in Linux arch/x86/include/asm/sev.h `snp_secrets_page`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SecretsPage {
    /// Version of this layout: 2 or later.
    pub version: u32,
    /// Bit 0: launched from an initial migration image.
    pub flags: u32,
    /// CPUID function 1 EAX of the part.
    pub fms: u32,
    /// Zero.
    pub reserved_c: u32,
    /// Guest OS visible workarounds, as given to LAUNCH_START.
    pub gosvw: [u8; 16],
    /// Keys of the four message channels.
    pub vmpck: [[u8; 32]; 4],
    /// The guest's own area.
    pub os_area: SecretsOsArea,
    /// Bitmap of VMSA fields tweaked when register protection is on.
    pub vmsa_tweak_bitmap: [u8; 64],
    /// SVSM base.
    pub svsm_base: u64,
    /// SVSM size.
    pub svsm_size: u64,
    /// SVSM calling area.
    pub svsm_caa: u64,
    /// SVSM protocol version.
    pub svsm_max_version: u32,
    /// VMPL that the guest runs at.
    pub svsm_guest_vmpl: u8,
    /// Zero.
    pub reserved_15d: [u8; 3],
    /// Factor between the actual and the guest's mean TSC frequency.
    pub tsc_factor: u32,
    /// Zero.
    pub reserved_164: [u8; 3740],
}

const _: () = assert!(size_of::<SecretsPage>() == 4096);
const _: () = assert!(offset_of!(SecretsPage, vmpck) == 0x20);
const _: () = assert!(offset_of!(SecretsPage, os_area) == 0xa0);
const _: () = assert!(offset_of!(SecretsPage, vmsa_tweak_bitmap) == 0x100);
const _: () = assert!(offset_of!(SecretsPage, svsm_base) == 0x140);
const _: () = assert!(offset_of!(SecretsPage, tsc_factor) == 0x160);

/// The ID block (firmware ABI 56860, SNP_LAUNCH_FINISH, table "ID Block").
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IdBlock {
    /// Expected launch digest.
    pub launch_digest: [u8; 48],
    /// Family, chosen by the guest owner.
    pub family_id: [u8; 16],
    /// Image, chosen by the guest owner.
    pub image_id: [u8; 16],
    /// Version of this layout: 1.
    pub version: u32,
    /// Security version of the guest.
    pub guest_svn: u32,
    /// Expected policy.
    pub policy: SnpPolicy,
}

const _: () = assert!(size_of::<IdBlock>() == 0x60);
const _: () = assert!(offset_of!(IdBlock, policy) == 0x58);

/// The only key and signature algorithm of the ID authentication structure and of reports:
/// ECDSA P-384 with SHA-384 (firmware ABI 56860, chapter 10, table "Digital Signature Algorithms").
pub const ALGO_ECDSA_P384_SHA384: u32 = 1;

/// The curve number of P-384 (firmware ABI 56860, chapter 10, table "ECC Curve Identifiers").
pub const CURVE_P384: u32 = 2;

/// An ECDSA P-384 public key (firmware ABI 56860, chapter 10).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EcdsaPublicKey {
    /// [`CURVE_P384`].
    pub curve: u32,
    /// X, little endian.
    pub qx: [u8; 72],
    /// Y, little endian.
    pub qy: [u8; 72],
    /// Zero.
    pub reserved: [u8; 880],
}

const _: () = assert!(size_of::<EcdsaPublicKey>() == 0x404);

/// An ECDSA P-384 signature (firmware ABI 56860, chapter 10).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EcdsaSignature {
    /// R, little endian.
    pub r: [u8; 72],
    /// S, little endian.
    pub s: [u8; 72],
    /// Zero.
    pub reserved: [u8; 368],
}

const _: () = assert!(size_of::<EcdsaSignature>() == 0x200);

/// The ID authentication information (firmware ABI 56860, SNP_LAUNCH_FINISH, table
/// "ID Authentication Information Structure").
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IdAuth {
    /// Algorithm of the ID key: [`ALGO_ECDSA_P384_SHA384`].
    pub id_key_algo: u32,
    /// Algorithm of the author key.
    pub auth_key_algo: u32,
    /// Zero.
    pub reserved_8: [u8; 0x38],
    /// Signature of the ID block by the ID key.
    pub id_block_sig: EcdsaSignature,
    /// The ID key.
    pub id_key: EcdsaPublicKey,
    /// Zero.
    pub reserved_644: [u8; 0x3c],
    /// Signature of the ID key by the author key.
    pub id_key_sig: EcdsaSignature,
    /// The author key.
    pub author_key: EcdsaPublicKey,
    /// Zero.
    pub reserved_c84: [u8; 0x37c],
}

const _: () = assert!(size_of::<IdAuth>() == 0x1000);
const _: () = assert!(offset_of!(IdAuth, id_block_sig) == 0x40);
const _: () = assert!(offset_of!(IdAuth, id_key) == 0x240);
const _: () = assert!(offset_of!(IdAuth, id_key_sig) == 0x680);
const _: () = assert!(offset_of!(IdAuth, author_key) == 0x880);
