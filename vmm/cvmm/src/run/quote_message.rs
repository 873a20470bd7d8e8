//! The two messages of a conversation with the quoting service: the request, and what is taken from the answer.

use abi::tdx::qgs::{GetQuoteRequest, GetQuoteResponse, MessageError, MessageHeader, MessageKind};
use zerocopy::{FromBytes, IntoBytes};

/// Why an answer brings no quote.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoQuote {
    /// The service says so.
    #[error("the quoting service says {}", told(*.0))]
    Refused(MessageError),
    /// It is no answer to the request.
    #[error("the quoting service answers what is no quote: {0}")]
    Malformed(&'static str),
}

fn told(error: MessageError) -> String {
    error.name().map_or_else(|| format!("error {:#x}", error.0), str::to_owned)
}

/// GET_QUOTE_REQ with its prefix.
pub fn request(report: &[u8]) -> Vec<u8> {
    let len = (size_of::<GetQuoteRequest>() + report.len()) as u32;
    let head = GetQuoteRequest {
        header: MessageHeader::new(MessageKind::GET_QUOTE_REQ, len),
        report_size: report.len() as u32,
        id_list_size: 0,
    };
    [&len.to_be_bytes(), head.as_bytes(), report].concat()
}

/// The quote of a GET_QUOTE_RESP, which came without its prefix.
///
/// # Errors
/// The service refuses, or the message is another.
pub fn response(message: &[u8]) -> Result<&[u8], NoQuote> {
    let (header, _) = MessageHeader::read_from_prefix(message)
        .map_err(|_| NoQuote::Malformed("it is cut short"))?;
    if header.major_version != MessageHeader::MAJOR {
        return Err(NoQuote::Malformed("it has another version"));
    }
    if header.kind != MessageKind::GET_QUOTE_RESP {
        return Err(NoQuote::Malformed("it answers another request"));
    }
    if u64::from(header.size) != message.len() as u64 {
        return Err(NoQuote::Malformed("it has another size than it says"));
    }
    if header.error != MessageError::SUCCESS {
        return Err(NoQuote::Refused(header.error));
    }
    let (head, rest) = GetQuoteResponse::read_from_prefix(message)
        .map_err(|_| NoQuote::Malformed("it is cut short"))?;
    let parts = u64::from(head.selected_id_size) + u64::from(head.quote_size);
    if parts != rest.len() as u64 || head.quote_size == 0 {
        return Err(NoQuote::Malformed("its parts have other sizes than it says"));
    }
    // No identifiers were asked for; one that is named nevertheless comes first.
    Ok(&rest[head.selected_id_size as usize..])
}

#[cfg(test)]
#[path = "quote_message_test.rs"]
mod tests;
