//! The quote generation service's messages (Intel SGX DCAP, QuoteGeneration/quote_wrapper/qgs_msg_lib/inc/qgs_msg_lib.h).
//!
//! On a stream socket, each message follows its size as a big-endian `u32`. The messages themselves are little endian. A
//! service answers one request a connection. It also takes a bare TDREPORT and answers with the bare quote.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of the size that precedes a message.
pub const PREFIX: usize = 4;
/// Bytes that a service takes at most, prefix included (QuoteGeneration/quote_wrapper/qgs/qgs_server.cpp).
pub const MAX_REQUEST: usize = 4096;
/// How long a connection may last, in seconds (qgs_server.cpp, QGS_TIMEOUT).
pub const TIMEOUT_SECONDS: u64 = 30;

/// Head of every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MessageHeader {
    /// [`MessageHeader::MAJOR`].
    pub major_version: u16,
    /// [`MessageHeader::MINOR`]; others are compatible.
    pub minor_version: u16,
    /// What it is.
    pub kind: MessageKind,
    /// Bytes of the message, head included.
    pub size: u32,
    /// 0 in requests.
    pub error: MessageError,
}

impl MessageHeader {
    /// Major version of this layout.
    pub const MAJOR: u16 = 1;
    /// Minor version of this layout.
    pub const MINOR: u16 = 1;

    /// Head of a message of `size` bytes.
    pub const fn new(kind: MessageKind, size: u32) -> Self {
        let (major_version, minor_version) = (Self::MAJOR, Self::MINOR);
        Self { major_version, minor_version, kind, size, error: MessageError::SUCCESS }
    }
}

const _: () = assert!(size_of::<MessageHeader>() == 16);
const _: () = assert!(offset_of!(MessageHeader, size) == 8);

/// `qgs_msg_type_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct MessageKind(pub u32);

impl MessageKind {
    /// [`GetQuoteRequest`].
    pub const GET_QUOTE_REQ: Self = Self(0);
    /// [`GetQuoteResponse`].
    pub const GET_QUOTE_RESP: Self = Self(1);
    /// For what verifies quotes.
    pub const GET_COLLATERAL_REQ: Self = Self(2);
    /// [`GetCollateralResponse`].
    pub const GET_COLLATERAL_RESP: Self = Self(3);
    /// A head and nothing more.
    pub const GET_PLATFORM_INFO_REQ: Self = Self(4);
    /// [`GetPlatformInfoResponse`].
    pub const GET_PLATFORM_INFO_RESP: Self = Self(5);

    /// What answers a request.
    pub const fn response(self) -> Option<Self> {
        match self {
            Self::GET_QUOTE_REQ => Some(Self::GET_QUOTE_RESP),
            Self::GET_COLLATERAL_REQ => Some(Self::GET_COLLATERAL_RESP),
            Self::GET_PLATFORM_INFO_REQ => Some(Self::GET_PLATFORM_INFO_RESP),
            _ => None,
        }
    }
}

/// `qgs_msg_error_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct MessageError(pub u32);

impl MessageError {
    /// None.
    pub const SUCCESS: Self = Self(0);
    /// The only one that a service sends: whatever went wrong.
    pub const UNEXPECTED: Self = Self(0x1_2001);
    /// No memory.
    pub const OUT_OF_MEMORY: Self = Self(0x1_2002);
    /// A parameter is wrong.
    pub const INVALID_PARAMETER: Self = Self(0x1_2003);
    /// Major version.
    pub const INVALID_VERSION: Self = Self(0x1_2004);
    /// Kind.
    pub const INVALID_TYPE: Self = Self(0x1_2005);
    /// Sizes do not add up.
    pub const INVALID_SIZE: Self = Self(0x1_2006);
    /// A request with an error code.
    pub const INVALID_CODE: Self = Self(0x1_2007);

    /// The name, if the error is a known one.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::SUCCESS => "SUCCESS",
            Self::UNEXPECTED => "UNEXPECTED",
            Self::OUT_OF_MEMORY => "OUT_OF_MEMORY",
            Self::INVALID_PARAMETER => "INVALID_PARAMETER",
            Self::INVALID_VERSION => "INVALID_VERSION",
            Self::INVALID_TYPE => "INVALID_TYPE",
            Self::INVALID_SIZE => "INVALID_SIZE",
            Self::INVALID_CODE => "INVALID_CODE",
            _ => return None,
        })
    }
}

/// GET_QUOTE_REQ; the TDREPORT and the list of wanted attestation key identifiers follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetQuoteRequest {
    /// Head.
    pub header: MessageHeader,
    /// Bytes of the report, not 0.
    pub report_size: u32,
    /// Bytes of the list.
    pub id_list_size: u32,
}

const _: () = assert!(size_of::<GetQuoteRequest>() == 24);

/// GET_QUOTE_RESP; the chosen identifier and the quote follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetQuoteResponse {
    /// Head.
    pub header: MessageHeader,
    /// Bytes of the identifier.
    pub selected_id_size: u32,
    /// Bytes of the quote.
    pub quote_size: u32,
}

const _: () = assert!(size_of::<GetQuoteResponse>() == 24);

/// GET_COLLATERAL_RESP; the seven parts follow in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetCollateralResponse {
    /// Head.
    pub header: MessageHeader,
    /// Version of the collateral.
    pub major_version: u16,
    /// Version of the collateral.
    pub minor_version: u16,
    /// Bytes of: issuers of the PCK revocation list, the root's revocation list, that of the PCK authority, issuers of the TCB
    /// information, the TCB information, issuers of the QE identity, the QE identity.
    pub sizes: [u32; 7],
}

const _: () = assert!(size_of::<GetCollateralResponse>() == 48);

/// GET_PLATFORM_INFO_RESP; platform identifier and CPUSVN follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetPlatformInfoResponse {
    /// Head. Its size is [`GetPlatformInfoResponse::SURPLUS`] more than what is there to be said.
    pub header: MessageHeader,
    /// Security version of the quoting enclave.
    pub tdqe_isvsvn: u16,
    /// Security version of the provisioning enclave.
    pub pce_isvsvn: u16,
    /// Bytes of the identifier.
    pub platform_id_size: u32,
    /// Bytes of CPUSVN.
    pub cpusvn_size: u32,
}

impl GetPlatformInfoResponse {
    /// Zeros at the end of a successful answer: the library counts the two versions twice (qgs_msg_lib.cpp,
    /// qgs_msg_gen_get_platform_info_resp), and its parser insists.
    pub const SURPLUS: usize = 4;
}

const _: () = assert!(size_of::<GetPlatformInfoResponse>() == 28);
const _: () = assert!(offset_of!(GetPlatformInfoResponse, platform_id_size) == 20);
