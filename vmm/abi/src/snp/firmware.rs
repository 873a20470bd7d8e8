//! What the firmware says about itself: status codes, command names, TCB versions.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A firmware status code (firmware ABI 56860, section 5.2, table "Status Codes"; Linux
/// include/uapi/linux/psp-sev.h `sev_ret_code`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct FirmwareStatus(pub u32);

macro_rules! statuses {
    ($($name:ident = $value:literal,)*) => {
        /// The codes by their names in the specification.
        #[expect(missing_docs, reason = "the name is the specification's")]
        impl FirmwareStatus {
            $(pub const $name: Self = Self($value);)*

            /// The specification's name, if the code is a known one.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    SUCCESS = 0x00,
    INVALID_PLATFORM_STATE = 0x01,
    INVALID_GUEST_STATE = 0x02,
    INVALID_CONFIG = 0x03,
    INVALID_LENGTH = 0x04,
    ALREADY_OWNED = 0x05,
    INVALID_CERTIFICATE = 0x06,
    POLICY_FAILURE = 0x07,
    INACTIVE = 0x08,
    INVALID_ADDRESS = 0x09,
    BAD_SIGNATURE = 0x0a,
    BAD_MEASUREMENT = 0x0b,
    ASID_OWNED = 0x0c,
    INVALID_ASID = 0x0d,
    WBINVD_REQUIRED = 0x0e,
    DFFLUSH_REQUIRED = 0x0f,
    INVALID_GUEST = 0x10,
    INVALID_COMMAND = 0x11,
    ACTIVE = 0x12,
    HWERROR_PLATFORM = 0x13,
    HWERROR_UNSAFE = 0x14,
    UNSUPPORTED = 0x15,
    INVALID_PARAM = 0x16,
    RESOURCE_LIMIT = 0x17,
    SECURE_DATA_INVALID = 0x18,
    INVALID_PAGE_SIZE = 0x19,
    INVALID_PAGE_STATE = 0x1a,
    INVALID_MDATA_ENTRY = 0x1b,
    INVALID_PAGE_OWNER = 0x1c,
    AEAD_OFLOW = 0x1d,
    RBMODE_EXITED = 0x1f,
    RMP_INIT_REQUIRED = 0x20,
    BAD_SVN = 0x21,
    BAD_VERSION = 0x22,
    SHUTDOWN_REQUIRED = 0x23,
    UPDATE_FAILED = 0x24,
    RESTORE_REQUIRED = 0x25,
    RMP_INIT_FAILED = 0x26,
    INVALID_KEY = 0x27,
    SHUTDOWN_INCOMPLETE = 0x28,
}

impl fmt::Display for FirmwareStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({:#x})", self.0),
            None => write!(f, "unknown firmware status ({:#x})", self.0),
        }
    }
}

impl fmt::Debug for FirmwareStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A TCB version (firmware ABI 56860, section 2.2, "TCB_VERSION"). The layout of its eight bytes
/// depends on the product family: [`TcbLayout`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct TcbVersion(pub u64);

/// Which bytes of a [`TcbVersion`] mean what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcbLayout {
    /// Milan and Genoa (families 0x19): boot loader, TEE, four reserved, SNP, microcode.
    Milan,
    /// Turin (family 0x1a): FMC, boot loader, TEE, SNP, three reserved, microcode.
    Turin,
}

/// The security version numbers inside a [`TcbVersion`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcbParts {
    /// FMC firmware (Turin only).
    pub fmc: u8,
    /// Boot loader.
    pub boot_loader: u8,
    /// PSP operating system.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Lowest microcode patch level of all cores.
    pub microcode: u8,
}

impl TcbParts {
    /// Packs the numbers.
    pub const fn pack(self, layout: TcbLayout) -> TcbVersion {
        TcbVersion(u64::from_le_bytes(match layout {
            TcbLayout::Milan => [self.boot_loader, self.tee, 0, 0, 0, 0, self.snp, self.microcode],
            TcbLayout::Turin => {
                [self.fmc, self.boot_loader, self.tee, self.snp, 0, 0, 0, self.microcode]
            }
        }))
    }
}

impl TcbVersion {
    /// Unpacks the numbers.
    pub const fn parts(self, layout: TcbLayout) -> TcbParts {
        let b = self.0.to_le_bytes();
        match layout {
            TcbLayout::Milan => {
                TcbParts { fmc: 0, boot_loader: b[0], tee: b[1], snp: b[6], microcode: b[7] }
            }
            TcbLayout::Turin => {
                TcbParts { fmc: b[0], boot_loader: b[1], tee: b[2], snp: b[3], microcode: b[7] }
            }
        }
    }
}
