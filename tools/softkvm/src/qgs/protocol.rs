//! The service's messages: what the first bytes of a connection announce, and what is answered (Intel SGX DCAP,
//! QuoteGeneration/quote_wrapper: qgs_msg_lib and qgs).

use abi::tdx::qgs::{
    GetCollateralResponse, GetPlatformInfoResponse, GetQuoteRequest, GetQuoteResponse, MAX_REQUEST,
    MessageError, MessageHeader, MessageKind, PREFIX,
};
use abi::tdx::{ReportMac, TdReport};
use zerocopy::{FromBytes, IntoBytes};

use super::platform::{CPU_SVN, PCE_SVN};
use super::quote::{QE_SVN, Quoter};

/// What the size at the start of a connection announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// A bare TDREPORT, of which these were the first bytes.
    Report,
    /// A message of this size, which has a head at least.
    Message(u32),
    /// Nothing that could be answered.
    Noise,
}

impl Opening {
    /// Reads the first bytes. No message is as large as a report's first bytes would be as a size.
    pub fn of(prefix: [u8; PREFIX]) -> Self {
        match (prefix, u32::from_be_bytes(prefix)) {
            ([ReportMac::TYPE_TDX, _, _, 0], _) => Self::Report,
            (_, size) if size as usize >= size_of::<MessageHeader>() => Self::Message(size),
            _ => Self::Noise,
        }
    }
}

/// Bytes of a bare report.
pub const REPORT: usize = size_of::<TdReport>();

/// What a message's head, which came under a size of `announced`, makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// So many bytes follow; then [`answer`].
    Wanted(usize),
    /// To be answered with this at once.
    Refused(Vec<u8>),
    /// No message kind or version that could be answered: Intel's service closes the connection, too.
    Unknown,
}

impl Head {
    /// Judges a head.
    pub fn of(head: &MessageHeader, announced: u32) -> Self {
        let Some(kind) = response_kind(head) else { return Self::Unknown };
        let size = announced as usize;
        if head.size != announced || size + PREFIX > MAX_REQUEST {
            return Self::Refused(error(kind));
        }
        match size.checked_sub(size_of::<MessageHeader>()) {
            Some(rest) => Self::Wanted(rest),
            None => Self::Refused(error(kind)),
        }
    }
}

/// The answer to a whole message; nothing if it has no known kind or version.
pub fn answer(message: &[u8], quoter: &Quoter) -> Option<Vec<u8>> {
    let (head, _) = MessageHeader::read_from_prefix(message).ok()?;
    let kind = response_kind(&head)?;
    let sound = head.size as usize == message.len() && head.error == MessageError::SUCCESS;
    let answered = match head.kind {
        _ if !sound => None,
        MessageKind::GET_QUOTE_REQ => quote(message, quoter),
        MessageKind::GET_PLATFORM_INFO_REQ => Some(platform_info(quoter)),
        // Collateral is for a provider library to fetch, and there is none.
        _ => None,
    };
    Some(answered.unwrap_or_else(|| error(kind)))
}

fn response_kind(head: &MessageHeader) -> Option<MessageKind> {
    if head.major_version == MessageHeader::MAJOR { head.kind.response() } else { None }
}

fn quote(message: &[u8], quoter: &Quoter) -> Option<Vec<u8>> {
    let (request, rest) = GetQuoteRequest::read_from_prefix(message).ok()?;
    let (report, ids) = rest.split_at_checked(request.report_size as usize)?;
    if ids.len() != request.id_list_size as usize {
        return None;
    }
    let quote = quoter.quote(report).ok()?;
    let size = (size_of::<GetQuoteResponse>() + quote.len()) as u32;
    let head = GetQuoteResponse {
        header: MessageHeader::new(MessageKind::GET_QUOTE_RESP, size),
        selected_id_size: 0,
        quote_size: quote.len() as u32,
    };
    Some([head.as_bytes(), &quote].concat())
}

fn platform_info(quoter: &Quoter) -> Vec<u8> {
    const SURPLUS: [u8; GetPlatformInfoResponse::SURPLUS] = [0; GetPlatformInfoResponse::SURPLUS];
    let id = quoter.platform().qe;
    let size = size_of::<GetPlatformInfoResponse>() + id.len() + CPU_SVN.len() + SURPLUS.len();
    let head = GetPlatformInfoResponse {
        header: MessageHeader::new(MessageKind::GET_PLATFORM_INFO_RESP, size as u32),
        tdqe_isvsvn: QE_SVN,
        pce_isvsvn: PCE_SVN,
        platform_id_size: id.len() as u32,
        cpusvn_size: CPU_SVN.len() as u32,
    };
    [head.as_bytes(), &id, &CPU_SVN, &SURPLUS].concat()
}

/// The one error that the service knows, in a response of `kind` that says nothing else.
fn error(kind: MessageKind) -> Vec<u8> {
    let size = match kind {
        MessageKind::GET_QUOTE_RESP => size_of::<GetQuoteResponse>(),
        MessageKind::GET_COLLATERAL_RESP => size_of::<GetCollateralResponse>(),
        _ => size_of::<GetPlatformInfoResponse>(),
    };
    let mut header = MessageHeader::new(kind, size as u32);
    header.error = MessageError::UNEXPECTED;
    let mut message = header.as_bytes().to_vec();
    message.resize(size, 0);
    message
}
