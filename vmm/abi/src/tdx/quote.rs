//! GetQuote's buffer (GHCI 1.5, `TDG.VP.VMCALL<GetQuote>`; Linux drivers/virt/coco/tdx-guest/tdx-guest.c `tdx_quote_buf`).

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

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
